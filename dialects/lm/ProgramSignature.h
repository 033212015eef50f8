// Programs are functions whose arguments and results carry attributes that
// tie them to states, inputs, outputs and run-time numbers. These helpers add
// and find such arguments and results.
#ifndef LMC_DIALECTS_LM_PROGRAMSIGNATURE_H
#define LMC_DIALECTS_LM_PROGRAMSIGNATURE_H

#include "dialects/lm/Lm.h"

#include "mlir/Dialect/Func/IR/FuncOps.h"

namespace lmc::lm {

inline constexpr llvm::StringLiteral kProgramAttr = "plan.program";
inline constexpr llvm::StringLiteral kSavedAttr = "lm.saved";

// Appends an argument of `type` with `{name = value}`.
inline mlir::BlockArgument appendArgument(mlir::func::FuncOp function,
                                          mlir::Type type, llvm::StringRef name,
                                          mlir::Attribute value,
                                          mlir::Location loc) {
  mlir::Builder b(function.getContext());
  unsigned index = function.getNumArguments();
  function.insertArgument(
      index, type, b.getDictionaryAttr(b.getNamedAttr(name, value)), loc);
  return function.getArgument(index);
}

// The argument with `{name = value}`, or null.
inline mlir::Value findArgument(mlir::func::FuncOp function,
                                llvm::StringRef name, mlir::Attribute value) {
  for (unsigned i = 0, e = function.getNumArguments(); i < e; ++i)
    if (function.getArgAttr(i, name) == value)
      return function.getArgument(i);
  return {};
}

// The argument for the state or run-time number `value`, added if missing.
inline mlir::Value getOrAddArgument(mlir::func::FuncOp function,
                                    mlir::Type type, llvm::StringRef name,
                                    mlir::Attribute value, mlir::Location loc) {
  if (mlir::Value found = findArgument(function, name, value))
    return found;
  return appendArgument(function, type, name, value, loc);
}

// A result to be: a value and the attribute that ties it to the world.
struct TiedResult {
  mlir::Value value;
  llvm::StringRef name;
  mlir::Attribute tie;
};

// Makes `results` the results of `function`.
inline void setResults(mlir::func::FuncOp function,
                       mlir::ArrayRef<TiedResult> results) {
  mlir::Builder b(function.getContext());
  mlir::SmallVector<mlir::Value> values;
  mlir::SmallVector<mlir::Type> types;
  mlir::SmallVector<mlir::Attribute> attributes;
  for (const TiedResult &result : results) {
    values.push_back(result.value);
    types.push_back(result.value.getType());
    attributes.push_back(
        b.getDictionaryAttr(b.getNamedAttr(result.name, result.tie)));
  }
  mlir::Operation *terminator = function.getBody().back().getTerminator();
  terminator->setOperands(values);
  function.setFunctionType(
      b.getFunctionType(function.getArgumentTypes(), types));
  function.setResAttrsAttr(b.getArrayAttr(attributes));
}

} // namespace lmc::lm

#endif // LMC_DIALECTS_LM_PROGRAMSIGNATURE_H
