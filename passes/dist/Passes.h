// The passes of passes/dist; Passes.td describes each.
#ifndef LMC_PASSES_DIST_PASSES_H
#define LMC_PASSES_DIST_PASSES_H

#include "mlir/IR/BuiltinOps.h"
#include "mlir/Pass/Pass.h"

namespace lmc::dist {

#define GEN_PASS_DECL
#include "passes/dist/Passes.h.inc"

#define GEN_PASS_REGISTRATION
#include "passes/dist/Passes.h.inc"

} // namespace lmc::dist

#endif // LMC_PASSES_DIST_PASSES_H
