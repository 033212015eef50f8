// The bytes of a stage over a step, read from the plan alone: what is
// allocated, and how much of the saved values and of the scratch holds
// something that is read later.
#ifndef LMC_TOOLS_LMC_STEPMEMORY_H
#define LMC_TOOLS_LMC_STEPMEMORY_H

#include "runtime/plan/plan.pb.h"

#include <map>
#include <optional>
#include <vector>

namespace lmc {

struct CallMemory {
  // The most at one instruction. Where a plan saves anything, scratch lies
  // among the saved values and counts as such.
  int64_t saved = 0, scratch = 0;
};

struct StageMemory {
  int64_t allocated = 0;         // on the device
  int64_t fixed = 0;             // of it, what is neither saved nor scratch
  int64_t slots = 0;             // micro-batches of chunks under way at once
  std::vector<CallMemory> calls; // as in the schedule
  /// The most bytes alive at once, saved and scratch, of those that a chunk's
  /// programs wrote, for all of its micro-batches.
  std::map<int64_t, int64_t> chunks;
  /// Where most saved values are alive; none where a plan saves nothing.
  struct Place {
    uint32_t program;
    int instruction;
  };
  std::optional<Place> peak;
};

StageMemory memoryOf(const plan::Plan &plan, const plan::Schedule &schedule);

} // namespace lmc

#endif // LMC_TOOLS_LMC_STEPMEMORY_H
