// See TrainOptions.h.
#include "runtime/train/TrainOptions.h"

namespace lmc::runtime {

void takeDefaults(const plan::Plan &plan, TrainOptions &options) {
  const plan::Training &training = plan.training();
  auto isFree = [&](const char *flag) { return !options.given.count(flag); };
  if (isFree("--seed") && training.has_seed())
    options.seed = training.seed();
  if (isFree("--warmup"))
    options.warmupSteps = training.warmup_steps();
  if (isFree("--decay-steps"))
    options.decaySteps = training.decay_steps();
  if (isFree("--decay"))
    options.decay = training.decay() == plan::Training::COSINE ? Decay::Cosine
                    : training.decay() == plan::Training::LINEAR
                        ? Decay::Linear
                        : Decay::Constant;
  if (!isFree("--min-lr"))
    return;
  double peak = 0;
  for (const plan::Scalar &scalar : plan.scalars())
    if (scalar.name() == "lr")
      peak = scalar.default_value();
  for (const auto &[name, value] : options.scalars)
    if (name == "lr")
      peak = value;
  options.minLearningRate = training.minimum_factor() * peak;
}

} // namespace lmc::runtime
