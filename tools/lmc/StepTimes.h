// When each call of a step runs, simulated from the plan.
//
//     stage 0   F0 F1 .. .. B0 F2 B1 F3 .. B2 .. B3 U
//     stage 1   .. F0 B0 F1 B1 F2 B2 F3 B3 .. .. .. U
//               time --->
//
// An instruction takes as long as its FLOPs or its bytes, whichever is more,
// at two rates that are the same on every rank. A receive waits for its send,
// a collective over pp for all stages; exchanges take no time of their own
// beyond their bytes. So the figure shows what the order costs, not a machine.
#ifndef LMC_TOOLS_LMC_STEPTIMES_H
#define LMC_TOOLS_LMC_STEPTIMES_H

#include "runtime/plan/plan.pb.h"

#include <optional>
#include <string>
#include <vector>

namespace lmc {

// About one core of a server.
struct Rates {
  double flopsPerSec = 1e11;
  double bytesPerSec = 2e10;
};

struct CallTime {
  double begin = 0, end = 0; // seconds; begins behind what it waits for first
};

struct StageTimes {
  std::vector<CallTime> calls; // as in the schedule
  double busy = 0; // micro-batches alone, without what comes once in a step
};

struct StepTimes {
  std::vector<StageTimes> stages;
  double end = 0;  // of the step
  double span = 0; // up to the end of the last micro-batch
  // Idle over ideal time: (stages * span - sum of busy) / sum of busy.
  double bubble = 0;
  // What the schedule's formula says of equal stages, where there is one.
  std::optional<double> formula;
  std::string scheduleName; // gpipe, 1f1b, ...; empty: not known
};

// Whether a program runs for a micro-batch, not once in a step.
bool isOfMicroBatch(const plan::Program &program);

// `plan` has passed the checker. `name` is that of the schedules.
StepTimes simulateStep(const plan::Plan &plan, const std::string &name,
                       const Rates &rates = {});

} // namespace lmc

#endif // LMC_TOOLS_LMC_STEPTIMES_H
