// How long the stages of a pipeline wait for each other in a step, if each
// instruction takes its planned time.
#ifndef LMC_RUNTIME_PLAN_STEPTIME_H
#define LMC_RUNTIME_PLAN_STEPTIME_H

#include "runtime/plan/plan.pb.h"

#include <string>
#include <vector>

namespace lmc::runtime {

/// What a launch, fill or copy takes, in FLOPs: it computes or waits for
/// memory, of which a byte takes as long as ten FLOPs on the CPUs of these
/// years. Transfers and collectives take none.
double plannedFlops(const plan::Instruction &instruction);

/// In FLOPs.
struct StepTime {
  double length = 0; ///< to the end of the last stage
  double work = 0;   ///< of the busiest stage

  /// The part of a step in which the busiest stage waits, over its work.
  double bubble() const { return work > 0 ? length / work - 1 : 0; }
};

/// Runs the schedule of that name in thought, all stages of a checked plan.
StepTime timeStep(const plan::Plan &plan, const std::string &schedule);

} // namespace lmc::runtime

#endif // LMC_RUNTIME_PLAN_STEPTIME_H
