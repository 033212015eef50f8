// Pipeline schedules as data: what each stage does in a step, in order.
//
// A model is cut into chunks. Chunk c runs on stage c mod p, so that with
// virtual stages every stage has several chunks (interleaving). A micro-batch
// goes forward through all chunks, then backward. Three stages, four
// micro-batches, 1F1B:
//
//     stage 0   F0 F1 F2 B0 F3 B1 B2 B3
//     stage 1      F0 F1 B0 F2 B1 F3 B2 B3
//     stage 2         F0 B0 F1 B1 F2 B2 F3 B3
//
// A backward may be run in two halves: its input half B makes the gradient that
// the chunk before waits for, its weight half W all else. W has nobody who
// waits for it and fills what would be idle (zero bubble, Qi et al. 2023).
//
// A step runs every task once; a generator, or a file of the user's own, says
// in which order. The laws are in checkSchedule, the clock in timeSchedule.
// Nothing here knows MLIR.
#ifndef LMC_PASSES_PLAN_PIPELINESCHEDULE_H
#define LMC_PASSES_PLAN_PIPELINESCHEDULE_H

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace lmc::plan {

struct PipelineShape {
  int64_t stages = 1;        // p
  int64_t virtualStages = 1; // v: chunks on each stage
  int64_t microBatches = 1;  // m

  int64_t chunks() const { return stages * virtualStages; }
  int64_t stageOf(int64_t chunk) const { return chunk % stages; }
};

struct PipelineTask {
  enum Work {
    Forward,
    Backward, // whole
    InputHalf,
    WeightHalf,
  };
  Work work = Forward;
  int64_t microBatch = 0;
  int64_t chunk = 0;
};

struct PipelineSchedule {
  PipelineShape shape;
  std::vector<std::vector<PipelineTask>> stages; // of each: its tasks, in order
  int64_t slots = 0; // micro-batches of a chunk under way at most; 0: any

  // Whether backwards are run in halves.
  bool isSplit() const;
};

// What a chunk's programs take, in any one unit; a whole backward takes the
// sum of its halves.
struct ChunkCost {
  double forward = 1, inputHalf = 1, weightHalf = 1;

  double of(PipelineTask::Work work) const;
};

//===----------------------------------------------------------------------===//
// Generators
//===----------------------------------------------------------------------===//

// GPipe, Huang et al. 2019: all forwards, then all backwards.
PipelineSchedule makeGpipe(const PipelineShape &shape);

// 1F1B, Narayanan et al. 2019 (PipeDream-Flush): as many forwards as there are
// stages behind this one, then a forward and a backward in turns. Stage s holds
// min(m, p - s) micro-batches. One chunk per stage.
PipelineSchedule makeOneForwardOneBackward(const PipelineShape &shape);

// Narayanan et al. 2021: 1F1B over chunks, p micro-batches at a time. m is a
// multiple of p.
PipelineSchedule makeInterleaved(const PipelineShape &shape);

// ZB-H1, Qi et al. 2023, for any costs: no stage has more than min(m, p)
// micro-batches between their forward and their weight half, the memory of
// 1F1B's first stage. One chunk per stage; a cost for each.
PipelineSchedule makeZeroBubble(const PipelineShape &shape,
                                const std::vector<ChunkCost> &costs);

// gpipe, 1f1b, interleaved and zb; any other name is a file's.
bool isNamedSchedule(std::string_view name);

// Why the generator `name` cannot serve `shape`, with a way out; empty if it
// can.
std::string checkSettings(std::string_view name, const PipelineShape &shape);

//===----------------------------------------------------------------------===//
// What holds of a schedule
//===----------------------------------------------------------------------===//

// Why `schedule` cannot run; empty if it can:
//   - a task is on the stage of its chunk, and its numbers are in range;
//   - each chunk runs each micro-batch forward once and backward once, whole or
//     in halves;
//   - on a stage, a micro-batch's forward comes before its backward, the input
//     half before the weight half;
//   - each kind of task takes the micro-batches of a chunk in ascending order:
//     what is sent arrives in the order of sending, and the first micro-batch
//     clears the accumulators;
//   - no chunk has more than `slots` micro-batches under way;
//   - the stages do not wait for each other for ever.
std::string checkSchedule(const PipelineSchedule &schedule);

struct PipelineTiming {
  std::vector<std::vector<double>> starts; // as PipelineSchedule::stages
  double length = 0;                       // of the step
  double work = 0;                         // of the busiest stage
  double bubble() const { return length - work; }
};

// When tasks start if each takes its cost and transfers take no time; nothing
// if the stages wait for each other for ever.
std::optional<PipelineTiming> timeSchedule(const PipelineSchedule &schedule,
                                           const std::vector<ChunkCost> &costs);

// Of each stage: the most pairs (chunk, micro-batch) between their forward and
// the end of their backward at once.
std::vector<int64_t> countUnderWay(const PipelineSchedule &schedule);

//===----------------------------------------------------------------------===//
// As text
//===----------------------------------------------------------------------===//

// One line per stage, `#` begins a comment:
//
//     slots 3                     # optional: no chunk needs more
//     stage 0: F0 F1 F2 B0 F3 B1 B2 B3
//
// F forward, B backward, or its input half where W, the weight half, follows;
// then the micro-batch, and `.c` for chunk c where a stage has several: F3.2.
std::string printTask(const PipelineShape &shape, const PipelineTask &task);
std::string printSchedule(const PipelineSchedule &schedule);

// The schedule that `text` holds, for `shape`. Fails with a sentence in `error`
// that names the line; its laws are not checked.
std::optional<PipelineSchedule> parseSchedule(std::string_view text,
                                              const PipelineShape &shape,
                                              std::string &error);

// The checked schedule of the file at `path`; fails with a sentence in `error`.
std::optional<PipelineSchedule> loadSchedule(const std::string &path,
                                             const PipelineShape &shape,
                                             std::string &error);

} // namespace lmc::plan

#endif // LMC_PASSES_PLAN_PIPELINESCHEDULE_H
