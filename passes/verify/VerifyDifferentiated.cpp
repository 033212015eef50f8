// The border behind differentiate. Each check carries the label of the law in
// Passes.td that it enforces.
#include "passes/verify/Passes.h"

#include "dialects/plan/Plan.h"
#include "passes/verify/States.h"

namespace lmc::verify {
#define GEN_PASS_DEF_VERIFYDIFFERENTIATED
#include "passes/verify/Passes.h.inc"
} // namespace lmc::verify

using namespace mlir;
using namespace lmc;

namespace {

LogicalResult check(ModuleOp module) {
  if (failed(verify::checkPrograms(module, {"step", "evaluate"}, "D1")) ||
      failed(verify::checkTransfers(module, "D4")))
    return failure();
  SymbolTable symbols(module);
  for (auto function : module.getOps<func::FuncOp>()) {
    auto program = function->getAttrOfType<StringAttr>(lm::kProgramAttr);
    int64_t begins = 0;
    for (Operation &op : function.getBody().front()) {
      begins += isa<lm::BeginBackwardOp>(op);
      if (op.hasAttr(dist::kChunkAttr) &&
          module->hasAttr(dist::kChunksAttr)) // D5
        return op.emitOpError("belongs to a chunk, and its program is cut");
    }
    if (program && program.getValue() == "step" && begins != 1)
      return function.emitOpError() // D2
             << "has " << begins << " lm.begin_backward; a step has one";
    if (failed(verify::checkStateTypes(function, symbols, "D3")))
      return failure();
  }
  return success();
}

struct VerifyDifferentiatedPass
    : lmc::verify::impl::VerifyDifferentiatedBase<VerifyDifferentiatedPass> {
  using VerifyDifferentiatedBase::VerifyDifferentiatedBase;

  void runOnOperation() override {
    if (failed(check(getOperation())))
      return signalPassFailure();
    markAllAnalysesPreserved();
  }
};

} // namespace
