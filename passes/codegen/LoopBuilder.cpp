// The vocabulary in which all kernels are written; see LoopBuilder.h.
#include "passes/codegen/LoopBuilder.h"

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/Math/IR/Math.h"
#include "mlir/Dialect/SCF/IR/SCF.h"
#include "mlir/Dialect/Vector/IR/VectorOps.h"
#include "mlir/IR/Matchers.h"

using namespace mlir;
using namespace lmc::codegen;

Type LoopBuilder::ptrType() {
  return LLVM::LLVMPointerType::get(builder.getContext());
}

VectorType LoopBuilder::vectorOf(Type element, int64_t count) {
  return VectorType::get({count ? count : lanes}, element);
}

Value LoopBuilder::i64(int64_t value) {
  return builder.create<arith::ConstantOp>(loc,
                                           builder.getI64IntegerAttr(value));
}
Value LoopBuilder::i32(int64_t value) {
  return builder.create<arith::ConstantOp>(loc,
                                           builder.getI32IntegerAttr(value));
}
Value LoopBuilder::f32(double value) {
  return builder.create<arith::ConstantOp>(loc, builder.getF32FloatAttr(value));
}
Value LoopBuilder::boolean(bool value) {
  return builder.create<arith::ConstantOp>(loc, builder.getBoolAttr(value));
}
Value LoopBuilder::zeros(Type type) {
  return builder.create<arith::ConstantOp>(loc, builder.getZeroAttr(type));
}
Value LoopBuilder::splat(Value scalar, int64_t count) {
  return builder.create<vector::BroadcastOp>(
      loc, vectorOf(scalar.getType(), count), scalar);
}
Value LoopBuilder::splatF32(double value) {
  return builder.create<arith::ConstantOp>(
      loc, DenseElementsAttr::get(floats(), static_cast<float>(value)));
}
Value LoopBuilder::iota32() {
  SmallVector<int32_t> lane(lanes);
  for (int64_t i = 0; i < lanes; ++i)
    lane[i] = static_cast<int32_t>(i);
  return builder.create<arith::ConstantOp>(
      loc, DenseElementsAttr::get(vectorOf(builder.getI32Type()),
                                  ArrayRef<int32_t>(lane)));
}

std::optional<int64_t> LoopBuilder::constantOf(Value value) {
  APInt constant;
  if (matchPattern(value, m_ConstantInt(&constant)))
    return constant.getSExtValue();
  return std::nullopt;
}

template <typename Op> Value LoopBuilder::binary(Value a, Value b) {
  return builder.createOrFold<Op>(loc, a, b);
}

Value LoopBuilder::add(Value a, Value b) { return binary<arith::AddIOp>(a, b); }
Value LoopBuilder::sub(Value a, Value b) { return binary<arith::SubIOp>(a, b); }
Value LoopBuilder::mul(Value a, Value b) { return binary<arith::MulIOp>(a, b); }
Value LoopBuilder::div(Value a, Value b) {
  return binary<arith::DivUIOp>(a, b);
}
Value LoopBuilder::rem(Value a, Value b) {
  return binary<arith::RemUIOp>(a, b);
}
Value LoopBuilder::min(Value a, Value b) {
  return binary<arith::MinSIOp>(a, b);
}
Value LoopBuilder::max(Value a, Value b) {
  return binary<arith::MaxSIOp>(a, b);
}
Value LoopBuilder::ceilDiv(Value a, int64_t b) { return div(add(a, b - 1), b); }
Value LoopBuilder::less(Value a, Value b) {
  return builder.createOrFold<arith::CmpIOp>(loc, arith::CmpIPredicate::slt, a,
                                             b);
}
Value LoopBuilder::equal(Value a, Value b) {
  return builder.createOrFold<arith::CmpIOp>(loc, arith::CmpIPredicate::eq, a,
                                             b);
}
Value LoopBuilder::toI32(Value value) {
  return builder.createOrFold<arith::TruncIOp>(loc, builder.getI32Type(),
                                               value);
}
Value LoopBuilder::toI64(Value value) {
  return builder.createOrFold<arith::ExtSIOp>(loc, builder.getI64Type(), value);
}

Value LoopBuilder::addf(Value a, Value b) {
  return builder.create<arith::AddFOp>(loc, a, b);
}
Value LoopBuilder::subf(Value a, Value b) {
  return builder.create<arith::SubFOp>(loc, a, b);
}
Value LoopBuilder::mulf(Value a, Value b) {
  return builder.create<arith::MulFOp>(loc, a, b);
}
Value LoopBuilder::fma(Value a, Value b, Value c) {
  return builder.create<math::FmaOp>(loc, a, b, c);
}
Value LoopBuilder::maxf(Value a, Value b) {
  // One instruction; arith.maximumf orders NaN and zeros at thrice the cost.
  Value greater =
      builder.create<arith::CmpFOp>(loc, arith::CmpFPredicate::OGT, a, b);
  return select(greater, a, b);
}
Value LoopBuilder::select(Value mask, Value a, Value b) {
  return builder.create<arith::SelectOp>(loc, mask, a, b);
}
Value LoopBuilder::shuffle(Value a, Value b, ArrayRef<int64_t> order) {
  return builder.create<vector::ShuffleOp>(loc, a, b, order);
}
Value LoopBuilder::andMask(Value a, Value b) {
  if (!a || !b)
    return a ? a : b;
  return builder.create<arith::AndIOp>(loc, a, b);
}

Value LoopBuilder::reduceLanes(Value vector, bool isMax) {
  int64_t count = cast<VectorType>(vector.getType()).getNumElements();
  while (count > 1) {
    count /= 2;
    SmallVector<int64_t> low(count), high(count);
    for (int64_t i = 0; i < count; ++i) {
      low[i] = i;
      high[i] = i + count;
    }
    Value a = shuffle(vector, vector, low);
    Value b = shuffle(vector, vector, high);
    vector = isMax ? maxf(a, b) : addf(a, b);
  }
  return builder.create<vector::ExtractOp>(loc, vector, int64_t(0));
}

Value LoopBuilder::laneMask(Value count) {
  Value bounded = toI32(min(max(count, i64(0)), lanes));
  return builder.create<arith::CmpIOp>(loc, arith::CmpIPredicate::slt, iota32(),
                                       splat(bounded));
}

Value LoopBuilder::at(Value pointer, Value offset, Type element) {
  if (auto constant = constantOf(offset))
    return at(pointer, *constant, element);
  return builder.create<LLVM::GEPOp>(loc, ptrType(), element, pointer,
                                     ArrayRef<LLVM::GEPArg>{offset});
}
Value LoopBuilder::at(Value pointer, int64_t offset, Type element) {
  if (offset == 0)
    return pointer;
  if (offset >= INT32_MIN && offset <= INT32_MAX)
    return builder.create<LLVM::GEPOp>(
        loc, ptrType(), element, pointer,
        ArrayRef<LLVM::GEPArg>{static_cast<int32_t>(offset)});
  return builder.create<LLVM::GEPOp>(loc, ptrType(), element, pointer,
                                     ArrayRef<LLVM::GEPArg>{i64(offset)});
}

static unsigned bytesOf(Type element) {
  if (isa<LLVM::LLVMPointerType>(element))
    return 8;
  return std::max(1u, element.getIntOrFloatBitWidth() / 8);
}

unsigned LoopBuilder::alignmentOf(Type type) {
  unsigned bytes = bytesOf(getElementTypeOrSelf(type));
  auto vector = dyn_cast<VectorType>(type);
  return aligned && vector ? bytes * vector.getNumElements() : bytes;
}

Value LoopBuilder::loadScalar(Value pointer, Type element) {
  return builder.create<LLVM::LoadOp>(loc, element, pointer, bytesOf(element));
}

Value LoopBuilder::loadVector(Value pointer, Type element, Value mask) {
  Type type = vectorOf(element);
  unsigned alignment = alignmentOf(type);
  if (!mask)
    return builder.create<LLVM::LoadOp>(loc, type, pointer, alignment);
  return builder.create<LLVM::MaskedLoadOp>(loc, type, pointer, mask,
                                            ValueRange{zeros(type)}, alignment);
}

void LoopBuilder::store(Value value, Value pointer, Value mask,
                        bool nonTemporal) {
  unsigned alignment = alignmentOf(value.getType());
  if (mask)
    builder.create<LLVM::MaskedStoreOp>(loc, value, pointer, mask, alignment);
  else
    builder.create<LLVM::StoreOp>(loc, value, pointer,
                                  nonTemporal ? 64 : alignment,
                                  /*isVolatile=*/false, nonTemporal);
}

void LoopBuilder::prefetch(Value pointer, int locality) {
  builder.create<LLVM::Prefetch>(loc, pointer, /*rw=*/0u, unsigned(locality),
                                 /*cache=*/1u);
}

Value LoopBuilder::stackArray(Type element, int64_t count) {
  // In the entry block, so that the frame has a fixed size.
  OpBuilder::InsertionGuard guard(builder);
  Operation *parent = builder.getInsertionBlock()->getParentOp();
  auto function = dyn_cast<LLVM::LLVMFuncOp>(parent);
  if (!function)
    function = parent->getParentOfType<LLVM::LLVMFuncOp>();
  builder.setInsertionPointToStart(&function.getBody().front());
  return builder.create<LLVM::AllocaOp>(loc, ptrType(), element, i64(count),
                                        64);
}

Values LoopBuilder::forLoop(Value begin, Value end, int64_t step,
                            ValueRange initial, const Body &body) {
  auto loop = builder.create<scf::ForOp>(
      loc, begin, end, i64(step), initial,
      [&](OpBuilder &, Location, Value iv, ValueRange carried) {
        // The callback's builder is `builder` itself.
        Values next = body(iv, carried);
        builder.create<scf::YieldOp>(loc, next);
      });
  return Values(loop.getResults().begin(), loop.getResults().end());
}

void LoopBuilder::forLoop(Value begin, Value end, int64_t step,
                          const std::function<void(Value)> &body) {
  forLoop(begin, end, step, ValueRange(), [&](Value iv, ValueRange) {
    body(iv);
    return Values();
  });
}

void LoopBuilder::ifThen(Value condition, const std::function<void()> &body) {
  builder.create<scf::IfOp>(loc, condition, [&](OpBuilder &, Location) {
    body();
    builder.create<scf::YieldOp>(loc);
  });
}

void LoopBuilder::ifThenElse(Value condition,
                             const std::function<void()> &thenBody,
                             const std::function<void()> &elseBody) {
  builder.create<scf::IfOp>(
      loc, condition,
      [&](OpBuilder &, Location) {
        thenBody();
        builder.create<scf::YieldOp>(loc);
      },
      [&](OpBuilder &, Location) {
        elseBody();
        builder.create<scf::YieldOp>(loc);
      });
}
