// See TrainOptions.h.
#include "runtime/train/TrainOptions.h"
#include "runtime/base/Log.h"
#include "runtime/base/MappedFile.h"

#include <algorithm>
#include <cfloat>
#include <cmath>

namespace lmc::runtime {

double settingOf(const plan::Plan &plan, const TrainOptions &options,
                 std::string_view name) {
  double value = 0;
  for (const plan::Scalar &scalar : plan.scalars())
    if (scalar.name() == name)
      value = scalar.default_value();
  for (const auto &[given, number] : options.scalars)
    if (given == name)
      value = number;
  return value;
}

Status checkOutputs(const TrainOptions &options) {
  LMC_RETURN_IF_ERROR(checkWritable(options.metricsPath));
  LMC_RETURN_IF_ERROR(
      checkWritable(traceFileOf(options.trace, 0, options.ranks)));
  return checkWritable(options.dumpGradients);
}

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
  options.minLearningRate =
      training.minimum_factor() * settingOf(plan, options, "lr");
}

/// What a number may be, and in words; by its name up to a dot, behind which
/// stands a parameter group or a place in the model.
static std::pair<bool (*)(double), const char *>
rangeOf(std::string_view setting) {
  std::string_view name = setting.substr(0, setting.find('.'));
  if (name == "lr" || name == "weight_decay" || name == "clip_norm")
    return {[](double value) { return value >= 0; }, "at least 0"};
  if (name == "eps" || name == "loss_scale")
    return {[](double value) { return value > 0; }, "greater than 0"};
  if (name == "beta1" || name == "beta2" || name == "dropout")
    return {[](double value) { return value >= 0 && value < 1; }, "in [0, 1)"};
  if (name == "tf32")
    return {[](double value) { return value == 0 || value == 1; }, "0 or 1"};
  return {[](double) { return true; }, ""};
}

StatusOr<std::pair<std::string, double>>
readSetting(const std::string &setting) {
  size_t equals = setting.find('=');
  char *end = nullptr;
  std::string value =
      equals == std::string::npos ? "" : setting.substr(equals + 1);
  double number = std::strtod(value.c_str(), &end);
  if (value.empty() || *end != '\0')
    return wrongInput("--set {}: NAME=NUMBER is wanted, such as lr=3e-4",
                      setting);
  return std::pair(setting.substr(0, equals), number);
}

bool isSetByTraining(std::string_view name) {
  return name == "step" || name == "bias_correction1" ||
         name == "bias_correction2" || name == "seed.lo" || name == "seed.hi";
}

Status checkSetting(const plan::Plan &plan, const std::string &name,
                    double value) {
  if (isSetByTraining(name))
    return wrongInput("--set {}: training sets it before every step", name);
  std::vector<std::string> names;
  for (const plan::Scalar &scalar : plan.scalars())
    names.push_back(scalar.name());
  if (std::find(names.begin(), names.end(), name) == names.end()) {
    Status status = wrongInput("--set {}: the plan has no such number", name)
                        .note("it has {}", fmt::join(names, ", "));
    if (std::string near = nearestName(name, names); !near.empty())
      return std::move(status).help("did you mean {}?", near);
    return status;
  }
  if (!std::isfinite(value))
    return wrongInput("--set {}={}: the value is not finite", name, value);
  // The kernels see float32, in which a beta of 1 - 1e-9 is 1 and an epsilon
  // of 1e-50 is 0.
  if (std::fabs(value) > double(FLT_MAX))
    return wrongInput("--set {}={}: float32 ends at {:.2g}", name, value,
                      double(FLT_MAX));
  auto [isInRange, words] = rangeOf(name);
  if (isInRange(value) && isInRange(double(float(value))))
    return Status();
  return wrongInput("--set {}={}: it has to be {}{}", name, value, words,
                    isInRange(value) ? " in float32" : "");
}

Status checkSettings(const plan::Plan &plan, const TrainOptions &options) {
  for (const auto &[name, value] : options.scalars)
    LMC_RETURN_IF_ERROR(checkSetting(plan, name, value));
  if (options.decay == Decay::Constant) {
    for (const char *flag : {"--decay-steps", "--min-lr"})
      if (options.given.count(flag))
        return wrongInput("{} is of a decay, and the learning rate is constant",
                          flag)
            .help("--decay cosine or --decay linear with it, or no {}", flag);
    return Status();
  }
  if (options.decaySteps > 0 && options.decaySteps <= options.warmupSteps)
    return wrongInput("the decay ends at step {}, within the warm-up of {} "
                      "steps",
                      options.decaySteps, options.warmupSteps)
        .help("--decay-steps beyond --warmup, or 0 for the last step");
  if (double peak = settingOf(plan, options, "lr");
      options.minLearningRate > peak)
    return wrongInput("the learning rate would decay from {} up to --min-lr "
                      "{}",
                      peak, options.minLearningRate)
        .help("a smaller --min-lr, or a greater --set lr");
  return Status();
}

} // namespace lmc::runtime
