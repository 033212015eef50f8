// What a model says of given tokens: logits, or the mean loss on a data file.
#ifndef LMC_RUNTIME_GENERATE_EVALUATE_H
#define LMC_RUNTIME_GENERATE_EVALUATE_H

#include "runtime/data/TokenData.h"
#include "runtime/generate/StepModel.h"

#include <functional>

namespace lmc::runtime {

/// The logits [count, V] of tokens first, first + 1, ... of a sequence.
using LogitRows =
    std::function<void(int64_t first, int64_t count, const float *logits)>;

/// WrongInput for a token beyond the vocabulary.
Status checkTokens(int64_t vocabulary, const int32_t *tokens, int64_t count);

/// Runs one sequence through an inference plan, in steps as large as it allows,
/// and hands out its logits in order. WrongInput for a token beyond the
/// vocabulary or a sequence beyond the plan's length.
Status scoreSequence(StepModel &model, const int32_t *tokens, int64_t count,
                     const LogitRows &rows);

struct Loss {
  double mean = 0; ///< nats per token
  double tokens = 0;
};

/// The mean loss over all whole samples of the data: with the schedule
/// "evaluate" of a training plan, in samples of its length, else from logits,
/// in samples of `sampleTokens` (0: the plan's length).
StatusOr<Loss> evaluateLoss(Executor &executor, const TokenData &data,
                            int64_t sampleTokens);

} // namespace lmc::runtime

#endif // LMC_RUNTIME_GENERATE_EVALUATE_H
