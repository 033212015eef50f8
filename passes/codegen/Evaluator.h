// Computes the values of a kernel's body at one place: for the kernel, for a
// row, or for `lanes` columns of a row. An emitter builds the loops, says where
// they stand (beginRow, beginChunk) and asks for the values it stores.
//
// A product that is added at once and used nowhere else becomes one fused
// multiply-add. That is decided here, on the body, and nowhere later: loops
// that differ (main, tail, few rows) give the same bits.
#ifndef LMC_PASSES_CODEGEN_EVALUATOR_H
#define LMC_PASSES_CODEGEN_EVALUATOR_H

#include "passes/codegen/KernelBody.h"
#include "passes/codegen/LoopBuilder.h"

namespace lmc::codegen {

class Evaluator {
public:
  Evaluator(const KernelBody &body, LoopBuilder &b, mlir::ValueRange pointers,
            mlir::Value microBatch, mlir::ValueRange randoms = {});

  // Computes everything of level Kernel. Call once, outside of all loops.
  mlir::LogicalResult beginKernel();
  // `row` counts rows of `body.split` elements. Computes everything of level
  // Row that needs no reduction; finishStage computes what follows one.
  mlir::LogicalResult beginRow(mlir::Value row);
  mlir::LogicalResult finishStage(int64_t stage);
  // Columns [column, column + lanes) of the last group, at `outer` indices of
  // the groups before it; lanes out of `mask` are neither read nor written.
  // `quarter` is 0..3 if `row * split + column` is 64-aligned plus
  // 16 * quarter and the quarters follow one another; -1 otherwise.
  void beginChunk(mlir::ValueRange outer, mlir::Value column, mlir::Value mask,
                  int quarter = -1);

  // Leaves all rows: what follows is computed per column.
  void endRows();
  // Moves the place without computing anything, for offsetOf.
  void movePlace(mlir::Value row, mlir::ValueRange outer, mlir::Value column);

  // Gives a value that the emitter computed itself.
  void define(mlir::Value value, mlir::Value computed);
  // Later reads of `value` come from memory, where it has been stored.
  void readBack(mlir::Value value, mlir::Value pointer);

  // The value at the present place: a scalar, or a vector if its level or the
  // level asked for is Vector. Null after a diagnostic.
  mlir::Value get(mlir::Value value, Level level);
  mlir::Value getVector(mlir::Value value) { return get(value, Level::Vector); }

  // Offset in elements, at the present place, of a tensor that lies in memory
  // as `value` does.
  mlir::Value offsetOf(mlir::Value value);
  // Stores a result at the present place.
  void storeResult(unsigned result, mlir::Value computed,
                   bool nonTemporal = false);
  mlir::Value pointerOf(unsigned pointer) { return pointers[pointer]; }
  mlir::Value isFirstMicroBatch() { return firstMicroBatch; }
  mlir::Value mask() const { return chunkMask; }
  const KernelBody &body;

private:
  LoopBuilder &b;
  Values pointers;
  mlir::Value microBatch, firstMicroBatch, laterMicroBatchMask;
  // Given as i64: id and first element.
  llvm::DenseMap<mlir::Operation *, std::pair<mlir::Value, mlir::Value>>
      givenOfRandom;
  mlir::Value row, column, chunkMask;
  Values outer;
  int quarter = -1;

  using Memo = llvm::DenseMap<mlir::Value, mlir::Value>;
  Memo kernelMemo, rowMemo, chunkMemo, splatMemo, quarterMemo;
  llvm::DenseMap<mlir::Value, mlir::Value> stored; // value -> pointer
  // Words of the random blocks that four neighbouring vectors share.
  llvm::DenseMap<mlir::Operation *, llvm::SmallVector<mlir::Value, 4>>
      randomWords;

  Memo &memoOf(Level level);
  mlir::Value compute(mlir::Value value, Level level);
  mlir::Value computeElementwise(mlir::Operation *op, Level level);
  mlir::Value computeAccumulate(lm::AccumulateOp op, Level level);
  mlir::Value computeIota(lm::IotaOp op, Level level);
  mlir::Value computeGather(lm::EmbeddingOp op, Level level);
  mlir::Value inWhole(lm::RandomUniformOp op, mlir::Value element);
  mlir::Value computeRandom(lm::RandomUniformOp op, Level level);
  mlir::Value load(mlir::Value value, mlir::Value pointer, Level level,
                   mlir::Value extraMask = {});
  mlir::Value rowIndex(Interval interval);
  mlir::Value indexAlong(Interval interval);
};

} // namespace lmc::codegen

#endif // LMC_PASSES_CODEGEN_EVALUATOR_H
