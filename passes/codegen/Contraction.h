// What a product kernel computes and how it is cut; see Contraction.cpp.
#ifndef LMC_PASSES_CODEGEN_CONTRACTION_H
#define LMC_PASSES_CODEGEN_CONTRACTION_H

#include "passes/codegen/Emitter.h"

namespace lmc::codegen {

struct Product {
  static constexpr int64_t kPanel = 48; // columns; a multiple of any tile's
  static constexpr int64_t kPackedTiles = 48; // of a transposed A at a time

  lm::ContractOp op;
  unsigned lhs = 0, rhs = 0; // argument numbers
  bool transposedLhs = false, transposedRhs = false;
  int64_t m = 0, n = 0, k = 0; // m may be kDynamicSize times a few

  int64_t rowsPerUnit = 0, panelsPerUnit = 0;
  int64_t depth = 0; // of a block along K, a multiple of 16

  bool dynamic() const { return m >= kDynamicSize; }
  int64_t columnsPerUnit() const { return panelsPerUnit * kPanel; }
  int64_t columns() const {
    return (n + columnsPerUnit() - 1) / columnsPerUnit();
  }
  int64_t panelElements() const { return columnsPerUnit() * depth; }
  // From one packed tile of A to the next: a line more than its size, so that
  // tiles written side by side do not meet in one set of the cache.
  int64_t tileStride() const { return depth * 8 + 16; }
  int64_t packedLhsElements() const {
    return transposedLhs ? kPackedTiles * tileStride() : 0;
  }
  // Sums that wait for the next block along K, or one tile.
  int64_t sumElements() const {
    return k > depth ? rowsPerUnit * columnsPerUnit() : 8 * kPanel;
  }
};

mlir::FailureOr<Product> describeProduct(plan::KernelOp kernel);
// Its body, parted at the product's rows.
mlir::FailureOr<KernelBody> analyzeProduct(plan::KernelOp kernel,
                                           const Product &product);

// Turns rows into columns: as many vectors as each has lanes.
void transposeSquare(LoopBuilder &b, Values &rows);

} // namespace lmc::codegen

#endif // LMC_PASSES_CODEGEN_CONTRACTION_H
