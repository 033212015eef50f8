// From logits to the next token.
#ifndef LMC_RUNTIME_GENERATE_SAMPLER_H
#define LMC_RUNTIME_GENERATE_SAMPLER_H

#include <cstdint>
#include <utility>
#include <vector>

namespace lmc::runtime {

struct SamplingOptions {
  double temperature = 0.8; ///< 0: always the most likely token
  int64_t topK = 0;         ///< among this many most likely ones; 0: all
  double topP = 1;          ///< among the fewest that have this probability
  uint64_t seed = 1;
};

/// Draws are a function of (seed, stream, position): neither of the steps that
/// a sequence takes nor of what else is in them.
class Sampler {
public:
  Sampler(const SamplingOptions &options, uint64_t stream)
      : options(options), stream(stream) {}

  /// The token behind `position`, from the logits there; -1 when no logit is
  /// finite.
  int32_t sample(const float *logits, int64_t vocabulary, int64_t position);

private:
  SamplingOptions options;
  uint64_t stream;
  std::vector<std::pair<float, int32_t>> candidates; ///< kept between calls
};

} // namespace lmc::runtime

#endif // LMC_RUNTIME_GENERATE_SAMPLER_H
