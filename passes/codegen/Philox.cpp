// Random numbers as a function of the element's index; see Philox.h.
#include "passes/codegen/Philox.h"

#include "mlir/Dialect/Arith/IR/Arith.h"

using namespace mlir;
using namespace lmc::codegen;

Philox::Philox(LoopBuilder &b, Value seedLow, Value seedHigh, Value step,
               Value id)
    : b(b), step(step) {
  auto xorWith = [&](Value seed, Value word) {
    Value low =
        b.builder.create<arith::TruncIOp>(b.loc, b.builder.getI32Type(), word);
    return b.builder.create<arith::XOrIOp>(b.loc, seed, low);
  };
  keyLow = xorWith(seedLow, id);
  keyHigh =
      xorWith(seedHigh, b.builder.create<arith::ShRUIOp>(b.loc, id, b.i64(32)));
}

// An i32 constant of the shape of `like`.
static Value constantLike(LoopBuilder &b, Value like, uint32_t value) {
  Value scalar = b.i32(static_cast<int32_t>(value));
  if (auto type = dyn_cast<VectorType>(like.getType()))
    return b.splat(scalar, type.getNumElements());
  return scalar;
}

SmallVector<Value, 4> Philox::rounds(Value blockLow, Value blockHigh) {
  OpBuilder &builder = b.builder;
  auto like = [&](Value scalar) {
    if (auto type = dyn_cast<VectorType>(blockLow.getType()))
      return b.splat(scalar, type.getNumElements());
    return scalar;
  };
  auto bitXor = [&](Value x, Value y) -> Value {
    return builder.create<arith::XOrIOp>(b.loc, x, y);
  };
  Value c0 = blockLow, c1 = blockHigh, c2 = like(step);
  Value c3 = constantLike(b, blockLow, 0);
  Value k0 = like(keyLow), k1 = like(keyHigh);
  Value m0 = constantLike(b, blockLow, 0xD2511F53u);
  Value m1 = constantLike(b, blockLow, 0xCD9E8D57u);
  Value w0 = constantLike(b, blockLow, 0x9E3779B9u);
  Value w1 = constantLike(b, blockLow, 0xBB67AE85u);
  for (int round = 0; round < 10; ++round) {
    if (round > 0) {
      k0 = builder.create<arith::AddIOp>(b.loc, k0, w0);
      k1 = builder.create<arith::AddIOp>(b.loc, k1, w1);
    }
    auto p0 = builder.create<arith::MulUIExtendedOp>(b.loc, c0, m0);
    auto p1 = builder.create<arith::MulUIExtendedOp>(b.loc, c2, m1);
    Value n0 = bitXor(bitXor(p1.getHigh(), c1), k0);
    Value n2 = bitXor(bitXor(p0.getHigh(), c3), k1);
    c0 = n0;
    c1 = p1.getLow();
    c2 = n2;
    c3 = p0.getLow();
  }
  return {c0, c1, c2, c3};
}

Value Philox::pick(ArrayRef<Value> words, Value which) {
  OpBuilder &builder = b.builder;
  auto is = [&](uint32_t word) -> Value {
    return builder.create<arith::CmpIOp>(b.loc, arith::CmpIPredicate::eq, which,
                                         constantLike(b, which, word));
  };
  Value result = words[3];
  for (uint32_t word = 3; word-- > 0;)
    result = b.select(is(word), words[word], result);
  return result;
}

Value Philox::toUniform(Value word) {
  OpBuilder &builder = b.builder;
  Value upper =
      builder.create<arith::ShRUIOp>(b.loc, word, constantLike(b, word, 8));
  Type type = b.builder.getF32Type();
  Value scale = b.f32(0x1p-24);
  if (auto vector = dyn_cast<VectorType>(word.getType())) {
    type = b.vectorOf(type, vector.getNumElements());
    scale = b.splat(scale, vector.getNumElements());
  }
  return b.mulf(builder.create<arith::SIToFPOp>(b.loc, type, upper), scale);
}

// Block of an element: (element / 64) * 16 + element % 16.
static Value blockOf(LoopBuilder &b, Value element) {
  return b.add(b.mul(b.div(element, 64), 16), b.rem(element, 16));
}
static Value highOf(LoopBuilder &b, Value value) {
  return b.toI32(b.builder.create<arith::ShRUIOp>(b.loc, value, b.i64(32)));
}

Value Philox::uniform(Value element) {
  Value block = blockOf(b, element);
  Value which = b.toI32(b.rem(b.div(element, 16), 4));
  return toUniform(pick(rounds(b.toI32(block), highOf(b, block)), which));
}

Value Philox::uniforms(Value index) {
  OpBuilder &builder = b.builder;
  Type i32s = b.vectorOf(b.builder.getI32Type());
  auto splat64 = [&](int64_t value) { return b.splat(b.i64(value)); };
  Value block = builder.create<arith::AddIOp>(
      b.loc,
      builder.create<arith::ShLIOp>(
          b.loc, builder.create<arith::ShRUIOp>(b.loc, index, splat64(6)),
          splat64(4)),
      builder.create<arith::AndIOp>(b.loc, index, splat64(15)));
  Value which = builder.create<arith::TruncIOp>(
      b.loc, i32s,
      builder.create<arith::AndIOp>(
          b.loc, builder.create<arith::ShRUIOp>(b.loc, index, splat64(4)),
          splat64(3)));
  Value low = builder.create<arith::TruncIOp>(b.loc, i32s, block);
  Value high = builder.create<arith::TruncIOp>(
      b.loc, i32s, builder.create<arith::ShRUIOp>(b.loc, block, splat64(32)));
  return toUniform(pick(rounds(low, high), which));
}

SmallVector<Value, 4> Philox::alignedWords(Value element, int64_t part) {
  Value first = b.add(b.mul(b.div(element, 64), 16), part);
  Value low = b.builder.create<arith::AddIOp>(b.loc, b.splat(b.toI32(first)),
                                              b.iota32());
  return rounds(low, b.splat(highOf(b, first)));
}
