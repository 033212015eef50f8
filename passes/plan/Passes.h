// The passes of passes/plan; Passes.td describes each.
#ifndef LMC_PASSES_PLAN_PASSES_H
#define LMC_PASSES_PLAN_PASSES_H

#include "mlir/IR/BuiltinOps.h"
#include "mlir/Pass/Pass.h"

namespace lmc::plan {

#define GEN_PASS_DECL
#include "passes/plan/Passes.h.inc"

#define GEN_PASS_REGISTRATION
#include "passes/plan/Passes.h.inc"

} // namespace lmc::plan

#endif // LMC_PASSES_PLAN_PASSES_H
