// See Batches.h.
#include "runtime/train/Batches.h"
#include "runtime/base/Checked.h"

namespace lmc::runtime {

StatusOr<Batches> Batches::create(Executor &executor, const TokenData &data) {
  const plan::Plan &plan = executor.plan();
  Batches batches(executor, data);
  int64_t dataRanks = 1;
  for (int i = 0; i < plan.mesh().axes_size(); ++i) {
    const plan::Mesh::Axis &axis = plan.mesh().axes(i);
    if (axis.name() != "dp" && axis.name() != "fsdp")
      continue;
    dataRanks *= axis.size();
    batches.dataRank =
        batches.dataRank * axis.size() + executor.coordinates()[size_t(i)];
  }
  int64_t microBatches = std::max<int64_t>(1, plan.micro_batches());
  int64_t tokens = plan.sequence_length(), rows = plan.micro_batch();
  if (tokens < 1 || rows < 1)
    return wrongInput("the plan states no batch: {} samples of {} tokens", rows,
                      tokens);
  batches.tokensPerSample = tokens;
  batches.perRank = rows * microBatches;
  batches.theGlobalBatch = batches.perRank * dataRanks;
  if (plan.global_batch() != 0 && plan.global_batch() != batches.theGlobalBatch)
    return corrupt("the plan states a global batch of {}, but {} data ranks "
                   "with {} micro-batches of {} make {}",
                   plan.global_batch(), dataRanks, microBatches, rows,
                   batches.theGlobalBatch);
  for (const plan::Port &port : plan.inputs()) {
    struct Known {
      const char *name;
      const plan::Port **port;
      plan::DataType dtype;
    };
    bool found = false;
    for (Known known : {Known{"tokens", &batches.tokens, plan::I32},
                        {"targets", &batches.targets, plan::I32},
                        {"token_weights", &batches.weights, plan::F32},
                        {"segment_ids", &batches.segments, plan::I32}}) {
      if (port.name() != known.name)
        continue;
      found = true;
      *known.port = &port;
      int64_t elements = *checkedElements(port.shape());
      if (port.dtype() != known.dtype || elements != rows * tokens ||
          port.micro_batches() != microBatches)
        return corrupt("input {} has shape [{}] in {} micro-batches; {} "
                       "samples of {} tokens in {} are wanted",
                       port.name(), fmt::join(port.shape(), ", "),
                       port.micro_batches(), rows, tokens, microBatches);
    }
    if (!found)
      return wrongInput("the plan wants an input \"{}\", which training data "
                        "does not have",
                        port.name());
  }
  if (!batches.tokens && !batches.targets)
    return wrongInput("the plan has no input \"tokens\"")
        .help("compile with --mode=train");
  batches.tokenRow.resize(size_t(tokens));
  batches.targetRow.resize(size_t(tokens));
  batches.segmentRow.resize(size_t(tokens));
  batches.weightRow.resize(size_t(tokens));
  return std::move(batches);
}

Status Batches::fillSample(const TokenRange &range, int64_t sample, bool absent,
                           int64_t row) {
  int64_t first = range.begin + sample * tokensPerSample;
  int64_t vocabulary = tokens && tokens->vocabulary()
                           ? tokens->vocabulary()
                           : executor.plan().vocabulary();
  if (vocabulary == 0)
    vocabulary = INT32_MAX;
  int32_t segment = 0;
  int64_t documentEnd = segments ? data.documentEnd(first) : range.end;
  int32_t previous = data.token(first);
  for (int64_t t = 0; t <= tokensPerSample; ++t) {
    int32_t id = t == 0 ? previous : data.token(first + t);
    if (id < 0 || id >= vocabulary)
      return wrongInput("token {} of {} is {}, beyond the vocabulary of {}",
                        first + t, data.path(), id, vocabulary)
          .help("make the token file with the tokenizer of this model");
    if (t == tokensPerSample) {
      targetRow[size_t(t - 1)] = id;
      weightRow[size_t(t - 1)] = absent || !data.trained(first + t) ? 0 : 1;
      break;
    }
    tokenRow[size_t(t)] = id;
    if (segments && first + t >= documentEnd) {
      ++segment;
      documentEnd = data.documentEnd(first + t);
    }
    segmentRow[size_t(t)] = segment;
    if (t > 0) {
      targetRow[size_t(t - 1)] = id;
      weightRow[size_t(t - 1)] = absent || !data.trained(first + t) ? 0 : 1;
    }
  }
  auto put = [&](const plan::Port *port, const void *values) {
    if (port)
      executor.device().write(executor.address(port->slice()) +
                                  row * tokensPerSample * 4,
                              values, tokensPerSample * 4);
  };
  put(tokens, tokenRow.data());
  put(targets, targetRow.data());
  put(weights, weightRow.data());
  put(segments, segmentRow.data());
  return Status();
}

StatusOr<double> Batches::fill(const TokenRange &range,
                               const SampleOrder &order, int64_t first,
                               int64_t limit) {
  for (int64_t row = 0; row < perRank; ++row) {
    int64_t n = first + dataRank * perRank + row;
    bool absent = n >= limit;
    LMC_RETURN_IF_ERROR(
        fillSample(range, absent ? 0 : order.sample(n), absent, row));
  }
  double sum = 0;
  for (int64_t n = first; n < std::min(first + theGlobalBatch, limit); ++n) {
    if (!data.hasMask()) {
      sum += double(tokensPerSample);
      continue;
    }
    int64_t start = range.begin + order.sample(n) * tokensPerSample;
    for (int64_t t = 1; t <= tokensPerSample; ++t)
      sum += data.trained(start + t);
  }
  return sum;
}

} // namespace lmc::runtime
