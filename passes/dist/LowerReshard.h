// The transitions of a reshard on one rank's tensors: collectives on pieces
// that lie one behind the other, and the permuting of pieces that do not.
//
// A collective moves contiguous pieces. Along a dim that is not the first,
// pieces are strips of each of the `outer` rows before it:
//
//     all_gather dim 1, n = 2, [2, 1, D] on each rank
//       gathered   [2 * 2, 1, D]    a0 a1 | b0 b1     pieces, in rank order
//       wanted     [2, 2 * 1, D]    a0 b0 | a1 b1     strips, row by row
//
// so that rows of `run` contiguous elements are gathered by index, before a
// reduce_scatter and behind an all_gather. With outer = 1 nothing moves.
#ifndef LMC_PASSES_DIST_LOWERRESHARD_H
#define LMC_PASSES_DIST_LOWERRESHARD_H

#include "passes/dist/ReshardPath.h"

#include "mlir/Dialect/Func/IR/FuncOps.h"

namespace lmc::dist {

// Builds what makes `reshard`'s result of its operand, which has become this
// rank's part, step by step. `number` is that of its dist.resharded.
mlir::Value lowerReshard(mlir::OpBuilder &builder, mlir::func::FuncOp function,
                         ReshardOp reshard, const ReshardPath &path,
                         int64_t number, MeshAttr mesh);

} // namespace lmc::dist

#endif // LMC_PASSES_DIST_LOWERRESHARD_H
