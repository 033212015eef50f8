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

// Scratch of each such run: 4 MiB at a multiple of 256 bytes, where slices
// begin at multiples of 64. NVIDIA advises that for GPUs before Hopper and 32
// MiB from there on; a small plan would be mostly workspace then.
inline constexpr int64_t kMatmulWorkspaceBytes = (int64_t(4) << 20) + 256 - 64;

// The run-time number that allows TF32 for the factors if it is not 0.
inline constexpr llvm::StringLiteral kTf32 = "tf32";

struct MatmulFacts {
  unsigned left = 0, right = 0; // argument numbers
  std::optional<unsigned> bias, addend;
  bool accumulates = false; // the addend counts from the second micro-batch on
  bool leftTransposed = false, rightTransposed = false;
  int64_t rows = 0, columns = 0, depth = 0;
};

// None if `kernel` is anything else.
std::optional<MatmulFacts> describeMatmul(KernelOp kernel);

} // namespace lmc::plan

#endif // LMC_DIALECTS_PLAN_MATMUL_H
