// Which sample comes when: the order of training is a function of its number,
// so nothing but the step has to be remembered to go on where a run stopped.
//
// Sample i of the data is the tokens [i*T, i*T + T + 1): T inputs and, one
// further, T targets. Sample n of the training (n = step * global batch + g)
// is sample n mod N of the data, or with shuffling the image of n mod N under
// a permutation of [0, N) that (seed, epoch) chooses: a four-round Feistel
// network over the next power of four, walked until it lands below N.
#ifndef LMC_RUNTIME_DATA_SAMPLEORDER_H
#define LMC_RUNTIME_DATA_SAMPLEORDER_H

#include "runtime/base/Philox.h"

namespace lmc::runtime {

class SampleOrder {
public:
  /// `samples` is at least 1.
  SampleOrder(int64_t samples, bool shuffle, uint64_t seed)
      : samples(samples), shuffle(shuffle), seed(seed) {
    while (uint64_t(1) << (2 * halfBits) < uint64_t(samples))
      ++halfBits;
  }

  int64_t sample(int64_t n) const {
    int64_t epoch = n / samples, index = n % samples;
    if (!shuffle)
      return index;
    uint64_t key = seed ^ mixBits(uint64_t(epoch) ^ 0x5a5a5a5a5a5a5a5aull);
    uint64_t x = uint64_t(index);
    do
      x = permute(x, key);
    while (x >= uint64_t(samples));
    return int64_t(x);
  }
  int64_t numSamples() const { return samples; }

private:
  uint64_t permute(uint64_t x, uint64_t key) const {
    uint64_t mask = (uint64_t(1) << halfBits) - 1;
    uint64_t left = x >> halfBits, right = x & mask;
    for (uint64_t round = 0; round < 4; ++round) {
      uint64_t next =
          left ^
          (mixBits(key + round * 0x9E3779B97F4A7C15ull + right) >> 32 & mask);
      left = right;
      right = next;
    }
    return left << halfBits | right;
  }

  int64_t samples;
  bool shuffle;
  uint64_t seed;
  int halfBits = 1;
};

} // namespace lmc::runtime

#endif // LMC_RUNTIME_DATA_SAMPLEORDER_H
