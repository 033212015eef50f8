// softmax(scale q k^T + mask) v on a GPU, without a tensor of all scores.
//
// A block has a tile of queries of one head and walks the keys' tiles with the
// same online softmax as the CPU: per query stay the running maximum, the
// running sum and the unnormalised output, all in registers. Dropout applies to
// what is added to the output, not to the sum.
#include "passes/codegen/cuda/Attention.h"
#include "passes/codegen/Contraction.h"
#include "passes/codegen/cuda/Kernels.h"

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/Math/IR/Math.h"
#include "mlir/Dialect/Vector/IR/VectorOps.h"

#include <limits>

using namespace mlir;
using namespace lmc;
using namespace lmc::codegen;
using namespace lmc::codegen::cuda;

//===----------------------------------------------------------------------===//
// Shared pieces
//===----------------------------------------------------------------------===//

AttentionBlock::AttentionBlock(EmitContext &context,
                               const AttentionShape &shape)
    : AttentionEmitter(context, shape), tiles(shape), block(*context.block) {
  row = b.mul(b.div(block.thread, 16), tiles.p);
  column = b.mul(b.rem(block.thread, 16), tiles.p);
}

void AttentionBlock::load(Value target, Value base, int64_t stride,
                          Value token0, bool turned) {
  LoopBuilder wide(b.builder, b.loc, lanesDividing({s.k}), /*aligned=*/true);
  int64_t perRow = s.k / wide.lanes;
  // Turned, a warp has 16 tokens of two neighbours, or 32 of one: whole sectors
  // are read, and what it stores at once lies in different banks.
  int64_t across = !turned ? perRow : perRow % 2 == 0 ? 2 : 1;
  int64_t down = turned ? std::min(tiles.n, ThreadBlock::kWarp / across) : 1;
  b.forLoop(
      block.thread, b.i64(tiles.n * perRow), block.threads, [&](Value index) {
        // Patches of across x down vectors, walked down first.
        Value inPatch = b.rem(index, across * down);
        Value patch = b.div(index, across * down);
        int64_t patchesDown = tiles.n / down;
        Value i =
            b.add(b.mul(b.rem(patch, patchesDown), down), b.rem(inPatch, down));
        Value vector = b.add(b.mul(b.div(patch, patchesDown), across),
                             b.div(inPatch, down));
        Value element = b.mul(vector, wide.lanes);
        Value t = b.add(token0, i), inside = b.less(t, b.i64(s.t));
        Value from = token(base, b.select(inside, t, b.i64(0)), stride);
        Value loaded = wide.loadVector(b.atF32(from, element), f32);
        loaded = b.select(inside, loaded, wide.splatF32(0));
        if (!turned) {
          Value at = b.add(b.mul(i, tiles.padded()), element);
          return wide.store(loaded, b.atF32(target, at));
        }
        Value at = b.atF32(target, b.add(b.mul(element, tiles.stride()), i));
        for (int64_t lane = 0; lane < wide.lanes; ++lane)
          b.store(b.builder.create<vector::ExtractOp>(b.loc, loaded, lane),
                  b.atF32(at, lane * tiles.stride()));
      });
}

Values AttentionBlock::multiply(Value left, Value right, int64_t rightStride,
                                int64_t depth, Values sums) {
  int64_t vectors = sums.size() / tiles.p;
  auto step = [&](Value at, Values &next) {
    Value rows =
        b.loadVector(b.atF32(left, b.add(b.mul(at, tiles.stride()), row)), f32);
    Value from = b.atF32(right, b.add(b.mul(at, rightStride), column));
    Values columns;
    for (int64_t v = 0; v < vectors; ++v)
      columns.push_back(b.loadVector(b.atF32(from, v * tiles.n), f32));
    for (int64_t i = 0; i < tiles.p; ++i) {
      Value element =
          b.splat(b.builder.create<vector::ExtractOp>(b.loc, rows, i));
      for (int64_t v = 0; v < vectors; ++v)
        next[i * vectors + v] =
            b.fma(element, columns[v], next[i * vectors + v]);
    }
  };
  // Several at once, as the assembler does not (Ptx.cpp).
  int64_t together = lanesDividing({depth});
  return b.forLoop(b.i64(0), b.i64(depth), together, sums,
                   [&](Value at, ValueRange carried) {
                     Values next(carried.begin(), carried.end());
                     for (int64_t i = 0; i < together; ++i)
                       step(b.add(at, i), next);
                     return next;
                   });
}

Value AttentionBlock::reduceRow(Value value, bool isMax) {
  value = b.reduceLanes(value, isMax);
  for (int64_t mask = 8; mask >= 1; mask /= 2) {
    Value other = block.shuffle(value, mask);
    value = isMax ? b.maxf(value, other) : b.addf(value, other);
  }
  return value;
}

void AttentionBlock::storeScores(Value target, Values scores, bool turned) {
  Value outer = turned ? column : row, inner = turned ? row : column;
  if (turned)
    transposeSquare(b, scores);
  for (auto [i, vector] : llvm::enumerate(scores)) {
    Value at = b.mul(b.add(outer, int64_t(i)), tiles.stride());
    b.store(vector, b.atF32(target, b.add(at, inner)));
  }
}

void AttentionBlock::overRows(Value token0,
                              const std::function<void(int64_t, Value)> &body) {
  for (int64_t i = 0; i < tiles.p; ++i) {
    Value t = b.add(b.add(token0, row), i);
    b.ifThen(b.less(t, b.i64(s.t)), [&] { body(i, t); });
  }
}

void AttentionBlock::storeHead(Value to, ArrayRef<Value> runs) {
  for (auto [v, run] : llvm::enumerate(runs)) {
    Value at = b.add(column, int64_t(v) * tiles.n);
    if (s.k % tiles.p == 0) {
      b.ifThen(b.less(at, b.i64(s.k)),
               [&, value = run] { b.store(value, b.atF32(to, at)); });
      continue;
    }
    for (int64_t lane = 0; lane < tiles.p; ++lane) {
      Value element = b.builder.create<vector::ExtractOp>(b.loc, run, lane);
      Value place = b.add(at, lane);
      b.ifThen(b.less(place, b.i64(s.k)),
               [&] { b.store(element, b.atF32(to, place)); });
    }
  }
}

Value AttentionBlock::drawFactor(Value query, Value key0) {
  if (!s.draws)
    return {};
  OpBuilder &builder = b.builder;
  Value line = b.add(b.mul(sample, s.wholeG), group);
  line = b.add(b.mul(b.add(b.mul(line, s.r), head), s.t), query);
  Value number = b.add(b.mul(line, s.numbersPerQuery), b.add(key0, column));
  number = b.add(firstNumber, number);
  Value lane = builder.create<arith::ExtSIOp>(
      b.loc, b.vectorOf(builder.getI64Type()), b.iota32());
  Value numbers = builder.create<arith::AddIOp>(b.loc, b.splat(number), lane);
  Value isKept = builder.create<arith::CmpFOp>(b.loc, arith::CmpFPredicate::OGE,
                                               philox->uniforms(numbers), rate);
  return b.select(isKept, kept, b.splatF32(0));
}

Value AttentionBlock::firstKey(Value query0) {
  if (s.window == 0)
    return b.i64(0);
  Value oldest = b.max(b.sub(query0, s.window - 1), b.i64(0));
  return b.mul(b.div(oldest, tiles.n), tiles.n);
}
Value AttentionBlock::endKey(Value query0) {
  return s.causal ? b.min(b.add(query0, tiles.n), s.t) : b.i64(s.t);
}

Value AttentionBlock::headOf(int64_t argument) {
  Value offset = b.mul(b.add(b.mul(group, s.r), head), s.k);
  return b.atF32(context.pointers[argument],
                 b.add(b.mul(sample, s.t * s.outputStride()), offset));
}

bool cuda::hasFewRegisters(const AttentionShape &shape) {
  return shape.k <= 64 && shape.k % 4 == 0 && !shape.draws;
}

LogicalResult cuda::checkHead(plan::KernelOp kernel,
                              const AttentionShape &shape) {
  if (shape.k > AttentionTiles::kMostHead)
    return kernel.emitOpError()
           << "has heads of " << shape.k << " elements; kernels for cuda hold "
           << AttentionTiles::kMostHead << " at most in a block's memory";
  return success();
}

//===----------------------------------------------------------------------===//
// The forward kernel
//===----------------------------------------------------------------------===//

namespace {

class ForwardBlock : AttentionBlock {
public:
  using AttentionBlock::AttentionBlock;
  void emit();

private:
  Value turnedQueries, moving, weights; // [k][n], keys or values, [n][n]
  Value query0;

  // Of the thread's rows: maxima, sums and outputs, p each but for the last.
  struct State {
    Values maxima, totals, outputs;
  };
  State unpack(ValueRange carried);
  static Values pack(const State &state);
  State addKeys(State state, Value key0);
  void emitOutput(const State &state);
};

ForwardBlock::State ForwardBlock::unpack(ValueRange carried) {
  int64_t p = tiles.p;
  return {Values(carried.begin(), carried.begin() + p),
          Values(carried.begin() + p, carried.begin() + 2 * p),
          Values(carried.begin() + 2 * p, carried.end())};
}
Values ForwardBlock::pack(const State &state) {
  Values all = state.maxima;
  all.append(state.totals);
  all.append(state.outputs);
  return all;
}

void ForwardBlock::emit() {
  beginKernel();
  turnedQueries = block.sharedFloats(tiles.turned());
  moving = block.sharedFloats(tiles.either());
  weights = block.sharedFloats(tiles.scores());
  // The last queries see the most keys: they begin first.
  int64_t perTile = s.b * s.g * s.r;
  Value rest = b.rem(block.unit, perTile);
  Value tile = b.sub(b.i64(tiles.count(s.t) - 1), b.div(block.unit, perTile));
  query0 = b.mul(tile, tiles.n);
  head = b.rem(rest, s.r);
  rest = b.div(rest, s.r);
  beginUnit(b.div(rest, s.g), b.rem(rest, s.g));
  load(turnedQueries, slotOf(head), s.tokenStride(), query0, /*turned=*/true);

  State state;
  // Small enough to lose against any score, finite so that m - m' is.
  state.maxima.assign(tiles.p, b.f32(-1e30));
  state.totals.assign(tiles.p, b.f32(0));
  state.outputs = zeroSums(tiles.p * tiles.runs());
  Values last = b.forLoop(firstKey(query0), endKey(query0), tiles.n,
                          pack(state), [&](Value key0, ValueRange carried) {
                            return pack(addKeys(unpack(carried), key0));
                          });
  emitOutput(unpack(last));
}

ForwardBlock::State ForwardBlock::addKeys(State state, Value key0) {
  block.barrier();
  load(moving, slotOf(b.i64(s.r)), s.tokenStride(), key0, /*turned=*/true);
  block.barrier();
  Values scores =
      multiply(turnedQueries, moving, tiles.stride(), s.k, zeroSums(tiles.p));
  Value hidden = b.splatF32(-std::numeric_limits<float>::infinity());
  Value scale = b.splatF32(s.scale);
  for (int64_t i = 0; i < tiles.p; ++i) {
    Value query = b.add(b.add(query0, row), i);
    Value mask = visible(query, b.add(key0, column));
    Value score = b.select(mask, b.mulf(scores[i], scale), hidden);
    Value next = b.maxf(reduceRow(score, true), state.maxima[i]);
    Value factor = exp(b.subf(state.maxima[i], next));
    Value weight = exp(b.subf(score, b.splat(next)));
    state.totals[i] = b.fma(state.totals[i], factor, reduceRow(weight, false));
    state.maxima[i] = next;
    for (int64_t v = 0; v < tiles.runs(); ++v) {
      Value &output = state.outputs[i * tiles.runs() + v];
      output = b.mulf(output, b.splat(factor));
    }
    if (Value kept = drawFactor(query, key0))
      weight = b.mulf(weight, kept);
    scores[i] = weight;
  }
  // The keys have been read by all, and the weights of the tile before.
  block.barrier();
  storeScores(weights, scores, /*turned=*/true);
  load(moving, slotOf(b.i64(s.r + 1)), s.tokenStride(), key0,
       /*turned=*/false);
  block.barrier();
  state.outputs =
      multiply(weights, moving, tiles.padded(), tiles.n, state.outputs);
  return state;
}

void ForwardBlock::emitOutput(const State &state) {
  Operation *yield = context.kernel.getBody().front().getTerminator();
  for (auto [index, value] : llvm::enumerate(yield->getOperands())) {
    unsigned pointer = resultPointerOf(context.kernel, index);
    bool isOutput = cast<OpResult>(value).getResultNumber() == 0;
    overRows(query0, [&](int64_t i, Value t) {
      if (isOutput) {
        Value inverse = b.splat(
            b.builder.create<arith::DivFOp>(b.loc, b.f32(1), state.totals[i])
                .getResult());
        Values runs;
        for (int64_t v = 0; v < tiles.runs(); ++v)
          runs.push_back(b.mulf(inverse, state.outputs[i * tiles.runs() + v]));
        return storeHead(token(headOf(pointer), t, s.outputStride()), runs);
      }
      Value logsumexp = b.addf(
          state.maxima[i],
          b.builder.create<math::LogOp>(b.loc, state.totals[i]).getResult());
      Value line = b.add(b.mul(b.add(b.mul(sample, s.g), group), s.r), head);
      b.ifThen(b.equal(column, b.i64(0)), [&] {
        b.store(logsumexp,
                b.atF32(context.pointers[pointer], b.add(b.mul(line, s.t), t)));
      });
    });
  }
}

} // namespace

LogicalResult cuda::planAttention(plan::KernelOp kernel, KernelFacts &facts) {
  auto shape = describeAttention(kernel);
  if (failed(shape) || failed(checkHead(kernel, *shape)))
    return failure();
  AttentionTiles tiles(*shape);
  facts.rows = shape->b;
  facts.rowsPerUnit = 1;
  facts.columns = shape->g * shape->r * tiles.count(shape->t);
  facts.threads = AttentionTiles::kThreads;
  if (hasFewRegisters(*shape))
    facts.blocks = 3;
  facts.sharedBytes = 4 * (tiles.turned() + tiles.either() + tiles.scores());
  facts.lanes = lanesDividing({shape->k});
  return success();
}

LogicalResult cuda::emitAttention(EmitContext &context) {
  auto shape = describeAttention(context.kernel);
  if (failed(shape))
    return failure();
  ForwardBlock(context, *shape).emit();
  return success();
}
