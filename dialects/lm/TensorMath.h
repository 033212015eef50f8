// Short spellings for arithmetic on tensors, for code that builds many
// elementwise operations in a row.
#ifndef LMC_DIALECTS_LM_TENSORMATH_H
#define LMC_DIALECTS_LM_TENSORMATH_H

#include "dialects/lm/Lm.h"

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/Math/IR/Math.h"

namespace lmc::lm {

class TensorMath {
public:
  TensorMath(mlir::OpBuilder &builder, mlir::Location loc)
      : b(builder), loc(loc) {}

  using Value = mlir::Value;
  using Type = mlir::RankedTensorType;

  static Type typeOf(Value v) { return mlir::cast<Type>(v.getType()); }

  Value constant(Type type, double number) {
    mlir::Attribute element;
    if (mlir::isa<mlir::FloatType>(type.getElementType()))
      element = b.getFloatAttr(type.getElementType(), number);
    else
      element = b.getIntegerAttr(type.getElementType(), int64_t(number));
    // A constant has a static shape; where rows are counted at run time, one
    // number is repeated.
    Type constant =
        type.hasStaticShape() ? type : Type::get({}, type.getElementType());
    Value value = b.create<mlir::arith::ConstantOp>(
        loc, mlir::DenseElementsAttr::get(constant, element));
    return type.hasStaticShape() ? value : broadcastScalar(value, type);
  }
  Value add(Value x, Value y) {
    return b.create<mlir::arith::AddFOp>(loc, x, y);
  }
  Value sub(Value x, Value y) {
    return b.create<mlir::arith::SubFOp>(loc, x, y);
  }
  Value mul(Value x, Value y) {
    return b.create<mlir::arith::MulFOp>(loc, x, y);
  }
  Value div(Value x, Value y) {
    return b.create<mlir::arith::DivFOp>(loc, x, y);
  }
  Value add(Value x, double c) { return add(x, constant(typeOf(x), c)); }
  Value mul(Value x, double c) { return mul(x, constant(typeOf(x), c)); }
  Value neg(Value x) { return b.create<mlir::arith::NegFOp>(loc, x); }
  Value exp(Value x) { return b.create<mlir::math::ExpOp>(loc, x); }
  Value log(Value x) { return b.create<mlir::math::LogOp>(loc, x); }
  Value tanh(Value x) { return b.create<mlir::math::TanhOp>(loc, x); }
  Value erf(Value x) { return b.create<mlir::math::ErfOp>(loc, x); }
  Value sqrt(Value x) { return b.create<mlir::math::SqrtOp>(loc, x); }
  // 1 / (1 + exp(-x))
  Value sigmoid(Value x) {
    Value one = constant(typeOf(x), 1.0);
    return div(one, add(one, exp(neg(x))));
  }
  Value select(Value condition, Value x, Value y) {
    return b.create<mlir::arith::SelectOp>(loc, condition, x, y);
  }
  Value compare(mlir::arith::CmpFPredicate predicate, Value x, Value y) {
    return b.create<mlir::arith::CmpFOp>(loc, predicate, x, y);
  }

  // `x` repeated to `type`; dim i becomes dim dims[i].
  Value broadcast(Value x, Type type, mlir::ArrayRef<int64_t> dims) {
    Type result = Type::get(type.getShape(), typeOf(x).getElementType());
    return b.create<BroadcastOp>(loc, result, x, b.getDenseI64ArrayAttr(dims));
  }
  Value broadcastScalar(Value x, Type type) { return broadcast(x, type, {}); }
  // Aligns x's dims with the last dims of `type`.
  Value broadcastSuffix(Value x, Type type) {
    int64_t count = typeOf(x).getRank(), first = type.getRank() - count;
    mlir::SmallVector<int64_t> dims;
    for (int64_t i = 0; i < count; ++i)
      dims.push_back(first + i);
    return broadcast(x, type, dims);
  }
  // Aligns x's dims with the first dims of `type`.
  Value broadcastPrefix(Value x, Type type) {
    mlir::SmallVector<int64_t> dims;
    for (int64_t i = 0, e = typeOf(x).getRank(); i < e; ++i)
      dims.push_back(i);
    return broadcast(x, type, dims);
  }

  Value reduce(llvm::StringRef kind, Value x, mlir::ArrayRef<int64_t> dims) {
    Type type = typeOf(x);
    mlir::SmallVector<int64_t> shape;
    for (int64_t i = 0, e = type.getRank(); i < e; ++i)
      if (!llvm::is_contained(dims, i))
        shape.push_back(type.getDimSize(i));
    return b.create<ReduceOp>(loc, Type::get(shape, type.getElementType()),
                              b.getStringAttr(kind), x,
                              b.getDenseI64ArrayAttr(dims));
  }
  // Over the last dim.
  Value reduceLast(llvm::StringRef kind, Value x) {
    return reduce(kind, x, {typeOf(x).getRank() - 1});
  }
  // Over all dims but the last `kept`.
  Value sumLeading(Value x, int64_t kept) {
    mlir::SmallVector<int64_t> dims;
    for (int64_t i = 0, e = typeOf(x).getRank() - kept; i < e; ++i)
      dims.push_back(i);
    return reduce("sum", x, dims);
  }

  Value contract(Value lhs, mlir::ArrayRef<int64_t> lhsDims, Value rhs,
                 mlir::ArrayRef<int64_t> rhsDims, Type type) {
    return b.create<ContractOp>(loc, type, lhs, rhs,
                                b.getDenseI64ArrayAttr(lhsDims),
                                b.getDenseI64ArrayAttr(rhsDims));
  }

private:
  mlir::OpBuilder &b;
  mlir::Location loc;
};

// 0, 1, ..., count - 1, shifted by `first`.
inline mlir::SmallVector<int64_t> dimRange(int64_t first, int64_t count) {
  mlir::SmallVector<int64_t> dims;
  for (int64_t i = 0; i < count; ++i)
    dims.push_back(first + i);
  return dims;
}

} // namespace lmc::lm

#endif // LMC_DIALECTS_LM_TENSORMATH_H
