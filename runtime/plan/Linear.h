// Linear expressions of a plan: constant + sum of coefficient * symbol.
//
// At load every expression is bounded over all values that its symbols may
// take, with checked arithmetic. After that no evaluation can overflow or
// leave the bounds, so exec computes them unchecked.
#ifndef LMC_RUNTIME_PLAN_LINEAR_H
#define LMC_RUNTIME_PLAN_LINEAR_H

#include "runtime/base/Checked.h"
#include "runtime/plan/plan.pb.h"

#include <algorithm>
#include <vector>

namespace lmc::runtime {

struct Range {
  int64_t minimum = 0;
  int64_t maximum = 0; ///< inclusive
};

/// The range of `linear` over the symbols' ranges; nothing on overflow or on a
/// symbol that is not there.
inline std::optional<Range> boundLinear(const plan::Linear &linear,
                                        const std::vector<Range> &symbols) {
  Range range{linear.constant(), linear.constant()};
  for (const plan::Linear::Term &term : linear.terms()) {
    if (term.symbol() >= symbols.size())
      return std::nullopt;
    auto a =
        checkedMultiply(term.coefficient(), symbols[term.symbol()].minimum);
    auto b =
        checkedMultiply(term.coefficient(), symbols[term.symbol()].maximum);
    if (!a || !b)
      return std::nullopt;
    auto low = checkedAdd(range.minimum, std::min(*a, *b));
    auto high = checkedAdd(range.maximum, std::max(*a, *b));
    if (!low || !high)
      return std::nullopt;
    range = {*low, *high};
  }
  return range;
}

/// The value for one value per symbol; the plan is checked.
inline int64_t evaluateLinear(const plan::Linear &linear,
                              const std::vector<int64_t> &symbols) {
  int64_t value = linear.constant();
  for (const plan::Linear::Term &term : linear.terms())
    value += term.coefficient() * symbols[term.symbol()];
  return value;
}

/// For each symbol of the plan, which of a call's slots it has; -1: none.
inline std::vector<int> slotIndices(const plan::Plan &plan) {
  std::vector<int> indices;
  int count = 0;
  for (const plan::Symbol &symbol : plan.symbols())
    indices.push_back(symbol.kind() == plan::Symbol::SLOT ? count++ : -1);
  return indices;
}

} // namespace lmc::runtime

#endif // LMC_RUNTIME_PLAN_LINEAR_H
