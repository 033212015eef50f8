// The compiler, read as a chapter: each phase, its passes in order, and why
// each stands where it does.
#include "passes/Pipeline.h"

#include "passes/dist/Passes.h"
#include "passes/lm/Passes.h"
#include "passes/plan/Passes.h"
#include "passes/verify/Passes.h"

#include "mlir/Transforms/Passes.h"

using namespace mlir;
using namespace lmc;

static constexpr std::pair<Phase, llvm::StringLiteral> kPhases[] = {
    {Phase::Import, "import"},
    {Phase::Stage, "stage"},
    {Phase::Differentiate, "differentiate"},
    {Phase::Shard, "shard"},
    {Phase::Partition, "partition"},
    {Phase::Kernels, "kernels"},
    {Phase::Schedule, "schedule"},
    {Phase::Assign, "assign"},
    {Phase::Emit, "emit"},
};

ArrayRef<Phase> lmc::allPhases() {
  static const SmallVector<Phase> phases = [] {
    SmallVector<Phase> result;
    for (const auto &[phase, name] : kPhases)
      result.push_back(phase);
    return result;
  }();
  return phases;
}

StringRef lmc::phaseName(Phase phase) {
  for (const auto &[known, name] : kPhases)
    if (known == phase)
      return name;
  llvm_unreachable("every phase has a name");
}

std::optional<Phase> lmc::findPhase(StringRef name) {
  for (const auto &[phase, known] : kPhases)
    if (known == name)
      return phase;
  return std::nullopt;
}

// Stage: every operation of the forward gets its place in the pipeline, while
// the model still has blocks. The cut itself comes behind differentiation,
// which needs the whole.
static void addStage(OpPassManager &manager, const PipelineOptions &options) {
  if (!options.train)
    return;
  // Before anything is made of the forward, which then has padding as well.
  dist::PadVocabularyOptions pad;
  pad.sizes = options.mesh;
  pad.multiple = options.vocabularyMultiple;
  manager.addPass(dist::createPadVocabulary(pad));
  dist::MarkStagesOptions mark;
  mark.stages = options.mesh[0];
  mark.virtualStages = options.virtualStages;
  mark.blocks = options.stageBlocks;
  manager.addPass(dist::createMarkStages(mark));
}

// The seed makes accumulated gradients means over the step's tokens where all
// weights are one; the update rescales by the weights that were.
static double seedOf(const PipelineOptions &options) {
  return 1.0 / (double(options.globalBatch) * double(options.sequence));
}

// Differentiate: one forward function becomes the programs of a step.
static void addDifferentiate(OpPassManager &manager,
                             const PipelineOptions &options) {
  if (!options.train)
    return;
  lm::DifferentiateOptions differentiate;
  differentiate.seed = seedOf(options);
  manager.addPass(lm::createDifferentiate(differentiate));
  manager.addPass(dist::createCutStages());
}

// Shard: the strategy marks a few tensors, propagation does the rest. States
// and programs of the whole step are there, so that they agree.
static void addShard(OpPassManager &manager, const PipelineOptions &options) {
  dist::MarkShardingsOptions mark;
  mark.sizes = options.mesh;
  manager.addPass(dist::createMarkShardings(mark));
  manager.addPass(dist::createPropagateShardings());
  // Where a value lies otherwise than it is needed, an operation says so.
  manager.addPass(dist::createInsertReshards());
}

// Partition: from here on, shapes are one rank's.
static void addPartition(OpPassManager &manager,
                         const PipelineOptions &options) {
  manager.addPass(dist::createPartition());
  if (!options.train)
    return;
  // Chunks are of local rows. Both sides of the loss are in one function now;
  // later they are not.
  lm::ChunkLossOptions chunk;
  chunk.chunkBytes = options.lossChunkBytes;
  manager.addPass(lm::createChunkLoss(chunk));
  // What the backward repeats of the forward (masks, slopes) is one value
  // again, and need not be kept twice.
  manager.addPass(createCSEPass());
  lm::SplitProgramsOptions split;
  split.splitBackward = options.splitBackward;
  manager.addPass(lm::createSplitPrograms(split));
  // What moves between data ranks, and what the optimizer works on, is buckets.
  manager.addPass(dist::createPackBuckets());
  lm::BuildUpdateOptions update;
  update.seed = seedOf(options);
  manager.addPass(lm::createBuildUpdate(update));
}

// Kernels: operations become launches of a few different kernels.
static void addKernels(OpPassManager &manager, const PipelineOptions &options) {
  plan::FormKernelsOptions form;
  form.matmuls = options.matmuls;
  manager.addPass(plan::createFormKernels(form));
}

// Every phase ends with a verifier: what the next one relies on is checked, not
// hoped.
void lmc::addPhase(OpPassManager &manager, Phase phase,
                   const PipelineOptions &options) {
  switch (phase) {
  case Phase::Import:
    manager.addPass(verify::createVerifyImported());
    return;
  case Phase::Emit: // the loader's checks are its verifier
    return;
  case Phase::Stage:
    addStage(manager, options);
    manager.addPass(verify::createVerifyStaged());
    return;
  case Phase::Differentiate:
    addDifferentiate(manager, options);
    if (options.train)
      manager.addPass(verify::createVerifyDifferentiated());
    return;
  case Phase::Shard:
    addShard(manager, options);
    manager.addPass(verify::createVerifySharded());
    return;
  case Phase::Partition:
    addPartition(manager, options);
    manager.addPass(verify::createVerifyPartitioned());
    return;
  case Phase::Kernels:
    addKernels(manager, options);
    manager.addPass(verify::createVerifyKernels());
    return;
  case Phase::Schedule: {
    plan::ScheduleOptions schedule;
    schedule.pipeline = options.pipelineSchedule;
    manager.addPass(plan::createSchedule(schedule));
    manager.addPass(verify::createVerifyScheduled());
    return;
  }
  case Phase::Assign:
    manager.addPass(plan::createAssign());
    // Emit and the runtime take offsets as they are.
    manager.addPass(verify::createVerifyAssigned());
    return;
  }
}
