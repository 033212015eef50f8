// A sharding rule names the factors of an operation, as an einsum names its
// indices, so that one algorithm can propagate shardings through every
// operation.
//
// Worked example. lm.linear, x[B,T,D] times w[D,F] plus bias[F]:
//
//     factors   0:B  1:T  2:D(sum)  3:F
//     operands  x [0,1,2]   w [2,3]   bias [3]
//     results   y [0,1,3]
//
// An axis that shards factor 3 shards w's dim 1, the bias and y's dim 2. An
// axis that shards factor 2 shards x's dim 2 and w's dim 0 and leaves y
// *partial* (to be summed), because factor 2 is missing from y.
#ifndef LMC_DIALECTS_LM_SHARDINGRULE_H
#define LMC_DIALECTS_LM_SHARDINGRULE_H

#include "llvm/ADT/SmallVector.h"
#include <cstdint>

namespace lmc::lm {

struct ShardingRule {
  enum class Kind {
    Parallel,  // each index is computed on its own
    Sum,       // results are partial sums over it
    Max,       // results are partial maxima over it
    Decompose, // may be sharded once the operation is rewritten as primitives
    Replicated // must not be sharded
  };
  struct Factor {
    int64_t size;
    Kind kind;
  };
  // The factor of each dim, one list per operand and per result. A dim whose
  // factor is -1 has size 1 or takes no part.
  using Dims = llvm::SmallVector<int64_t, 6>;

  llvm::SmallVector<Factor, 8> factors;
  llvm::SmallVector<Dims, 4> operands;
  llvm::SmallVector<Dims, 2> results;
  // Operand `indexOperand` holds indices into factor `indexFactor`; where that
  // factor is sharded, a rank's indices start at its first local row. An index
  // outside the local rows must do nothing. -1: there is none.
  int64_t indexOperand = -1;
  int64_t indexFactor = -1;

  // The operands that a sum passes through together: f(a1 + a2, b1 + b2) =
  // f(a1, b1) + f(a2, b2). Where all of them are partial alike, so are the
  // results. None for most operations.
  Dims sumOperands;

  int64_t addFactor(int64_t size, Kind kind = Kind::Parallel) {
    factors.push_back({size, kind});
    return static_cast<int64_t>(factors.size()) - 1;
  }
};

} // namespace lmc::lm

#endif // LMC_DIALECTS_LM_SHARDINGRULE_H
