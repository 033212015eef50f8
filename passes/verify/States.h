// What several borders ask of a program's ties to states.
#ifndef LMC_PASSES_VERIFY_STATES_H
#define LMC_PASSES_VERIFY_STATES_H

#include "dialects/dist/Dist.h"
#include "dialects/lm/ProgramSignature.h"

#include "mlir/IR/BuiltinOps.h"
#include "mlir/IR/SymbolTable.h"

namespace lmc::verify {

// The declared type of a parameter or state, null for anything else.
inline mlir::RankedTensorType declaredType(mlir::Operation *op) {
  if (auto parameter = mlir::dyn_cast_or_null<lm::ParameterOp>(op))
    return parameter.getTensorType();
  auto state = mlir::dyn_cast_or_null<lm::StateOp>(op);
  return state ? state.getTensorType() : mlir::RankedTensorType();
}

// Arguments and results tied to a state have its type: the local one where
// `mesh` is given.
inline mlir::LogicalResult checkStateTypes(mlir::func::FuncOp function,
                                           mlir::SymbolTable &symbols,
                                           llvm::StringRef law,
                                           dist::MeshAttr mesh = {}) {
  auto checkOne = [&](mlir::Attribute attribute, mlir::Type type,
                      llvm::StringRef what,
                      unsigned index) -> mlir::LogicalResult {
    auto symbol = mlir::dyn_cast_or_null<mlir::FlatSymbolRefAttr>(attribute);
    if (!symbol)
      return mlir::success();
    mlir::Operation *op = symbols.lookup(symbol.getValue());
    mlir::RankedTensorType declared = declaredType(op);
    if (!declared)
      return function.emitOpError()
             << "ties " << what << " " << index << " to " << symbol
             << ", which is no parameter or state (" << law << ")";
    if (auto sharding =
            op->getAttrOfType<dist::ShardingAttr>(dist::kShardingAttr);
        mesh && sharding)
      declared = dist::localType(declared, sharding, mesh);
    if (declared == type)
      return mlir::success();
    return function.emitOpError()
           << "ties " << what << " " << index << " of type " << type << " to "
           << symbol << " of type " << declared << " (" << law << ")";
  };
  for (unsigned i = 0, e = function.getNumArguments(); i < e; ++i)
    if (failed(checkOne(function.getArgAttr(i, lm::kStateAttr),
                        function.getArgument(i).getType(), "argument", i)))
      return mlir::failure();
  for (unsigned i = 0, e = function.getNumResults(); i < e; ++i)
    if (failed(checkOne(function.getResultAttr(i, lm::kStateAttr),
                        function.getResultTypes()[i], "result", i)))
      return mlir::failure();
  return mlir::success();
}

// Every stage has the programs of these names.
mlir::LogicalResult checkPrograms(mlir::ModuleOp module,
                                  llvm::ArrayRef<llvm::StringRef> names,
                                  llvm::StringRef law);

// Every transfer has its other side.
mlir::LogicalResult checkTransfers(mlir::ModuleOp module, llvm::StringRef law);

} // namespace lmc::verify

#endif // LMC_PASSES_VERIFY_STATES_H
