// The border behind differentiate. Each check carries the label of the law in
// Passes.td that it enforces.
#include "passes/verify/Passes.h"

#include "dialects/plan/Plan.h"
#include "passes/verify/States.h"

#include <set>

namespace lmc::verify {
#define GEN_PASS_DEF_VERIFYDIFFERENTIATED
#include "passes/verify/Passes.h.inc"
} // namespace lmc::verify

using namespace mlir;
using namespace lmc;

namespace {

LogicalResult checkStages(ModuleOp module) {
  std::set<std::pair<StringRef, int64_t>> programs;
  for (auto function : module.getOps<func::FuncOp>()) {
    auto program = function->getAttrOfType<StringAttr>(lm::kProgramAttr);
    auto stage = function->getAttrOfType<IntegerAttr>(plan::kStageAttr);
    if (program)
      programs.insert({program.getValue(), stage ? stage.getInt() : 0});
  }
  auto stages = module->getAttrOfType<IntegerAttr>(dist::kStagesAttr);
  for (int64_t stage = 0; stage < (stages ? stages.getInt() : 1); ++stage)
    for (StringRef name : {"step", "update", "evaluate", "evaluate_finish"})
      if (!programs.count({name, stage}))
        return module.emitOpError() // D1
               << "has no program \"" << name << "\" for stage " << stage;
  return success();
}

LogicalResult checkTransfers(ModuleOp module) {
  llvm::DenseMap<int64_t, dist::SendOp> sent;
  LogicalResult result = success();
  module.walk([&](dist::SendOp send) {
    if (!sent.insert({send.getChannel(), send}).second)
      result = send.emitOpError("is the second on its channel"); // D4
  });
  module.walk([&](dist::ReceiveOp receive) {
    auto found = sent.find(receive.getChannel());
    if (found == sent.end()) {
      result = receive.emitOpError("receives what nobody sends"); // D4
      return;
    }
    if (found->second.getInput().getType() != receive.getOutput().getType() ||
        found->second.getStageOffset() != -receive.getStageOffset())
      result = receive.emitOpError("does not fit what is sent"); // D4
    sent.erase(found);
  });
  for (auto &[channel, send] : sent)
    result = dist::SendOp(send).emitOpError("is received by nobody"); // D4
  return result;
}

LogicalResult check(ModuleOp module) {
  if (failed(checkStages(module)) || failed(checkTransfers(module)))
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
