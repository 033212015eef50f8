// softmax(scale q k^T + mask) v, without a tensor of all scores.
//
// A unit is a block of queries of one (sample, group), for all R query heads
// that share its keys. It walks the keys in blocks of 64: turns the keys'
// block to [k][64], and for each tile of 4 queries computes 4 x 64 scores in
// registers, renormalises what it has (online softmax) and adds the weighted
// values. Per query stay the running maximum m, the running sum l and the
// unnormalised output o:
//
//     m' = max(m, max s)   p = exp(s - m')   a = exp(m - m')
//     l' = a l + sum p     o' = a o + p v    at the end: o / l, m + log l
//
// Dropout applies to the p that are added to o, not to those in l.
//
// A block that a query sees nothing of changes nothing, not even a bit (a = 1,
// p = 0), so results do not depend on how queries are cut into blocks.
#include "passes/codegen/Attention.h"
#include "passes/codegen/Contraction.h"

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/Math/IR/Math.h"
#include "mlir/Dialect/Vector/IR/VectorOps.h"

#include <limits>

using namespace mlir;
using namespace lmc;
using namespace lmc::codegen;

FailureOr<AttentionShape> codegen::describeAttention(plan::KernelOp kernel) {
  AttentionShape shape;
  Operation *found = nullptr;
  for (Operation &op : kernel.getBody().front().without_terminator()) {
    if (found || !isa<lm::AttentionOp, lm::AttentionGradOp>(op))
      return op.emitOpError() << "in a kernel of kind '" << kernel.getKind()
                              << "', which holds that operation alone";
    found = &op;
  }
  if (!found)
    return kernel.emitOpError()
           << "of kind '" << kernel.getKind() << "' holds no such operation";
  auto argumentOf = [&](Value value) -> int64_t {
    auto argument = dyn_cast_if_present<BlockArgument>(value);
    return argument ? int64_t(argument.getArgNumber()) : -1;
  };
  Value qkv;
  auto takeDropout = [&](auto op) {
    if (!op.getRate())
      return;
    shape.draws = true;
    shape.id = op.getId();
    shape.numbersPerQuery = op.getDrawnPerElement();
    shape.rate = argumentOf(op.getRate());
    shape.seedLow = argumentOf(op.getSeedLow());
    shape.seedHigh = argumentOf(op.getSeedHigh());
    shape.step = argumentOf(op.getStep());
    shape.wholeG = op.getWhole() ? (*op.getWhole())[1] : 0;
  };
  if (auto op = dyn_cast<lm::AttentionOp>(found)) {
    qkv = op.getQkv();
    shape.segments = argumentOf(op.getSegments());
    shape.scale = op.getScale().convertToFloat();
    shape.causal = op.getCausal();
    shape.window = op.getWindow();
    takeDropout(op);
  } else {
    auto grad = cast<lm::AttentionGradOp>(found);
    qkv = grad.getQkv();
    shape.segments = argumentOf(grad.getSegments());
    shape.output = argumentOf(grad.getOutput());
    shape.logsumexp = argumentOf(grad.getLogsumexp());
    shape.gradient = argumentOf(grad.getGradient());
    shape.scale = grad.getScale().convertToFloat();
    shape.causal = grad.getCausal();
    shape.window = grad.getWindow();
    takeDropout(grad);
  }
  for (Value operand : found->getOperands())
    if (!isa<BlockArgument>(operand))
      return found->emitOpError()
             << "in a kernel must read arguments of the kernel";
  shape.qkv = argumentOf(qkv);
  auto type = cast<RankedTensorType>(qkv.getType());
  if (!type.hasStaticShape())
    return found->emitOpError() << "must have a static shape, not " << type;
  shape.b = type.getDimSize(0);
  shape.t = type.getDimSize(1);
  shape.g = type.getDimSize(2);
  shape.r = type.getDimSize(3) - 2;
  shape.k = type.getDimSize(4);
  if (!shape.wholeG)
    shape.wholeG = shape.g;
  return shape;
}

//===----------------------------------------------------------------------===//
// Shared pieces
//===----------------------------------------------------------------------===//

AttentionEmitter::AttentionEmitter(EmitContext &context,
                                   const AttentionShape &shape)
    : context(context), s(shape), b(context.b.builder, context.b.loc,
                                    context.block          ? shape.blockLanes()
                                    : context.machine.wide ? 16
                                                           : 8,
                                    /*aligned=*/context.block != nullptr),
      f32(context.b.builder.getF32Type()),
      tileVectors(context.machine.wide ? 4 : 2) {}

void AttentionEmitter::beginKernel() {
  if (!s.draws)
    return;
  Type i32 = b.builder.getI32Type();
  auto integer = [&](int64_t argument) {
    return b.loadScalar(context.pointers[argument], i32);
  };
  bool isGiven = !s.id;
  Value id = isGiven ? context.randoms[0] : b.i64(*s.id);
  firstNumber = isGiven ? context.randoms[1] : b.i64(0);
  philox.emplace(b, integer(s.seedLow), integer(s.seedHigh), integer(s.step),
                 id);
  Value one = b.f32(1), probability = b.loadF32(context.pointers[s.rate]);
  rate = b.splat(probability);
  kept = b.splat(
      b.builder.create<arith::DivFOp>(b.loc, one, b.subf(one, probability)));
  if (!context.block)
    factors = b.stackArray(f32, AttentionShape::kRows * AttentionShape::kKeys);
}

void AttentionEmitter::drawFactors(Value head, Value query, Value key0) {
  Value row = b.add(b.mul(sample, s.wholeG), group);
  row = b.add(b.mul(b.add(b.mul(row, s.r), head), s.t), query);
  b.forLoop(b.i64(0), b.i64(AttentionShape::kRows), 1, [&](Value i) {
    Value number = b.mul(b.add(row, i), s.numbersPerQuery);
    number = b.add(firstNumber, b.add(number, key0));
    Value to = b.atF32(factors, b.mul(i, AttentionShape::kKeys));
    for (int64_t part = 0; part < 16; part += b.lanes)
      for (auto [w, word] :
           llvm::enumerate(philox->alignedWords(number, part))) {
        Value isKept = b.builder.create<arith::CmpFOp>(
            b.loc, arith::CmpFPredicate::OGE, philox->toUniform(word), rate);
        b.store(b.select(isKept, kept, b.splatF32(0)),
                b.atF32(to, 16 * w + part));
      }
  });
}

void AttentionEmitter::beginUnit(Value newSample, Value newGroup) {
  sample = newSample;
  group = newGroup;
  qkv = b.atF32(context.pointers[s.qkv],
                b.add(b.mul(sample, s.t * s.tokenStride()),
                      b.mul(group, (s.r + 2) * s.k)));
  if (s.segments >= 0)
    segments = b.at(context.pointers[s.segments], b.mul(sample, s.t),
                    b.builder.getI32Type());
}

Values AttentionEmitter::product(int64_t rows, int64_t vectors, Value depth,
                                 const Address &left, int64_t leftStride,
                                 const Address &right, Values sums,
                                 ArrayRef<Value> masks) {
  return b.forLoop(
      b.i64(0), depth, 1, sums, [&](Value step, ValueRange carried) {
        Values next(carried.begin(), carried.end());
        Value from = right(step), leftAt = left(step);
        Values columns;
        for (int64_t v = 0; v < vectors; ++v)
          columns.push_back(b.loadVector(b.atF32(from, v * b.lanes), f32,
                                         masks.empty() ? Value() : masks[v]));
        for (int64_t i = 0; i < rows; ++i) {
          Value element = b.splat(b.loadF32(b.atF32(leftAt, i * leftStride)));
          for (int64_t v = 0; v < vectors; ++v)
            next[i * vectors + v] =
                b.fma(element, columns[v], next[i * vectors + v]);
        }
        return next;
      });
}

Values AttentionEmitter::turnedProduct(ArrayRef<Value> rows, Value turned) {
  return b.forLoop(
      b.i64(0), b.i64(s.k), 1, zeroSums(rows.size() * tileVectors),
      [&](Value step, ValueRange carried) {
        Values next(carried.begin(), carried.end());
        Value from = b.atF32(turned, b.mul(step, AttentionShape::kKeys));
        Values columns;
        for (int64_t v = 0; v < tileVectors; ++v)
          columns.push_back(b.loadVector(b.atF32(from, v * b.lanes), f32));
        for (auto [i, row] : llvm::enumerate(rows)) {
          Value element = b.splat(b.loadF32(b.atF32(row, step)));
          for (int64_t v = 0; v < tileVectors; ++v)
            next[i * tileVectors + v] =
                b.fma(element, columns[v], next[i * tileVectors + v]);
        }
        return next;
      });
}

Values AttentionEmitter::rowPointers(Value base, Value query, int64_t stride) {
  Values rows;
  for (int64_t i = 0; i < AttentionShape::kRows; ++i) {
    Value t = b.add(query, i);
    if (s.t % AttentionShape::kRows)
      t = b.min(t, s.t - 1);
    rows.push_back(token(base, t, stride));
  }
  return rows;
}

void AttentionEmitter::overHead(
    const std::function<void(int64_t, int64_t, ArrayRef<Value>)> &body) {
  int64_t run = tileVectors * b.lanes;
  for (int64_t column = 0; column < s.k; column += run) {
    int64_t width = std::min(run, s.k - column);
    int64_t vectors = (width + b.lanes - 1) / b.lanes;
    SmallVector<Value> masks(vectors);
    if (width % b.lanes != 0)
      masks.back() = b.laneMask(b.i64(width % b.lanes));
    body(column, vectors, masks);
  }
}

void AttentionEmitter::packTurned(Value target, Value key0, int64_t slot) {
  // A square of keys by elements at a time.
  b.forLoop(b.i64(0), b.i64(AttentionShape::kKeys), b.lanes, [&](Value key) {
    Value first = b.add(key0, key);
    Value there = b.sub(b.i64(s.t), first);
    Values pointers;
    for (int64_t i = 0; i < b.lanes; ++i) {
      Value t = b.min(b.add(first, i), s.t - 1);
      pointers.push_back(b.atF32(token(qkv, t, s.tokenStride()), slot * s.k));
    }
    Value valid = s.t % b.lanes || s.t % AttentionShape::kKeys
                      ? b.laneMask(there)
                      : Value();
    b.forLoop(b.i64(0), b.i64(s.k), b.lanes, [&](Value column) {
      Value mask;
      if (s.k % b.lanes)
        mask = b.laneMask(b.sub(b.i64(s.k), column));
      Values rows;
      for (Value pointer : pointers)
        rows.push_back(b.loadVector(b.atF32(pointer, column), f32, mask));
      transposeSquare(b, rows);
      Value to =
          b.atF32(target, b.add(b.mul(column, AttentionShape::kKeys), key));
      for (int64_t i = 0; i < b.lanes; ++i) {
        Value row = valid ? b.select(valid, rows[i], b.splatF32(0)) : rows[i];
        b.store(row, b.atF32(to, i * AttentionShape::kKeys));
      }
    });
  });
}

// Of keys that are some vectors behind the first. A sample's segments begin at
// a multiple of a vector if all samples' do, and end where the next sample's
// do: keys past the end take what is there, and are hidden.
Value AttentionEmitter::segmentsInBlock(Value key) {
  Type i32 = b.builder.getI32Type();
  if (s.t % b.lanes == 0)
    return b.loadVector(b.at(segments, b.min(key, s.t - b.lanes), i32), i32);
  Value vector = b.zeros(b.vectorOf(i32));
  for (int64_t lane = 0; lane < b.lanes; ++lane) {
    Value at = b.min(b.add(key, lane), s.t - 1);
    vector = b.builder.create<vector::InsertOp>(
        b.loc, b.loadScalar(b.at(segments, at, i32), i32), vector, lane);
  }
  return vector;
}

Value AttentionEmitter::visible(Value query, Value key) {
  OpBuilder &builder = b.builder;
  auto compare = [&](arith::CmpIPredicate predicate, Value x,
                     Value y) -> Value {
    return builder.create<arith::CmpIOp>(b.loc, predicate, x, y);
  };
  Type i32 = builder.getI32Type();
  Value keys =
      builder.create<arith::AddIOp>(b.loc, b.splat(b.toI32(key)), b.iota32());
  Value query32 = b.toI32(query);
  Value last = s.causal ? query32 : b.i32(s.t - 1);
  Value mask = compare(arith::CmpIPredicate::sle, keys, b.splat(last));
  if (s.causal) // a tile's last queries may not exist
    mask = b.andMask(mask, b.splat(b.less(query, b.i64(s.t))));
  if (s.window > 0) {
    Value oldest = b.toI32(b.sub(query, s.window));
    mask = b.andMask(mask,
                     compare(arith::CmpIPredicate::sgt, keys, b.splat(oldest)));
  }
  if (segments) {
    Value ofKeys = context.block ? segmentsInBlock(key) : [&] {
      Value there = b.laneMask(b.sub(b.i64(s.t), key));
      return b.loadVector(b.at(segments, key, i32), i32, there);
    }();
    Value ofQuery =
        b.loadScalar(b.at(segments, b.min(query, s.t - 1), i32), i32);
    mask = b.andMask(
        mask, compare(arith::CmpIPredicate::eq, ofKeys, b.splat(ofQuery)));
  }
  return mask;
}

Value AttentionEmitter::exp(Value x) {
  return b.builder.create<math::ExpOp>(b.loc, x);
}

Value AttentionEmitter::firstQuery(Value key0, int64_t step) {
  if (!s.causal && s.window == 0)
    return b.i64(0);
  // Without a causal mask a window reaches back only: all later keys are seen.
  return s.causal ? b.mul(b.div(key0, step), step) : b.i64(0);
}

Value AttentionEmitter::endQuery(Value key0) {
  if (s.window == 0)
    return b.i64(s.t);
  // The last query that sees the block's last key.
  return b.min(b.add(key0, AttentionShape::kKeys + s.window), s.t);
}

//===----------------------------------------------------------------------===//
// The forward kernel
//===----------------------------------------------------------------------===//

namespace {

// Queries of a unit: about 256 rows over all heads of a group.
int64_t queriesPerUnit(const AttentionShape &s) {
  int64_t queries = std::max<int64_t>(256 / s.r / 4 * 4, 16);
  return std::min<int64_t>(queries, (s.t + 3) / 4 * 4);
}

int64_t unitsPerGroup(const AttentionShape &s) {
  return (s.t + queriesPerUnit(s) - 1) / queriesPerUnit(s);
}

int64_t roundUp(int64_t value, int64_t to) {
  return (value + to - 1) / to * to;
}

class ForwardEmitter : AttentionEmitter {
public:
  ForwardEmitter(EmitContext &context, const AttentionShape &shape)
      : AttentionEmitter(context, shape), queries(queriesPerUnit(shape)),
        padded(roundUp(shape.k, 16)) {}
  void emit();

private:
  int64_t queries, padded;
  Value turnedKeys, weights;     // [k][64], [4][64]
  Value outputs, maxima, totals; // [R * queries][padded], [R * queries] x 2
  Value query0, queryEnd;

  void emitUnit(Value unit);
  void emitTile(Value head, Value query, Value key0);
  void emitOutput(Value head);
  Value target(unsigned number);
};

void ForwardEmitter::emit() {
  beginKernel();
  turnedKeys = b.stackArray(f32, roundUp(s.k, 16) * AttentionShape::kKeys);
  weights = b.stackArray(f32, AttentionShape::kRows * AttentionShape::kKeys);
  outputs = b.stackArray(f32, s.r * queries * padded);
  maxima = b.stackArray(f32, s.r * queries);
  totals = b.stackArray(f32, s.r * queries);
  b.forLoop(context.begin, context.end, 1, [&](Value unit) { emitUnit(unit); });
}

void ForwardEmitter::emitUnit(Value unit) {
  int64_t perGroup = unitsPerGroup(s);
  Value rest = b.div(unit, perGroup);
  beginUnit(b.div(rest, s.g), b.rem(rest, s.g));
  query0 = b.mul(b.rem(unit, perGroup), queries);
  queryEnd = b.min(b.add(query0, queries), s.t);

  b.forLoop(b.i64(0), b.i64(s.r * queries), 1, [&](Value row) {
    // Small enough to lose against any score, finite so that m - m' is.
    b.store(b.f32(-1e30), b.atF32(maxima, row));
    b.store(b.f32(0), b.atF32(totals, row));
    b.forLoop(b.i64(0), b.i64(padded), b.lanes, [&](Value column) {
      b.store(b.splatF32(0),
              b.atF32(outputs, b.add(b.mul(row, padded), column)));
    });
  });

  Value keyEnd = s.causal ? queryEnd : b.i64(s.t);
  Value keyBegin = b.i64(0);
  if (s.window > 0)
    keyBegin = b.mul(b.div(b.max(b.sub(query0, s.window - 1), b.i64(0)),
                           AttentionShape::kKeys),
                     AttentionShape::kKeys);
  b.forLoop(keyBegin, keyEnd, AttentionShape::kKeys, [&](Value key0) {
    packTurned(turnedKeys, key0, s.r);
    Value first = b.max(query0, firstQuery(key0, AttentionShape::kRows));
    Value last = b.min(queryEnd, endQuery(key0));
    b.forLoop(b.i64(0), b.i64(s.r), 1, [&](Value head) {
      b.forLoop(first, last, AttentionShape::kRows,
                [&](Value query) { emitTile(head, query, key0); });
    });
  });
  b.forLoop(b.i64(0), b.i64(s.r), 1, [&](Value head) { emitOutput(head); });
}

void ForwardEmitter::emitTile(Value head, Value query, Value key0) {
  constexpr int64_t kRows = AttentionShape::kRows;
  constexpr int64_t kKeys = AttentionShape::kKeys;
  int64_t run = tileVectors * b.lanes;
  // Rows past the last token repeat it; their weights are zero.
  Values rowAt =
      rowPointers(b.atF32(qkv, b.mul(head, s.k)), query, s.tokenStride());
  SmallVector<Values> scores(kRows);
  for (int64_t key = 0; key < kKeys; key += run) {
    Values sums = turnedProduct(rowAt, b.atF32(turnedKeys, key));
    Value scale = b.splatF32(s.scale);
    Value hidden = b.splatF32(-std::numeric_limits<float>::infinity());
    for (int64_t i = 0; i < kRows; ++i)
      for (int64_t v = 0; v < tileVectors; ++v) {
        Value mask = visible(b.add(query, i), b.add(key0, key + v * b.lanes));
        scores[i].push_back(
            b.select(mask, b.mulf(sums[i * tileVectors + v], scale), hidden));
      }
  }
  if (factors)
    drawFactors(head, query, key0);
  Value row = b.add(b.mul(head, queries), b.sub(query, query0));
  Values rescales;
  for (int64_t i = 0; i < kRows; ++i) {
    Value best = scores[i][0];
    for (size_t v = 1; v < scores[i].size(); ++v)
      best = b.maxf(scores[i][v], best);
    Value maxAt = b.atF32(b.atF32(maxima, row), i);
    Value totalAt = b.atF32(b.atF32(totals, row), i);
    Value old = b.loadF32(maxAt);
    Value next = b.maxf(b.reduceLanes(best, true), old);
    Value rescale = exp(b.subf(old, next));
    rescales.push_back(rescale);
    Value spread = b.splat(next), sum;
    for (auto [v, score] : llvm::enumerate(scores[i])) {
      Value weight = exp(b.subf(score, spread));
      int64_t at = i * kKeys + v * b.lanes;
      Value taken = weight;
      if (factors)
        taken = b.mulf(weight, b.loadVector(b.atF32(factors, at), f32));
      b.store(taken, b.atF32(weights, at));
      sum = sum ? b.addf(sum, weight) : weight;
    }
    b.store(next, maxAt);
    b.store(b.fma(b.loadF32(totalAt), rescale, b.reduceLanes(sum, false)),
            totalAt);
  }
  Value depth =
      s.t % kKeys ? b.min(b.sub(b.i64(s.t), key0), kKeys) : b.i64(kKeys);
  Value outputAt = b.atF32(outputs, b.mul(row, padded));
  Value values = b.atF32(token(qkv, key0, s.tokenStride()), (s.r + 1) * s.k);
  overHead([&](int64_t column, int64_t vectors, ArrayRef<Value> masks) {
    Values sums;
    for (int64_t i = 0; i < kRows; ++i) {
      Value spread = b.splat(rescales[i]);
      for (int64_t v = 0; v < vectors; ++v)
        sums.push_back(b.mulf(
            spread,
            b.loadVector(b.atF32(outputAt, i * padded + column + v * b.lanes),
                         f32)));
    }
    sums = product(
        kRows, vectors, depth,
        [&](Value step) { return b.atF32(weights, step); }, kKeys,
        [&](Value step) {
          return b.atF32(token(values, step, s.tokenStride()), column);
        },
        sums, masks);
    for (int64_t i = 0; i < kRows; ++i)
      for (int64_t v = 0; v < vectors; ++v)
        b.store(sums[i * vectors + v],
                b.atF32(outputAt, i * padded + column + v * b.lanes));
  });
}

// Where result `number` of the operation goes; null if nobody wants it.
Value ForwardEmitter::target(unsigned number) {
  Operation *yield = context.kernel.getBody().front().getTerminator();
  for (auto [index, value] : llvm::enumerate(yield->getOperands()))
    if (cast<OpResult>(value).getResultNumber() == number)
      return context.pointers[resultPointerOf(context.kernel, index)];
  return {};
}

void ForwardEmitter::emitOutput(Value head) {
  Value outTarget = target(0), lseTarget = target(1);
  b.forLoop(query0, queryEnd, 1, [&](Value query) {
    Value row = b.add(b.mul(head, queries), b.sub(query, query0));
    Value total = b.loadF32(b.atF32(totals, row));
    Value one = b.builder.create<arith::DivFOp>(b.loc, b.f32(1), total);
    if (outTarget) {
      Value inverse = b.splat(one);
      Value at = b.add(b.mul(sample, s.t), query);
      Value to =
          b.atF32(outTarget, b.add(b.mul(at, s.outputStride()),
                                   b.mul(b.add(b.mul(group, s.r), head), s.k)));
      Value from = b.atF32(outputs, b.mul(row, padded));
      overHead([&](int64_t column, int64_t vectors, ArrayRef<Value> masks) {
        for (int64_t v = 0; v < vectors; ++v) {
          int64_t offset = column + v * b.lanes;
          b.store(b.mulf(inverse, b.loadVector(b.atF32(from, offset), f32)),
                  b.atF32(to, offset), masks[v]);
        }
      });
    }
    if (!lseTarget)
      return;
    Value logTotal = b.builder.create<math::LogOp>(b.loc, total);
    Value logsumexp = b.addf(b.loadF32(b.atF32(maxima, row)), logTotal);
    Value index = b.add(b.mul(sample, s.g), group);
    index = b.add(b.mul(index, s.r), head);
    b.store(logsumexp, b.atF32(lseTarget, b.add(b.mul(index, s.t), query)));
  });
}

} // namespace

LogicalResult codegen::planAttention(plan::KernelOp kernel, const Machine &,
                                     KernelFacts &facts) {
  auto shape = describeAttention(kernel);
  if (failed(shape))
    return failure();
  facts.rows = shape->b;
  facts.rowsPerUnit = 1;
  facts.columns = shape->g * unitsPerGroup(*shape);
  int64_t rows = shape->r * queriesPerUnit(*shape);
  int64_t padded = roundUp(shape->k, 16);
  facts.stackBytes = 4 * (padded * AttentionShape::kKeys +
                          AttentionShape::kRows * AttentionShape::kKeys +
                          shape->factorFloats() + rows * (padded + 2)) +
                     16384;
  return success();
}

LogicalResult codegen::emitAttention(EmitContext &context) {
  auto shape = describeAttention(context.kernel);
  if (failed(shape))
    return failure();
  ForwardEmitter(context, *shape).emit();
  return success();
}
