// From a model description to a module in the lm dialect: phase `import`.
//
// The module holds one lm.parameter per learned tensor, lm.state constants
// (rotary tables), and func.func @forward, whose arguments and results carry
// lm.input, lm.scalar, lm.state and lm.output. Every operation's location is
// the layer's name over a line of the description. Module attributes:
// `lm.model_config` (the config.json of a checkpoint folder), `lm.vocabulary`,
// `lm.max_positions`.
#ifndef LMC_FRONTEND_IMPORT_H
#define LMC_FRONTEND_IMPORT_H

#include "frontend/Shrink.h"

#include "mlir/IR/BuiltinOps.h"
#include "mlir/IR/MLIRContext.h"
#include "mlir/IR/OwningOpRef.h"

#include <cstdint>

namespace lmc::frontend {

class TrainSpec;

struct ImportOptions {
  int64_t batch = 1;    // samples per micro-batch
  int64_t sequence = 0; // tokens per sample; 0: the model's max_positions
  // Loss and weight sums for training; else the step of inference, whose
  // `sequence` is the longest one.
  bool train = true;
  int64_t maxTokens = 512;  // of an inference step
  int64_t maxLogits = 0;    // rows of logits of a step; 0: some
  int64_t maxSequences = 8; // at once
  int64_t pageSize = 16;    // tokens of a page of the cache
  int64_t cachePages = 0;   // 0: maxSequences of the longest
  // Attention takes the input `segments`.
  bool resetAtDocument = false;
  // An unknown key of a config.json is an error.
  bool strict = false;
  // A smaller model of the same architecture; not of an .mlir file. The
  // module's `lm.not_shrunk` says what stayed larger than it might be.
  ShrinkOptions shrink;
};

// Reads a ModelSpec (.textproto), a folder with a config.json (or that file),
// or a module in lm (.mlir). Null after a diagnostic through `context`.
mlir::OwningOpRef<mlir::ModuleOp> importModel(llvm::StringRef path,
                                              const ImportOptions &options,
                                              mlir::MLIRContext &context);

// Reads a TrainSpec text proto. Fails after a diagnostic through `context`.
mlir::LogicalResult readTrainSpec(llvm::StringRef path, TrainSpec &spec,
                                  mlir::MLIRContext &context);

// What a strategy is put together from.
struct StrategyOptions {
  // ShardingSpec text protos, or names of those that the compiler brings along:
  // megatron, megatron-sp, fsdp, zero-1, zero-2, zero-3.
  std::vector<std::string> files;
  // Where no file has rules, megatron-sp's are taken, not megatron's.
  bool sequenceParallel = false;
  // Where no file has buckets, those of this level of ZeRO are taken; fsdp's
  // for level 0.
  std::optional<int64_t> zero;
};

// Adds a strategy to `module`: one dist.rule for each dim that a rule splits, a
// dist.bucket_rule for each bucket. Returns what it is put together from, files
// or names. Fails after a diagnostic, also where files and the other options
// answer one question twice.
mlir::FailureOr<std::vector<std::string>>
addStrategy(const StrategyOptions &options, mlir::ModuleOp module);

} // namespace lmc::frontend

#endif // LMC_FRONTEND_IMPORT_H
