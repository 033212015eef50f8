// See InspectMesh.h.
#include "tools/lmc/InspectMesh.h"

#include "runtime/base/Log.h"
#include "runtime/plan/PlanFacts.h"

#include <map>
#include <set>

using namespace lmc;
using Json = nlohmann::ordered_json;

namespace {

constexpr std::pair<plan::State::Kind, const char *> kStates[] = {
    {plan::State::PARAMETER, "parameters"},
    {plan::State::ACCUMULATOR, "gradients"},
    {plan::State::MOMENT, "moments"},
};

std::string setting(const plan::Plan &plan, const char *name) {
  auto found = plan.settings().find(name);
  return found == plan.settings().end() ? "" : found->second;
}

int64_t stagesOf(const plan::Plan &plan) {
  for (const plan::Mesh::Axis &axis : plan.mesh().axes())
    if (axis.name() == "pp")
      return axis.size();
  return 1;
}

// Model chunks on each stage.
int64_t virtualStages(const plan::Plan &plan) {
  std::set<uint32_t> chunks;
  for (const plan::Schedule &schedule : plan.schedules())
    if (schedule.name() == "train" && schedule.stage() == 0)
      for (const plan::Call &call : schedule.calls())
        if (const plan::Program &program = plan.programs(int(call.program()));
            program.name().rfind("forward", 0) == 0)
          chunks.insert(program.chunk());
  return std::max<int64_t>(1, int64_t(chunks.size()));
}

// "dp fsdp": the data axes that leave each rank a part of a state: those that
// split its dims, then those of its bucket; empty: each rank holds it whole.
std::string dataAxesOf(const plan::Plan &plan, const plan::State &state) {
  std::string text;
  std::set<uint32_t> seen;
  for (const plan::Linear &offset : state.local_offset())
    for (const plan::Linear::Term &term : offset.terms()) {
      const plan::Symbol &symbol = plan.symbols(int(term.symbol()));
      if (symbol.kind() != plan::Symbol::COORDINATE)
        continue;
      const plan::Mesh::Axis &axis = plan.mesh().axes(int(symbol.axis()));
      if ((axis.name() == "dp" || axis.name() == "fsdp") && axis.size() > 1 &&
          seen.insert(symbol.axis()).second)
        text += (text.empty() ? "" : " ") + axis.name();
    }
  std::string pieces = sharedOver(plan, state);
  return text + (text.empty() || pieces.empty() ? "" : " ") + pieces;
}

// Of the states of a kind: how many are shared out over which data axes.
std::map<std::string, int64_t> shares(const plan::Plan &plan,
                                      plan::State::Kind kind) {
  std::map<std::string, int64_t> counts;
  for (const plan::State &state : plan.states())
    if (state.kind() == kind)
      ++counts[dataAxesOf(plan, state)];
  return counts;
}

std::string stateText(const plan::Plan &plan) {
  std::string text;
  for (auto [kind, name] : kStates) {
    std::map<std::string, int64_t> counts = shares(plan, kind);
    if (counts.empty())
      continue;
    text += fmt::format("{}{}", text.empty() ? "" : ", ", name);
    const char *before = " ";
    for (const auto &[axes, count] : counts) {
      text += before + (axes.empty() ? "whole" : "over " + axes);
      if (counts.size() > 1)
        text += fmt::format(" ({})", count);
      before = " or ";
    }
  }
  return text;
}

} // namespace

std::string lmc::sharedOver(const plan::Plan &plan, const plan::State &state) {
  // Where the piece's place depends on the rank, its bucket is there whole, and
  // the rank only finishes a piece of it.
  std::set<uint32_t> whole;
  for (const plan::Linear::Term &term : state.slice().offset().terms())
    if (const plan::Symbol &symbol = plan.symbols(int(term.symbol()));
        symbol.kind() == plan::Symbol::COORDINATE)
      whole.insert(symbol.axis());
  std::string text;
  for (uint32_t index : state.piece().axes())
    if (const plan::Mesh::Axis &axis = plan.mesh().axes(int(index));
        axis.size() > 1 && !whole.count(index))
      text += (text.empty() ? "" : " ") + axis.name();
  return text;
}

Json lmc::describeMesh(const plan::Plan &plan) {
  Json axes = Json::object(), state = Json::object();
  for (const plan::Mesh::Axis &axis : plan.mesh().axes())
    axes[axis.name()] = axis.size();
  for (auto [kind, name] : kStates) {
    Json list = Json::array();
    for (const auto &[over, count] : shares(plan, kind))
      list.push_back({{"over", over}, {"tensors", count}});
    state[name] = list;
  }
  return {{"axes", axes},
          {"ranks", runtime::worldSize(plan)},
          {"stages", stagesOf(plan)},
          {"pipeline_schedule", setting(plan, "pipeline_schedule")},
          {"virtual_stages", virtualStages(plan)},
          {"sharding", setting(plan, "sharding")},
          {"sequence_parallel", setting(plan, "sequence_parallel")},
          {"training_state", state}};
}

std::vector<std::pair<std::string, std::string>>
lmc::meshLines(const plan::Plan &plan) {
  std::vector<std::pair<std::string, std::string>> lines;
  int64_t ranks = runtime::worldSize(plan), stages = stagesOf(plan);
  if (ranks == 1)
    return {{"mesh", "1 rank"}};
  std::string axes;
  for (const plan::Mesh::Axis &axis : plan.mesh().axes())
    if (axis.size() > 1)
      axes += fmt::format("{}{}={}", axes.empty() ? "" : ", ", axis.name(),
                          axis.size());
  lines.emplace_back("mesh", fmt::format("{} ranks: {}", ranks, axes));
  if (stages > 1) {
    std::string schedule = setting(plan, "pipeline_schedule");
    int64_t chunks = virtualStages(plan);
    lines.emplace_back(
        "pipeline",
        fmt::format("{} over {} stages, {} virtual stage{} on each",
                    schedule.empty() ? "a schedule of its own" : schedule,
                    stages, chunks, chunks == 1 ? "" : "s"));
  }
  if (std::string sharding = setting(plan, "sharding"); !sharding.empty()) {
    std::string tokens = setting(plan, "sequence_parallel");
    lines.emplace_back("sharding",
                       sharding + (tokens.empty()
                                       ? ", without sequence parallelism"
                                       : ", with sequence parallelism: tokens "
                                         "over " +
                                             tokens + " between layers"));
  }
  if (plan.mode() == "train")
    lines.emplace_back("state", stateText(plan));
  return lines;
}
