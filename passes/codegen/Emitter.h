// One emitter per kind of kernel. `plan*` says how the grid is cut, from the
// kernel alone; `emit*` writes the loops over the units [begin, end).
#ifndef LMC_PASSES_CODEGEN_EMITTER_H
#define LMC_PASSES_CODEGEN_EMITTER_H

#include "passes/codegen/Codegen.h"
#include "passes/codegen/Evaluator.h"
#include "passes/codegen/ThreadBlock.h"

namespace lmc::codegen {

// What of the instruction set the loops depend on.
struct Machine {
  bool wide = true; // 32 registers of 16 floats, else 16 of 8
  bool gpu = false; // a unit is a block of threads
};

struct EmitContext {
  plan::KernelOp kernel;
  LoopBuilder &b;
  const Machine &machine;
  mlir::ValueRange pointers;
  mlir::Value microBatch;       // i64, null if the kernel takes none
  mlir::Value rows;             // i64, null if the leading dim is static
  mlir::ValueRange randoms;     // i64: id and first element of each
  mlir::Value begin, end;       // units; of a block, itself and the next
  ThreadBlock *block = nullptr; // null on the CPU

  // Vectors of columns, and larger pieces of work, as a unit's threads share
  // them: over all threads, over those of a warp, over warps.
  Share overThreads();
  Share overLanes();
  Share overWarps();
  void overUnits(const std::function<void(mlir::Value)> &body);
};

// The widest vector of at most 16 bytes that divides each of `counts`.
int64_t lanesDividing(std::initializer_list<int64_t> counts);

#define LMC_KERNEL_KIND(Name)                                                  \
  mlir::LogicalResult plan##Name(plan::KernelOp kernel,                        \
                                 const Machine &machine, KernelFacts &facts);  \
  mlir::LogicalResult emit##Name(EmitContext &context);

LMC_KERNEL_KIND(Row) // flat and row
LMC_KERNEL_KIND(ColumnReduce)
LMC_KERNEL_KIND(Contraction)
LMC_KERNEL_KIND(Scatter)
LMC_KERNEL_KIND(Attention)
LMC_KERNEL_KIND(AttentionGrad)
LMC_KERNEL_KIND(Rope)
LMC_KERNEL_KIND(CacheWrite)
LMC_KERNEL_KIND(PagedAttention)
#undef LMC_KERNEL_KIND

// The grid and the loops of any kind.
mlir::LogicalResult planKernel(plan::KernelOp kernel, const Machine &machine,
                               KernelFacts &facts);
mlir::LogicalResult emitKernel(EmitContext &context);

} // namespace lmc::codegen

#endif // LMC_PASSES_CODEGEN_EMITTER_H
