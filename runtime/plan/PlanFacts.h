// Numbers that several readers of a checked plan want.
#ifndef LMC_RUNTIME_PLAN_PLANFACTS_H
#define LMC_RUNTIME_PLAN_PLANFACTS_H

#include "runtime/plan/Linear.h"

namespace lmc::runtime {

/// The inclusive bounds of every symbol of a checked plan.
std::vector<Range> symbolRanges(const plan::Plan &plan);

/// The number of ranks of a checked plan.
int64_t worldSize(const plan::Plan &plan);

/// How many tokens a sequence of the model can have; INT64_MAX where the plan
/// does not say.
int64_t maxPositions(const plan::Plan &plan);

/// What the ranks of a pipeline stage allocate for it.
int64_t bytesOnStage(const plan::Allocation &allocation, int64_t stage);

/// Whether the ranks of a pipeline stage hold the state.
bool isOnStage(const plan::State &state, int64_t stage);

/// The sum of allocations of one memory kind of a checked plan, on the rank
/// that needs most.
int64_t allocatedBytes(const plan::Plan &plan, plan::MemoryKind memory);

/// Whether some program multiplies with the device's library.
bool hasMatmuls(const plan::Plan &plan);

/// "matmul 1024x768x3072": the most rows, columns, depth.
std::string matmulName(const plan::Plan &plan, const plan::Matmul &matmul);

/// The kernel's name, that of the product, or what else it does: "all_reduce".
std::string instructionName(const plan::Plan &plan,
                            const plan::Instruction &instruction);

} // namespace lmc::runtime

#endif // LMC_RUNTIME_PLAN_PLANFACTS_H
