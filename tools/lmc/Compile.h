// `lmc compile`: a model description to a plan.
#ifndef LMC_TOOLS_LMC_COMPILE_H
#define LMC_TOOLS_LMC_COMPILE_H

#include "runtime/plan/plan.pb.h"

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace lmc {

struct CompileSettings {
  std::string model;
  std::string output;
  std::string mode = "train";
  std::string target = "cpu";
  std::string targetCpus = "native"; // separated by commas
  std::string config;                // a TrainSpec
  std::string compileTo = "emit";
  std::string dumpPhases;            // a folder
  std::string mesh;                  // pp=2,dp=2,tp=2
  std::vector<std::string> sharding; // ShardingSpecs, or strategies' names
  bool sequenceParallel = false;
  std::optional<int64_t> zero;      // ZeRO's level on dp
  std::string pipelineSchedule;     // empty: 1f1b, or interleaved
  int64_t virtualStages = 1;        // chunks on each pipeline stage
  std::vector<int64_t> stages;      // blocks of each chunk; empty: by cost
  int64_t globalBatch = 0;          // 0: as TrainSpec says, else micro-batch
  int64_t microBatch = 0;           // 0: the whole batch
  int64_t sequence = 0;             // 0: the model's longest
  int64_t threads = 0;              // 0: all cores
  int64_t memoryBytes = 0;          // of a rank's device; 0: any
  int64_t maxTokens = 512;          // of an inference step
  int64_t maxSequences = 8;         // at once
  int64_t maxLength = 0;            // of one; 0: the model's longest
  int64_t pageSize = 16;            // tokens of a page of the cache
  int64_t cachePages = 0;           // 0: for max-sequences of max-length
  int64_t maxLogits = 0;            // rows of logits of a step; 0: up to 128
  std::vector<std::string> plugins; // paths
  std::vector<std::string> passes;  // after-PHASE:PASS
  int64_t shrinkBlocks = 0;         // see frontend/Shrink.h
  int64_t shrinkDivisor = 1;
  bool resetAtDocument = false;
  bool strict = false;
  bool noCache = false;
};

// Returns the exit status; has printed why if it is not 0. Where `made` is
// given, the plan goes there, whatever its size, and no file is written.
int compile(const CompileSettings &settings, plan::Plan *made = nullptr);

} // namespace lmc

#endif // LMC_TOOLS_LMC_COMPILE_H
