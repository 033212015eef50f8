// The training loop of one rank: fill the inputs, set the run-time numbers,
// run the schedule "train", read the outputs; now and then evaluate.
//
// What a training plan offers by name:
//   inputs    tokens, targets, token_weights, ...: see Batches.h
//   scalars   lr, step (from 1), bias_correction1 and 2 (1 - beta^step),
//             seed.lo, seed.hi, and whatever --set names
//   outputs   loss (mean of the step), grad_norm, finite (0: the step was
//             skipped), gradient_scale (true gradient = it * accumulator),
//             loss_scale; each optional but loss
//   schedules train, evaluate (optional; writes loss)
#ifndef LMC_RUNTIME_TRAIN_TRAINER_H
#define LMC_RUNTIME_TRAIN_TRAINER_H

#include "runtime/comm/Traffic.h"
#include "runtime/train/Batches.h"
#include "runtime/train/Metrics.h"

#include <cmath>

namespace lmc::runtime {

/// Written by the signal handler, read by every rank.
void requestStop();
bool stopRequested();

class Checkpointer;

class Trainer {
public:
  /// What ranks of one process share; rank 0 alone uses the log.
  struct Shared {
    const TrainOptions &options;
    const TokenData &data;
    MetricsLog *log = nullptr;
    Checkpointer *checkpointer = nullptr; ///< null: no checkpoints
    const Traffic *traffic = nullptr;     ///< of this rank; null: alone
  };
  static StatusOr<std::unique_ptr<Trainer>> create(Executor &executor,
                                                   const Shared &shared);

  /// Sets the weights, then trains to the last step.
  Status run();

  /// What this rank exchanged in the last step, the schedule alone.
  const Traffic &stepTraffic() const { return exchanged; }

private:
  Trainer(Executor &executor, const Shared &shared, Batches batches)
      : executor(executor), shared(shared), options(shared.options),
        batches(std::move(batches)) {}
  Status prepare();
  Status setWeights();
  Status carryCompanions(const std::string &from);
  Status trainStep(int64_t step);
  Status diverged(int64_t step, const StepMetrics &metrics);
  StatusOr<bool> evaluate(int64_t step);
  Status save(int64_t step);
  StatusOr<bool> agreeToStop();
  double output(std::string_view name, double otherwise);
  bool leads() const { return executor.rank() == 0; }

  Executor &executor;
  Shared shared;
  const TrainOptions &options;
  Batches batches;
  TokenRange trainRange, evalRange;
  int trainSchedule = -1, evalSchedule = -1, everyone = -1;
  double peakLearningRate = 0, beta1 = 0, beta2 = 0;
  uint64_t seed = 1;
  int64_t firstStep = 1, skipped = 0;
  /// The last step behind which the weights are known to be good, by the loss
  /// of the step after it; before a loss was seen, that before firstStep.
  int64_t soundStep = -1;
  double lowestLoss = INFINITY;
  /// Samples used before step 1 would have used its first: not zero when a run
  /// goes on, with another global batch, from a checkpoint that names none.
  int64_t sampleOffset = 0;
  int64_t flopsPerStep = 0;
  Traffic exchanged;
  std::map<std::string, std::string> order, rate; ///< rank 0's, for checkpoints
};

} // namespace lmc::runtime

#endif // LMC_RUNTIME_TRAIN_TRAINER_H
