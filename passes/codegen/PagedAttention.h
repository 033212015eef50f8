// The shapes of an inference step's cache, for the CPU's kernels and the GPU's.
#ifndef LMC_PASSES_CODEGEN_PAGEDATTENTION_H
#define LMC_PASSES_CODEGEN_PAGEDATTENTION_H

#include "passes/codegen/Emitter.h"

namespace lmc::codegen {

// Shapes, and the argument numbers of the operands.
struct CacheShape {
  static constexpr int64_t kKeys = 64; // of a block of positions

  mlir::Operation *op = nullptr;
  llvm::SmallVector<unsigned, 6> arguments; // one per operand
  int64_t t = 0, g = 0, r = 0, k = 0, rows = 0;
  bool dynamic = false;

  int64_t tokenStride() const { return g * (r + 2) * k; }
  int64_t rowStride() const { return g * 2 * k; }
};

mlir::FailureOr<CacheShape> describePagedAttention(plan::KernelOp kernel);

// An i32 as i64, and a number kept within [0, end).
mlir::Value loadIndex(LoopBuilder &b, mlir::Value pointer, mlir::Value at);
mlir::Value clampIndex(LoopBuilder &b, mlir::Value value, int64_t end);

} // namespace lmc::codegen

#endif // LMC_PASSES_CODEGEN_PAGEDATTENTION_H
