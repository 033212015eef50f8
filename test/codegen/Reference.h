// What a kernel's body means: every operation by itself, in double precision,
// in the plainest loops that can be written. Generated kernels are compared
// with it.
#ifndef LMC_TEST_CODEGEN_REFERENCE_H
#define LMC_TEST_CODEGEN_REFERENCE_H

#include "dialects/lm/Lm.h"
#include "dialects/plan/Plan.h"

#include <vector>

namespace lmc::test {

struct Tensor {
  std::vector<int64_t> shape;
  std::vector<double> data; // integers and booleans too
  int64_t size() const { return static_cast<int64_t>(data.size()); }
};

// What a kernel is given where it takes the id of a random number. Beside it,
// it is given the first element: those of all micro-batches before this one.
inline constexpr int64_t kGivenRandomId = -0x123456789abcdef;

// That first element.
int64_t firstNumber(lm::Drawing random, int64_t microBatch);

// The results of `kernel` for `arguments`. Dynamic leading dims take the
// arguments' sizes.
std::vector<Tensor> interpret(plan::KernelOp kernel,
                              const std::vector<Tensor> &arguments,
                              int64_t microBatch);

} // namespace lmc::test

#endif // LMC_TEST_CODEGEN_REFERENCE_H
