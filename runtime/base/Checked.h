// Integer arithmetic for numbers that come from files: every sum and product
// says whether it fits, none wraps.
#ifndef LMC_RUNTIME_BASE_CHECKED_H
#define LMC_RUNTIME_BASE_CHECKED_H

#include <cstdint>
#include <optional>

namespace lmc::runtime {

inline std::optional<int64_t> checkedAdd(int64_t a, int64_t b) {
  int64_t sum;
  if (__builtin_add_overflow(a, b, &sum))
    return std::nullopt;
  return sum;
}

inline std::optional<int64_t> checkedMultiply(int64_t a, int64_t b) {
  int64_t product;
  if (__builtin_mul_overflow(a, b, &product))
    return std::nullopt;
  return product;
}

/// The product of the dims of a shape; nothing when a dim is negative or the
/// product does not fit.
template <typename Shape>
std::optional<int64_t> checkedElements(const Shape &shape) {
  int64_t elements = 1;
  bool empty = false;
  for (int64_t dim : shape) {
    if (dim < 0)
      return std::nullopt;
    if (dim == 0) {
      empty = true;
      continue;
    }
    if (__builtin_mul_overflow(elements, dim, &elements))
      return std::nullopt;
  }
  return empty ? 0 : elements;
}

} // namespace lmc::runtime

#endif // LMC_RUNTIME_BASE_CHECKED_H
