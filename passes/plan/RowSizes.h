// How many rows a value with a dynamic leading dim has: which size of the step
// that is, and its bound, at which memory is planned.
//
// An argument of a program names its size (lm.size), the module gives bounds
// (lm.sizes). A launch's results have as many rows as what it reads row by
// row; a table that it gathers from is read in any order and does not count.
#ifndef LMC_PASSES_PLAN_ROWSIZES_H
#define LMC_PASSES_PLAN_ROWSIZES_H

#include "dialects/plan/Plan.h"

#include "mlir/Dialect/Func/IR/FuncOps.h"
#include "llvm/ADT/DenseMap.h"

namespace lmc::plan {

class RowSizes {
public:
  static mlir::FailureOr<RowSizes> infer(mlir::func::FuncOp function,
                                         mlir::SymbolTable &symbols);

  // The size's name; empty where the shape is static.
  llvm::StringRef nameOf(mlir::Value value) const {
    return names.lookup(value);
  }
  // At the bound.
  int64_t bytesOf(mlir::Value value) const;
  // The rows of a launch: its results' or operands' size; empty if static.
  llvm::StringRef rowsOf(LaunchOp launch) const {
    return launches.lookup(launch);
  }

private:
  mlir::LogicalResult inferLaunch(LaunchOp launch, mlir::SymbolTable &symbols);
  mlir::DictionaryAttr bounds;
  llvm::DenseMap<mlir::Value, llvm::StringRef> names;
  llvm::DenseMap<mlir::Operation *, llvm::StringRef> launches;
};

// The bytes of a tensor with `rows` in place of a dynamic leading dim; fails
// with an error at `op` where there are no whole bytes.
mlir::FailureOr<int64_t> getTensorBytes(mlir::Operation *op, mlir::Type type,
                                        int64_t rows);

} // namespace lmc::plan

#endif // LMC_PASSES_PLAN_ROWSIZES_H
