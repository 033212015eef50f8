// See InspectReshards.h.
#include "tools/lmc/InspectReshards.h"

#include "runtime/base/Log.h"

using namespace lmc;
using Json = nlohmann::ordered_json;

Json lmc::describeReshards(const plan::Plan &plan, const StageFacts &stage) {
  Json list = Json::array();
  for (const StepReshard &reshard :
       reshardsOf(plan, *stage.schedule, /*anyLayer=*/false)) {
    const plan::Reshard &change = *reshard.change;
    list.push_back({{"program", reshard.program},
                    {"source", change.source()},
                    {"place", reshard.place},
                    {"dtype", change.dtype()},
                    {"global_shape", change.global_shape()},
                    {"from", change.from()},
                    {"to", change.to()},
                    {"steps", change.steps()},
                    {"price_bytes", change.received_bytes()},
                    {"calls", reshard.calls},
                    {"user", change.user()},
                    {"user_place", reshard.user},
                    {"rules", change.rules()}});
  }
  return list;
}

std::string lmc::userText(const StepReshard &reshard) {
  std::string text = reshard.change->user();
  if (reshard.user != reshard.place)
    text += (text.empty() ? "" : " ") + reshard.user;
  for (const std::string &rule : reshard.change->rules())
    text += ", rule " + rule;
  return text;
}

void lmc::printReshards(const plan::Plan &plan, const StepFacts &facts) {
  if (plan.reshards_size() == 0) {
    fmt::print("\nreshards: none, every value is made as it is needed\n");
    return;
  }
  for (size_t i = 0; i < facts.stages.size(); ++i) {
    std::vector<StepReshard> reshards =
        reshardsOf(plan, *facts.stages[i].schedule, /*anyLayer=*/true);
    fmt::print("\nreshards{}: a rank receives {} in a step, the price that the "
               "compiler minimises\n",
               facts.stages.size() > 1 ? fmt::format(" of stage {}", i) : "",
               runtime::formatBytes(double(priceOf(reshards))));
    for (const StepReshard &reshard : reshards)
      fmt::print("  {:>10} x {:<5} {:<8} {} {}: {}, by {}, for {}\n",
                 runtime::formatBytes(double(reshard.change->received_bytes())),
                 reshard.calls, reshard.program, reshard.change->source(),
                 reshard.place, changeText(*reshard.change),
                 stepsText(*reshard.change), userText(reshard));
  }
}
