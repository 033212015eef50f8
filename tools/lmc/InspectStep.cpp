// See InspectStep.h.
#include "tools/lmc/InspectStep.h"

#include "tools/lmc/InspectReshards.h"

#include "runtime/base/Log.h"
#include "runtime/plan/PlanFacts.h"

#include <algorithm>
#include <tuple>

using namespace lmc;
using Json = nlohmann::ordered_json;

StepFacts lmc::factsOfStep(const plan::Plan &plan) {
  StepFacts facts;
  for (const plan::Schedule &schedule : plan.schedules()) {
    if (schedule.name() != "train")
      continue;
    facts.stages.resize(
        std::max(facts.stages.size(), size_t(schedule.stage()) + 1));
    facts.stages[size_t(schedule.stage())] = {
        &schedule, exchangesOf(plan, schedule), memoryOf(plan, schedule)};
  }
  // A stage without a schedule would have nothing to do.
  for (const StageFacts &stage : facts.stages)
    if (!stage.schedule)
      return {};
  if (!facts.stages.empty())
    facts.times = simulateStep(plan, "train");
  return facts;
}

static Json describeTraffic(const runtime::Traffic &traffic) {
  Json rows = Json::object();
  for (int i = 0; i < runtime::trafficRows; ++i)
    if (const runtime::Traffic::Row &row = traffic.rows[size_t(i)];
        row.calls > 0)
      rows[runtime::trafficRowNames[i]] = {{"calls", row.calls},
                                           {"bytes", row.bytes},
                                           {"received_bytes", row.received}};
  return rows;
}

static int64_t receivedBytes(const runtime::Traffic &traffic) {
  int64_t bytes = 0;
  for (const runtime::Traffic::Row &row : traffic.rows)
    bytes += row.received;
  return bytes;
}

static Json describeExchange(const plan::Plan &plan, const Exchange &exchange) {
  Json json = {{"kind", runtime::trafficRowNames[exchange.row]},
               {"axes", exchange.axes},
               {"members", exchange.members},
               {"dtype", exchange.dtype},
               {"bytes", exchange.bytes},
               {"received_bytes", exchange.received},
               {"calls", exchange.calls},
               {"of_reshard", exchange.ofReshard},
               {"program", exchange.program}};
  if (exchange.location < uint32_t(plan.locations_size())) {
    const plan::Location &location = plan.locations(int(exchange.location));
    json["file"] = location.file();
    json["line"] = location.line();
    json["layer"] = location.layer();
  }
  return json;
}

static int64_t mostSaved(const StageMemory &memory) {
  int64_t most = 0;
  for (const CallMemory &call : memory.calls)
    most = std::max(most, call.saved);
  return most;
}

Json lmc::describeStep(const plan::Plan &plan, const StepFacts &facts) {
  Json stages = Json::array();
  for (size_t i = 0; i < facts.stages.size(); ++i) {
    const StageFacts &stage = facts.stages[i];
    Json exchanges = Json::array(), allocations = Json::object();
    Json chunks = Json::array();
    for (auto [chunk, most] : stage.memory.chunks)
      chunks.push_back({{"chunk", chunk}, {"peak_bytes", most}});
    for (const Exchange &exchange : stage.exchanges)
      exchanges.push_back(describeExchange(plan, exchange));
    for (const plan::Allocation &allocation : plan.allocations())
      allocations[allocation.name()] =
          runtime::bytesOnStage(allocation, int64_t(i));
    runtime::Traffic traffic = sum(stage.exchanges);
    stages.push_back({{"stage", i},
                      {"peak_bytes", stage.memory.allocated},
                      {"bytes_by_allocation", allocations},
                      {"saved_slots", stage.memory.slots},
                      {"saved_peak_bytes", mostSaved(stage.memory)},
                      {"chunks", chunks},
                      {"busy_seconds", facts.times.busy[i]},
                      {"received_bytes", receivedBytes(traffic)},
                      {"traffic", describeTraffic(traffic)},
                      {"exchanges", exchanges},
                      {"reshards", describeReshards(plan, stage)}});
  }
  Json json = {{"schedule", facts.times.scheduleName},
               {"seconds", facts.times.step.length},
               {"bubble", facts.times.bubble}};
  if (facts.times.formula)
    json["bubble_formula"] = *facts.times.formula;
  json["stages"] = stages;
  return json;
}

// Those that differ in the layer's number alone come together in one line.
static void printExchanges(const plan::Plan &plan, const StageFacts &stage) {
  struct Line {
    const Exchange *first;
    std::string program, place;
    int64_t calls;
  };
  std::vector<Line> lines;
  for (const Exchange &exchange : stage.exchanges) {
    std::string program =
        exchange.program.substr(0, exchange.program.find('.'));
    std::string place = placeOf(plan, exchange.location, /*anyLayer=*/true);
    auto same = std::find_if(lines.begin(), lines.end(), [&](const Line &line) {
      const Exchange &a = *line.first, &b = exchange;
      return std::tie(a.row, a.axes, a.dtype, a.bytes, line.program,
                      line.place) ==
             std::tie(b.row, b.axes, b.dtype, b.bytes, program, place);
    });
    if (same != lines.end())
      same->calls += exchange.calls;
    else
      lines.push_back({&exchange, program, place, exchange.calls});
  }
  for (const Line &line : lines)
    fmt::print("  {:<14} {:<8} {:<4} {:>10} x {:<6} {:<10} {}\n",
               runtime::trafficRowNames[line.first->row], line.first->axes,
               line.first->dtype,
               runtime::formatBytes(double(line.first->bytes)), line.calls,
               line.program, line.place);
}

static std::string percent(double part) {
  return fmt::format("{:.1f} %", 100 * part);
}

void lmc::printStep(const plan::Plan &plan, const StepFacts &facts) {
  const StepTimes &times = facts.times;
  if (facts.stages.size() > 1) {
    fmt::print("\nschedule {} of {} stages, {} micro-batches: bubble {} of the "
               "ideal time{}\n",
               times.scheduleName.empty() ? "of its own" : times.scheduleName,
               facts.stages.size(), plan.micro_batches(), percent(times.bubble),
               times.formula ? fmt::format(", {} by the formula for equal "
                                           "stages",
                                           percent(*times.formula))
                             : "");
  }
  for (size_t i = 0; i < facts.stages.size(); ++i) {
    const StageFacts &stage = facts.stages[i];
    bool isAlone = facts.stages.size() == 1;
    if (stage.exchanges.empty() && isAlone)
      continue;
    fmt::print("\n{}: ", isAlone ? "a rank" : fmt::format("stage {}", i));
    if (!isAlone)
      fmt::print("busy {} of the time, {} slot{} of saved values, {} "
                 "allocated, ",
                 percent(times.span > 0 ? times.busy[i] / times.span : 1),
                 stage.memory.slots, stage.memory.slots == 1 ? "" : "s",
                 runtime::formatBytes(double(stage.memory.allocated)));
    fmt::print(
        "receives {} in a step\n",
        runtime::formatBytes(double(receivedBytes(sum(stage.exchanges)))));
    std::vector<std::string> peaks;
    for (auto [chunk, most] : stage.memory.chunks)
      peaks.push_back(fmt::format("{} of chunk {}",
                                  runtime::formatBytes(double(most)), chunk));
    if (!peaks.empty())
      fmt::print("  saved and scratch at most {}\n", fmt::join(peaks, ", "));
    printExchanges(plan, stage);
  }
  if (!facts.stages.empty())
    printReshards(plan, facts);
}
