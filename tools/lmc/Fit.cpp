// See Fit.h.
#include "tools/lmc/Fit.h"

#include "runtime/base/Log.h"
#include "runtime/plan/PlanFacts.h"
#include "tools/lmc/Diagnostics.h"
#include "tools/lmc/StepExchanges.h"
#include "tools/lmc/StepMemory.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <functional>
#include <limits>

using namespace lmc;
using runtime::formatBytes;

namespace {

int64_t axisSize(const plan::Plan &plan, const char *name) {
  for (const plan::Mesh::Axis &axis : plan.mesh().axes())
    if (axis.name() == name)
      return axis.size();
  return 1;
}

// Bytes on the device of a rank, by stage.
std::vector<int64_t> needs(const plan::Plan &plan) {
  std::vector<int64_t> bytes(size_t(axisSize(plan, "pp")));
  for (const plan::Allocation &allocation : plan.allocations())
    if (allocation.memory() == plan::DEVICE)
      for (size_t stage = 0; stage < bytes.size(); ++stage)
        bytes[stage] += runtime::bytesOnStage(allocation, int64_t(stage));
  return bytes;
}

// Another way to say the same training or serving.
struct Change {
  std::string flag;
  std::function<void(CompileSettings &)> make;
};

// Changes of one setting, from the mildest on.
using Kind = std::vector<Change>;

// What may need less, from what costs the least time to what costs the most.
std::vector<Kind> kindsOfChange(const plan::Plan &plan,
                                const CompileSettings &settings) {
  std::vector<Kind> all;
  auto halves = [](int64_t from, auto mayBe, const char *flag,
                   int64_t CompileSettings::*setting) {
    Kind list;
    for (int64_t i = from / 2; i >= 1; i /= 2)
      if (mayBe(i))
        list.push_back({fmt::format("--{}={}", flag, i),
                        [=](CompileSettings &s) { s.*setting = i; }});
    return list;
  };
  auto any = [](int64_t) { return true; };
  if (settings.mode == "infer") {
    if (settings.cachePages)
      all.push_back(halves(settings.cachePages, any, "cache-pages",
                           &CompileSettings::cachePages));
    all.push_back(halves(settings.maxSequences, any, "max-sequences",
                         &CompileSettings::maxSequences));
    all.push_back(halves(settings.maxTokens, any, "max-tokens",
                         &CompileSettings::maxTokens));
    return all;
  }
  bool isPlain = settings.sharding.empty();
  if (isPlain && axisSize(plan, "tp") > 1 && !settings.sequenceParallel)
    all.push_back({{"--sequence-parallel",
                    [](CompileSettings &s) { s.sequenceParallel = true; }}});
  if (settings.pipelineSchedule == "gpipe" || settings.pipelineSchedule == "zb")
    all.push_back({{"--pipeline-schedule=1f1b",
                    [](CompileSettings &s) { s.pipelineSchedule = "1f1b"; }}});
  if (isPlain && axisSize(plan, "dp") > 1) {
    Kind levels;
    for (int64_t level = settings.zero.value_or(0) + 1; level <= 3; ++level)
      levels.push_back({fmt::format("--zero={}", level),
                        [=](CompileSettings &s) { s.zero = level; }});
    all.push_back(levels);
  }
  int64_t samples =
      plan.global_batch() / (axisSize(plan, "dp") * axisSize(plan, "fsdp"));
  all.push_back(halves(
      plan.micro_batch(), [=](int64_t i) { return samples % i == 0; },
      "micro-batch", &CompileSettings::microBatch));
  return all;
}

constexpr int64_t kNoPlan = std::numeric_limits<int64_t>::max();

// What the largest stage of a plan of these settings needs.
int64_t need(const CompileSettings &settings) {
  Silence silence;
  plan::Plan plan;
  if (compile(settings, &plan) != kDone)
    return kNoPlan;
  std::vector<int64_t> bytes = needs(plan);
  return *std::max_element(bytes.begin(), bytes.end());
}

// Lines of help: of each kind of change the mildest that fits; where none does,
// what fits together, or needs least.
std::vector<std::string> helps(const plan::Plan &plan,
                               const CompileSettings &settings) {
  CompileSettings same = settings;
  if (settings.mode == "train")
    same.globalBatch = plan.global_batch(); // whatever the micro-batch
  std::vector<Kind> kinds = kindsOfChange(plan, settings);
  auto fits = [&](int64_t bytes) { return bytes <= settings.memoryBytes; };
  auto line = [](const std::vector<std::string> &flags, int64_t bytes) {
    return fmt::format("{} needs {}", fmt::join(flags, " "),
                       formatBytes(double(bytes)));
  };
  std::vector<std::string> lines;
  for (const Kind &kind : kinds)
    for (const Change &change : kind) {
      CompileSettings changed = same;
      change.make(changed);
      if (int64_t bytes = need(changed); fits(bytes)) {
        lines.push_back(line({change.flag}, bytes));
        break;
      }
    }
  if (!lines.empty())
    return lines;
  std::vector<std::string> flags;
  int64_t least = kNoPlan;
  for (const Kind &kind : kinds) {
    flags.emplace_back();
    for (const Change &change : kind) {
      flags.back() = change.flag;
      change.make(same);
      least = need(same);
      if (fits(least))
        return {line(flags, least)};
    }
  }
  if (least != kNoPlan)
    lines.push_back(line(flags, least) + ", still too much");
  if (settings.mode == "train")
    lines.push_back(settings.target == "cpu"
                        ? "more ranks, over tp, pp or fsdp (--mesh)"
                        : "a GPU with more memory");
  return lines;
}

// "backward.2, h.3.mlp.down (gpt.textproto:24)": where most is alive.
std::string peakOf(const plan::Plan &plan, int64_t stage) {
  for (const plan::Schedule &schedule : plan.schedules()) {
    if (schedule.stage() != stage || schedule.name() == "evaluate")
      continue;
    if (auto peak = memoryOf(plan, schedule).peak) {
      const plan::Program &program = plan.programs(int(peak->program));
      return fmt::format(
          "{}, {}", program.name(),
          placeOf(plan, program.instructions(peak->instruction).location(),
                  /*anyLayer=*/false));
    }
  }
  return "";
}

} // namespace

int lmc::checkFit(const plan::Plan &plan, const CompileSettings &settings) {
  std::vector<int64_t> bytes = needs(plan);
  auto largest = std::max_element(bytes.begin(), bytes.end());
  if (settings.memoryBytes == 0 || *largest <= settings.memoryBytes)
    return kDone;
  int64_t stage = largest - bytes.begin();
  int64_t ranks = 1;
  for (const plan::Mesh::Axis &axis : plan.mesh().axes())
    ranks *= axis.size();
  ranks /= int64_t(bytes.size());
  bool isAlone = bytes.size() == 1;
  fmt::print(stderr, "error: {} does not fit: {} needed, {} on each device{}\n",
             isAlone ? "the plan" : fmt::format("pipeline stage {}", stage),
             formatBytes(double(*largest)),
             formatBytes(double(settings.memoryBytes)),
             ranks == 1 && isAlone ? ""
             : ranks == 1          ? fmt::format(" (rank {})", stage)
                          : fmt::format(" (ranks {}-{})", stage * ranks,
                                        (stage + 1) * ranks - 1));
  std::vector<std::string> holders;
  for (const plan::Allocation &allocation : plan.allocations())
    if (int64_t held = runtime::bytesOnStage(allocation, stage);
        held > *largest / 1000 && allocation.memory() == plan::DEVICE)
      holders.push_back(
          fmt::format("{} {}", allocation.name(), formatBytes(double(held))));
  fmt::print(stderr, "  note: {}\n", fmt::join(holders, ", "));
  if (std::string peak = peakOf(plan, stage); !peak.empty())
    fmt::print(stderr, "  note: most is alive in {}\n", peak);
  for (const std::string &line : helps(plan, settings))
    fmt::print(stderr, "  help: {}\n", line);
  return kDoesNotFit;
}
