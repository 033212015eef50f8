// The kernels whose loop nests on a GPU have little in common with the CPU's:
// products and attention. All others share their emitters.
#ifndef LMC_PASSES_CODEGEN_CUDA_KERNELS_H
#define LMC_PASSES_CODEGEN_CUDA_KERNELS_H

#include "passes/codegen/Emitter.h"

namespace lmc::codegen::cuda {

#define LMC_BLOCK_KERNEL_KIND(Name)                                            \
  mlir::LogicalResult plan##Name(plan::KernelOp kernel, KernelFacts &facts);   \
  mlir::LogicalResult emit##Name(EmitContext &context);

// The most rows of each variant of a contraction, rising.
llvm::ArrayRef<int64_t> fewRowsOf(plan::KernelOp kernel);

LMC_BLOCK_KERNEL_KIND(Contraction)
LMC_BLOCK_KERNEL_KIND(Attention)
LMC_BLOCK_KERNEL_KIND(AttentionGrad)
LMC_BLOCK_KERNEL_KIND(PagedAttention)
#undef LMC_BLOCK_KERNEL_KIND

} // namespace lmc::codegen::cuda

#endif // LMC_PASSES_CODEGEN_CUDA_KERNELS_H
