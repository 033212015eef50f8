// Random numbers as a function of where they are used, not of when.
//
// Philox4x32-10 turns a 64-bit key and a 128-bit counter into four 32-bit
// words. We use
//   key     = seed XOR mix(id)       id: stable 64-bit name of the random op
//   counter = (index low, index high, step low, step high)
// so a number depends on (seed, id, step, global element index) alone and any
// mesh, micro-batch size or thread count draws the same. `mix` keeps small
// seeds and small ids from meeting. Element e of a tensor takes word e % 4 of
// the block with index e / 4.
#ifndef LMC_RUNTIME_BASE_PHILOX_H
#define LMC_RUNTIME_BASE_PHILOX_H

#include <array>
#include <cstdint>

namespace lmc::runtime {

/// The splitmix64 finaliser: a bijection that spreads every bit.
constexpr uint64_t mixBits(uint64_t x) {
  x += 0x9E3779B97F4A7C15ull;
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9ull;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBull;
  return x ^ (x >> 31);
}

constexpr uint64_t philoxKey(uint64_t seed, uint64_t id) {
  return seed ^ mixBits(id);
}

using PhiloxBlock = std::array<uint32_t, 4>;

/// Ten rounds over counter {c[0] .. c[3]} with the key's low and high word.
constexpr PhiloxBlock philox4x32(PhiloxBlock c, uint32_t k0, uint32_t k1) {
  for (int round = 0; round < 10; ++round) {
    uint64_t p0 = uint64_t(0xD2511F53u) * c[0];
    uint64_t p1 = uint64_t(0xCD9E8D57u) * c[2];
    c = {uint32_t(p1 >> 32) ^ c[1] ^ k0, uint32_t(p1),
         uint32_t(p0 >> 32) ^ c[3] ^ k1, uint32_t(p0)};
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return c;
}

constexpr PhiloxBlock philoxBlock(uint64_t key, uint64_t step, uint64_t index) {
  return philox4x32({uint32_t(index), uint32_t(index >> 32), uint32_t(step),
                     uint32_t(step >> 32)},
                    uint32_t(key), uint32_t(key >> 32));
}

} // namespace lmc::runtime

#endif // LMC_RUNTIME_BASE_PHILOX_H
