// What the dims of a model's values are called. Parameters and inputs say it
// (`lm.dims`), and a name follows its factor through the operations of the
// forward, from operands to results and back:
//
//     linear     x[B,T,D], w[D,F]         ->  y[B,T,F]
//     linear     a[B,T,G,?,K], w[G,R,K,D] ->  z[B,T,D]     and a[B,T,G,R,K]
//
// A value that is received has the names of what was sent.
#ifndef LMC_PASSES_DIST_DIMNAMES_H
#define LMC_PASSES_DIST_DIMNAMES_H

#include "passes/dist/ShardingTable.h"

namespace lmc::dist {

using Names = llvm::SmallVector<llvm::StringRef, 6>; // "" where there is none

// The names that `dims` gives to `count` dims.
Names readNames(mlir::Attribute dims, size_t count);

class DimNames {
public:
  explicit DimNames(mlir::ModuleOp module);
  Names of(mlir::Value value) const { return names.lookup(value); }

private:
  void readArguments(mlir::func::FuncOp function, const StateIndex &states);
  bool follow(mlir::Operation *op);
  bool unify(mlir::Value sent, mlir::Value received);
  bool give(mlir::Value value, size_t dim, llvm::StringRef name);

  llvm::DenseMap<mlir::Value, Names> names;
};

} // namespace lmc::dist

#endif // LMC_PASSES_DIST_DIMNAMES_H
