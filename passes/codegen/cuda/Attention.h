// What the attention kernels of a GPU share: tiles of queries and keys in
// shared memory, and products of them whose sums stay in registers.
//
// A block's 256 threads are 16 x 16. Of a tile of n x n scores a thread has
// p x p, p = n / 16, rows from p * (thread / 16) and columns from
// p * (thread mod 16) on; of n rows of a head, p rows and every 16th run of p
// elements. Tiles that are summed along the head lie turned, [k][n + 4].
#ifndef LMC_PASSES_CODEGEN_CUDA_ATTENTION_H
#define LMC_PASSES_CODEGEN_CUDA_ATTENTION_H

#include "passes/codegen/Attention.h"

namespace lmc::codegen::cuda {

// Sizes in floats of what lies in shared memory.
struct AttentionTiles {
  static constexpr unsigned kThreads = 256;
  static constexpr int64_t kMostHead = 512;

  int64_t n, k, p;
  explicit AttentionTiles(const AttentionShape &shape)
      : n(shape.blockTile()), k(shape.k), p(shape.blockLanes()) {}

  int64_t stride() const { return n + 4; }         // of turned rows
  int64_t runs() const { return (k + n - 1) / n; } // of n elements of a head
  int64_t padded() const { return runs() * n; }    // of rows as they are
  int64_t turned() const { return k * stride(); }
  int64_t either() const { return std::max(turned(), n * padded()); }
  int64_t scores() const { return n * stride(); }
  int64_t count(int64_t t) const { return (t + n - 1) / n; } // tiles
};

class AttentionBlock : protected AttentionEmitter {
public:
  AttentionBlock(EmitContext &context, const AttentionShape &shape);

protected:
  const AttentionTiles tiles;
  ThreadBlock &block;
  mlir::Value row, column; // first of the thread's p in a tile
  mlir::Value head;        // of the unit

  // target = n tokens from `token0` on of `base`, turned or as they are; zeros
  // past the end.
  void load(mlir::Value target, mlir::Value base, int64_t stride,
            mlir::Value token0, bool turned);
  // sums[i][v] += sum over steps of left[step][row + i] * right[step][v], where
  // vector v begins at `column` + v * n.
  Values multiply(mlir::Value left, mlir::Value right, int64_t rightStride,
                  int64_t depth, Values sums);
  // Over the 16 threads that share rows.
  mlir::Value reduceRow(mlir::Value value, bool isMax);
  // target[column + j][row + i], or [row + i][column + j], = scores[i][j].
  void storeScores(mlir::Value target, Values scores, bool turned);
  // Calls body(i, t) for the thread's rows that exist.
  void overRows(mlir::Value token0,
                const std::function<void(int64_t, mlir::Value)> &body);
  // Stores a thread's runs of one row of a head.
  void storeHead(mlir::Value to, llvm::ArrayRef<mlir::Value> runs);
  // 0 or 1 / (1 - rate) for `query` and the thread's keys; null without
  // dropout.
  mlir::Value drawFactor(mlir::Value query, mlir::Value key0);
  // Where the keys that a tile of queries sees begin and end.
  mlir::Value firstKey(mlir::Value query0);
  mlir::Value endKey(mlir::Value query0);
  // Of token 0, in tensors like the output; heads of the unit.
  mlir::Value headOf(int64_t argument);
  mlir::Value slotOf(mlir::Value slot) {
    return b.atF32(qkv, b.mul(slot, s.k));
  }
};

// Whether several blocks' registers fit a multiprocessor: large heads hold more
// sums, dropout draws, and odd heads are loaded element by element.
bool hasFewRegisters(const AttentionShape &shape);
mlir::LogicalResult checkHead(plan::KernelOp kernel,
                              const AttentionShape &shape);

} // namespace lmc::codegen::cuda

#endif // LMC_PASSES_CODEGEN_CUDA_ATTENTION_H
