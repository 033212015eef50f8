// What a training run is told beside the plan. tools/lmrun fills it from the
// command line.
#ifndef LMC_RUNTIME_TRAIN_TRAINOPTIONS_H
#define LMC_RUNTIME_TRAIN_TRAINOPTIONS_H

#include "runtime/base/Status.h"
#include "runtime/plan/plan.pb.h"
#include "runtime/trace/Trace.h"

#include <cstdint>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

namespace lmc::runtime {

enum class Decay { Constant, Linear, Cosine };

struct TrainOptions {
  // Data.
  std::string dataPath;
  bool shuffle = false;
  double heldOutFraction = 0; ///< of the tokens, at the end of the data
  uint64_t seed = 1;
  bool seedGiven = false;
  /// Flags that were given, such as "--warmup": what the plan says of a run
  /// stands back behind them.
  std::set<std::string> given;

  // Length and learning rate.
  int64_t steps = 0; ///< number of the last step
  int64_t warmupSteps = 0;
  int64_t decaySteps = 0; ///< step at which minLearningRate is reached; 0: last
  Decay decay = Decay::Constant;
  double minLearningRate = 0;
  std::vector<std::pair<std::string, double>> scalars; ///< --set

  // Evaluation on the held-out part.
  int64_t evalEvery = 0;
  int64_t evalSteps = 0; ///< 0: all of it

  // Weights in, gradients out.
  std::string weights;
  std::string dumpGradients;

  // Checkpoints.
  std::string checkpointFolder;
  int64_t saveEvery = 0;
  int64_t keep = 0; ///< 0: all
  bool resume = false;
  int64_t resumeStep = -1; ///< -1: the newest
  bool saveBf16 = false;

  // What is told on the way.
  std::string metricsPath;
  int64_t logInterval = 1;
  bool jsonLog = false;
  bool profile = false;
  TraceOptions trace;

  /// On the null device: what the busiest stage works in a step; 0: on the CPU.
  double paceSeconds = 0;

  // The machine.
  int ranks = 1;
  /// What starts as many ranks as the plan has, by the launcher at hand;
  /// empty: --nproc.
  std::string rightStart;
  /// Of launchers that did not start this process: what they would have set.
  std::vector<std::string> strayVariables;
  bool tcpOnly = false;       ///< no shared memory between ranks of one host
  double timeoutSeconds = 30; ///< of a rank's silence, or of a hang
  int threads = 0;            ///< per rank; 0: cores / ranks
  bool pinThreads = true;
  bool guardPages = false;
};

/// What --set says, or the plan's default; 0 when the plan has no such number.
double settingOf(const plan::Plan &plan, const TrainOptions &options,
                 std::string_view name);

/// Whether the files that a run writes can be written, on rank 0's host.
Status checkOutputs(const TrainOptions &options);

/// Takes from the plan (its TrainSpec) what no flag gave.
void takeDefaults(const plan::Plan &plan, TrainOptions &options);

/// NAME=NUMBER of --set, as they are given.
StatusOr<std::pair<std::string, double>>
readSetting(const std::string &setting);

/// Whether training itself sets the number before every step.
bool isSetByTraining(std::string_view name);

/// Whether the plan has a number of that name which a run may give that value.
Status checkSetting(const plan::Plan &plan, const std::string &name,
                    double value);

/// Whether --set names numbers of the plan, and values that training can take,
/// and whether the learning rate decays.
Status checkSettings(const plan::Plan &plan, const TrainOptions &options);

} // namespace lmc::runtime

#endif // LMC_RUNTIME_TRAIN_TRAINOPTIONS_H
