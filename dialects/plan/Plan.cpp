// Registration, syntax and laws of the plan dialect.
#include "dialects/plan/Plan.h"

#include "mlir/IR/Builders.h"
#include "mlir/IR/DialectImplementation.h"
#include "mlir/IR/OpImplementation.h"
#include "mlir/Interfaces/FunctionImplementation.h"

using namespace mlir;
using namespace lmc::plan;

#include "dialects/plan/PlanDialect.cpp.inc"

#define GET_OP_CLASSES
#include "dialects/plan/PlanOps.cpp.inc"

void PlanDialect::initialize() {
  addOperations<
#define GET_OP_LIST
#include "dialects/plan/PlanOps.cpp.inc"
      >();
}

ParseResult KernelOp::parse(OpAsmParser &parser, OperationState &result) {
  auto buildType = [](Builder &builder, ArrayRef<Type> arguments,
                      ArrayRef<Type> results,
                      function_interface_impl::VariadicFlag, std::string &) {
    return builder.getFunctionType(arguments, results);
  };
  return function_interface_impl::parseFunctionOp(
      parser, result, /*allowVariadic=*/false,
      getFunctionTypeAttrName(result.name), buildType,
      getArgAttrsAttrName(result.name), getResAttrsAttrName(result.name));
}

void KernelOp::print(OpAsmPrinter &printer) {
  function_interface_impl::printFunctionOp(
      printer, *this, /*isVariadic=*/false, getFunctionTypeAttrName(),
      getArgAttrsAttrName(), getResAttrsAttrName());
}

LogicalResult KernelOp::verify() {
  auto type = getFunctionType();
  ArrayRef<int64_t> tied = getTied();
  if (tied.size() != type.getNumResults())
    return emitOpError() << "has " << type.getNumResults()
                         << " results but ties " << tied.size();
  for (auto [index, argument] : llvm::enumerate(tied)) {
    if (argument < 0)
      continue;
    if (argument >= type.getNumInputs())
      return emitOpError() << "ties result " << index << " to argument "
                           << argument << " of " << type.getNumInputs();
    if (type.getInput(argument) != type.getResult(index))
      return emitOpError() << "ties result " << index << " of type "
                           << type.getResult(index) << " to argument "
                           << argument << " of type "
                           << type.getInput(argument);
  }
  auto yield = dyn_cast<YieldOp>(getBody().front().getTerminator());
  if (!yield)
    return emitOpError() << "must end in plan.yield";
  if (yield.getValues().getTypes() != type.getResults())
    return emitOpError() << "yields other types than it declares";
  return success();
}
