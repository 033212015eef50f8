// The phases of `lmc compile`, in order, and what they are given.
#ifndef LMC_PASSES_PIPELINE_H
#define LMC_PASSES_PIPELINE_H

#include "mlir/Pass/PassManager.h"
#include "llvm/ADT/SmallVector.h"

#include <optional>
#include <string>
#include <vector>

namespace lmc {

enum class Phase {
  Import,
  Stage,
  Differentiate,
  Shard,
  Partition,
  Kernels,
  Schedule,
  Assign,
  Emit,
};

llvm::ArrayRef<Phase> allPhases();
llvm::StringRef phaseName(Phase phase);
std::optional<Phase> findPhase(llvm::StringRef name);

struct PipelineOptions {
  bool train = true;
  int64_t microBatch = 1;   // samples per data-parallel rank and micro-batch
  int64_t microBatches = 1; // per step
  int64_t globalBatch = 1;  // samples per step
  int64_t sequence = 1;     // tokens per sample
  // Sizes of the mesh axes pp, dp, fsdp, cp, ep, tp.
  llvm::SmallVector<int64_t> mesh = {1, 1, 1, 1, 1, 1};
  int64_t virtualStages = 1; // chunks on each pipeline stage
  // gpipe, 1f1b, interleaved, zb or a file (passes/plan/PipelineSchedule.h).
  std::string pipelineSchedule = "1f1b";
  bool splitBackward = false; // the schedule runs backwards in halves
  // Blocks of each pipeline chunk; empty: chosen by cost.
  llvm::SmallVector<int64_t> stageBlocks;
  int64_t lossChunkBytes = int64_t(128) << 20;
  int64_t vocabularyMultiple = 1; // of which a rank's part becomes one
  bool matmuls = false;           // plain products are the device's library's
};

// Appends the passes of one phase and its verifier. The work of Import and Emit
// is the frontend's and passes/emit's.
void addPhase(mlir::OpPassManager &manager, Phase phase,
              const PipelineOptions &options);

} // namespace lmc

#endif // LMC_PASSES_PIPELINE_H
