// How a tensor that lies one way comes to lie another way.
//
// A layout is the axes of each dim and the axes on which the value is partial;
// on all others it is replicated. Five transitions lead from one layout to
// another; n ranks are in the group, S bytes on each rank go in, R come out,
// and a rank receives (rings; runtime/comm has them):
//
//     slice           replicated on a    -> a last on a dim     0
//     all_gather      a last on a dim    -> replicated on a     R (n-1)/n
//     reduce_scatter  partial on a       -> a last on a dim     S (n-1)/n
//     all_reduce      partial on a       -> replicated on a     2 S (n-1)/n
//     all_to_all      a last on dim i    -> a last on dim j     S (n-1)/n
//
// The path is the one of fewest bytes, then of fewest transitions: Dijkstra's
// algorithm over layouts, of which few can be reached. nnscaler's RVD graphs
// are the model. Example, a [T, D] that is partial on tp:
//
//     <[[], []], [tp]>  to  <[[tp], []], []>     one reduce_scatter dim 0
//     <[[], []], [tp]>  to  <[[], []], []>       one all_reduce, not
//                                                reduce_scatter + all_gather
#ifndef LMC_PASSES_DIST_RESHARDPATH_H
#define LMC_PASSES_DIST_RESHARDPATH_H

#include "passes/dist/ShardingTable.h"

#include <string>
#include <vector>

namespace lmc::dist {

struct Transition {
  enum Kind { Slice, AllGather, ReduceScatter, AllReduce, AllToAll } kind;
  Axes axes;          // slowest first
  unsigned dim = 0;   // not of all_reduce; of all_to_all: where axes come from
  unsigned toDim = 0; // of all_to_all
};

struct ReshardPath {
  std::vector<Transition> steps;
  int64_t bytes = 0; // that a rank receives
};

// Why there is none, and what to do.
struct NoPath {
  std::string reason, help;
};

// The cheapest path for a tensor of global `type`. There is none where a dim
// has unequal parts: it has to stay as it is.
mlir::FailureOr<ReshardPath> findReshardPath(mlir::RankedTensorType type,
                                             ShardingAttr from, ShardingAttr to,
                                             MeshAttr mesh, NoPath &refusal);

// "all_gather tp dim 1"; "all_to_all tp dim 0 to 1".
std::string describe(const Transition &step);

// The sharding that one transition makes of `from`.
ShardingAttr applyTransition(ShardingAttr from, const Transition &step);

} // namespace lmc::dist

#endif // LMC_PASSES_DIST_RESHARDPATH_H
