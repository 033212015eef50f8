// The passes of passes/lm; Passes.td describes each.
#ifndef LMC_PASSES_LM_PASSES_H
#define LMC_PASSES_LM_PASSES_H

#include "mlir/IR/BuiltinOps.h"
#include "mlir/Pass/Pass.h"

namespace lmc::lm {

#define GEN_PASS_DECL
#include "passes/lm/Passes.h.inc"

#define GEN_PASS_REGISTRATION
#include "passes/lm/Passes.h.inc"

} // namespace lmc::lm

#endif // LMC_PASSES_LM_PASSES_H
