// What the two attention kernels share: shapes, masks and a product of tiles
// whose sums stay in registers.
#ifndef LMC_PASSES_CODEGEN_ATTENTION_H
#define LMC_PASSES_CODEGEN_ATTENTION_H

#include "passes/codegen/Emitter.h"
#include "passes/codegen/Philox.h"

#include <optional>

namespace lmc::codegen {

struct AttentionShape {
  static constexpr int64_t kKeys = 64; // of a block
  static constexpr int64_t kRows = 4;  // queries or keys of a tile

  int64_t b = 0, t = 0, g = 0, r = 0, k = 0;
  double scale = 1;
  bool causal = true;
  int64_t window = 0;
  // Argument numbers; -1 where there is none.
  int64_t qkv = -1, segments = -1, output = -1, logsumexp = -1, gradient = -1;

  // Of dropout: its id if the kernel is not given it, its arguments, and the
  // key/value heads of a whole sample, which this kernel may have a part of.
  bool draws = false;
  std::optional<uint64_t> id;
  int64_t numbersPerQuery = 0;
  int64_t rate = -1, seedLow = -1, seedHigh = -1, step = -1;
  int64_t wholeG = 0;

  // Queries and keys of a tile that a GPU's block keeps in shared memory, and
  // of each of its 16 x 16 threads in both directions.
  int64_t blockTile() const { return k <= 128 ? 64 : k <= 256 ? 32 : 16; }
  int64_t blockLanes() const { return blockTile() / 16; }

  int64_t factorFloats() const { return draws ? kRows * kKeys : 0; }
  // Floats from one token to the next, of qkv and of the output.
  int64_t tokenStride() const { return g * (r + 2) * k; }
  int64_t outputStride() const { return g * r * k; }
};

mlir::FailureOr<AttentionShape> describeAttention(plan::KernelOp kernel);

// Emits the pieces of both kernels for one (sample, group).
class AttentionEmitter {
public:
  AttentionEmitter(EmitContext &context, const AttentionShape &shape);

protected:
  EmitContext &context;
  const AttentionShape &s;
  LoopBuilder b; // vectors as wide as a register
  mlir::Type f32;
  int64_t tileVectors; // of a tile's row: 4, or 2 with 16 registers

  // Of the unit.
  mlir::Value sample, group;
  mlir::Value qkv;      // token 0, slot 0 of this sample and group
  mlir::Value segments; // token 0 of this sample, or null

  // Of dropout.
  std::optional<Philox> philox;
  mlir::Value rate, kept, firstNumber; // kept: 1 / (1 - rate)
  mlir::Value factors;                 // [kRows][kKeys], null without dropout

  void beginKernel();
  // factors = 0 or 1 / (1 - rate) for each of kRows queries and kKeys keys.
  void drawFactors(mlir::Value head, mlir::Value query, mlir::Value key0);
  void beginUnit(mlir::Value sample, mlir::Value group);
  mlir::Value token(mlir::Value base, mlir::Value t, int64_t stride) {
    return b.atF32(base, b.mul(t, stride));
  }

  using Address = std::function<mlir::Value(mlir::Value step)>;
  // sums[i][v] += left(step)[i * leftStride] * right(step)[v], over
  // [0, depth). `masks` are those of the right side's vectors.
  Values product(int64_t rows, int64_t vectors, mlir::Value depth,
                 const Address &left, int64_t leftStride, const Address &right,
                 Values sums, llvm::ArrayRef<mlir::Value> masks = {});
  // sums[i][v] = rows[i] * turned[.][v]: scores of rows and a run of keys.
  Values turnedProduct(llvm::ArrayRef<mlir::Value> rows, mlir::Value turned);
  // kRows tokens from `query` on; those past the end repeat the last one.
  Values rowPointers(mlir::Value base, mlir::Value query, int64_t stride);
  Values zeroSums(int64_t count) { return Values(count, b.splatF32(0)); }

  // Calls `body(column, vectors, masks)` for runs of at most tileVectors
  // vectors that cover a head's k elements.
  void overHead(const std::function<void(int64_t, int64_t,
                                         llvm::ArrayRef<mlir::Value>)> &body);

  // target [k][kKeys] = keys [key0, key0 + kKeys) of slot `slot`, turned;
  // keys past the end are zero.
  void packTurned(mlir::Value target, mlir::Value key0, int64_t slot);

  // Which of `lanes` keys from `key` on a query sees.
  mlir::Value visible(mlir::Value query, mlir::Value key);
  mlir::Value segmentsInBlock(mlir::Value key);
  mlir::Value exp(mlir::Value x);
  // The first query that sees a key of the block from `key0` on, and one past
  // the last; queries are aligned to `step`.
  mlir::Value firstQuery(mlir::Value key0, int64_t step);
  mlir::Value endQuery(mlir::Value key0);
};

} // namespace lmc::codegen

#endif // LMC_PASSES_CODEGEN_ATTENTION_H
