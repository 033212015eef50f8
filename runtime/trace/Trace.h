// When each instruction of some steps ran, for ui.perfetto.dev.
//
//   rank 0 | train 2                                                     |
//          | zero   | forward (micro-batch 0)          | forward (micro- …
//          | fill   | embedding | layer_norm | matmul  | …
//
// The executor measures instructions for profiles already; of the steps that
// are wanted it tells the times here, too. They lie in memory that is there
// before the first step, eight bytes for each instruction: which one it was
// follows from its place in the schedule. Names, layers and lines are looked up
// when the file is written: at the end of the job, whatever ended it.
//
// What it stands for: the trace of one rank, in a file of its own, so that
//   thousands of ranks have nothing to agree on.
// Who owns it, how long: whoever runs the rank; the plan outlives it, the
//   executor need not.
// Which thread may call: the rank's, save that another one may write() while
//   the rank hangs in a step: it then finds the steps before that one.
// What a failure leaves behind: the steps so far, and a mark that says what it
//   was.
#ifndef LMC_RUNTIME_TRACE_TRACE_H
#define LMC_RUNTIME_TRACE_TRACE_H

#include "runtime/base/Status.h"
#include "runtime/plan/plan.pb.h"

#include <atomic>
#include <mutex>

namespace lmc::runtime {

struct TraceOptions {
  std::string path; ///< empty: no trace
  /// The runs of each schedule that are recorded, counted from 1.
  int64_t firstStep = 1, lastStep = 4;
  bool json = false;
};

/// The file of a rank: FILE, or FILE.RANK where there are several.
std::string traceFileOf(const TraceOptions &options, int64_t rank,
                        int64_t ranks);

class TraceFile;

class Trace {
public:
  /// An instruction of a schedule; those of one call lie one behind the other.
  struct Span {
    uint32_t call, program, instruction;
    int64_t microBatch;
  };
  struct Schedule {
    std::string name;
    std::vector<Span> spans;
  };

  /// Null where no file is named; refused where it cannot be written.
  static StatusOr<std::unique_ptr<Trace>>
  create(const plan::Plan &plan, const TraceOptions &options, int64_t rank);

  /// What can run, and where; makes room for all steps that are wanted.
  Status reserve(std::string_view device, std::vector<Schedule> all);

  static int64_t now(); ///< in ns, of CLOCK_MONOTONIC

  /// Around a run of a schedule that is wanted, and for each instruction of it
  /// that is done, in order, how long it took.
  bool wants(int64_t step) const {
    return step >= options.firstStep && step <= options.lastStep;
  }
  void begin(size_t schedule, int64_t step);
  void add(int64_t ns) { durations.push_back(ns); }
  /// `underWay`: it broke off in the instruction after these.
  void end(int64_t endNs, bool underWay);

  /// Writes the file, once; `ended` is how the job did.
  Status write(const Status &ended);

private:
  struct Run {
    size_t schedule = 0, firstDuration = 0, numDurations = 0;
    int64_t step = 0, beginNs = 0, endNs = 0;
    bool underWay = false;
  };
  Trace(const plan::Plan &plan, const TraceOptions &options, int64_t rank)
      : plan(plan), options(options), rank(rank) {}

  /// The spans of a run, with the instruction in which it broke off; returns
  /// where they end. Of a run that is not over nothing else may be read.
  int64_t writeRun(TraceFile &file, const Run &run, bool isOver,
                   int64_t beginNs, int64_t endNs) const;

  const plan::Plan &plan;
  TraceOptions options;
  int64_t rank;
  std::string device;
  std::vector<Schedule> schedules;
  std::vector<Run> runs; ///< all that may come, from the start
  std::vector<int64_t> durations;
  std::atomic<size_t> begun{0}, ended{0}; ///< of runs
  std::mutex mutex;                       ///< of write()
  bool written = false;
};

/// Writes the trace, if there is one; how the job ended, or that this failed.
Status closeTrace(Trace *trace, Status ended);

} // namespace lmc::runtime

#endif // LMC_RUNTIME_TRACE_TRACE_H
