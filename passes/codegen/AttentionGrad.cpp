// The gradient of attention, from what the forward kept: its output and the
// logarithm of each softmax's denominator.
//
//     P  = exp(scale q k^T - logsumexp)       dV += P^T dO
//     dS = scale P (dO v^T - delta)           dK += dS^T q     dQ += dS k
//     delta = sum(dO o) per query
//
// With dropout, M being 0 or 1 / (1 - rate) as in the forward, dV takes M P
// for P and dS takes M (dO v^T) for dO v^T; delta stays what it is.
//
// A unit is one (sample, group): keys and values are shared by the R query
// heads, whose contributions to dK and dV are added here, in one order. The
// outer loop walks blocks of 64 keys, whose dK and dV stay on the stack, the
// inner one blocks of 32 queries, whose P and dS do. dQ is summed in place.
#include "passes/codegen/Attention.h"

#include "mlir/Dialect/Arith/IR/Arith.h"

using namespace mlir;
using namespace lmc;
using namespace lmc::codegen;

namespace {

constexpr int64_t kQueries = 32;
constexpr int64_t kRows = AttentionShape::kRows;
constexpr int64_t kKeys = AttentionShape::kKeys;

int64_t paddedWidth(const AttentionShape &s) { return (s.k + 15) / 16 * 16; }

class BackwardEmitter : AttentionEmitter {
public:
  BackwardEmitter(EmitContext &context, const AttentionShape &shape)
      : AttentionEmitter(context, shape), padded(paddedWidth(shape)) {}
  void emit();

private:
  int64_t padded;
  Value turnedKeys, turnedValues;     // [k][64]
  Value weights, scoreGradients;      // [32][64]
  Value keyGradients, valueGradients; // [64][padded]
  Value deltas;                       // [R * T]
  Value gradient, output, result;     // of the unit: token 0
  Value logsumexp;                    // [R][T] of the unit

  void emitUnit(Value unit);
  void emitDeltas();
  void emitQueryBlock(Value head, Value query0, Value key0);
  void emitScores(Value head, Value query, Value row, Value key0);
  void addToKeys(Value target, Value left, Value right, int64_t stride,
                 Value queries);
  void addToQueries(Value head, Value query, Value row, Value key0);
  void zero(Value target);
  void writeKeys(Value source, int64_t slot, Value key0);
};

void BackwardEmitter::emit() {
  beginKernel();
  turnedKeys = b.stackArray(f32, padded * kKeys);
  turnedValues = b.stackArray(f32, padded * kKeys);
  weights = b.stackArray(f32, kQueries * kKeys);
  scoreGradients = b.stackArray(f32, kQueries * kKeys);
  keyGradients = b.stackArray(f32, kKeys * padded);
  valueGradients = b.stackArray(f32, kKeys * padded);
  deltas = b.stackArray(f32, s.r * s.t);
  b.forLoop(context.begin, context.end, 1, [&](Value unit) { emitUnit(unit); });
}

void BackwardEmitter::zero(Value target) {
  b.forLoop(b.i64(0), b.i64(kKeys * padded), b.lanes,
            [&](Value at) { b.store(b.splatF32(0), b.atF32(target, at)); });
}

void BackwardEmitter::emitUnit(Value unit) {
  beginUnit(b.div(unit, s.g), b.rem(unit, s.g));
  Value headOffset =
      b.add(b.mul(sample, s.t * s.outputStride()), b.mul(group, s.r * s.k));
  gradient = b.atF32(context.pointers[s.gradient], headOffset);
  output = b.atF32(context.pointers[s.output], headOffset);
  logsumexp = b.atF32(context.pointers[s.logsumexp], b.mul(unit, s.r * s.t));
  result = b.atF32(context.pointers[resultPointerOf(context.kernel, 0)],
                   b.add(b.mul(sample, s.t * s.tokenStride()),
                         b.mul(group, (s.r + 2) * s.k)));
  emitDeltas();
  b.forLoop(b.i64(0), b.i64(s.t), kKeys, [&](Value key0) {
    packTurned(turnedKeys, key0, s.r);
    packTurned(turnedValues, key0, s.r + 1);
    zero(keyGradients);
    zero(valueGradients);
    Value first = firstQuery(key0, kRows);
    Value last = endQuery(key0);
    b.forLoop(b.i64(0), b.i64(s.r), 1, [&](Value head) {
      b.forLoop(first, last, kQueries,
                [&](Value query0) { emitQueryBlock(head, query0, key0); });
    });
    writeKeys(keyGradients, s.r, key0);
    writeKeys(valueGradients, s.r + 1, key0);
  });
}

// delta of every query, and zeros for dQ.
void BackwardEmitter::emitDeltas() {
  b.forLoop(b.i64(0), b.i64(s.t), 1, [&](Value t) {
    b.forLoop(b.i64(0), b.i64(s.r), 1, [&](Value head) {
      Value offset = b.add(b.mul(t, s.outputStride()), b.mul(head, s.k));
      Value sum;
      Value to =
          b.atF32(result, b.add(b.mul(t, s.tokenStride()), b.mul(head, s.k)));
      overHead([&](int64_t column, int64_t vectors, ArrayRef<Value> masks) {
        for (int64_t v = 0; v < vectors; ++v) {
          int64_t at = column + v * b.lanes;
          Value x = b.loadVector(b.atF32(b.atF32(gradient, offset), at), f32,
                                 masks[v]);
          Value y =
              b.loadVector(b.atF32(b.atF32(output, offset), at), f32, masks[v]);
          sum = sum ? b.fma(x, y, sum) : b.mulf(x, y);
          b.store(b.splatF32(0), b.atF32(to, at), masks[v]);
        }
      });
      b.store(b.reduceLanes(sum, false),
              b.atF32(deltas, b.add(b.mul(head, s.t), t)));
    });
  });
}

void BackwardEmitter::emitQueryBlock(Value head, Value query0, Value key0) {
  Value end = b.min(b.add(query0, kQueries), s.t);
  b.forLoop(query0, end, kRows, [&](Value query) {
    emitScores(head, query, b.sub(query, query0), key0);
  });
  Value count = b.sub(end, query0);
  Value headOffset = b.mul(head, s.k);
  addToKeys(valueGradients, weights,
            token(b.atF32(gradient, headOffset), query0, s.outputStride()),
            s.outputStride(), count);
  addToKeys(keyGradients, scoreGradients,
            token(b.atF32(qkv, headOffset), query0, s.tokenStride()),
            s.tokenStride(), count);
  b.forLoop(query0, end, kRows, [&](Value query) {
    addToQueries(head, query, b.sub(query, query0), key0);
  });
}

// P and dS of four queries.
void BackwardEmitter::emitScores(Value head, Value query, Value row,
                                 Value key0) {
  int64_t run = tileVectors * b.lanes;
  if (factors)
    drawFactors(head, query, key0);
  Value headOffset = b.mul(head, s.k);
  Values queries =
      rowPointers(b.atF32(qkv, headOffset), query, s.tokenStride());
  Values gradients =
      rowPointers(b.atF32(gradient, headOffset), query, s.outputStride());
  Values denominators, delta;
  for (int64_t i = 0; i < kRows; ++i) {
    Value t = b.add(query, i);
    if (s.t % kRows)
      t = b.min(t, s.t - 1);
    Value index = b.add(b.mul(head, s.t), t);
    denominators.push_back(b.splat(b.loadF32(b.atF32(logsumexp, index))));
    delta.push_back(b.splat(b.loadF32(b.atF32(deltas, index))));
  }
  Value scale = b.splatF32(s.scale);
  Value rowAt = b.mul(row, kKeys);
  b.forLoop(b.i64(0), b.i64(kKeys), run, [&](Value key) {
    Value weightAt = b.atF32(b.atF32(weights, rowAt), key);
    Value gradientAt = b.atF32(b.atF32(scoreGradients, rowAt), key);
    Values sums = turnedProduct(queries, b.atF32(turnedKeys, key));
    for (int64_t i = 0; i < kRows; ++i)
      for (int64_t v = 0; v < tileVectors; ++v) {
        Value mask =
            visible(b.add(query, i), b.add(b.add(key0, key), v * b.lanes));
        Value negated = b.builder.create<arith::NegFOp>(b.loc, denominators[i]);
        Value weight = exp(b.fma(sums[i * tileVectors + v], scale, negated));
        b.store(b.select(mask, weight, b.splatF32(0)),
                b.atF32(weightAt, i * kKeys + v * b.lanes));
      }
    sums = turnedProduct(gradients, b.atF32(turnedValues, key));
    for (int64_t i = 0; i < kRows; ++i)
      for (int64_t v = 0; v < tileVectors; ++v) {
        int64_t at = i * kKeys + v * b.lanes;
        Value weight = b.loadVector(b.atF32(weightAt, at), f32);
        Value change = sums[i * tileVectors + v];
        if (factors) {
          Value factor = b.loadVector(b.atF32(b.atF32(factors, key), at), f32);
          change = b.mulf(change, factor);
          b.store(b.mulf(weight, factor), b.atF32(weightAt, at));
        }
        change = b.subf(change, delta[i]);
        b.store(b.mulf(b.mulf(weight, scale), change), b.atF32(gradientAt, at));
      }
  });
}

// target [64][padded] += left^T [queries][64] * right [queries][k]
void BackwardEmitter::addToKeys(Value target, Value left, Value right,
                                int64_t stride, Value queries) {
  b.forLoop(b.i64(0), b.i64(kKeys), kRows, [&](Value key) {
    Value to = b.atF32(target, b.mul(key, padded));
    overHead([&](int64_t column, int64_t vectors, ArrayRef<Value> masks) {
      Values sums;
      for (int64_t i = 0; i < kRows; ++i)
        for (int64_t v = 0; v < vectors; ++v)
          sums.push_back(b.loadVector(
              b.atF32(to, i * padded + column + v * b.lanes), f32));
      sums = product(
          kRows, vectors, queries,
          [&](Value step) {
            return b.atF32(b.atF32(left, key), b.mul(step, kKeys));
          },
          1,
          [&](Value step) {
            return b.atF32(token(right, step, stride), column);
          },
          sums, masks);
      for (int64_t i = 0; i < kRows; ++i)
        for (int64_t v = 0; v < vectors; ++v)
          b.store(sums[i * vectors + v],
                  b.atF32(to, i * padded + column + v * b.lanes));
    });
  });
}

// dQ += dS k, four queries.
void BackwardEmitter::addToQueries(Value head, Value query, Value row,
                                   Value key0) {
  Value depth =
      s.t % kKeys ? b.min(b.sub(b.i64(s.t), key0), kKeys) : b.i64(kKeys);
  Value keys = b.atF32(token(qkv, key0, s.tokenStride()), s.r * s.k);
  Values targets =
      rowPointers(b.atF32(result, b.mul(head, s.k)), query, s.tokenStride());
  overHead([&](int64_t column, int64_t vectors, ArrayRef<Value> masks) {
    Values sums;
    for (int64_t i = 0; i < kRows; ++i)
      for (int64_t v = 0; v < vectors; ++v)
        sums.push_back(b.loadVector(b.atF32(targets[i], column + v * b.lanes),
                                    f32, masks[v]));
    sums = product(
        kRows, vectors, depth,
        [&](Value step) {
          return b.atF32(b.atF32(scoreGradients, b.mul(row, kKeys)), step);
        },
        kKeys,
        [&](Value step) {
          return b.atF32(token(keys, step, s.tokenStride()), column);
        },
        sums, masks);
    for (int64_t i = 0; i < kRows; ++i)
      for (int64_t v = 0; v < vectors; ++v) {
        Value mask = masks[v];
        if (s.t % kRows)
          mask = b.andMask(mask, b.splat(b.less(b.add(query, i), b.i64(s.t))));
        b.store(sums[i * vectors + v],
                b.atF32(targets[i], column + v * b.lanes), mask);
      }
  });
}

void BackwardEmitter::writeKeys(Value source, int64_t slot, Value key0) {
  Value end = b.min(b.add(key0, kKeys), s.t);
  b.forLoop(key0, end, 1, [&](Value key) {
    Value from = b.atF32(source, b.mul(b.sub(key, key0), padded));
    Value to = b.atF32(token(result, key, s.tokenStride()), slot * s.k);
    overHead([&](int64_t column, int64_t vectors, ArrayRef<Value> masks) {
      for (int64_t v = 0; v < vectors; ++v) {
        int64_t at = column + v * b.lanes;
        b.store(b.loadVector(b.atF32(from, at), f32), b.atF32(to, at),
                masks[v]);
      }
    });
  });
}

} // namespace

LogicalResult codegen::planAttentionGrad(plan::KernelOp kernel, const Machine &,
                                         KernelFacts &facts) {
  auto shape = describeAttention(kernel);
  if (failed(shape))
    return failure();
  facts.rows = shape->b;
  facts.rowsPerUnit = 1;
  facts.columns = shape->g;
  facts.stackBytes =
      4 * (4 * paddedWidth(*shape) * kKeys + 2 * kQueries * kKeys +
           shape->r * shape->t + shape->factorFloats()) +
      16384;
  return success();
}

LogicalResult codegen::emitAttentionGrad(EmitContext &context) {
  auto shape = describeAttention(context.kernel);
  if (failed(shape))
    return failure();
  BackwardEmitter(context, *shape).emit();
  return success();
}
