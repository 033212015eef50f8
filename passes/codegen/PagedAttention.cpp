// The cache of an inference step: writing it, and attention to it.
//
// A unit of the attention is one (token, group). It walks the positions of its
// sequence in blocks of 64, page by page, for all R query heads that share the
// keys, with the same online softmax as the kernel of training:
//
//     pages of the sequence   [ 7 ][ 2 ][ 9 ]            cache rows
//     position p              row pages[p / size] * size + p mod size
//
// Blocks begin at multiples of 64 positions, whatever the page size, and a
// token's work depends on its own position alone: its bits are the same alone
// or in a batch, and for one token at a time or many.
#include "passes/codegen/PagedAttention.h"

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/Math/IR/Math.h"

#include <limits>

using namespace mlir;
using namespace lmc;
using namespace lmc::codegen;

namespace {

constexpr int64_t kKeys = CacheShape::kKeys;
constexpr int64_t kTokensPerUnit = 4;  // of a write
constexpr int64_t kWriteThreads = 128; // of a block, which writes one token

template <typename Op> FailureOr<CacheShape> describe(plan::KernelOp kernel) {
  CacheShape shape;
  Block &block = kernel.getBody().front();
  auto op = dyn_cast<Op>(block.front());
  if (!op || op->getNextNode() != block.getTerminator())
    return kernel.emitOpError() << "of kind '" << kernel.getKind()
                                << "' must hold that operation alone";
  shape.op = op;
  for (Value operand : op->getOperands()) {
    auto argument = dyn_cast<BlockArgument>(operand);
    if (!argument)
      return op.emitOpError() << "in a kernel must read arguments of the "
                                 "kernel";
    shape.arguments.push_back(argument.getArgNumber());
  }
  auto qkv = cast<RankedTensorType>(op.getQkv().getType());
  shape.dynamic = qkv.isDynamicDim(0);
  shape.t = shape.dynamic ? 0 : qkv.getDimSize(0);
  shape.g = qkv.getDimSize(1);
  shape.r = qkv.getDimSize(2) - 2;
  shape.k = qkv.getDimSize(3);
  shape.rows = cast<RankedTensorType>(op.getCache().getType()).getDimSize(0);
  return shape;
}

} // namespace

FailureOr<CacheShape> codegen::describePagedAttention(plan::KernelOp kernel) {
  return describe<lm::PagedAttentionOp>(kernel);
}

Value codegen::loadIndex(LoopBuilder &b, Value pointer, Value at) {
  Type i32 = b.builder.getI32Type();
  return b.toI64(b.loadScalar(b.at(pointer, at, i32), i32));
}

Value codegen::clampIndex(LoopBuilder &b, Value value, int64_t end) {
  return b.max(b.min(value, end - 1), b.i64(0));
}

namespace {

//===----------------------------------------------------------------------===//
// Attention
//===----------------------------------------------------------------------===//

class PagedEmitter {
public:
  PagedEmitter(EmitContext &context, const CacheShape &shape)
      : context(context), s(shape), op(cast<lm::PagedAttentionOp>(shape.op)),
        b(context.b.builder, context.b.loc, context.machine.wide ? 16 : 8),
        f32(context.b.builder.getF32Type()),
        headVectors((shape.k + b.lanes - 1) / b.lanes),
        padded(headVectors * b.lanes) {
    auto pages = cast<RankedTensorType>(op.getPages().getType());
    numSequences = pages.getDimSize(0);
    pagesPerSequence = pages.getDimSize(1);
    if (shape.k % b.lanes)
      lastMask = b.laneMask(b.i64(shape.k % b.lanes));
  }
  void emit();

private:
  EmitContext &context;
  const CacheShape &s;
  lm::PagedAttentionOp op;
  LoopBuilder b;
  Type f32;
  int64_t headVectors, padded;
  int64_t numSequences, pagesPerSequence;
  Value lastMask;
  // On the stack: scores, then weights [R][64]; outputs [R][padded]; maxima
  // and totals [R]; where the block's rows begin in the cache [64].
  Value weights, outputs, maxima, totals, offsets;
  // Of the unit.
  Value queries, position, pages;
  Value groupOffset; // of its key in a row of the cache

  void emitUnit(Value unit);
  void emitBlock(Value key0);
  void emitScores(Value key0, Value numKeys);
  void addValues(Value head, Value numKeys, Value factor);
  Value maskOf(int64_t v) { return v == headVectors - 1 ? lastMask : Value(); }
  Value pointer(unsigned operand) {
    return context.pointers[s.arguments[operand]];
  }
  Value exp(Value x) { return b.builder.create<math::ExpOp>(b.loc, x); }
};

void PagedEmitter::emit() {
  weights = b.stackArray(f32, s.r * kKeys);
  outputs = b.stackArray(f32, s.r * padded);
  maxima = b.stackArray(f32, s.r);
  totals = b.stackArray(f32, s.r);
  offsets = b.stackArray(b.builder.getI64Type(), kKeys);
  b.forLoop(context.begin, context.end, 1, [&](Value unit) { emitUnit(unit); });
}

void PagedEmitter::emitUnit(Value unit) {
  Value token = b.div(unit, s.g), group = b.rem(unit, s.g);
  queries = b.atF32(pointer(0), b.add(b.mul(token, s.tokenStride()),
                                      b.mul(group, (s.r + 2) * s.k)));
  position = clampIndex(b, loadIndex(b, pointer(2), token),
                        pagesPerSequence * op.getPageSize());
  Value sequence = clampIndex(b, loadIndex(b, pointer(3), token), numSequences);
  pages = b.at(pointer(4), b.mul(sequence, pagesPerSequence),
               b.builder.getI32Type());
  groupOffset = b.mul(group, 2 * s.k);

  b.forLoop(b.i64(0), b.i64(s.r), 1, [&](Value head) {
    // Small enough to lose against any score, finite so that m - m' is.
    b.store(b.f32(-1e30), b.atF32(maxima, head));
    b.store(b.f32(0), b.atF32(totals, head));
    for (int64_t v = 0; v < headVectors; ++v)
      b.store(b.splatF32(0),
              b.atF32(b.atF32(outputs, b.mul(head, padded)), v * b.lanes));
  });
  Value begin = b.i64(0);
  if (int64_t window = op.getWindow(); window > 0)
    begin = b.mul(b.div(b.max(b.sub(position, window - 1), b.i64(0)), kKeys),
                  kKeys);
  b.forLoop(begin, b.add(position, 1), kKeys,
            [&](Value key0) { emitBlock(key0); });

  Value target = context.pointers[resultPointerOf(context.kernel, 0)];
  b.forLoop(b.i64(0), b.i64(s.r), 1, [&](Value head) {
    Value total = b.loadF32(b.atF32(totals, head));
    Value inverse = b.splat(
        b.builder.create<arith::DivFOp>(b.loc, b.f32(1), total).getResult());
    Value row = b.add(b.mul(unit, s.r), head);
    Value from = b.atF32(outputs, b.mul(head, padded));
    Value to = b.atF32(target, b.mul(row, s.k));
    for (int64_t v = 0; v < headVectors; ++v)
      b.store(b.mulf(inverse, b.loadVector(b.atF32(from, v * b.lanes), f32)),
              b.atF32(to, v * b.lanes), maskOf(v));
  });
}

void PagedEmitter::emitBlock(Value key0) {
  Value numKeys = b.min(b.sub(b.add(position, 1), key0), kKeys);
  Value hidden = b.splatF32(-std::numeric_limits<float>::infinity());
  b.forLoop(b.i64(0), b.i64(s.r * kKeys), b.lanes,
            [&](Value at) { b.store(hidden, b.atF32(weights, at)); });
  emitScores(key0, numKeys);
  b.forLoop(b.i64(0), b.i64(s.r), 1, [&](Value head) {
    Value scores = b.atF32(weights, b.mul(head, kKeys));
    Values vectors;
    Value best;
    for (int64_t at = 0; at < kKeys; at += b.lanes) {
      vectors.push_back(b.loadVector(b.atF32(scores, at), f32));
      best = best ? b.maxf(vectors.back(), best) : vectors.back();
    }
    Value maxAt = b.atF32(maxima, head), totalAt = b.atF32(totals, head);
    Value old = b.loadF32(maxAt);
    Value next = b.maxf(b.reduceLanes(best, true), old);
    Value factor = exp(b.subf(old, next));
    Value spread = b.splat(next), sum;
    for (auto [index, score] : llvm::enumerate(vectors)) {
      Value weight = exp(b.subf(score, spread));
      b.store(weight, b.atF32(scores, int64_t(index) * b.lanes));
      sum = sum ? b.addf(sum, weight) : weight;
    }
    b.store(next, maxAt);
    b.store(b.fma(b.loadF32(totalAt), factor, b.reduceLanes(sum, false)),
            totalAt);
    addValues(head, numKeys, factor);
  });
}

// scores[head][j] = scale * q . k of the block's keys, and where they lie.
void PagedEmitter::emitScores(Value key0, Value numKeys) {
  int64_t size = op.getPageSize(), window = op.getWindow();
  Type i64 = b.builder.getI64Type();
  b.forLoop(b.i64(0), numKeys, 1, [&](Value j) {
    Value p = b.add(key0, j);
    Value page = loadIndex(b, pages, b.div(p, size));
    Value row = clampIndex(b, b.add(b.mul(page, size), b.rem(p, size)), s.rows);
    Value offset = b.add(b.mul(row, s.rowStride()), groupOffset);
    b.store(offset, b.at(offsets, j, i64));
    auto score = [&] {
      Value key = b.atF32(pointer(1), offset);
      Values keyVectors;
      for (int64_t v = 0; v < headVectors; ++v)
        keyVectors.push_back(
            b.loadVector(b.atF32(key, v * b.lanes), f32, maskOf(v)));
      b.forLoop(b.i64(0), b.i64(s.r), 1, [&](Value head) {
        Value query = b.atF32(queries, b.mul(head, s.k));
        Value sum = b.splatF32(0);
        for (int64_t v = 0; v < headVectors; ++v)
          sum = b.fma(b.loadVector(b.atF32(query, v * b.lanes), f32, maskOf(v)),
                      keyVectors[v], sum);
        Value scaled = b.mulf(b.reduceLanes(sum, false),
                              b.f32(op.getScale().convertToDouble()));
        b.store(scaled, b.atF32(weights, b.add(b.mul(head, kKeys), j)));
      });
    };
    if (window > 0)
      b.ifThen(b.less(b.sub(position, window), p), score);
    else
      score();
  });
}

// outputs[head] = factor * outputs[head] + weights[head] . values
void PagedEmitter::addValues(Value head, Value numKeys, Value factor) {
  Type i64 = b.builder.getI64Type();
  Value outputAt = b.atF32(outputs, b.mul(head, padded));
  Value weightAt = b.atF32(weights, b.mul(head, kKeys));
  constexpr int64_t kRun = 8; // vectors that stay in registers
  for (int64_t first = 0; first < headVectors; first += kRun) {
    int64_t count = std::min(kRun, headVectors - first);
    Values sums;
    for (int64_t v = 0; v < count; ++v)
      sums.push_back(
          b.mulf(b.splat(factor),
                 b.loadVector(b.atF32(outputAt, (first + v) * b.lanes), f32)));
    sums =
        b.forLoop(b.i64(0), numKeys, 1, sums, [&](Value j, ValueRange carried) {
          Values next(carried.begin(), carried.end());
          Value weight = b.splat(b.loadF32(b.atF32(weightAt, j)));
          Value offset = b.loadScalar(b.at(offsets, j, i64), i64);
          Value values = b.atF32(b.atF32(pointer(1), offset), s.k);
          for (int64_t v = 0; v < count; ++v)
            next[v] = b.fma(weight,
                            b.loadVector(b.atF32(values, (first + v) * b.lanes),
                                         f32, maskOf(first + v)),
                            next[v]);
          return next;
        });
    for (int64_t v = 0; v < count; ++v)
      b.store(sums[v], b.atF32(outputAt, (first + v) * b.lanes));
  }
}

} // namespace

LogicalResult codegen::planPagedAttention(plan::KernelOp kernel,
                                          const Machine &, KernelFacts &facts) {
  auto shape = describePagedAttention(kernel);
  if (failed(shape))
    return failure();
  facts.rows = shape->t;
  facts.rowsPerUnit = 1;
  facts.columns = shape->g;
  facts.stackBytes =
      4 * (shape->r * kKeys + shape->r * (shape->k + 18)) + 8 * kKeys + 8192;
  return success();
}

LogicalResult codegen::emitPagedAttention(EmitContext &context) {
  auto shape = describePagedAttention(context.kernel);
  if (failed(shape))
    return failure();
  PagedEmitter(context, *shape).emit();
  return success();
}

//===----------------------------------------------------------------------===//
// Writing
//===----------------------------------------------------------------------===//

LogicalResult codegen::planCacheWrite(plan::KernelOp kernel,
                                      const Machine &machine,
                                      KernelFacts &facts) {
  auto shape = describe<lm::CacheWriteOp>(kernel);
  if (failed(shape))
    return failure();
  if (kernel.getTied()[0] != shape->arguments[0])
    return kernel.emitOpError() << "of kind cache_write must write over the "
                                   "old cache: tied = [0]";
  facts.rows = shape->t;
  facts.rowsPerUnit = machine.gpu ? 1 : kTokensPerUnit;
  facts.columns = 1;
  if (machine.gpu) {
    facts.lanes = lanesDividing({shape->k});
    facts.threads = kWriteThreads;
  }
  facts.stackBytes = 4096;
  return success();
}

LogicalResult codegen::emitCacheWrite(EmitContext &context) {
  auto shape = describe<lm::CacheWriteOp>(context.kernel);
  if (failed(shape))
    return failure();
  const CacheShape &s = *shape;
  LoopBuilder &b = context.b;
  Type f32 = b.builder.getF32Type();
  Value cache = context.pointers[s.arguments[0]];
  Value qkv = context.pointers[s.arguments[1]];
  Value slots = context.pointers[s.arguments[2]];
  Value tokens = s.dynamic ? context.rows : b.i64(s.t);
  int64_t perUnit = context.block ? 1 : kTokensPerUnit;
  Share groups = context.overWarps(), vectors = context.overLanes();
  Value end = b.min(b.mul(context.end, perUnit), tokens);
  b.forLoop(b.mul(context.begin, perUnit), end, 1, [&](Value token) {
    Value slot = loadIndex(b, slots, token);
    Value valid = b.builder.create<arith::CmpIOp>(
        b.loc, arith::CmpIPredicate::ult, slot, b.i64(s.rows));
    b.ifThen(valid, [&] {
      b.forLoop(groups.first, b.i64(s.g), groups.step, [&](Value group) {
        // Key and value lie side by side in both.
        Value from = b.atF32(
            qkv, b.add(b.mul(token, s.tokenStride()),
                       b.add(b.mul(group, (s.r + 2) * s.k), s.r * s.k)));
        Value to = b.atF32(
            cache, b.add(b.mul(slot, s.rowStride()), b.mul(group, 2 * s.k)));
        bool masked = 2 * s.k % b.lanes != 0;
        b.forLoop(vectors.first, b.i64(2 * s.k), vectors.step, [&](Value i) {
          Value mask = masked ? b.laneMask(b.sub(b.i64(2 * s.k), i)) : Value();
          b.store(b.loadVector(b.atF32(from, i), f32, mask), b.atF32(to, i),
                  mask);
        });
      });
    });
  });
  return success();
}
