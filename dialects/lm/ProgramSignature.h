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

// Adds arguments to a program. The signature is rewritten once, by `finish`: to
// rewrite it for each argument takes time in the square of their number, and a
// program has some for every parameter.
class ProgramArguments {
public:
  explicit ProgramArguments(mlir::func::FuncOp function) : function(function) {
    for (mlir::BlockArgument argument : function.getArguments()) {
      attributes.push_back(function.getArgAttrDict(argument.getArgNumber()));
      remember(argument);
    }
  }

  mlir::BlockArgument add(mlir::Type type, mlir::DictionaryAttr dictionary,
                          mlir::Location loc) {
    attributes.push_back(dictionary);
    remember(function.getBody().front().addArgument(type, loc));
    return function.getBody().front().getArguments().back();
  }

  // The argument with `{name = value}`, added if there is none.
  mlir::Value getOrAdd(mlir::Type type, llvm::StringRef name,
                       mlir::Attribute value, mlir::Location loc) {
    mlir::Builder b(function.getContext());
    auto found = known.find({b.getStringAttr(name), value});
    if (found != known.end())
      return found->second;
    return add(type, b.getDictionaryAttr(b.getNamedAttr(name, value)), loc);
  }

  void finish() {
    mlir::Builder b(function.getContext());
    function.setFunctionType(
        b.getFunctionType(function.getBody().front().getArgumentTypes(),
                          function.getFunctionType().getResults()));
    function.setArgAttrsAttr(b.getArrayAttr(attributes));
  }

private:
  void remember(mlir::BlockArgument argument) {
    auto dictionary = mlir::dyn_cast_or_null<mlir::DictionaryAttr>(
        attributes[argument.getArgNumber()]);
    if (!dictionary)
      attributes[argument.getArgNumber()] = dictionary =
          mlir::DictionaryAttr::get(function.getContext());
    for (mlir::NamedAttribute attribute : dictionary)
      known[{attribute.getName(), attribute.getValue()}] = argument;
  }

  mlir::func::FuncOp function;
  mlir::SmallVector<mlir::Attribute> attributes;
  llvm::DenseMap<std::pair<mlir::Attribute, mlir::Attribute>, mlir::Value>
      known;
};

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
      b.getFunctionType(function.getBody().front().getArgumentTypes(), types));
  function.setResAttrsAttr(b.getArrayAttr(attributes));
}

} // namespace lmc::lm

#endif // LMC_DIALECTS_LM_PROGRAMSIGNATURE_H
