// What flags, TrainSpec and the model's own sizes come to: mesh, batch and
// pipeline. Flags win. Functions that return an int return the exit status, and
// have printed why if it is not 0.
#ifndef LMC_TOOLS_LMC_RESOLVE_H
#define LMC_TOOLS_LMC_RESOLVE_H

#include "frontend/TrainSpec.pb.h"
#include "passes/Pipeline.h"
#include "tools/lmc/Compile.h"

#include "mlir/IR/BuiltinOps.h"

namespace lmc {

struct Resolved {
  PipelineOptions pipeline;
  frontend::TrainSpec train;
  std::string strategy; // the sharding files; empty: none
};

inline constexpr llvm::StringLiteral kAxes[] = {"pp", "dp", "fsdp",
                                                "cp", "ep", "tp"};

// The sizes that --mesh names; the other axes have size 1.
int resolveMesh(const CompileSettings &settings, Resolved &resolved);
int64_t countRanks(const PipelineOptions &pipeline);
// Samples per step and micro-batch. Needs the mesh.
int resolveBatch(const CompileSettings &settings, Resolved &resolved);
// Chunks, and the order in which micro-batches pass them. Needs the batch.
int resolvePipeline(const CompileSettings &settings, Resolved &resolved);
// Warns of flags that share out over an axis of one rank.
void warnOfIdleFlags(const CompileSettings &settings, const Resolved &resolved);
// Tokens per sample, from the module that import built.
int64_t sequenceOf(mlir::ModuleOp module);
// A module says how many samples its micro-batches have: the flags' default.
int adoptBatch(mlir::ModuleOp module, const CompileSettings &settings,
               Resolved &resolved);

} // namespace lmc

#endif // LMC_TOOLS_LMC_RESOLVE_H
