// See Sampler.h.
#include "runtime/generate/Sampler.h"
#include "runtime/base/Philox.h"

#include <algorithm>
#include <cmath>

namespace lmc::runtime {

int32_t Sampler::sample(const float *logits, int64_t vocabulary,
                        int64_t position) {
  candidates.clear();
  for (int64_t v = 0; v < vocabulary; ++v)
    if (std::isfinite(logits[v]))
      candidates.push_back({logits[v], int32_t(v)});
  if (candidates.empty())
    return -1;
  // The likelier first, of equals the lower token.
  auto before = [](const auto &a, const auto &b) {
    return a.first != b.first ? a.first > b.first : a.second < b.second;
  };
  if (options.temperature <= 0)
    return std::min_element(candidates.begin(), candidates.end(), before)
        ->second;
  size_t kept = candidates.size();
  if (options.topK > 0)
    kept = std::min(kept, size_t(options.topK));
  if (kept < candidates.size() || options.topP < 1)
    std::partial_sort(candidates.begin(),
                      candidates.begin() + std::ptrdiff_t(kept),
                      candidates.end(), before);
  candidates.resize(kept);
  double best = double(
      std::min_element(candidates.begin(), candidates.end(), before)->first);
  auto weight = [&](const auto &candidate) {
    return std::exp((double(candidate.first) - best) / options.temperature);
  };
  double total = 0;
  for (const auto &candidate : candidates)
    total += weight(candidate);
  if (options.topP < 1) {
    double sum = 0;
    size_t count = 0;
    while (count < candidates.size() &&
           (count == 0 || sum < options.topP * total))
      sum += weight(candidates[count++]);
    candidates.resize(count);
    total = sum;
  }
  PhiloxBlock block =
      philoxBlock(philoxKey(options.seed, stream), 0, uint64_t(position));
  double uniform = (double(block[0]) * 4294967296.0 + double(block[1])) /
                   18446744073709551616.0;
  double rest = uniform * total;
  for (const auto &candidate : candidates) {
    rest -= weight(candidate);
    if (rest < 0)
      return candidate.second;
  }
  return candidates.back().second;
}

} // namespace lmc::runtime
