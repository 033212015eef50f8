// See PlanFacts.h.
#include "runtime/plan/PlanFacts.h"

namespace lmc::runtime {

std::vector<Range> symbolRanges(const plan::Plan &plan) {
  std::vector<Range> ranges;
  ranges.reserve(size_t(plan.symbols_size()));
  for (const plan::Symbol &symbol : plan.symbols())
    ranges.push_back({symbol.minimum(), symbol.maximum()});
  return ranges;
}

int64_t worldSize(const plan::Plan &plan) {
  int64_t ranks = 1;
  for (const plan::Mesh::Axis &axis : plan.mesh().axes())
    ranks *= axis.size();
  return ranks;
}

int64_t allocatedBytes(const plan::Plan &plan, plan::MemoryKind memory) {
  int64_t bytes = 0;
  for (const plan::Allocation &allocation : plan.allocations())
    if (allocation.memory() == memory)
      bytes += allocation.bytes();
  return bytes;
}

} // namespace lmc::runtime
