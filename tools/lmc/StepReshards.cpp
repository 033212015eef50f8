// See StepReshards.h.
#include "tools/lmc/StepReshards.h"

#include "tools/lmc/StepExchanges.h"

#include <algorithm>
#include <map>
#include <tuple>

using namespace lmc;

namespace {

// "backward" of "backward_input.3", which is where both halves' reshards are
// counted.
std::string kindOf(const plan::Program &program) {
  std::string name = program.name().substr(0, program.name().find('.'));
  return name == "backward_input" ? "backward" : name;
}

struct Calls {
  std::vector<std::string> order; // of kinds of programs, by their first calls
  std::map<std::pair<std::string, uint32_t>, int64_t> counts; // and chunks
};

Calls countCalls(const plan::Plan &plan, const plan::Schedule &schedule) {
  Calls calls;
  for (const plan::Call &call : schedule.calls()) {
    const plan::Program &program = plan.programs(int(call.program()));
    std::string kind = kindOf(program);
    if (std::find(calls.order.begin(), calls.order.end(), kind) ==
        calls.order.end())
      calls.order.push_back(kind);
    ++calls.counts[{kind, program.chunk()}];
  }
  return calls;
}

} // namespace

std::vector<StepReshard> lmc::reshardsOf(const plan::Plan &plan,
                                         const plan::Schedule &schedule,
                                         bool anyLayer) {
  Calls calls = countCalls(plan, schedule);
  std::vector<StepReshard> all;
  using Key =
      std::tuple<std::string, const plan::Reshard *, std::string, std::string>;
  std::map<Key, size_t> known; // in `all`
  for (const std::string &kind : calls.order)
    for (const plan::Reshard &change : plan.reshards())
      for (const plan::Reshard::Place &place : change.places()) {
        auto count = calls.counts.find({kind, place.chunk()});
        if (place.program() != kind || count == calls.counts.end())
          continue;
        StepReshard reshard{&change, kind,
                            placeOf(plan, place.location(), anyLayer),
                            placeOf(plan, place.user_location(), anyLayer)};
        auto [entry, isNew] = known.try_emplace(
            Key{kind, &change, reshard.place, reshard.user}, all.size());
        if (isNew)
          all.push_back(std::move(reshard));
        all[entry->second].calls += count->second;
      }
  return all;
}

int64_t lmc::priceOf(const std::vector<StepReshard> &reshards) {
  int64_t bytes = 0;
  for (const StepReshard &reshard : reshards)
    bytes += reshard.received();
  return bytes;
}

std::string lmc::changeText(const plan::Reshard &change) {
  return change.from() + " -> " + change.to();
}

std::string lmc::stepsText(const plan::Reshard &change) {
  std::string text;
  for (const std::string &step : change.steps())
    text += (text.empty() ? "" : ", then ") + step;
  return text;
}
