// Which kernels are a plain matrix product, which a library can do.
//
//     target [M, N] = left [M, K] * right [K, N]  + bias [N]  + addend [M, N]
//
// Operands lie as they are, whole and row by row; left may be stored [K, M],
// right [N, K]. Bias and addend may be absent. M is known: where rows are
// counted at run time, a row's bits must not depend on how many there are,
// which no library promises.
#ifndef LMC_DIALECTS_PLAN_MATMUL_H
#define LMC_DIALECTS_PLAN_MATMUL_H

#include "dialects/lm/Lm.h"
#include "dialects/plan/Plan.h"

#include <optional>

namespace lmc::plan {

// Of a kernel that the device's library computes.
inline constexpr llvm::StringLiteral kMatmulKind = "matmul";

// The run-time number that allows TF32 for the factors if it is not 0.
inline constexpr llvm::StringLiteral kTf32 = "tf32";

struct MatmulFacts {
  unsigned left = 0, right = 0; // argument numbers
  std::optional<unsigned> bias = std::nullopt, addend = std::nullopt;
  bool accumulates = false; // the addend counts from the second micro-batch on
  bool leftTransposed = false, rightTransposed = false;
  int64_t rows = 0, columns = 0, depth = 0;
};

// None if `kernel` is anything else.
std::optional<MatmulFacts> describeMatmul(KernelOp kernel);

// Scratch of each run, at a multiple of 256 bytes where slices begin at
// multiples of 64: from 4 MiB to 32, as NVIDIA advises for GPUs before Hopper
// and from there on. More than the least where the target has fewer tiles than
// a GPU's some 130 multiprocessors take two each, for the sums of parts of K.
int64_t matmulWorkspaceBytes(KernelOp kernel);

} // namespace lmc::plan

#endif // LMC_DIALECTS_PLAN_MATMUL_H
