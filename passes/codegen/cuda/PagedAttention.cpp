// Attention to the cache of an inference step, on a GPU.
//
// A block has one (token, group), and as on the CPU it walks the positions of
// its sequence in blocks of 64, for all R query heads that share the keys. A
// warp takes a key at a time for the scores, and a head at a time for the
// softmax; a thread takes some of the R x k outputs. A token's bits depend on
// its own position alone.
#include "passes/codegen/PagedAttention.h"
#include "passes/codegen/cuda/Kernels.h"

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/Math/IR/Math.h"

#include <limits>

using namespace mlir;
using namespace lmc;
using namespace lmc::codegen;

namespace {

constexpr int64_t kKeys = CacheShape::kKeys;
constexpr unsigned kThreads = 128;

class PagedBlock {
public:
  PagedBlock(EmitContext &context, const CacheShape &shape)
      : context(context), s(shape), op(cast<lm::PagedAttentionOp>(shape.op)),
        b(context.b), block(*context.block), f32(b.builder.getF32Type()),
        i64(b.builder.getI64Type()) {
    auto pages = cast<RankedTensorType>(op.getPages().getType());
    numSequences = pages.getDimSize(0);
    pagesPerSequence = pages.getDimSize(1);
  }
  void emit();

private:
  EmitContext &context;
  const CacheShape &s;
  lm::PagedAttentionOp op;
  LoopBuilder &b;
  ThreadBlock &block;
  Type f32, i64;
  int64_t numSequences, pagesPerSequence;
  // Shared: scores, then weights [R][64]; outputs [R][k]; maxima, those with
  // the block of keys at hand, totals and factors [R]; where the keys lie in
  // the cache [64].
  Value weights, outputs, maxima, nextMaxima, totals, factors, offsets;
  // Of the unit.
  Value queries, position, pages, groupOffset;

  void emitScores(Value key0);
  Value emitScore(Value head, Value key);
  void emitWeights();
  void addValues(Value key0);
  // The vectors of the outputs that the thread owns.
  void overOutputs(const std::function<void(Value at, Value head)> &body);
  Value pointer(unsigned operand) {
    return context.pointers[s.arguments[operand]];
  }
  Value exp(Value x) { return b.builder.create<math::ExpOp>(b.loc, x); }
};

void PagedBlock::overOutputs(
    const std::function<void(Value at, Value head)> &body) {
  Share share = context.overThreads();
  b.forLoop(share.first, b.i64(s.r * s.k), share.step,
            [&](Value at) { body(at, b.div(at, s.k)); });
}

void PagedBlock::emit() {
  weights = block.sharedFloats(s.r * kKeys);
  outputs = block.sharedFloats(s.r * s.k);
  maxima = block.sharedFloats(s.r);
  nextMaxima = block.sharedFloats(s.r);
  totals = block.sharedFloats(s.r);
  factors = block.sharedFloats(s.r);
  offsets = block.sharedFloats(2 * kKeys);

  Value token = b.div(block.unit, s.g), group = b.rem(block.unit, s.g);
  queries = b.atF32(pointer(0), b.add(b.mul(token, s.tokenStride()),
                                      b.mul(group, (s.r + 2) * s.k)));
  position = clampIndex(b, loadIndex(b, pointer(2), token),
                        pagesPerSequence * op.getPageSize());
  Value sequence = clampIndex(b, loadIndex(b, pointer(3), token), numSequences);
  pages = b.at(pointer(4), b.mul(sequence, pagesPerSequence),
               b.builder.getI32Type());
  groupOffset = b.mul(group, 2 * s.k);

  b.forLoop(block.thread, b.i64(s.r), block.threads, [&](Value head) {
    // Small enough to lose against any score, finite so that m - m' is.
    b.store(b.f32(-1e30), b.atF32(maxima, head));
    b.store(b.f32(0), b.atF32(totals, head));
  });
  overOutputs(
      [&](Value at, Value) { b.store(b.splatF32(0), b.atF32(outputs, at)); });
  Value begin = b.i64(0);
  if (int64_t window = op.getWindow(); window > 0)
    begin = b.mul(b.div(b.max(b.sub(position, window - 1), b.i64(0)), kKeys),
                  kKeys);
  b.forLoop(begin, b.add(position, 1), kKeys, [&](Value key0) {
    block.barrier();
    emitScores(key0);
    block.barrier();
    emitWeights();
    block.barrier();
    addValues(key0);
  });
  Value target = context.pointers[resultPointerOf(context.kernel, 0)];
  Value to = b.atF32(target, b.mul(block.unit, s.r * s.k));
  overOutputs([&](Value at, Value head) {
    Value inverse = b.builder
                        .create<arith::DivFOp>(b.loc, b.f32(1),
                                               b.loadF32(b.atF32(totals, head)))
                        .getResult();
    b.store(b.mulf(b.splat(inverse), b.loadVector(b.atF32(outputs, at), f32)),
            b.atF32(to, at));
  });
}

// weights[head][j] = scale * q . k of the block's keys, hidden ones -inf; and
// where they lie.
void PagedBlock::emitScores(Value key0) {
  int64_t size = op.getPageSize(), window = op.getWindow();
  b.forLoop(block.warp(), b.i64(kKeys), block.warps(), [&](Value j) {
    Value p = b.add(key0, j);
    Value isSeen = b.less(p, b.add(position, 1));
    if (window > 0)
      isSeen = b.andMask(isSeen, b.less(b.sub(position, window), p));
    // Hidden keys take the first position's page.
    Value safe = b.min(p, position);
    Value page = loadIndex(b, pages, b.div(safe, size));
    Value row =
        clampIndex(b, b.add(b.mul(page, size), b.rem(safe, size)), s.rows);
    Value offset = b.add(b.mul(row, s.rowStride()), groupOffset);
    b.ifThen(b.equal(block.lane(), b.i64(0)),
             [&] { b.store(offset, b.at(offsets, j, i64)); });
    Value key = b.atF32(pointer(1), offset);
    b.forLoop(b.i64(0), b.i64(s.r), 1, [&](Value head) {
      Value score = b.select(isSeen, emitScore(head, key),
                             b.f32(-std::numeric_limits<float>::infinity()));
      b.ifThen(b.equal(block.lane(), b.i64(0)), [&] {
        b.store(score, b.atF32(weights, b.add(b.mul(head, kKeys), j)));
      });
    });
  });
}

Value PagedBlock::emitScore(Value head, Value key) {
  Value query = b.atF32(queries, b.mul(head, s.k));
  Share share = context.overLanes();
  Value sum = b.forLoop(
      share.first, b.i64(s.k), share.step, ValueRange{b.splatF32(0)},
      [&](Value i, ValueRange carried) {
        return Values{b.fma(b.loadVector(b.atF32(query, i), f32),
                            b.loadVector(b.atF32(key, i), f32), carried[0])};
      })[0];
  return b.mulf(block.reduceWarp(b.reduceLanes(sum, false), false),
                b.f32(op.getScale().convertToDouble()));
}

// The online softmax: a warp's lane has two of a head's 64 scores.
void PagedBlock::emitWeights() {
  b.forLoop(block.warp(), b.i64(s.r), block.warps(), [&](Value head) {
    Value lane = block.lane();
    Value at = b.atF32(weights, b.add(b.mul(head, kKeys), lane));
    Value old = b.loadF32(b.atF32(maxima, head));
    Value low = b.loadF32(at), high = b.loadF32(b.atF32(at, kKeys / 2));
    Value next = b.maxf(block.reduceWarp(b.maxf(low, high), true), old);
    Value factor = exp(b.subf(old, next));
    low = exp(b.subf(low, next));
    high = exp(b.subf(high, next));
    Value sum = block.reduceWarp(b.addf(low, high), false);
    b.store(low, at);
    b.store(high, b.atF32(at, kKeys / 2));
    b.ifThen(b.equal(lane, b.i64(0)), [&] {
      // Other lanes may not have read the old maximum yet; the total is this
      // lane's alone.
      b.store(next, b.atF32(nextMaxima, head));
      b.store(factor, b.atF32(factors, head));
      Value totalAt = b.atF32(totals, head);
      b.store(b.fma(b.loadF32(totalAt), factor, sum), totalAt);
    });
  });
}

// outputs[head] = factor * outputs[head] + weights[head] . values
void PagedBlock::addValues(Value key0) {
  Value numKeys = b.min(b.sub(b.add(position, 1), key0), kKeys);
  b.forLoop(block.thread, b.i64(s.r), block.threads, [&](Value head) {
    b.store(b.loadF32(b.atF32(nextMaxima, head)), b.atF32(maxima, head));
  });
  overOutputs([&](Value at, Value head) {
    Value to = b.atF32(outputs, at), element = b.rem(at, s.k);
    Value factor = b.splat(b.loadF32(b.atF32(factors, head)));
    Value weightAt = b.atF32(weights, b.mul(head, kKeys));
    Value sum = b.forLoop(
        b.i64(0), numKeys, 1, ValueRange{b.mulf(factor, b.loadVector(to, f32))},
        [&](Value j, ValueRange carried) {
          Value offset = b.loadScalar(b.at(offsets, j, i64), i64);
          Value from = b.atF32(pointer(1), b.add(offset, element));
          Value weight = b.splat(b.loadF32(b.atF32(weightAt, j)));
          return Values{
              b.fma(weight, b.loadVector(b.atF32(from, s.k), f32), carried[0])};
        })[0];
    b.store(sum, to);
  });
}

} // namespace

LogicalResult cuda::planPagedAttention(plan::KernelOp kernel,
                                       KernelFacts &facts) {
  auto shape = describePagedAttention(kernel);
  if (failed(shape))
    return failure();
  facts.rows = shape->t;
  facts.rowsPerUnit = 1;
  facts.columns = shape->g;
  facts.threads = kThreads;
  auto bytes = [](int64_t floats) { return (floats * 4 + 15) / 16 * 16; };
  facts.sharedBytes = bytes(shape->r * kKeys) + bytes(shape->r * shape->k) +
                      4 * bytes(shape->r) + bytes(2 * kKeys);
  facts.lanes = lanesDividing({shape->k});
  return success();
}

LogicalResult cuda::emitPagedAttention(EmitContext &context) {
  auto shape = describePagedAttention(context.kernel);
  if (failed(shape))
    return failure();
  PagedBlock(context, *shape).emit();
  return success();
}
