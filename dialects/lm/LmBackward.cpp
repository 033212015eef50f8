// Differentiable: the backward of each operation. The derivations are in the
// descriptions of the gradient operations in LmOps.td; the rest follows from
// the chain rule.
#include "dialects/lm/TensorMath.h"

#include <cmath>

using namespace mlir;
using namespace lmc::lm;

using Gradients = SmallVectorImpl<Value>;

static RankedTensorType typeOf(Value value) {
  return cast<RankedTensorType>(value.getType());
}

// y[b,t,f] = sum_d x[b,t,d] w[d,f]:  dx = dy w^T,  dw = x^T dy.
// In terms of dims: with C the contracted ones, x = [M..., C...] or
// [C..., M...], w = [C..., N...] or [N..., C...], dy = [M..., N...].
static void contractBackward(OpBuilder &builder, Location loc, Value lhs,
                             ArrayRef<int64_t> lhsDims, Value rhs,
                             ArrayRef<int64_t> rhsDims, Value gradient,
                             ArrayRef<bool> wanted, Gradients &gradients) {
  TensorMath m(builder, loc);
  int64_t count = lhsDims.size();
  int64_t freeLhs = typeOf(lhs).getRank() - count;
  int64_t freeRhs = typeOf(rhs).getRank() - count;
  bool lhsLeads = lhsDims.front() == 0 && freeLhs > 0;
  bool rhsLeads = rhsDims.front() == 0;
  SmallVector<int64_t> gradientM = dimRange(0, freeLhs);
  SmallVector<int64_t> gradientN = dimRange(freeLhs, freeRhs);
  SmallVector<int64_t> rhsN = dimRange(rhsLeads ? count : 0, freeRhs);
  SmallVector<int64_t> lhsM = dimRange(lhsLeads ? count : 0, freeLhs);
  Value dLhs, dRhs;
  if (wanted[0])
    dLhs = lhsLeads // [C, M] = w[.N.] dy[M, N]
               ? m.contract(rhs, rhsN, gradient, gradientN, typeOf(lhs))
               : m.contract(gradient, gradientN, rhs, rhsN, typeOf(lhs));
  if (wanted[1])
    dRhs = rhsLeads ? m.contract(lhs, lhsM, gradient, gradientM, typeOf(rhs))
                    : m.contract(gradient, gradientM, lhs, lhsM, typeOf(rhs));
  gradients.append({dLhs, dRhs});
}

LogicalResult ContractOp::buildBackward(OpBuilder &builder,
                                        ArrayRef<Value> resultGradients,
                                        ArrayRef<bool> wanted,
                                        Gradients &gradients) {
  contractBackward(builder, getLoc(), getLhs(), getLhsDims(), getRhs(),
                   getRhsDims(), resultGradients[0], wanted, gradients);
  return success();
}

LogicalResult LinearOp::buildBackward(OpBuilder &builder,
                                      ArrayRef<Value> resultGradients,
                                      ArrayRef<bool> wanted,
                                      Gradients &gradients) {
  int64_t count = getNumContracted();
  int64_t first = typeOf(getInput()).getRank() - count;
  contractBackward(builder, getLoc(), getInput(), dimRange(first, count),
                   getWeight(), dimRange(0, count), resultGradients[0], wanted,
                   gradients);
  if (getBias()) {
    TensorMath m(builder, getLoc());
    gradients.push_back(wanted[2] ? m.sumLeading(resultGradients[0],
                                                 typeOf(getBias()).getRank())
                                  : Value());
  }
  return success();
}

LogicalResult BroadcastOp::buildBackward(OpBuilder &builder,
                                         ArrayRef<Value> resultGradients,
                                         ArrayRef<bool>, Gradients &gradients) {
  SmallVector<int64_t> reduced;
  for (int64_t i = 0, e = typeOf(getOutput()).getRank(); i < e; ++i)
    if (!llvm::is_contained(getDims(), i))
      reduced.push_back(i);
  TensorMath m(builder, getLoc());
  gradients.push_back(reduced.empty()
                          ? resultGradients[0]
                          : m.reduce("sum", resultGradients[0], reduced));
  return success();
}

LogicalResult ReduceOp::buildBackward(OpBuilder &builder,
                                      ArrayRef<Value> resultGradients,
                                      ArrayRef<bool>, Gradients &gradients) {
  if (getKind() != "sum")
    return emitOpError() << "of kind '" << getKind() << "' has no gradient";
  SmallVector<int64_t> kept;
  for (int64_t i = 0, e = typeOf(getInput()).getRank(); i < e; ++i)
    if (!llvm::is_contained(getDims(), i))
      kept.push_back(i);
  TensorMath m(builder, getLoc());
  gradients.push_back(
      m.broadcast(resultGradients[0], typeOf(getInput()), kept));
  return success();
}

LogicalResult ReshapeOp::buildBackward(OpBuilder &builder,
                                       ArrayRef<Value> resultGradients,
                                       ArrayRef<bool>, Gradients &gradients) {
  gradients.push_back(builder.create<ReshapeOp>(getLoc(), getInput().getType(),
                                                resultGradients[0]));
  return success();
}

LogicalResult EmbeddingOp::buildBackward(OpBuilder &builder,
                                         ArrayRef<Value> resultGradients,
                                         ArrayRef<bool> wanted,
                                         Gradients &gradients) {
  Value dTable;
  if (wanted[0])
    dTable = builder.create<EmbeddingGradOp>(getLoc(), getTable().getType(),
                                             getIndices(), resultGradients[0]);
  gradients.append({dTable, Value()});
  return success();
}

LogicalResult GeluOp::buildBackward(OpBuilder &builder,
                                    ArrayRef<Value> resultGradients,
                                    ArrayRef<bool>, Gradients &gradients) {
  TensorMath m(builder, getLoc());
  Value x = getInput();
  const double pi = 3.14159265358979323846;
  Value slope;
  if (getForm() == "quick") {
    // s + 1.702 x s (1 - s), s = sigmoid(1.702 x)
    Value s = m.sigmoid(m.mul(x, 1.702));
    Value one = m.constant(typeOf(x), 1.0);
    slope = m.add(s, m.mul(m.mul(m.mul(x, 1.702), s), m.sub(one, s)));
  } else if (getForm() == "exact") {
    // (1 + erf(x / sqrt 2)) / 2 + x exp(-x^2 / 2) / sqrt(2 pi)
    Value cdf = m.mul(m.add(m.erf(m.mul(x, std::sqrt(0.5))), 1.0), 0.5);
    Value density =
        m.mul(m.exp(m.mul(m.mul(x, x), -0.5)), 1.0 / std::sqrt(2.0 * pi));
    slope = m.add(cdf, m.mul(x, density));
  } else {
    // With t = tanh(u), u = c (x + a x^3):
    // (1 + t) / 2 + x (1 - t^2) c (1 + 3 a x^2) / 2
    const double c = std::sqrt(2.0 / pi), a = 0.044715;
    Value square = m.mul(x, x);
    Value u = m.mul(m.mul(x, m.add(m.mul(square, a), 1.0)), c);
    Value t = m.tanh(u);
    Value one = m.constant(typeOf(x), 1.0);
    Value inner = m.mul(m.add(m.mul(square, 3.0 * a), 1.0), 0.5 * c);
    slope = m.add(m.mul(m.add(t, 1.0), 0.5),
                  m.mul(m.mul(x, m.sub(one, m.mul(t, t))), inner));
  }
  gradients.push_back(m.mul(resultGradients[0], slope));
  return success();
}

LogicalResult SiluOp::buildBackward(OpBuilder &builder,
                                    ArrayRef<Value> resultGradients,
                                    ArrayRef<bool>, Gradients &gradients) {
  // s (1 + x (1 - s)), s = sigmoid(x)
  TensorMath m(builder, getLoc());
  Value s = m.sigmoid(getInput());
  Value one = m.constant(typeOf(getInput()), 1.0);
  Value slope = m.mul(s, m.add(one, m.mul(getInput(), m.sub(one, s))));
  gradients.push_back(m.mul(resultGradients[0], slope));
  return success();
}

LogicalResult ReluOp::buildBackward(OpBuilder &builder,
                                    ArrayRef<Value> resultGradients,
                                    ArrayRef<bool>, Gradients &gradients) {
  TensorMath m(builder, getLoc());
  Value zero = m.constant(typeOf(getInput()), 0.0);
  Value positive = m.compare(arith::CmpFPredicate::OGT, getInput(), zero);
  gradients.push_back(m.select(positive, resultGradients[0], zero));
  return success();
}

LogicalResult DropoutOp::buildBackward(OpBuilder &builder,
                                       ArrayRef<Value> resultGradients,
                                       ArrayRef<bool>, Gradients &gradients) {
  // The same mask, drawn again.
  Value dInput = builder.create<DropoutOp>(
      getLoc(), getInput().getType(), resultGradients[0], getRate(),
      getSeedLow(), getSeedHigh(), getStep(), getIdAttr(), getWholeAttr(),
      getAxesAttr());
  gradients.append({dInput, Value(), Value(), Value(), Value()});
  return success();
}

LogicalResult LayerNormOp::buildBackward(OpBuilder &builder,
                                         ArrayRef<Value> resultGradients,
                                         ArrayRef<bool> wanted,
                                         Gradients &gradients) {
  if (resultGradients[1] || resultGradients[2])
    return emitOpError() << "has no gradient through its statistics";
  Value dy = resultGradients[0], dInput, dWeight, dBias;
  if (wanted[0])
    dInput = builder.create<LayerNormInputGradOp>(
        getLoc(), getInput().getType(), dy, getInput(), getWeight(), getMean(),
        getRstd());
  if (wanted[1] || (getBias() && wanted[2])) {
    auto op = builder.create<LayerNormWeightGradOp>(
        getLoc(), getWeight().getType(), getWeight().getType(), dy, getInput(),
        getMean(), getRstd());
    dWeight = op.getWeightGradient();
    dBias = op.getBiasGradient();
  }
  gradients.append({dInput, dWeight});
  if (getBias())
    gradients.push_back(dBias);
  return success();
}

LogicalResult RmsNormOp::buildBackward(OpBuilder &builder,
                                       ArrayRef<Value> resultGradients,
                                       ArrayRef<bool> wanted,
                                       Gradients &gradients) {
  if (resultGradients[1])
    return emitOpError() << "has no gradient through its statistic";
  Value dy = resultGradients[0], dInput, dWeight;
  if (wanted[0])
    dInput = builder.create<RmsNormInputGradOp>(
        getLoc(), getInput().getType(), dy, getInput(), getWeight(), getRstd());
  if (wanted[1])
    dWeight = builder.create<RmsNormWeightGradOp>(
        getLoc(), getWeight().getType(), dy, getInput(), getRstd());
  gradients.append({dInput, dWeight});
  return success();
}

LogicalResult RopeOp::buildBackward(OpBuilder &builder,
                                    ArrayRef<Value> resultGradients,
                                    ArrayRef<bool>, Gradients &gradients) {
  Value dInput = builder.create<RopeOp>(
      getLoc(), getInput().getType(), resultGradients[0], getPositions(),
      getTable(), getLayoutAttr(), getNumRotatedAttr(),
      builder.getBoolAttr(!getInverse()));
  gradients.append({dInput, Value(), Value()});
  return success();
}

LogicalResult AttentionOp::buildBackward(OpBuilder &builder,
                                         ArrayRef<Value> resultGradients,
                                         ArrayRef<bool>, Gradients &gradients) {
  if (resultGradients[1])
    return emitOpError() << "has no gradient through its statistic";
  Value dQkv = builder.create<AttentionGradOp>(
      getLoc(), getQkv().getType(), getQkv(), getOutput(), getLogsumexp(),
      resultGradients[0], getSegments(), getRate(), getSeedLow(), getSeedHigh(),
      getStep(), getScaleAttr(), getCausalAttr(), getWindowAttr(), getIdAttr(),
      getWholeAttr(), getAxesAttr());
  gradients.push_back(dQkv);
  gradients.append(getNumOperands() - 1, Value());
  return success();
}

LogicalResult CrossEntropyOp::buildBackward(OpBuilder &builder,
                                            ArrayRef<Value> resultGradients,
                                            ArrayRef<bool>,
                                            Gradients &gradients) {
  if (resultGradients[1])
    return emitOpError() << "has no gradient through its statistic";
  TensorMath m(builder, getLoc());
  Value coefficient = m.mul(resultGradients[0], getWeights());
  Value dLogits = builder.create<CrossEntropyGradOp>(
      getLoc(), getLogits().getType(), getLogits(), getTargets(),
      getLogsumexp(), coefficient);
  gradients.append({dLogits, Value(), Value()});
  return success();
}
