// Registration, syntax and laws of the plan dialect.
#include "dialects/plan/Plan.h"

#include "mlir/IR/Builders.h"
#include "mlir/IR/DialectImplementation.h"
#include "mlir/IR/OpImplementation.h"
#include "mlir/Interfaces/FunctionImplementation.h"

using namespace mlir;
using namespace lmc::plan;

#include "dialects/plan/PlanDialect.cpp.inc"

// `keyword` for a string attribute.
static ParseResult parseKeyword(OpAsmParser &parser, StringAttr &attr) {
  StringRef keyword;
  if (parser.parseKeyword(&keyword))
    return failure();
  attr = parser.getBuilder().getStringAttr(keyword);
  return success();
}

static void printKeyword(OpAsmPrinter &printer, Operation *, StringAttr attr) {
  printer << attr.getValue();
}

// `(read @a[0] 64, write @b[64] 64)`.
static ParseResult parseOperands(OpAsmParser &parser, ArrayAttr &operands) {
  SmallVector<Attribute> list;
  auto parseOne = [&]() -> ParseResult {
    FailureOr<OperandAttr> operand = OperandAttr::parseBare(parser);
    if (failed(operand))
      return failure();
    list.push_back(*operand);
    return success();
  };
  if (parser.parseCommaSeparatedList(OpAsmParser::Delimiter::Paren, parseOne))
    return failure();
  operands = parser.getBuilder().getArrayAttr(list);
  return success();
}

static void printOperands(OpAsmPrinter &printer, Operation *,
                          ArrayAttr operands) {
  printer << "(";
  llvm::interleaveComma(
      operands.getAsRange<OperandAttr>(), printer,
      [&](OperandAttr operand) { operand.printBare(printer); });
  printer << ")";
}

#define GET_OP_CLASSES
#include "dialects/plan/PlanOps.cpp.inc"

void PlanDialect::initialize() {
  registerPlanAttributes();
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

LogicalResult SymbolOp::verify() {
  StringRef kind = getKind();
  if (kind != "micro_batch" && kind != "slot" && kind != "coordinate" &&
      kind != "size")
    return emitOpError() << "has kind " << kind // C1
                         << ", expected micro_batch, slot, coordinate or size";
  if (getMinimum() > getMaximum() || static_cast<int64_t>(getMinimum()) < 0)
    return emitOpError() << "has bounds " << getMinimum() << " to " // C2
                         << getMaximum();
  if (getAxis().has_value() != (kind == "coordinate"))
    return emitOpError() << "of kind " << kind // C3
                         << (getAxis() ? " names an axis" : " names no axis");
  return success();
}

LogicalResult AllocationOp::verify() {
  StringRef contents = getContents();
  if (contents != "scratch" && contents != "saved" && contents != "state" &&
      contents != "input" && contents != "output" && contents != "constant")
    return emitOpError() << "has contents " << contents // C1
                         << ", expected scratch, saved, state, input, output "
                            "or constant";
  int64_t bytes = getBytes();
  if (bytes < 0 || bytes % 64 != 0)
    return emitOpError() << "has " << bytes // C2
                         << " bytes, expected a multiple of 64";
  std::optional<ArrayRef<int64_t>> stages = getStageBytes();
  if (!stages)
    return success();
  int64_t largest = 0;
  for (int64_t size : *stages) {
    largest = std::max(largest, size);
    if (size < 0 || size % 64 != 0)
      return emitOpError() << "has " << size // C3
                           << " bytes on a stage, expected a multiple of 64";
  }
  if (largest != bytes)
    return emitOpError() << "has " << bytes // C3
                         << " bytes, its largest stage " << largest;
  return success();
}

LogicalResult CopyOp::verify() {
  if (getSource().getBytes() != getTarget().getBytes())
    return emitOpError() << "copies " << getSource().getBytes() // C1
                         << " bytes to " << getTarget().getBytes();
  return success();
}

LogicalResult CollectiveOp::verify() {
  static constexpr StringLiteral kinds[] = {
      "all_reduce", "reduce_scatter", "all_gather", "all_to_all", "broadcast"};
  if (!llvm::is_contained(kinds, getKind()))
    return emitOpError() << "has kind " << getKind() // C1
                         << ", expected one of all_reduce, reduce_scatter, "
                            "all_gather, all_to_all, broadcast";
  if (getReduction() != "sum" && getReduction() != "max")
    return emitOpError() << "has reduction " << getReduction() // C1
                         << ", expected sum or max";
  return success();
}

void ProgramOp::build(OpBuilder &builder, OperationState &state, StringRef name,
                      int64_t chunk) {
  state.addAttribute(getSymNameAttrName(state.name),
                     builder.getStringAttr(name));
  state.addAttribute(getChunkAttrName(state.name),
                     builder.getI64IntegerAttr(chunk));
  state.addRegion()->emplaceBlock();
}

void ScheduleOp::build(OpBuilder &builder, OperationState &state,
                       StringRef name, int64_t stage) {
  state.addAttribute(getNameAttrName(state.name), builder.getStringAttr(name));
  state.addAttribute(getStageAttrName(state.name),
                     builder.getI64IntegerAttr(stage));
  state.addRegion()->emplaceBlock();
}
