// The program `step` of an inference plan: tokens of several sequences in,
// logits of those asked for out, keys and values kept in the paged cache.
//
//     model.begin();
//     model.add(row, position, token, wantsLogits);  ... up to maxTokens()
//     model.run();
//     model.logits(i)    of the i-th token that wanted them
//
// Tokens of one sequence are added in the order of their positions; earlier
// positions are in the cache or in this step. Owned by the thread of its
// executor, which must outlive it.
#ifndef LMC_RUNTIME_GENERATE_STEPMODEL_H
#define LMC_RUNTIME_GENERATE_STEPMODEL_H

#include "runtime/exec/Executor.h"
#include "runtime/generate/PagedCache.h"
#include "runtime/plan/PlanFacts.h"

namespace lmc::runtime {

class StepModel {
public:
  /// WrongInput when the plan has no program `step` of the inputs above.
  static StatusOr<StepModel> create(Executor &executor);

  int64_t maxTokens() const { return tokensPort->shape(0); }
  int64_t maxLogits() const { return logitRowsPort->shape(0); }
  int64_t maxSequences() const { return pagesPort->shape(0); }
  int64_t maxLength() const { return executor->plan().sequence_length(); }
  int64_t maxPositions() const {
    return runtime::maxPositions(executor->plan());
  }
  int64_t vocabulary() const { return executor->plan().vocabulary(); }
  PagedCache &cache() { return pages; }

  void begin();
  void add(int row, int64_t position, int32_t token, bool wantsLogits);
  int64_t numTokens() const { return int64_t(tokens.size()); }
  int64_t numLogits() const { return int64_t(logitRows.size()); }
  Status run();
  const float *logits(int64_t index) const;

private:
  StepModel(Executor &executor, PagedCache pages)
      : executor(&executor), pages(std::move(pages)) {}

  Executor *executor;
  PagedCache pages;
  int schedule = -1;
  const plan::Port *tokensPort = nullptr, *positionsPort = nullptr,
                   *sequencesPort = nullptr, *slotsPort = nullptr,
                   *logitRowsPort = nullptr, *pagesPort = nullptr,
                   *logitsPort = nullptr;
  std::vector<int32_t> tokens, positions, sequences, slots, logitRows;
  /// Of the step, where the host cannot reach the plan's.
  std::vector<float> hostLogits;
};

} // namespace lmc::runtime

#endif // LMC_RUNTIME_GENERATE_STEPMODEL_H
