// A product on a GPU: how its sum over K is cut, and the emitter of its loops.
// Many rows are computed in tiles (Contraction.cpp), few by streaming B
// (FewRows.cpp).
//
// Where rows are counted at run time, these are variants of one kernel. All add
// in one order, so that a row's bits do not depend on how many rows there are:
//
//     block s of K   [s * depth, (s + 1) * depth), fused multiply-adds in the
//                    order of k, from zero
//     the sum        of the blocks' sums in order, from zero
//
// Tiles walk the blocks one behind the other. Where rows are few, each block of
// K has threads of its own: that is where the loads in flight come from.
#ifndef LMC_PASSES_CODEGEN_CUDA_CONTRACTION_H
#define LMC_PASSES_CODEGEN_CUDA_CONTRACTION_H

#include "passes/codegen/Contraction.h"

namespace lmc::codegen::cuda {

struct Blocking {
  static constexpr int64_t kThreads = 256;
  static constexpr int64_t kTile = 64;      // rows and columns
  static constexpr int64_t kStep = 16;      // of K in a tile
  static constexpr int64_t kRowFloats = 68; // of a tile; keeps banks apart
  static constexpr int64_t kRowsAtOnce = 4; // whose parts are shared

  // `mostRows` is the kernel's; 0: any number.
  Blocking(const Product &product, int64_t mostRows);

  int64_t fewRows; // that a unit computes at once; 0: tiles
  int64_t strip;   // columns of a unit where rows are few
  int64_t blocks;  // of K that a unit's threads take at once
  int64_t depth;   // of a block of K
  int64_t sharedFloats;
};

class ProductEmitter {
public:
  ProductEmitter(EmitContext &context, const KernelBody &body,
                 const Product &product);
  mlir::LogicalResult emit();

private:
  EmitContext &context;
  const KernelBody &body;
  const Product &product;
  const Blocking blocking;
  LoopBuilder &b;    // vectors as the epilogue takes them
  LoopBuilder fours; // and as threads read and add
  Evaluator ev;
  mlir::Type f32;
  mlir::Value shared, mEnd;
  bool failedOnce = false;

  mlir::Value element(mlir::Value vector, int64_t index);
  void emitColumns(mlir::Value n, mlir::Value sum);

  // Contraction.cpp
  struct Side { // A or B of a tile
    mlir::Value pointer;
    bool turned; // K is its last dim
    mlir::Value major0, majorEnd;
    int64_t majorSize;
    mlir::Value tile; // in shared memory
  };
  struct Place {
    mlir::Value k, i;
  };
  void emitTile();
  Place placeIn(bool turned);
  mlir::Value fetch(const Side &side, mlir::Value k0);
  void put(const Side &side, mlir::Value fetched);
  Values multiplyTiles(mlir::Value left, mlir::Value right, mlir::Value row,
                       mlir::Value column, mlir::ValueRange sums);
  void emitTileRow(mlir::Value m, mlir::Value n, mlir::Value sum);

  // FewRows.cpp
  enum class Outside { None, Anything, Zero };
  void emitFew();
  Values sumInPlace(mlir::Value n0);
  Values sumTurned(mlir::Value n0);
  mlir::Value loadFour(mlir::Value pointer, mlir::Value row, int64_t width,
                       mlir::Value column, Outside outside);
  Values leftRows();
  void addParts(mlir::ValueRange sums, mlir::Value n0);
};

} // namespace lmc::codegen::cuda

#endif // LMC_PASSES_CODEGEN_CUDA_CONTRACTION_H
