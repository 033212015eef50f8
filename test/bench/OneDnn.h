// oneDNN's matrix product as the yardstick of MatmulBench. Apart from it
// because its C++ interface throws.
#ifndef LMC_TEST_BENCH_ONEDNN_H
#define LMC_TEST_BENCH_ONEDNN_H

#include <cstdint>
#include <memory>

namespace lmc::bench {

// C [m, n] = A B, with A [m, k] or transposed [k, m], B [k, n] or transposed
// [n, k]. With `packed`, B is first brought to the layout that oneDNN likes
// best, each time.
class OneDnnProduct {
public:
  OneDnnProduct(int64_t m, int64_t n, int64_t k, bool transposedA,
                bool transposedB, bool packed);
  ~OneDnnProduct();
  void run(const float *a, const float *b, float *c);

private:
  struct State;
  std::unique_ptr<State> state;
};

} // namespace lmc::bench

#endif // LMC_TEST_BENCH_ONEDNN_H
