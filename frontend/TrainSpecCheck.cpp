// The laws of a TrainSpec.
#include "frontend/SpecCheck.h"
#include "frontend/TrainSpec.pb.h"

#include <cmath>
#include <set>

namespace lmc::frontend {
namespace {

std::string str(double value) {
  char text[32];
  snprintf(text, sizeof text, "%g", value);
  return text;
}

class TrainChecker {
public:
  TrainChecker(const SourceMap &sources, Findings &findings)
      : sources(sources), findings(findings) {}

  // `value` has to lie in [low, high), or be finite and at least `low`; as
  // float32 too, which is what the kernels see.
  template <typename M>
  void range(const M &at, int field, const char *name, double value, double low,
             double high = INFINITY) {
    if (!(value >= low && value < high))
      complain(at, field, name, value, low, high, "");
    else if (!(static_cast<float>(value) < high))
      complain(at, field, name, value, low, high, " in float32");
  }
  template <typename M>
  void positive(const M &at, int field, const char *name, double value) {
    auto isPositive = [](double x) { return x > 0 && std::isfinite(x); };
    if (!isPositive(value) || !isPositive(static_cast<float>(value)))
      findings.error(sources.of(at, field),
                     std::string(name) + " is " + str(value) +
                         "; it has to be finite and greater than 0" +
                         (isPositive(value) ? " in float32" : ""));
  }
  template <typename M>
  void count(const M &at, int field, const char *name, bool given,
             int64_t value) {
    if (given && value < 1)
      findings.error(sources.of(at, field), std::string(name) + " is " +
                                                std::to_string(value) +
                                                "; it has to be at least 1");
  }
  void run(const TrainSpec &spec);

private:
  template <typename M>
  void complain(const M &at, int field, const char *name, double value,
                double low, double high, const char *type) {
    findings.error(sources.of(at, field),
                   std::string(name) + " is " + str(value) + "; it has to be " +
                       (std::isinf(high)
                            ? "finite and at least " + str(low)
                            : "in [" + str(low) + ", " + str(high) + ")") +
                       type);
  }

  const SourceMap &sources;
  Findings &findings;
};

void TrainChecker::run(const TrainSpec &spec) {
  using T = TrainSpec;
  count(spec, T::kGlobalBatchFieldNumber, "global_batch",
        spec.has_global_batch(), spec.global_batch());
  count(spec, T::kMicroBatchFieldNumber, "micro_batch", spec.has_micro_batch(),
        spec.micro_batch());
  count(spec, T::kSequenceFieldNumber, "sequence", spec.has_sequence(),
        spec.sequence());
  positive(spec, T::kLearningRateFieldNumber, "learning_rate",
           spec.learning_rate());
  range(spec, T::kBeta1FieldNumber, "beta1", spec.beta1(), 0, 1);
  range(spec, T::kBeta2FieldNumber, "beta2", spec.beta2(), 0, 1);
  positive(spec, T::kEpsilonFieldNumber, "epsilon", spec.epsilon());
  range(spec, T::kWeightDecayFieldNumber, "weight_decay", spec.weight_decay(),
        0);
  range(spec, T::kClipNormFieldNumber, "clip_norm", spec.clip_norm(), 0);
  const Schedule &schedule = spec.schedule();
  range(schedule, Schedule::kWarmupStepsFieldNumber, "warmup_steps",
        static_cast<double>(schedule.warmup_steps()), 0);
  count(schedule, Schedule::kStepsFieldNumber, "steps", schedule.has_steps(),
        schedule.steps());
  if (!(schedule.minimum_factor() >= 0 && schedule.minimum_factor() <= 1))
    findings.error(sources.of(schedule, Schedule::kMinimumFactorFieldNumber),
                   "minimum_factor is " + str(schedule.minimum_factor()) +
                       "; it has to be in [0, 1]");
  std::set<std::string> groups;
  for (const Group &group : spec.group()) {
    if (group.name().empty())
      findings.error(sources.of(group), "a group has no name",
                     "name: \"decay\" or name: \"no_decay\"");
    else if (!groups.insert(group.name()).second)
      findings.error(sources.of(group, Group::kNameFieldNumber),
                     "a second group named '" + group.name() + "'",
                     "one group with all that it says");
    range(group, Group::kWeightDecayFieldNumber, "weight_decay",
          group.weight_decay(), 0);
    range(group, Group::kLearningRateFactorFieldNumber, "learning_rate_factor",
          group.learning_rate_factor(), 0);
  }
}

} // namespace

bool checkTrainSpec(const TrainSpec &spec, const SourceMap &sources,
                    Findings &findings) {
  TrainChecker(sources, findings).run(spec);
  return !findings.hasErrors();
}

} // namespace lmc::frontend
