// The laws of a ShardingSpec that need no model.
#include "frontend/ShardingSpec.pb.h"
#include "frontend/SpecCheck.h"

#include <algorithm>
#include <set>

namespace lmc::frontend {

static void checkRule(const Rule &rule, const SourceMap &sources,
                      Findings &findings) {
  int kinds = (rule.parameter_size() > 0) + (rule.input_size() > 0) +
              (rule.activation_size() > 0);
  if (kinds != 1)
    findings.error(sources.of(rule),
                   "a rule is for parameters, inputs or activations, this one "
                   "for " +
                       std::to_string(kinds) + " of these",
                   "parameter: \"*.mlp.up.weight\", or input, or activation");
  if (rule.has_operation() && rule.activation_size() == 0)
    findings.error(sources.of(rule, Rule::kOperationFieldNumber),
                   "only activations are results of operations",
                   "leave out operation, or say activation: \"*\"");
  if (rule.priority() < 0)
    findings.error(sources.of(rule, Rule::kPriorityFieldNumber),
                   "priority is " + std::to_string(rule.priority()) +
                       "; 0 is the first");
  if (rule.split_size() == 0)
    findings.error(sources.of(rule), "a rule that splits nothing",
                   "split { dim: \"F\" axis: \"tp\" }");
  std::set<std::string> dims, axes;
  for (const Split &split : rule.split()) {
    if (split.dim().empty() || split.axis_size() == 0)
      findings.error(sources.of(split), "a split needs a dim and an axis",
                     "split { dim: \"F\" axis: \"tp\" }");
    if (!dims.insert(split.dim()).second)
      findings.error(sources.of(split, Split::kDimFieldNumber),
                     "this rule splits dim '" + split.dim() + "' twice",
                     "one split with several axes");
    for (const std::string &axis : split.axis())
      if (!axes.insert(axis).second)
        findings.error(sources.of(split, Split::kAxisFieldNumber),
                       "this rule uses axis '" + axis +
                           "' twice; an axis splits one dim");
  }
}

// The list in the words of a spec: "fsdp", "dp".
template <typename List> static std::string quoted(const List &axes) {
  std::string text;
  for (const std::string &axis : axes)
    text += (text.empty() ? "\"" : ", \"") + axis + "\"";
  return text.empty() ? "nothing" : text;
}

static void checkBucket(const Bucket &bucket, const SourceMap &sources,
                        Findings &findings) {
  if (bucket.parameter_size() == 0)
    findings.error(sources.of(bucket), "a bucket of no parameters",
                   "parameter: \"*\" is all of them");
  const auto &moments = bucket.split_moments();
  std::set<std::string> seen;
  for (const std::string &axis : moments) {
    if (axis != "dp" && axis != "fsdp")
      findings.error(sources.of(bucket, Bucket::kSplitMomentsFieldNumber),
                     "axis '" + axis +
                         "' does not share out the state of "
                         "training",
                     "the axes of data ranks, dp and fsdp, do");
    if (!seen.insert(axis).second)
      findings.error(sources.of(bucket, Bucket::kSplitMomentsFieldNumber),
                     "axis '" + axis + "' occurs twice");
  }
  auto checkPrefix = [&](const char *name, const auto &axes, int field) {
    if (axes.size() > moments.size() ||
        !std::equal(axes.begin(), axes.end(), moments.begin()))
      findings.error(sources.of(bucket, field),
                     std::string(name) + " is " + quoted(axes) +
                         ", split_moments " + quoted(moments) +
                         ": a rank updates the piece whose moments it holds",
                     "let split_moments begin with " + quoted(axes));
  };
  checkPrefix("split_parameters", bucket.split_parameters(),
              Bucket::kSplitParametersFieldNumber);
  checkPrefix("split_gradients", bucket.split_gradients(),
              Bucket::kSplitGradientsFieldNumber);
}

bool checkShardingSpec(const ShardingSpec &spec, const SourceMap &sources,
                       Findings &findings) {
  if (spec.rule_size() == 0 && spec.bucket_size() == 0)
    findings.error(Place(), "the file has neither rules nor buckets",
                   "examples/sharding has files to copy; without --sharding, "
                   "the compiler brings its own along");
  for (const Rule &rule : spec.rule())
    checkRule(rule, sources, findings);
  for (const Bucket &bucket : spec.bucket())
    checkBucket(bucket, sources, findings);
  return !findings.hasErrors();
}

} // namespace lmc::frontend
