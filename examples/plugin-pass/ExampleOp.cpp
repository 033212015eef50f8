// example.squared_relu: its answers to what the compiler's phases ask.
#include "Example.h"

#include "dialects/lm/TensorMath.h"

#include "mlir/IR/DialectImplementation.h"
#include "mlir/IR/OpImplementation.h"

using namespace mlir;
using namespace example;
using lmc::lm::TensorMath;

#include "ExampleDialect.cpp.inc"

#define GET_OP_CLASSES
#include "ExampleOps.cpp.inc"

void ExampleDialect::initialize() {
  addOperations<
#define GET_OP_LIST
#include "ExampleOps.cpp.inc"
      >();
}

// max(x, 0)
static Value positivePart(TensorMath &m, Value x) {
  Value zero = m.constant(TensorMath::typeOf(x), 0.0);
  return m.select(m.compare(arith::CmpFPredicate::OGT, x, zero), x, zero);
}

LogicalResult
SquaredReluOp::buildBackward(OpBuilder &builder,
                             ArrayRef<Value> resultGradients, ArrayRef<bool>,
                             SmallVectorImpl<Value> &operandGradients) {
  TensorMath m(builder, getLoc());
  Value slope = m.mul(positivePart(m, getInput()), 2.0);
  operandGradients.push_back(m.mul(resultGradients[0], slope));
  return success();
}

LogicalResult SquaredReluOp::decompose(OpBuilder &builder,
                                       SmallVectorImpl<Value> &results) {
  TensorMath m(builder, getLoc());
  Value part = positivePart(m, getInput());
  results.push_back(m.mul(part, part));
  return success();
}

int64_t SquaredReluOp::getFlops() {
  return 2 * lmc::lm::product(TensorMath::typeOf(getInput()).getShape());
}
