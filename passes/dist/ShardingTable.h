// The sharding of every value of a module while it is worked out: which axes
// split each dim. States are shared between programs: a parameter, its moments
// and its gradient have one entry.
#ifndef LMC_PASSES_DIST_SHARDINGTABLE_H
#define LMC_PASSES_DIST_SHARDINGTABLE_H

#include "dialects/dist/Dist.h"
#include "dialects/lm/Lm.h"

#include "mlir/Dialect/Func/IR/FuncOps.h"
#include "mlir/IR/BuiltinOps.h"

namespace lmc::dist {

using Axes = llvm::SmallVector<llvm::StringRef, 1>;
using DimAxes = llvm::SmallVector<Axes, 6>;

ShardingAttr makeSharding(mlir::MLIRContext *context, const DimAxes &dims,
                          llvm::ArrayRef<llvm::StringRef> partial = {});
DimAxes readDims(ShardingAttr sharding);

// `value` or, where additions passed partial sums on to it, the latest of their
// terms: what it is that is not summed yet. Reads `dist.shardings` as
// dist-insert-reshards leaves them.
mlir::Value lastTerm(mlir::Value value);

// The states of a module by name, and the one that speaks for each: the
// parameter of a moment or gradient, else itself.
class StateIndex {
public:
  explicit StateIndex(mlir::ModuleOp module);
  // Null for an argument or result that is no state.
  mlir::Operation *lookup(mlir::Attribute state) const;
  mlir::Operation *speaker(mlir::Attribute state) const;

private:
  llvm::DenseMap<mlir::StringAttr, mlir::Operation *> states;
};

} // namespace lmc::dist

#endif // LMC_PASSES_DIST_SHARDINGTABLE_H
