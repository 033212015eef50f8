// The passes of passes/verify; Passes.td describes each.
#ifndef LMC_PASSES_VERIFY_PASSES_H
#define LMC_PASSES_VERIFY_PASSES_H

#include "mlir/IR/BuiltinOps.h"
#include "mlir/Pass/Pass.h"

namespace lmc::verify {

#define GEN_PASS_DECL
#include "passes/verify/Passes.h.inc"

#define GEN_PASS_REGISTRATION
#include "passes/verify/Passes.h.inc"

} // namespace lmc::verify

#endif // LMC_PASSES_VERIFY_PASSES_H
