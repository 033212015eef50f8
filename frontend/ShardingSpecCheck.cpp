// The laws of a ShardingSpec that need no model.
#include "frontend/ShardingSpec.pb.h"
#include "frontend/SpecCheck.h"

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

bool checkShardingSpec(const ShardingSpec &spec, const SourceMap &sources,
                       Findings &findings) {
  for (const Rule &rule : spec.rule())
    checkRule(rule, sources, findings);
  return !findings.hasErrors();
}

} // namespace lmc::frontend
