#include "tools/lmc/Resolve.h"

#include "passes/plan/PipelineSchedule.h"
#include "tools/lmc/Diagnostics.h"

#include "dialects/lm/Lm.h"
#include "mlir/Dialect/Func/IR/FuncOps.h"
#include "llvm/ADT/SmallSet.h"

using namespace mlir;
using namespace lmc;

int lmc::resolveMesh(const CompileSettings &settings, Resolved &resolved) {
  llvm::SmallVector<llvm::StringRef> parts;
  if (!settings.mesh.empty())
    llvm::StringRef(settings.mesh).split(parts, ',');
  llvm::SmallSet<llvm::StringRef, 8> seen;
  for (llvm::StringRef part : parts) {
    auto [name, number] = part.split('=');
    const auto *axis = llvm::find(kAxes, name);
    int64_t size = 0;
    if (axis == std::end(kAxes))
      return printError("--mesh names the axis '" + name.str() + "'",
                        "axes are pp, dp, fsdp, cp, ep, tp");
    if (number.getAsInteger(10, size) || size < 1 || size > 65536)
      return printError("--mesh gives " + name.str() + " the size '" +
                            number.str() + "'",
                        "a number from 1 to 65536");
    if (size > 1 && (name == "cp" || name == "ep"))
      return printError("axis " + name.str() + " of size " +
                            std::to_string(size) + " is not supported yet",
                        "use pp, dp, fsdp and tp");
    if (!seen.insert(name).second)
      return printError("--mesh names the axis '" + name.str() + "' twice",
                        "one size for each axis");
    resolved.pipeline.mesh[axis - kAxes] = size;
  }
  if (!settings.stages.empty() && resolved.pipeline.mesh[0] == 1)
    return printError(
        "--stages is given, but there is no pipeline",
        settings.stages.size() > 1
            ? "--mesh=pp=" + std::to_string(settings.stages.size()) +
                  ", or no --stages"
            : "--mesh=pp=N cuts the model; --stages says how many "
              "blocks each stage has, as in --stages=3,1");
  return kDone;
}

int64_t lmc::countRanks(const PipelineOptions &pipeline) {
  int64_t ranks = 1;
  for (int64_t size : pipeline.mesh)
    ranks *= size;
  return ranks;
}

int lmc::resolveBatch(const CompileSettings &settings, Resolved &resolved) {
  const frontend::TrainSpec &train = resolved.train;
  int64_t global =
      settings.globalBatch ? settings.globalBatch : train.global_batch();
  int64_t micro =
      settings.microBatch ? settings.microBatch : train.micro_batch();
  if (global < 0 || micro < 0)
    return printError("batch sizes must be positive");
  int64_t dataRanks = resolved.pipeline.mesh[1] * resolved.pipeline.mesh[2];
  if (!global)
    global = (micro ? micro : 1) * dataRanks;
  if (!micro)
    micro = global % dataRanks == 0 ? global / dataRanks : 1;
  if (int64_t unit = micro * dataRanks; global % unit != 0) {
    int64_t below = global / unit * unit;
    return printError(
        "a global batch of " + std::to_string(global) +
            " samples is no multiple of " + std::to_string(unit) +
            ": micro-batches of " + std::to_string(micro) + " on " +
            std::to_string(dataRanks) + " data-parallel ranks",
        (below ? "--global-batch=" + std::to_string(below) + " or " : "") +
            "--global-batch=" + std::to_string(below + unit));
  }
  // The plan lists the calls of a step.
  constexpr int64_t most = int64_t(1) << 20;
  if (int64_t count = global / (micro * dataRanks); count > most)
    return printError("a step has " + std::to_string(count) +
                          " micro-batches of " + std::to_string(micro) +
                          ", at most " + std::to_string(most) + " are planned",
                      "a larger --micro-batch, or a smaller --global-batch");
  resolved.pipeline.globalBatch = global;
  resolved.pipeline.microBatch = micro;
  resolved.pipeline.microBatches = global / (micro * dataRanks);
  return kDone;
}

int lmc::resolvePipeline(const CompileSettings &settings, Resolved &resolved) {
  PipelineOptions &pipeline = resolved.pipeline;
  pipeline.virtualStages = settings.virtualStages;
  pipeline.stageBlocks.assign(settings.stages.begin(), settings.stages.end());
  pipeline.pipelineSchedule = settings.pipelineSchedule;
  if (pipeline.pipelineSchedule.empty())
    pipeline.pipelineSchedule =
        settings.virtualStages > 1 ? "interleaved" : "1f1b";
  plan::PipelineShape shape{pipeline.mesh[0], pipeline.virtualStages,
                            pipeline.microBatches};
  if (shape.stages == 1 && shape.virtualStages > 1)
    return printError(
        "--virtual-stages=" + std::to_string(shape.virtualStages) +
            " is given, but there is no pipeline",
        "--mesh=pp=2, or no --virtual-stages");
  if (int64_t rest = shape.microBatches % shape.stages;
      rest != 0 && shape.virtualStages > 1 &&
      pipeline.pipelineSchedule == "interleaved") {
    int64_t unit = pipeline.globalBatch / shape.microBatches;
    int64_t below = (shape.microBatches - rest) * unit;
    int64_t samples = pipeline.microBatch * shape.microBatches; // of a rank
    std::string smaller, same;
    if (samples % shape.stages == 0)
      smaller =
          "--micro-batch=" + std::to_string(samples / shape.stages) + " or ";
    // Else the micro-batch would follow the global batch.
    if (!settings.microBatch && !resolved.train.micro_batch())
      same = "--micro-batch=" + std::to_string(pipeline.microBatch) + " ";
    return printError(
        "the schedule interleaved takes micro-batches by " +
            std::to_string(shape.stages) +
            ", the number of stages; a step "
            "has " +
            std::to_string(shape.microBatches),
        smaller +
            (below ? same + "--global-batch=" + std::to_string(below) + " or "
                   : "") +
            same +
            "--global-batch=" + std::to_string(below + shape.stages * unit));
  }
  std::string complaint = plan::checkSettings(pipeline.pipelineSchedule, shape);
  pipeline.splitBackward = pipeline.pipelineSchedule == "zb";
  if (complaint.empty() && !plan::isNamedSchedule(pipeline.pipelineSchedule))
    if (auto own =
            plan::loadSchedule(pipeline.pipelineSchedule, shape, complaint))
      pipeline.splitBackward = own->isSplit();
  auto [message, help] = llvm::StringRef(complaint).split("; help: ");
  return complaint.empty() ? kDone : printError(message.str(), help.str());
}

void lmc::warnOfIdleFlags(const CompileSettings &settings,
                          const Resolved &resolved) {
  auto warn = [&](const std::string &flag, size_t axis, const char *help) {
    if (resolved.pipeline.mesh[axis] == 1)
      llvm::errs() << "warning: " << flag
                   << " changes nothing: the mesh has one "
                   << "rank on " << kAxes[axis] << "\nhelp: " << help << '\n';
  };
  if (settings.zero.value_or(0) > 0)
    warn("--zero=" + std::to_string(*settings.zero), 1,
         "--mesh=dp=2, or no --zero");
  if (settings.sequenceParallel)
    warn("--sequence-parallel", 5, "--mesh=tp=2, or no --sequence-parallel");
  if (!settings.pipelineSchedule.empty())
    warn("--pipeline-schedule=" + settings.pipelineSchedule, 0,
         "--mesh=pp=2, or no --pipeline-schedule");
}

int64_t lmc::sequenceOf(ModuleOp module) {
  int64_t sequence = 0;
  module.walk([&](func::FuncOp function) {
    for (unsigned i = 0; i < function.getNumArguments(); ++i)
      if (auto name = function.getArgAttrOfType<StringAttr>(i, lm::kInputAttr))
        if (name.getValue() == "tokens")
          sequence = cast<RankedTensorType>(function.getArgument(i).getType())
                         .getShape()
                         .back();
  });
  return sequence;
}

int lmc::adoptBatch(ModuleOp module, const CompileSettings &settings,
                    Resolved &resolved) {
  int64_t samples = 0;
  if (auto forward = module.lookupSymbol<func::FuncOp>("forward"))
    for (unsigned i = 0; i < forward.getNumArguments(); ++i)
      if (auto name = forward.getArgAttrOfType<StringAttr>(i, lm::kInputAttr);
          name && name.getValue() == "tokens")
        samples = cast<RankedTensorType>(forward.getArgument(i).getType())
                      .getShape()[0];
  PipelineOptions &pipeline = resolved.pipeline;
  int64_t dataRanks = pipeline.mesh[1] * pipeline.mesh[2];
  if (samples == 0 || samples == pipeline.microBatch * dataRanks)
    return kDone;
  CompileSettings own = settings;
  own.microBatch = samples / dataRanks;
  if (settings.microBatch || resolved.train.micro_batch() ||
      samples % dataRanks != 0)
    return printError(
        "the module is written for micro-batches of " +
            std::to_string(samples) + " samples in all, not for " +
            std::to_string(pipeline.microBatch) + " on " +
            std::to_string(dataRanks) + " data-parallel ranks",
        samples % dataRanks == 0
            ? "--micro-batch=" + std::to_string(own.microBatch)
            : "a --mesh whose data ranks divide the module's samples");
  if (auto global = module->getAttrOfType<IntegerAttr>("lm.global_batch"))
    if (!settings.globalBatch && !resolved.train.global_batch())
      own.globalBatch = global.getInt();
  if (int status = resolveBatch(own, resolved))
    return status;
  return resolvePipeline(own, resolved);
}
