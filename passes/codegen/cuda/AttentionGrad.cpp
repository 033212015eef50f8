// The gradient of attention on a GPU, from what the forward kept; the formulas
// stand in codegen/AttentionGrad.cpp.
//
// Blocks have one of two roles. One has a tile of queries of one head, walks
// the keys and writes dQ. The other has a tile of keys, walks all query heads
// of their group and their queries, and writes dK and dV. Both compute P and dS
// anew, so nothing is summed across blocks and no atomics are needed.
#include "passes/codegen/cuda/Attention.h"
#include "passes/codegen/cuda/Kernels.h"

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/Vector/IR/VectorOps.h"

using namespace mlir;
using namespace lmc;
using namespace lmc::codegen;
using namespace lmc::codegen::cuda;

namespace {

class BackwardBlock : AttentionBlock {
public:
  using AttentionBlock::AttentionBlock;
  void emit();

private:
  // Two turned tiles that stay, one that moves, and scores.
  Value stays, staysToo, moving, scores;
  Value result; // token 0 of the unit's group

  void emitQueries(Value query0);
  void emitKeys(Value key0);
  // log of the denominators, and sum(dO o), of the thread's rows.
  struct OfRows {
    Values logsumexp, delta;
  };
  OfRows loadRows(Value query0);
  // P, with dropout's factors, and dS from the two products.
  void finishScores(const OfRows &rows, Value query0, Value key0,
                    Values &weights, Values &changes);
};

void BackwardBlock::emit() {
  beginKernel();
  stays = block.sharedFloats(tiles.turned());
  staysToo = block.sharedFloats(tiles.turned());
  moving = block.sharedFloats(tiles.either());
  scores = block.sharedFloats(tiles.scores());
  int64_t count = tiles.count(s.t), perGroup = (s.r + 1) * count;
  Value pair = b.div(block.unit, perGroup);
  Value place = b.rem(block.unit, perGroup);
  beginUnit(b.div(pair, s.g), b.rem(pair, s.g));
  result = b.atF32(context.pointers[resultPointerOf(context.kernel, 0)],
                   b.add(b.mul(sample, s.t * s.tokenStride()),
                         b.mul(group, (s.r + 2) * s.k)));
  Value role = b.div(place, count);
  Value token0 = b.mul(b.rem(place, count), tiles.n);
  b.ifThenElse(
      b.less(role, b.i64(s.r)),
      [&] {
        head = role;
        emitQueries(token0);
      },
      [&] { emitKeys(token0); });
}

BackwardBlock::OfRows BackwardBlock::loadRows(Value query0) {
  OfRows rows;
  Value gradient = headOf(s.gradient), output = headOf(s.output);
  Value line = b.add(b.mul(b.add(b.mul(sample, s.g), group), s.r), head);
  Value logsumexp = b.atF32(context.pointers[s.logsumexp], b.mul(line, s.t));
  int64_t lanes = std::min(lanesDividing({s.k}), tiles.p);
  LoopBuilder narrow(b.builder, b.loc, lanes, /*aligned=*/true);
  Value first = b.mul(b.rem(block.thread, 16), lanes);
  for (int64_t i = 0; i < tiles.p; ++i) {
    Value t = b.min(b.add(b.add(query0, row), i), s.t - 1);
    rows.logsumexp.push_back(b.loadF32(b.atF32(logsumexp, t)));
    Value x = token(gradient, t, s.outputStride());
    Value y = token(output, t, s.outputStride());
    auto multiplyAt = [&](Value at, Value sum) {
      return b.fma(narrow.loadVector(b.atF32(x, at), f32),
                   narrow.loadVector(b.atF32(y, at), f32), sum);
    };
    Value sum = narrow.splatF32(0);
    if (s.k == 16 * lanes) // no loop: all rows' loads are under way at once
      sum = multiplyAt(first, sum);
    else
      sum = b.forLoop(first, b.i64(s.k), 16 * lanes, ValueRange{sum},
                      [&](Value at, ValueRange carried) {
                        return Values{multiplyAt(at, carried[0])};
                      })[0];
    rows.delta.push_back(reduceRow(sum, false));
  }
  return rows;
}

void BackwardBlock::finishScores(const OfRows &rows, Value query0, Value key0,
                                 Values &weights, Values &changes) {
  Value scale = b.splatF32(s.scale), zero = b.splatF32(0);
  for (int64_t i = 0; i < tiles.p; ++i) {
    Value query = b.add(b.add(query0, row), i);
    Value mask = b.andMask(visible(query, b.add(key0, column)),
                           b.splat(b.less(query, b.i64(s.t))));
    Value negated =
        b.builder.create<arith::NegFOp>(b.loc, b.splat(rows.logsumexp[i]));
    Value weight = b.select(mask, exp(b.fma(weights[i], scale, negated)), zero);
    Value change = changes[i];
    weights[i] = weight;
    if (Value factor = drawFactor(query, key0)) {
      change = b.mulf(change, factor);
      weights[i] = b.mulf(weight, factor);
    }
    change = b.subf(change, b.splat(rows.delta[i]));
    changes[i] = b.mulf(b.mulf(weight, scale), change);
  }
}

void BackwardBlock::emitQueries(Value query0) {
  Value keys = slotOf(b.i64(s.r)), values = slotOf(b.i64(s.r + 1));
  load(stays, slotOf(head), s.tokenStride(), query0, true);
  load(staysToo, headOf(s.gradient), s.outputStride(), query0, true);
  OfRows rows = loadRows(query0);
  Values sums = b.forLoop(
      firstKey(query0), endKey(query0), tiles.n,
      zeroSums(tiles.p * tiles.runs()), [&](Value key0, ValueRange carried) {
        block.barrier();
        load(moving, keys, s.tokenStride(), key0, true);
        block.barrier();
        Values weights =
            multiply(stays, moving, tiles.stride(), s.k, zeroSums(tiles.p));
        block.barrier();
        load(moving, values, s.tokenStride(), key0, true);
        block.barrier();
        Values changes =
            multiply(staysToo, moving, tiles.stride(), s.k, zeroSums(tiles.p));
        finishScores(rows, query0, key0, weights, changes);
        block.barrier();
        storeScores(scores, changes, /*turned=*/true);
        load(moving, keys, s.tokenStride(), key0, false);
        block.barrier();
        return multiply(scores, moving, tiles.padded(), tiles.n,
                        Values(carried.begin(), carried.end()));
      });
  Value to = b.atF32(result, b.mul(head, s.k));
  overRows(query0, [&](int64_t i, Value t) {
    storeHead(token(to, t, s.tokenStride()),
              ArrayRef(sums).slice(i * tiles.runs(), tiles.runs()));
  });
}

void BackwardBlock::emitKeys(Value key0) {
  load(stays, slotOf(b.i64(s.r)), s.tokenStride(), key0, true);
  load(staysToo, slotOf(b.i64(s.r + 1)), s.tokenStride(), key0, true);
  int64_t count = tiles.p * tiles.runs();
  // The queries that see any of the keys.
  Value first = s.causal ? key0 : b.i64(0), end = b.i64(s.t);
  if (s.window > 0)
    end = b.min(b.add(key0, tiles.n - 1 + s.window), s.t);
  Values sums = b.forLoop(
      b.i64(0), b.i64(s.r), 1, zeroSums(2 * count),
      [&](Value ofHead, ValueRange before) {
        head = ofHead;
        Value queries = slotOf(head), gradients = headOf(s.gradient);
        return b.forLoop(
            first, end, tiles.n, before, [&](Value query0, ValueRange carried) {
              OfRows rows = loadRows(query0);
              block.barrier();
              load(moving, queries, s.tokenStride(), query0, true);
              block.barrier();
              Values weights = multiply(moving, stays, tiles.stride(), s.k,
                                        zeroSums(tiles.p));
              block.barrier();
              load(moving, gradients, s.outputStride(), query0, true);
              block.barrier();
              Values changes = multiply(moving, staysToo, tiles.stride(), s.k,
                                        zeroSums(tiles.p));
              finishScores(rows, query0, key0, weights, changes);
              auto add = [&](const Values &left, Value right, int64_t stride,
                             ValueRange sumsSoFar) {
                block.barrier();
                storeScores(scores, left, /*turned=*/false);
                load(moving, right, stride, query0, false);
                block.barrier();
                return multiply(scores, moving, tiles.padded(), tiles.n,
                                Values(sumsSoFar.begin(), sumsSoFar.end()));
              };
              Values next = add(changes, queries, s.tokenStride(),
                                carried.take_front(count));
              next.append(add(weights, gradients, s.outputStride(),
                              carried.drop_front(count)));
              return next;
            });
      });
  for (int64_t slot : {0, 1})
    overRows(key0, [&](int64_t i, Value t) {
      Value to = b.atF32(token(result, t, s.tokenStride()), (s.r + slot) * s.k);
      storeHead(to, ArrayRef(sums).slice(slot * count + i * tiles.runs(),
                                         tiles.runs()));
    });
}

} // namespace

LogicalResult cuda::planAttentionGrad(plan::KernelOp kernel,
                                      KernelFacts &facts) {
  auto shape = describeAttention(kernel);
  if (failed(shape) || failed(checkHead(kernel, *shape)))
    return failure();
  AttentionTiles tiles(*shape);
  facts.rows = shape->b;
  facts.rowsPerUnit = 1;
  facts.columns = shape->g * (shape->r + 1) * tiles.count(shape->t);
  facts.threads = AttentionTiles::kThreads;
  if (hasFewRegisters(*shape))
    facts.blocks = 2;
  facts.sharedBytes =
      4 * (2 * tiles.turned() + tiles.either() + tiles.scores());
  facts.lanes = lanesDividing({shape->k});
  return success();
}

LogicalResult cuda::emitAttentionGrad(EmitContext &context) {
  auto shape = describeAttention(context.kernel);
  if (failed(shape))
    return failure();
  BackwardBlock(context, *shape).emit();
  return success();
}
