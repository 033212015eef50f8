// What several borders ask of the programs of a step together.
#include "passes/verify/States.h"

#include "dialects/plan/Plan.h"

#include <set>

using namespace mlir;
using namespace lmc;

LogicalResult lmc::verify::checkPrograms(ModuleOp module,
                                         ArrayRef<StringRef> names,
                                         StringRef law) {
  std::set<std::pair<StringRef, int64_t>> programs;
  for (auto function : module.getOps<func::FuncOp>()) {
    auto program = function->getAttrOfType<StringAttr>(lm::kProgramAttr);
    auto stage = function->getAttrOfType<IntegerAttr>(plan::kStageAttr);
    if (program)
      programs.insert({program.getValue(), stage ? stage.getInt() : 0});
  }
  auto stages = module->getAttrOfType<IntegerAttr>(dist::kStagesAttr);
  for (int64_t stage = 0; stage < (stages ? stages.getInt() : 1); ++stage)
    for (StringRef name : names)
      if (!programs.count({name, stage}))
        return module.emitOpError()
               << "has no program \"" << name << "\" for stage " << stage
               << " (" << law << ")";
  return success();
}

LogicalResult lmc::verify::checkTransfers(ModuleOp module, StringRef law) {
  llvm::DenseMap<int64_t, dist::SendOp> sent;
  Operation *wrong = nullptr;
  StringRef why;
  auto fail = [&](Operation *op, StringRef reason) {
    wrong = op;
    why = reason;
  };
  module.walk([&](dist::SendOp send) {
    if (!sent.insert({send.getChannel(), send}).second)
      fail(send, "is the second on its channel");
  });
  module.walk([&](dist::ReceiveOp receive) {
    auto found = sent.find(receive.getChannel());
    if (found == sent.end()) {
      fail(receive, "receives what nobody sends");
      return;
    }
    if (found->second.getInput().getType() != receive.getOutput().getType() ||
        found->second.getStageOffset() != -receive.getStageOffset())
      fail(receive, "does not fit what is sent");
    sent.erase(found);
  });
  for (auto &[channel, send] : sent)
    fail(send, "is received by nobody");
  if (wrong)
    return wrong->emitOpError() << why << " (" << law << ")";
  return success();
}
