// The laws of schedules: what they call, and what the stages of a pipeline do
// to each other.
#ifndef LMC_RUNTIME_PLAN_SCHEDULECHECK_H
#define LMC_RUNTIME_PLAN_SCHEDULECHECK_H

#include "runtime/base/Status.h"
#include "runtime/plan/Linear.h"

namespace lmc::runtime {

/// How schedules call a program.
struct ProgramUse {
  int64_t stage = -1; ///< -1: no schedule calls it
  /// Of its calls: the range of each SLOT symbol, in their order.
  std::vector<Range> slots;
};

/// Checks names, stages and calls; returns the use of each program. `ranges`
/// holds the bounds of every symbol.
StatusOr<std::vector<ProgramUse>> checkCalls(const plan::Plan &plan,
                                             const std::vector<Range> &ranges,
                                             int64_t stages);

/// Runs every schedule of all `stages` stages in thought: transfers and the
/// collectives that go over stages. A send does not wait, a receive waits for
/// its send, a collective for all stages. Fails if they cannot all come to
/// their end, if two that meet differ in size, kind or micro-batch, or if
/// something sent is never received. Indices within the plan are checked
/// already.
Status checkStages(const plan::Plan &plan, int64_t stages);

} // namespace lmc::runtime

#endif // LMC_RUNTIME_PLAN_SCHEDULECHECK_H
