// What a step's order costs: its calls at two rates that are the same on every
// rank (runtime/plan/StepTime.h), its bubble, and what the schedule's formula
// says of it. An instruction takes as long as its FLOPs or its bytes, whichever
// is more; exchanges take no time of their own beyond their bytes. So the
// figure shows what the order costs, not a machine.
#ifndef LMC_TOOLS_LMC_STEPTIMES_H
#define LMC_TOOLS_LMC_STEPTIMES_H

#include "runtime/plan/StepTime.h"

#include <optional>

namespace lmc {

// About one core of a server.
struct Rates {
  double flopsPerSec = 1e11;
  double bytesPerSec = 2e10;
};

struct StepTimes {
  runtime::StepTime step; // in seconds
  // Of each stage; micro-batches alone, without what comes once in a step.
  std::vector<double> busy;
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
