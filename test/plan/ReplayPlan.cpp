// replay-plan PLAN [--max-ratio=R]: replays every schedule of a plan and
// prints, for each, the bytes of arenas, the most alive at once, and their
// ratio. Exit status 1 if a schedule has a finding, or if some stage is above
// the ratio in the schedule that needs most there.
#include "runtime/base/Log.h"
#include "runtime/plan/PlanCheck.h"
#include "runtime/plan/PlanFile.h"
#include "test/plan/Replay.h"

#include <cstdlib>
#include <cstring>
#include <map>

using namespace lmc;

int main(int argc, char **argv) {
  const char *path = nullptr;
  double maxRatio = 1e9;
  for (int i = 1; i < argc; ++i) {
    if (std::strncmp(argv[i], "--max-ratio=", 12) == 0)
      maxRatio = std::atof(argv[i] + 12);
    else
      path = argv[i];
  }
  if (!path)
    return runtime::report(
        runtime::wrongInput("usage: replay-plan PLAN [--max-ratio=R]"));
  auto plan = runtime::readPlanFile(path);
  if (!plan.ok())
    return runtime::report(plan.status());
  if (runtime::Status status = runtime::checkPlan(*plan); !status.ok())
    return runtime::report(status);

  bool isGood = true;
  std::map<int64_t, test::ReplayResult> most; // by stage
  for (const plan::Schedule &schedule : plan->schedules()) {
    test::ReplayResult result = test::replay(*plan, schedule);
    fmt::print(
        "{}{}: {} instructions, arena {} + fixed {} bytes, live {} + {}, "
        "ratio {:.4f}\n",
        schedule.name(),
        schedule.stage() > 0 ? fmt::format(", stage {}", schedule.stage()) : "",
        result.instructions, result.arenaBytes, result.fixedBytes,
        result.liveBytes, result.fixedBytes, result.ratio());
    for (const std::string &finding : result.findings)
      fmt::print("  finding: {}\n", finding);
    for (const std::string &lost : result.lostWrites)
      fmt::print("  lost: {}\n", lost);
    isGood &= result.findings.empty();
    auto [best, isNew] = most.try_emplace(schedule.stage(), result);
    if (!isNew && result.liveBytes > best->second.liveBytes)
      best->second = result;
  }
  for (const auto &[stage, result] : most) {
    if (result.ratio() <= maxRatio)
      continue;
    fmt::print("  finding: stage {} has {:.4f} times the largest live sum, "
               "which is above {:.4f}\n",
               stage, result.ratio(), maxRatio);
    isGood = false;
  }
  return isGood ? 0 : 1;
}
