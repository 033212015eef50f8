// See PlanFacts.h.
#include "runtime/plan/PlanFacts.h"
#include "runtime/base/Status.h"

#include <algorithm>
#include <cctype>

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

int64_t maxPositions(const plan::Plan &plan) {
  return plan.max_positions() > 0 ? plan.max_positions() : INT64_MAX;
}

int64_t bytesOnStage(const plan::Allocation &allocation, int64_t stage) {
  if (allocation.stage_bytes_size() == 0)
    return allocation.bytes();
  return stage < allocation.stage_bytes_size()
             ? allocation.stage_bytes(int(stage))
             : 0;
}

bool isOnStage(const plan::State &state, int64_t stage) {
  return state.stages_size() == 0 ||
         std::find(state.stages().begin(), state.stages().end(), stage) !=
             state.stages().end();
}

int64_t allocatedBytes(const plan::Plan &plan, plan::MemoryKind memory) {
  int64_t most = 0;
  int stages = 1;
  for (const plan::Allocation &allocation : plan.allocations())
    stages = std::max(stages, allocation.stage_bytes_size());
  for (int stage = 0; stage < stages; ++stage) {
    int64_t bytes = 0;
    for (const plan::Allocation &allocation : plan.allocations())
      if (allocation.memory() == memory)
        bytes += bytesOnStage(allocation, stage);
    most = std::max(most, bytes);
  }
  return most;
}

bool hasMatmuls(const plan::Plan &plan) {
  for (const plan::Program &program : plan.programs())
    for (const plan::Instruction &instruction : program.instructions())
      if (instruction.has_matmul())
        return true;
  return false;
}

std::string matmulName(const plan::Plan &plan, const plan::Matmul &matmul) {
  std::optional<Range> rows = boundLinear(matmul.rows(), symbolRanges(plan));
  return fmt::format("matmul {}x{}x{}", rows ? rows->maximum : 0,
                     matmul.columns(), matmul.depth());
}

std::string instructionName(const plan::Plan &plan,
                            const plan::Instruction &instruction) {
  switch (instruction.kind_case()) {
  case plan::Instruction::kLaunch:
    return plan.kernels(int(instruction.launch().kernel())).name();
  case plan::Instruction::kMatmul:
    return matmulName(plan, instruction.matmul());
  case plan::Instruction::kFill:
    return "fill";
  case plan::Instruction::kCopy:
    return "copy";
  case plan::Instruction::kSend:
    return "send";
  case plan::Instruction::kReceive:
    return "receive";
  default:
    std::string name =
        plan::Collective::Kind_Name(instruction.collective().kind());
    for (char &letter : name)
      letter = char(std::tolower(letter));
    return name;
  }
}

} // namespace lmc::runtime
