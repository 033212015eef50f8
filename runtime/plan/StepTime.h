// When each call of a step runs, simulated from the plan.
//
//     stage 0   F0 F1 .. .. B0 F2 B1 F3 .. B2 .. B3 U
//     stage 1   .. F0 B0 F1 B1 F2 B2 F3 B3 .. .. .. U
//               time --->
//
// An instruction takes what a cost says, in the cost's unit. A receive waits
// for its send, a collective over pp for all stages. Ranks that differ on other
// axes than pp run the same programs, so that one of each stage stands for all.
#ifndef LMC_RUNTIME_PLAN_STEPTIME_H
#define LMC_RUNTIME_PLAN_STEPTIME_H

#include "runtime/plan/plan.pb.h"

#include <functional>
#include <string>
#include <vector>

namespace lmc::runtime {

using Cost = std::function<double(const plan::Instruction &)>;

/// What a launch, fill or copy takes, in FLOPs: it computes or waits for
/// memory, of which a byte takes as long as ten FLOPs on the CPUs of these
/// years. Transfers and collectives take none.
double plannedFlops(const plan::Instruction &instruction);

struct CallTime {
  double begin = 0, end = 0; ///< begins behind what it waits for first
};

struct StageTime {
  std::vector<CallTime> calls; ///< as in the schedule
  double work = 0;             ///< without what it waits
};

struct StepTime {
  std::vector<StageTime> stages;
  double length = 0; ///< to the end of the last stage
  double work = 0;   ///< of the busiest stage
};

/// Runs the schedule of that name in thought, all stages of a checked plan.
StepTime timeStep(const plan::Plan &plan, const std::string &schedule,
                  const Cost &cost = plannedFlops);

} // namespace lmc::runtime

#endif // LMC_RUNTIME_PLAN_STEPTIME_H
