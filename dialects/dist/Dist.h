// The dist dialect: WHERE a value lives.
#ifndef LMC_DIALECTS_DIST_DIST_H
#define LMC_DIALECTS_DIST_DIST_H

#include "mlir/Bytecode/BytecodeOpInterface.h"
#include "mlir/IR/BuiltinAttributes.h"
#include "mlir/IR/BuiltinTypes.h"
#include "mlir/IR/Dialect.h"
#include "mlir/IR/OpDefinition.h"
#include "mlir/Interfaces/SideEffectInterfaces.h"

#include <optional>

#include "dialects/dist/DistDialect.h.inc"

#define GET_ATTRDEF_CLASSES
#include "dialects/dist/DistAttrs.h.inc"

#define GET_OP_CLASSES
#include "dialects/dist/DistOps.h.inc"

namespace lmc::dist {

inline constexpr llvm::StringLiteral kMeshAttr = "dist.mesh";
// The axes of a mesh, in the order of its ranks: the last is the fastest.
inline constexpr llvm::StringLiteral kMeshAxes[] = {"pp", "dp", "fsdp",
                                                    "cp", "ep", "tp"};
inline constexpr llvm::StringLiteral kShardingAttr = "dist.sharding";
// Of an operation, from propagation to partition: the shardings of its results;
// the axes that split each factor of its sharding rule; for each dim of each
// result (of a state: for each dim), the mark that its axes come from.
inline constexpr llvm::StringLiteral kShardingsAttr = "dist.shardings";
inline constexpr llvm::StringLiteral kFactorsAttr = "dist.factors";
inline constexpr llvm::StringLiteral kOriginsAttr = "dist.origins";
// Of a state, an argument or an operation: a list of #dist.mark.
inline constexpr llvm::StringLiteral kMarksAttr = "dist.marks";
// Of an argument: it lies as its marks say, and no axis is added to them.
inline constexpr llvm::StringLiteral kClosedAttr = "dist.closed";
// Of an operation of a program that is not cut yet: the model chunk that it
// belongs to. Chunk c runs on pipeline stage c mod (number of stages).
inline constexpr llvm::StringLiteral kChunkAttr = "dist.chunk";
// Of the module: how many chunks the model is cut into.
inline constexpr llvm::StringLiteral kChunksAttr = "dist.chunks";
// Of the module: the number of pipeline stages.
inline constexpr llvm::StringLiteral kStagesAttr = "dist.stages";

// Of a parameter, until its bucket is formed: a #dist.pieces.
inline constexpr llvm::StringLiteral kPiecesAttr = "dist.pieces";
// Of a parameter, an accumulator or a moment: the bucket, or piece of one, that
// holds it, and its first element there. Of a piece: its bucket.
inline constexpr llvm::StringLiteral kBucketAttr = "dist.bucket";
inline constexpr llvm::StringLiteral kBucketOffsetAttr = "dist.bucket_offset";

// A collective: every member of the group formed by its `axes` takes part.
inline bool isCollective(mlir::Operation *op) {
  return llvm::isa_and_nonnull<AllReduceOp, AllGatherOp, ReduceScatterOp,
                               AllToAllOp>(op);
}
inline mlir::ArrayAttr axesOf(mlir::Operation *collective) {
  return collective->getAttrOfType<mlir::ArrayAttr>("axes");
}

// The location of what became of a reshard: `loc`, and the number of its
// dist.resharded.
mlir::Location atReshard(mlir::Location loc, int64_t number);
std::optional<int64_t> reshardAt(mlir::Location loc);

// The size that `axes` leave of a dim, rounded up.
int64_t localSize(int64_t globalSize, llvm::ArrayRef<llvm::StringRef> axes,
                  MeshAttr mesh);

// The local type of a tensor of global `type` under `sharding`.
mlir::RankedTensorType localType(mlir::RankedTensorType type,
                                 ShardingAttr sharding, MeshAttr mesh);

} // namespace lmc::dist

#endif // LMC_DIALECTS_DIST_DIST_H
