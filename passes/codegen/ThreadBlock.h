// A block of threads that share a unit's work, as GPUs have them: who a thread
// is, how the block meets, and what its threads sum together.
//
// A loop is dealt over threads by its first index and its step (a Share):
//
//     forLoop(share.first, end, share.step, ...)
//
// with one thread, first is 0 and step what it was: a loop nest written with
// shares serves the CPU, too.
//
// Threads meet at barriers. A barrier inside a branch or a loop that threads
// leave at different times is an error that runtime/device/cuda/ptx finds.
// Sums over threads have one shape: halves of a warp are folded, then warps are
// added in order, so equal inputs give equal bits.
//
// The five functions behind this (thread, unit, barrier, shuffle, shared) are
// declared here and defined as instructions by cuda/Ptx.cpp.
#ifndef LMC_PASSES_CODEGEN_THREADBLOCK_H
#define LMC_PASSES_CODEGEN_THREADBLOCK_H

#include "passes/codegen/LoopBuilder.h"

#include "mlir/IR/BuiltinOps.h"

namespace lmc::codegen {

// The part of a loop that one thread takes.
struct Share {
  mlir::Value first;
  int64_t step = 1;
};

// Names of the functions that a block's module declares.
inline constexpr const char *kThreadFunction = "lmc_thread";   // () -> i32
inline constexpr const char *kUnitFunction = "lmc_unit";       // () -> i32
inline constexpr const char *kBarrierFunction = "lmc_barrier"; // ()
// (f32, i32 mask) -> the number of thread `thread ^ mask` of the warp
inline constexpr const char *kShuffleFunction = "lmc_shuffle";
inline constexpr const char *kSharedFunction = "lmc_shared"; // () -> ptr

class ThreadBlock {
public:
  static constexpr int64_t kWarp = 32;

  // Emits at b's insertion point, which must be in the entry block.
  ThreadBlock(LoopBuilder &b, int64_t threads);

  const int64_t threads;
  int64_t warps() const { return threads / kWarp; }
  mlir::Value thread, unit; // i64
  mlir::Value warp() { return b.div(thread, kWarp); }
  mlir::Value lane() { return b.rem(thread, kWarp); }

  void barrier();
  mlir::Value shuffle(mlir::Value value, int64_t mask); // of f32
  // Bytes that the block shares, 16-byte aligned; what they hold is undefined.
  mlir::Value sharedFloats(int64_t count);
  int64_t sharedBytes() const { return bytes; }

  // Sum or maximum over a warp, or over the block, known to all its threads.
  // Room for `count` numbers at a time is reserved outside of all loops.
  void reserveReduce(int64_t count);
  mlir::Value reduceWarp(mlir::Value value, bool isMax);
  Values reduce(Values values, llvm::ArrayRef<bool> isMax);
  static int64_t reduceBytes(int64_t threads, int64_t count) {
    return threads > kWarp ? (threads / kWarp * count * 4 + 15) / 16 * 16 : 0;
  }

private:
  LoopBuilder &b;
  mlir::ModuleOp module;
  int64_t bytes = 0;
  mlir::Value base, scratch;
  mlir::Value call(const char *name, mlir::Type result,
                   mlir::ValueRange operands = {});
};

} // namespace lmc::codegen

#endif // LMC_PASSES_CODEGEN_THREADBLOCK_H
