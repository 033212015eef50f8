// Fills a plan's inputs with the samples of a step.
//
// A step takes `globalBatch` samples. Sample g of the step lies on data rank
// floor(g / (globalBatch / dataRanks)), its micro-batches in order; data ranks
// count dp slowest, then fsdp. Ranks that differ on other axes get the same
// samples.
#ifndef LMC_RUNTIME_TRAIN_BATCHES_H
#define LMC_RUNTIME_TRAIN_BATCHES_H

#include "runtime/data/SampleOrder.h"
#include "runtime/data/TokenData.h"
#include "runtime/exec/Executor.h"

namespace lmc::runtime {

/// A range of the tokens of a file: the training or the held-out part.
struct TokenRange {
  int64_t begin = 0, end = 0;
  /// Samples of T tokens and their targets in it.
  int64_t numSamples(int64_t tokens) const {
    return std::max<int64_t>(0, (end - begin - 1) / tokens);
  }
};

class Batches {
public:
  /// WrongInput when a plan's input is missing, unknown or of another shape.
  static StatusOr<Batches> create(Executor &executor, const TokenData &data);

  /// Writes the samples first .. first + globalBatch - 1 of the order into the
  /// inputs. Samples at `limit` and beyond are absent: weight zero. Returns the
  /// sum of token weights over the whole global batch.
  StatusOr<double> fill(const TokenRange &range, const SampleOrder &order,
                        int64_t first, int64_t limit);

  int64_t globalBatch() const { return theGlobalBatch; }
  int64_t sequenceLength() const { return tokensPerSample; }

private:
  Batches(Executor &executor, const TokenData &data)
      : executor(executor), data(data) {}
  Status fillSample(const TokenRange &range, int64_t sample, bool absent,
                    int64_t row);

  Executor &executor;
  const TokenData &data;
  int64_t theGlobalBatch = 0, tokensPerSample = 0, perRank = 0, dataRank = 0;
  const plan::Port *tokens = nullptr;
  const plan::Port *targets = nullptr;
  const plan::Port *weights = nullptr;
  const plan::Port *segments = nullptr; ///< "segment_ids", when it is there
  std::vector<int32_t> tokenRow, targetRow, segmentRow;
  std::vector<float> weightRow;
};

} // namespace lmc::runtime

#endif // LMC_RUNTIME_TRAIN_BATCHES_H
