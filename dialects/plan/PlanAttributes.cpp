// Syntax and laws of the plan dialect's attributes.
#include "dialects/plan/Plan.h"

#include "mlir/IR/Builders.h"
#include "mlir/IR/DialectImplementation.h"
#include "llvm/ADT/TypeSwitch.h"

using namespace mlir;
using namespace lmc::plan;

#define GET_ATTRDEF_CLASSES
#include "dialects/plan/PlanAttributes.cpp.inc"

void PlanDialect::registerPlanAttributes() {
  addAttributes<
#define GET_ATTRDEF_LIST
#include "dialects/plan/PlanAttributes.cpp.inc"
      >();
}

// `64 + 4096 * micro_batch`; a term without a constant may stand alone.
static FailureOr<LinearAttr> parseLinear(AsmParser &parser) {
  LinearAttr linear = LinearAttr::get(parser.getContext(), 0);
  do {
    StringRef symbol;
    int64_t value = 1;
    OptionalParseResult number = parser.parseOptionalInteger(value);
    if (number.has_value()) {
      if (failed(*number))
        return failure();
      if (failed(parser.parseOptionalStar())) {
        linear = linear.plus(value);
        continue;
      }
    }
    if (parser.parseKeyword(&symbol))
      return failure();
    linear = linear.plus(value, symbol);
  } while (succeeded(parser.parseOptionalPlus()));
  return linear;
}

static void printLinear(AsmPrinter &printer, LinearAttr linear) {
  bool first = true;
  if (linear.getConstant() != 0 || linear.getSymbols().empty()) {
    printer << linear.getConstant();
    first = false;
  }
  for (auto [symbol, coefficient] :
       llvm::zip(linear.getSymbols(), linear.getCoefficients())) {
    printer << (first ? "" : " + ") << coefficient << " * "
            << symbol.getValue();
    first = false;
  }
}

// `@scratch[64 + 4096 * slot] 256`.
static FailureOr<SliceAttr> parseSlice(AsmParser &parser) {
  StringAttr allocation;
  int64_t bytes;
  if (parser.parseSymbolName(allocation) || parser.parseLSquare())
    return failure();
  FailureOr<LinearAttr> offset = parseLinear(parser);
  if (failed(offset) || parser.parseRSquare() || parser.parseInteger(bytes))
    return failure();
  return SliceAttr::get(parser.getContext(), FlatSymbolRefAttr::get(allocation),
                        *offset, bytes);
}

static void printSlice(AsmPrinter &printer, SliceAttr slice) {
  printer << slice.getAllocation() << "[";
  printLinear(printer, slice.getOffset());
  printer << "] " << slice.getBytes();
}

LinearAttr LinearAttr::plus(int64_t bytes) const {
  return get(getContext(), getConstant() + bytes, getSymbols(),
             getCoefficients());
}

LinearAttr LinearAttr::plus(int64_t coefficient, StringRef symbol) const {
  SmallVector<StringAttr> symbols(getSymbols());
  SmallVector<int64_t> coefficients(getCoefficients());
  auto *place = llvm::find_if(
      symbols, [&](StringAttr other) { return other.getValue() >= symbol; });
  size_t index = place - symbols.begin();
  if (place != symbols.end() && place->getValue() == symbol) {
    coefficients[index] += coefficient;
  } else {
    symbols.insert(place, StringAttr::get(getContext(), symbol));
    coefficients.insert(coefficients.begin() + index, coefficient);
  }
  if (coefficients[index] == 0) {
    symbols.erase(symbols.begin() + index);
    coefficients.erase(coefficients.begin() + index);
  }
  return get(getContext(), getConstant(), symbols, coefficients);
}

LogicalResult LinearAttr::verify(function_ref<InFlightDiagnostic()> emitError,
                                 int64_t, ArrayRef<StringAttr> symbols,
                                 ArrayRef<int64_t> coefficients) {
  if (symbols.size() != coefficients.size())
    return emitError() << symbols.size() << " symbols have "
                       << coefficients.size() << " coefficients";
  return success();
}

Attribute LinearAttr::parse(AsmParser &parser, Type) {
  if (parser.parseLess())
    return {};
  FailureOr<LinearAttr> linear = parseLinear(parser);
  if (failed(linear) || parser.parseGreater())
    return {};
  return *linear;
}

void LinearAttr::print(AsmPrinter &printer) const {
  printer << "<";
  printLinear(printer, *this);
  printer << ">";
}

LogicalResult SliceAttr::verify(function_ref<InFlightDiagnostic()> emitError,
                                FlatSymbolRefAttr, LinearAttr, int64_t bytes) {
  if (bytes < 0)
    return emitError() << "a slice has " << bytes << " bytes";
  return success();
}

Attribute SliceAttr::parse(AsmParser &parser, Type) {
  if (parser.parseLess())
    return {};
  FailureOr<SliceAttr> slice = parseSlice(parser);
  if (failed(slice) || parser.parseGreater())
    return {};
  return *slice;
}

void SliceAttr::print(AsmPrinter &printer) const {
  printer << "<";
  printSlice(printer, *this);
  printer << ">";
}

LogicalResult OperandAttr::verify(function_ref<InFlightDiagnostic()> emitError,
                                  StringAttr access, SliceAttr) {
  if (access != "read" && access != "write" && access != "read_write")
    return emitError() << "access is " << access
                       << ", expected read, write or read_write";
  return success();
}

FailureOr<OperandAttr> OperandAttr::parseBare(AsmParser &parser) {
  SMLoc loc = parser.getCurrentLocation();
  StringRef access;
  if (parser.parseKeyword(&access))
    return failure();
  FailureOr<SliceAttr> slice = parseSlice(parser);
  if (failed(slice))
    return failure();
  auto operand =
      getChecked([&] { return parser.emitError(loc); }, parser.getContext(),
                 parser.getBuilder().getStringAttr(access), *slice);
  if (!operand)
    return failure();
  return operand;
}

void OperandAttr::printBare(AsmPrinter &printer) const {
  printer << getAccess().getValue() << " ";
  printSlice(printer, getSlice());
}

Attribute OperandAttr::parse(AsmParser &parser, Type) {
  if (parser.parseLess())
    return {};
  FailureOr<OperandAttr> operand = parseBare(parser);
  if (failed(operand) || parser.parseGreater())
    return {};
  return *operand;
}

void OperandAttr::print(AsmPrinter &printer) const {
  printer << "<";
  printBare(printer);
  printer << ">";
}
