// The example's dialect, operation and passes.
#ifndef EXAMPLE_H
#define EXAMPLE_H

#include "dialects/lm/Lm.h"

#include "mlir/IR/BuiltinOps.h"
#include "mlir/Pass/Pass.h"

#include "ExampleDialect.h.inc"

#define GET_OP_CLASSES
#include "ExampleOps.h.inc"

namespace example {

#define GEN_PASS_DECL
#include "ExamplePasses.h.inc"

#define GEN_PASS_REGISTRATION
#include "ExamplePasses.h.inc"

} // namespace example

#endif // EXAMPLE_H
