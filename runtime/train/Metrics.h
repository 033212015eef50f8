// What a training run tells on the way: the log on stdout in the grammar that
// tools for Megatron's logs read (or JSON), the metrics file, and a progress
// line on stderr where that is a terminal.
#ifndef LMC_RUNTIME_TRAIN_METRICS_H
#define LMC_RUNTIME_TRAIN_METRICS_H

#include "runtime/base/Status.h"
#include "runtime/train/TrainOptions.h"

#include <cstdio>

namespace lmc::runtime {

struct StepMetrics {
  int64_t step = 0, steps = 0, globalBatch = 0, tokens = 0, skipped = 0;
  double loss = 0, gradNorm = 0, learningRate = 0, lossScale = 1;
  double stepMs = 0;
  double teraflopsPerRank = 0;
};

class MetricsLog {
public:
  /// Appends to the metrics file when resuming, else begins it anew.
  static StatusOr<MetricsLog> create(const TrainOptions &options);
  MetricsLog(MetricsLog &&other) noexcept;
  MetricsLog &operator=(MetricsLog &&) = delete;
  ~MetricsLog();

  void step(const StepMetrics &metrics);
  void evaluation(int64_t step, double loss);
  /// Clears the progress line.
  void finish();

private:
  explicit MetricsLog(const TrainOptions &options);
  void print(const std::string &line);
  void showProgress(const StepMetrics &metrics);

  TrainOptions options;
  std::FILE *file = nullptr;
  bool progressBar = false;
  bool barShown = false;
  double smoothedMs = 0;
};

} // namespace lmc::runtime

#endif // LMC_RUNTIME_TRAIN_METRICS_H
