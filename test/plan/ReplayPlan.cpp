// replay-plan PLAN [--max-ratio=R]: replays every schedule of a plan and
// prints, for each, the bytes of arenas, the most alive at once, and their
// ratio. Exit status 1 if a schedule has a finding or is above the ratio.
#include "runtime/base/Log.h"
#include "runtime/plan/PlanCheck.h"
#include "runtime/plan/PlanFile.h"
#include "test/plan/Replay.h"

#include <cstdlib>
#include <cstring>

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
  double step = 0; // the ratio of the schedule that needs most
  int64_t most = -1;
  for (const plan::Schedule &schedule : plan->schedules()) {
    test::ReplayResult result = test::replay(*plan, schedule);
    fmt::print(
        "{}{}: {} instructions, arena {} + fixed {} bytes, live {} + {}, "
        "ratio {:.4f}\n",
        schedule.name(),
        schedule.stage() > 0 ? fmt::format(", stage {}", schedule.stage()) : "",
        result.instructions, result.arenaBytes, result.fixedBytes,
        result.liveBytes, result.fixedBytes, result.ratio());
    if (result.liveBytes > most) {
      most = result.liveBytes;
      step = result.ratio();
    }
    for (const std::string &finding : result.findings)
      fmt::print("  finding: {}\n", finding);
    for (const std::string &lost : result.lostWrites)
      fmt::print("  lost: {}\n", lost);
    isGood &= result.findings.empty();
  }
  if (step > maxRatio) {
    fmt::print("  finding: {:.4f} times the largest live sum is above {:.4f}\n",
               step, maxRatio);
    isGood = false;
  }
  return isGood ? 0 : 1;
}
