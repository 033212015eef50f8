// See Evaluate.h.
#include "runtime/generate/Evaluate.h"
#include "runtime/generate/Session.h"
#include "runtime/train/Batches.h"

#include <cmath>

namespace lmc::runtime {

Status checkTokens(int64_t vocabulary, const int32_t *tokens, int64_t count) {
  for (int64_t i = 0; i < count; ++i)
    if (tokens[i] < 0 || tokens[i] >= vocabulary)
      return wrongInput("token {} is {}, beyond the vocabulary of {}", i,
                        tokens[i], vocabulary)
          .help("make the tokens with the tokenizer of this model");
  return Status();
}

Status scoreSequence(StepModel &model, const int32_t *tokens, int64_t count,
                     const LogitRows &rows) {
  LMC_RETURN_IF_ERROR(checkTokens(model.vocabulary(), tokens, count));
  if (count > model.maxLength())
    return wrongInput("a sequence has {} tokens, the plan takes {}", count,
                      model.maxLength())
        .help("{}", count <= model.maxPositions()
                        ? fmt::format("compile with --max-length={}", count)
                        : fmt::format("cut it into shorter sequences: the "
                                      "model has {} positions",
                                      model.maxPositions()));
  int row = model.cache().open(count);
  if (row < 0)
    return wrongInput("a sequence of {} tokens needs {} pages of the cache, "
                      "which has {}",
                      count, model.cache().pagesFor(count),
                      model.cache().numFreePages())
        .help("compile with --cache-pages={}", model.cache().pagesFor(count));
  int64_t chunk = std::min(model.maxTokens(), model.maxLogits());
  Status status;
  for (int64_t first = 0; first < count && status.ok(); first += chunk) {
    model.begin();
    int64_t end = std::min(first + chunk, count);
    for (int64_t i = first; i < end; ++i)
      model.add(row, i, tokens[i], /*wantsLogits=*/true);
    status = model.run();
    if (status.ok())
      rows(first, end - first, model.logits(0));
  }
  model.cache().close(row);
  return status;
}

/// log(sum of exp) - logit of the target.
static double lossOf(const float *logits, int64_t vocabulary, int32_t target) {
  float best = logits[0];
  for (int64_t v = 1; v < vocabulary; ++v)
    best = std::max(best, logits[v]);
  double sum = 0;
  for (int64_t v = 0; v < vocabulary; ++v)
    sum += std::exp(double(logits[v]) - double(best));
  return std::log(sum) + double(best) - double(logits[target]);
}

static StatusOr<Loss>
evaluateWithSchedule(Executor &executor, const TokenData &data, int schedule) {
  const plan::Port *loss = findOutput(executor.plan(), "loss");
  if (!loss)
    return wrongInput("the plan has no output \"loss\"");
  LMC_ASSIGN_OR_RETURN(Batches batches, Batches::create(executor, data));
  TokenRange range{0, data.size()};
  int64_t samples = range.numSamples(batches.sequenceLength());
  SampleOrder order(samples, /*shuffle=*/false, 0);
  Loss result;
  for (int64_t first = 0; first < samples; first += batches.globalBatch()) {
    LMC_ASSIGN_OR_RETURN(double weight,
                         batches.fill(range, order, first, samples));
    if (weight == 0)
      continue;
    LMC_RETURN_IF_ERROR(executor.run(schedule));
    float mean;
    executor.device().read(executor.address(loss->slice()), &mean, 4);
    result.mean += double(mean) * weight;
    result.tokens += weight;
  }
  result.mean /= std::max(result.tokens, 1.0);
  return result;
}

static StatusOr<Loss>
evaluateWithLogits(Executor &executor, const TokenData &data, int64_t length) {
  LMC_ASSIGN_OR_RETURN(StepModel model, StepModel::create(executor));
  int64_t vocabulary = model.vocabulary();
  Loss result;
  std::vector<int32_t> tokens(size_t(length) + 1);
  for (int64_t first = 0; first + length < data.size(); first += length) {
    for (int64_t i = 0; i <= length; ++i)
      tokens[size_t(i)] = data.token(first + i);
    if (Status status = checkTokens(vocabulary, tokens.data(), length + 1);
        !status.ok())
      return std::move(status).note("in the sample from token {} of {} on",
                                    first, data.path());
    LMC_RETURN_IF_ERROR(scoreSequence(
        model, tokens.data(), length,
        [&](int64_t row, int64_t count, const float *logits) {
          for (int64_t i = 0; i < count; ++i) {
            int64_t target = row + i + 1;
            if (!data.trained(first + target))
              continue;
            result.mean += lossOf(logits + i * vocabulary, vocabulary,
                                  tokens[size_t(target)]);
            result.tokens += 1;
          }
        }));
  }
  result.mean /= std::max(result.tokens, 1.0);
  return result;
}

StatusOr<Loss> evaluateLoss(Executor &executor, const TokenData &data,
                            int64_t sampleTokens) {
  const plan::Plan &plan = executor.plan();
  int64_t length = plan.sequence_length();
  int schedule = executor.findSchedule("evaluate");
  if (schedule < 0 && !findOutput(plan, "logits"))
    return wrongInput("the plan has neither a schedule \"evaluate\" nor logits")
        .help("compile with --mode=infer");
  if (schedule >= 0 ? sampleTokens > 0 && sampleTokens != length
                    : sampleTokens > length) {
    Status status =
        wrongInput("--seq={}: the plan evaluates samples of {} tokens{}",
                   sampleTokens, length, schedule >= 0 ? "" : " at most");
    if (sampleTokens > maxPositions(plan))
      return std::move(status).help("--seq={}; the model has {} positions",
                                    length, maxPositions(plan));
    return std::move(status).help("--seq={}, or compile with --{}={}", length,
                                  schedule >= 0 ? "seq" : "max-length",
                                  sampleTokens);
  }
  if (sampleTokens > 0)
    length = sampleTokens;
  if (data.size() <= length)
    return wrongInput("{} is shorter than one sample: {} tokens, {} are needed",
                      data.path(), data.size(), length + 1);
  if (schedule >= 0)
    return evaluateWithSchedule(executor, data, schedule);
  return evaluateWithLogits(executor, data, length);
}

} // namespace lmc::runtime
