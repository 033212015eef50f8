// What a training run tells on the way: the log on stdout in the grammar that
// tools for Megatron's logs read (or JSON), the metrics file, and a progress
// line on stderr where that is a terminal.
//
// A thread of its own formats and writes: the rank's thread, which executes
// instructions, only puts numbers into a ring that was made beforehand.
#ifndef LMC_RUNTIME_TRAIN_METRICS_H
#define LMC_RUNTIME_TRAIN_METRICS_H

#include "runtime/base/Thread.h"
#include "runtime/train/TrainOptions.h"

#include <array>
#include <condition_variable>
#include <cstdio>
#include <mutex>

namespace lmc::runtime {

struct StepMetrics {
  int64_t step = 0, steps = 0, globalBatch = 0, tokens = 0, skipped = 0;
  double loss = 0, gradNorm = 0, learningRate = 0, lossScale = 1;
  double stepMs = 0;
  double teraflopsPerRank = 0;
};

class MetricsLog {
public:
  /// Opens the metrics file; what stands there stays until the run begins.
  static StatusOr<std::unique_ptr<MetricsLog>>
  create(const TrainOptions &options);
  MetricsLog(const MetricsLog &) = delete;
  ~MetricsLog();

  /// Before anything is logged, when nothing can refuse the run any more: the
  /// lines of another run go; when resuming, those behind this step, whose
  /// steps are taken again.
  Status beginAfter(int64_t step);
  void step(const StepMetrics &metrics);
  void evaluation(int64_t step, double loss);
  /// Waits until all is written and clears the progress line; a failure when
  /// metrics or lines of the log were lost.
  Status finish();

private:
  explicit MetricsLog(const TrainOptions &options);
  struct Event {
    bool isEvaluation;
    StepMetrics metrics;
  };
  void push(const Event &event);
  void writerLoop();
  void writeStep(const StepMetrics &metrics);
  void writeEvaluation(int64_t step, double loss);
  void writeToFile(const std::string &line);
  void print(const std::string &line);
  void showProgress(const StepMetrics &metrics);
  void clearProgress();

  TrainOptions options;
  std::FILE *file = nullptr;
  Status failure; ///< the first of the file or of stdout
  bool progressBar = false;
  bool barShown = false;
  double smoothedMs = 0;

  std::mutex mutex;
  std::condition_variable changed;
  std::array<Event, 256> ring{};
  uint64_t pushed = 0, written = 0;
  bool closing = false;
  std::thread writer;
};

} // namespace lmc::runtime

#endif // LMC_RUNTIME_TRAIN_METRICS_H
