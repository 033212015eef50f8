// Registration of the lm dialect.
#include "dialects/lm/Lm.h"

#include "mlir/IR/DialectImplementation.h"
#include "mlir/IR/OpImplementation.h"

using namespace mlir;

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

int64_t lmc::lm::product(ArrayRef<int64_t> shape) {
  int64_t count = 1;
  for (int64_t size : shape)
    count *= size;
  return count;
}
