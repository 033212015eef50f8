// The checks of PlanCheck.h at work on one plan: PlanCheck.cpp has those of
// what it declares and of its programs, StateCheck.cpp those of its states,
// DeviceCheck.cpp those of kernels and products for cuda.
#ifndef LMC_RUNTIME_PLAN_PLANCHECKER_H
#define LMC_RUNTIME_PLAN_PLANCHECKER_H

#include "runtime/base/DataType.h"
#include "runtime/plan/PlanCheck.h"
#include "runtime/plan/ScheduleCheck.h"

#include <vector>

namespace lmc::runtime {

// Nothing sane comes near these; they keep sums of sizes far from overflow.
inline constexpr int64_t maxRanks = int64_t(1) << 24;
inline constexpr int64_t maxSymbol = int64_t(1) << 40;
inline constexpr int64_t maxBytes = int64_t(1) << 52;
inline constexpr int64_t maxStackBytes = int64_t(64) << 20;
inline constexpr int64_t maxBlocks = (int64_t(1) << 31) - 1; // of a CUDA grid
inline constexpr int maxNumDims = 16;

class Checker {
public:
  explicit Checker(const plan::Plan &plan) : plan(plan) {}
  Status run();

private:
  Status checkMesh();
  Status checkSymbols();
  Status checkAllocations();
  Status checkStates();
  Status checkPiece(const plan::State &state, int64_t localBytes);
  Status checkBox(const plan::State &state, const plan::State::Box &box);
  Status checkApart(int64_t stage);
  Status checkScalars();
  Status checkPort(const plan::Port &port, bool isInput);
  Status checkConstants();
  Status checkKernels();
  bool isCuda() const { return plan.target() == "cuda"; }
  Status checkBlock(const plan::Kernel &kernel);
  Status checkVariants(const plan::Kernel &kernel);
  Status checkDeviceCode(const plan::Code &code);
  Status checkAlignment(const plan::Launch &launch);
  Status checkLaunch(const plan::Launch &launch);
  Status checkMatmul(const plan::Matmul &matmul);
  Status checkCollective(const plan::Collective &collective);
  Status checkTransfer(const plan::Transfer &transfer, bool writes);
  Status checkInstruction(const plan::Instruction &instruction);
  Status checkPrograms();
  Status checkReshards();
  Status checkSizes();

  enum class Use { Fixed, Read, Write };
  /// Fixed slices belong to the plan (states, ports, ...): their offset may
  /// depend on the rank alone. The others belong to an instruction.
  Status checkSlice(const plan::Slice &slice, Use use);
  StatusOr<int64_t>
  checkedBytes(const google::protobuf::RepeatedField<int64_t> &shape, int dtype,
               int64_t repeat);

  const plan::Plan &plan;
  std::vector<Range> ranges;
  std::vector<ProgramUse> uses; ///< of each program
  int64_t stages = 1;
  int64_t stage = -1; ///< that slices are checked for; -1: for all
};

} // namespace lmc::runtime

#endif // LMC_RUNTIME_PLAN_PLANCHECKER_H
