// What a product kernel computes and how it is cut; see Contraction.cpp.
#ifndef LMC_PASSES_CODEGEN_CONTRACTION_H
#define LMC_PASSES_CODEGEN_CONTRACTION_H

#include "passes/codegen/Emitter.h"

namespace lmc::codegen {

struct Product {
  static constexpr int64_t kPanel = 48;  // columns; a multiple of any tile's
  static constexpr int64_t kDepth = 384; // of K at a time

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
  // Sums that wait for the next block along K, or one tile.
  int64_t sumElements() const {
    return k > depth ? rowsPerUnit * columnsPerUnit() : 8 * kPanel;
  }
};

mlir::FailureOr<Product> describeProduct(plan::KernelOp kernel);

// Turns rows into columns: as many vectors as each has lanes.
void transposeSquare(LoopBuilder &b, Values &rows);

} // namespace lmc::codegen

#endif // LMC_PASSES_CODEGEN_CONTRACTION_H
