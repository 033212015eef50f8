// Registration of the lm dialect.
#include "dialects/lm/Lm.h"

#include "mlir/IR/DialectImplementation.h"
#include "mlir/IR/OpImplementation.h"

using namespace mlir;
using namespace lmc::lm;

#include "dialects/lm/LmDialect.cpp.inc"
#include "dialects/lm/LmInterfaces.cpp.inc"

#define GET_OP_CLASSES
#include "dialects/lm/LmOps.cpp.inc"

void lmc::lm::LmDialect::initialize() {
  addOperations<
#define GET_OP_LIST
#include "dialects/lm/LmOps.cpp.inc"
      >();
}

//===----------------------------------------------------------------------===//
// Drawing: a number for each query, head and key
//===----------------------------------------------------------------------===//

// Rows of numbers are 64-aligned, as blocks of keys are.
static int64_t numbersPerQuery(Value logsumexp) {
  int64_t tokens =
      cast<RankedTensorType>(logsumexp.getType()).getShape().back();
  return (tokens + 63) / 64 * 64;
}

bool AttentionOp::draws() { return bool(getRate()); }
Value AttentionOp::getDrawnFor() { return getLogsumexp(); }
int64_t AttentionOp::getDrawnPerElement() {
  return numbersPerQuery(getLogsumexp());
}

bool AttentionGradOp::draws() { return bool(getRate()); }
Value AttentionGradOp::getDrawnFor() { return getLogsumexp(); }
int64_t AttentionGradOp::getDrawnPerElement() {
  return numbersPerQuery(getLogsumexp());
}

int64_t lmc::lm::product(ArrayRef<int64_t> shape) {
  int64_t count = 1;
  for (int64_t size : shape)
    count *= size;
  return count;
}
