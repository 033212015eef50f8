// Lowerable: how layers rewrite themselves as primitives. The formulas are
// those of the operations' descriptions in LmOps.td.
#include "dialects/lm/TensorMath.h"

#include <cmath>

using namespace mlir;
using namespace lmc::lm;

using Results = SmallVectorImpl<Value>;

static RankedTensorType typeOf(Value value) {
  return cast<RankedTensorType>(value.getType());
}

LogicalResult LinearOp::decompose(OpBuilder &builder, Results &results) {
  TensorMath m(builder, getLoc());
  int64_t count = getNumContracted();
  int64_t first = typeOf(getInput()).getRank() - count;
  Value y = m.contract(getInput(), dimRange(first, count), getWeight(),
                       dimRange(0, count), typeOf(getOutput()));
  if (getBias())
    y = m.add(y, m.broadcastSuffix(getBias(), typeOf(y)));
  results.push_back(y);
  return success();
}

LogicalResult GeluOp::decompose(OpBuilder &builder, Results &results) {
  TensorMath m(builder, getLoc());
  Value x = getInput();
  if (getForm() == "quick") {
    results.push_back(m.mul(x, m.sigmoid(m.mul(x, 1.702))));
    return success();
  }
  Value inner;
  if (getForm() == "exact") {
    inner = m.erf(m.mul(x, std::sqrt(0.5)));
  } else {
    Value cube = m.mul(m.mul(x, x), x);
    inner = m.tanh(m.mul(m.add(x, m.mul(cube, 0.044715)),
                         std::sqrt(2.0 / 3.14159265358979323846)));
  }
  results.push_back(m.mul(m.mul(x, 0.5), m.add(inner, 1.0)));
  return success();
}

LogicalResult SiluOp::decompose(OpBuilder &builder, Results &results) {
  TensorMath m(builder, getLoc());
  results.push_back(m.mul(getInput(), m.sigmoid(getInput())));
  return success();
}

LogicalResult ReluOp::decompose(OpBuilder &builder, Results &results) {
  TensorMath m(builder, getLoc());
  Value zero = m.constant(typeOf(getInput()), 0.0);
  Value positive = m.compare(arith::CmpFPredicate::OGT, getInput(), zero);
  results.push_back(m.select(positive, getInput(), zero));
  return success();
}

LogicalResult DropoutOp::decompose(OpBuilder &builder, Results &results) {
  TensorMath m(builder, getLoc());
  auto type = typeOf(getInput());
  Value uniform = builder.create<RandomUniformOp>(
      getLoc(), RankedTensorType::get(type.getShape(), builder.getF32Type()),
      getSeedLow(), getSeedHigh(), getStep(), getIdAttr(), getWholeAttr(),
      getAxesAttr());
  Value rate = m.broadcastScalar(getRate(), type);
  Value kept = m.compare(arith::CmpFPredicate::OGE, uniform, rate);
  Value one = m.constant(type, 1.0);
  Value scaled = m.div(getInput(), m.sub(one, rate));
  results.push_back(m.select(kept, scaled, m.constant(type, 0.0)));
  return success();
}

LogicalResult LayerNormOp::decompose(OpBuilder &builder, Results &results) {
  TensorMath m(builder, getLoc());
  Value x = getInput();
  auto type = typeOf(x);
  double reciprocal = 1.0 / type.getShape().back();
  Value mean = m.mul(m.reduceLast("sum", x), reciprocal);
  Value centered = m.sub(x, m.broadcastPrefix(mean, type));
  Value variance =
      m.mul(m.reduceLast("sum", m.mul(centered, centered)), reciprocal);
  Value one = m.constant(typeOf(variance), 1.0);
  Value rstd =
      m.div(one, m.sqrt(m.add(variance, getEpsilon().convertToDouble())));
  Value normalized = m.mul(centered, m.broadcastPrefix(rstd, type));
  Value y = m.mul(normalized, m.broadcastSuffix(getWeight(), type));
  if (getBias())
    y = m.add(y, m.broadcastSuffix(getBias(), type));
  results.append({y, mean, rstd});
  return success();
}

// With n = (x - mean) rstd and h = gradient weight:
//   dx = rstd (h - mean(h) - n mean(h n)).
LogicalResult LayerNormInputGradOp::decompose(OpBuilder &builder,
                                              Results &results) {
  TensorMath m(builder, getLoc());
  auto type = typeOf(getInput());
  double reciprocal = 1.0 / type.getShape().back();
  Value rstd = m.broadcastPrefix(getRstd(), type);
  Value n = m.mul(m.sub(getInput(), m.broadcastPrefix(getMean(), type)), rstd);
  Value h = m.mul(getGradient(), m.broadcastSuffix(getWeight(), type));
  Value meanH = m.mul(m.reduceLast("sum", h), reciprocal);
  Value meanHN = m.mul(m.reduceLast("sum", m.mul(h, n)), reciprocal);
  Value inner = m.sub(m.sub(h, m.broadcastPrefix(meanH, type)),
                      m.mul(n, m.broadcastPrefix(meanHN, type)));
  results.push_back(m.mul(rstd, inner));
  return success();
}

LogicalResult LayerNormWeightGradOp::decompose(OpBuilder &builder,
                                               Results &results) {
  TensorMath m(builder, getLoc());
  auto type = typeOf(getInput());
  Value n = m.mul(m.sub(getInput(), m.broadcastPrefix(getMean(), type)),
                  m.broadcastPrefix(getRstd(), type));
  results.push_back(m.sumLeading(m.mul(getGradient(), n), 1));
  results.push_back(m.sumLeading(getGradient(), 1));
  return success();
}

LogicalResult RmsNormOp::decompose(OpBuilder &builder, Results &results) {
  TensorMath m(builder, getLoc());
  Value x = getInput();
  auto type = typeOf(x);
  Value meanSquare =
      m.mul(m.reduceLast("sum", m.mul(x, x)), 1.0 / type.getShape().back());
  Value one = m.constant(typeOf(meanSquare), 1.0);
  Value rstd =
      m.div(one, m.sqrt(m.add(meanSquare, getEpsilon().convertToDouble())));
  Value y = m.mul(m.mul(x, m.broadcastPrefix(rstd, type)),
                  m.broadcastSuffix(getWeight(), type));
  results.append({y, rstd});
  return success();
}

// With n = x rstd and h = gradient weight: dx = rstd (h - n mean(h n)).
LogicalResult RmsNormInputGradOp::decompose(OpBuilder &builder,
                                            Results &results) {
  TensorMath m(builder, getLoc());
  auto type = typeOf(getInput());
  Value rstd = m.broadcastPrefix(getRstd(), type);
  Value n = m.mul(getInput(), rstd);
  Value h = m.mul(getGradient(), m.broadcastSuffix(getWeight(), type));
  Value mean =
      m.mul(m.reduceLast("sum", m.mul(h, n)), 1.0 / type.getShape().back());
  results.push_back(
      m.mul(rstd, m.sub(h, m.mul(n, m.broadcastPrefix(mean, type)))));
  return success();
}

LogicalResult RmsNormWeightGradOp::decompose(OpBuilder &builder,
                                             Results &results) {
  TensorMath m(builder, getLoc());
  auto type = typeOf(getInput());
  Value n = m.mul(getInput(), m.broadcastPrefix(getRstd(), type));
  results.push_back(m.sumLeading(m.mul(getGradient(), n), 1));
  return success();
}

// [v = target] as a condition of the logits' shape.
static Value isTarget(OpBuilder &builder, Location loc, TensorMath &m,
                      Value targets, RankedTensorType type) {
  auto indexType = RankedTensorType::get(type.getShape(), builder.getI32Type());
  Value column = builder.create<IotaOp>(loc, indexType, type.getRank() - 1);
  return builder.create<arith::CmpIOp>(loc, arith::CmpIPredicate::eq, column,
                                       m.broadcastPrefix(targets, indexType));
}

LogicalResult CrossEntropyOp::decompose(OpBuilder &builder, Results &results) {
  TensorMath m(builder, getLoc());
  auto type = typeOf(getLogits());
  Value maximum = m.reduceLast("max", getLogits());
  Value shifted = m.sub(getLogits(), m.broadcastPrefix(maximum, type));
  Value logsumexp = m.add(maximum, m.log(m.reduceLast("sum", m.exp(shifted))));
  Value picked = m.select(isTarget(builder, getLoc(), m, getTargets(), type),
                          getLogits(), m.constant(type, 0.0));
  Value loss =
      m.mul(getWeights(), m.sub(logsumexp, m.reduceLast("sum", picked)));
  results.append({loss, logsumexp});
  return success();
}

LogicalResult CrossEntropyGradOp::decompose(OpBuilder &builder,
                                            Results &results) {
  TensorMath m(builder, getLoc());
  auto type = typeOf(getLogits());
  Value probability =
      m.exp(m.sub(getLogits(), m.broadcastPrefix(getLogsumexp(), type)));
  Value oneHot = m.select(isTarget(builder, getLoc(), m, getTargets(), type),
                          m.constant(type, 1.0), m.constant(type, 0.0));
  results.push_back(m.mul(m.sub(probability, oneHot),
                          m.broadcastPrefix(getCoefficient(), type)));
  return success();
}

LogicalResult AdamwUpdateOp::decompose(OpBuilder &builder, Results &results) {
  TensorMath m(builder, getLoc());
  auto type = typeOf(getParameter());
  auto scalar = [&](Value x) { return m.broadcastScalar(x, type); };
  Value one = m.constant(typeOf(getLr()), 1.0);
  Value g = m.mul(getGradient(), scalar(getMultiplier()));
  Value newM = m.add(m.mul(scalar(getBeta1()), getM()),
                     m.mul(scalar(m.sub(one, getBeta1())), g));
  Value newV = m.add(m.mul(scalar(getBeta2()), getV()),
                     m.mul(scalar(m.sub(one, getBeta2())), m.mul(g, g)));
  // Divisions of scalars are done once, not per element.
  Value mHat = m.mul(newM, scalar(m.div(one, getCorrection1())));
  Value vHat = m.mul(newV, scalar(m.div(one, getCorrection2())));
  Value direction =
      m.add(m.div(mHat, m.add(m.sqrt(vHat), scalar(getEpsilon()))),
            m.mul(scalar(getDecay()), getParameter()));
  Value newParameter = m.sub(getParameter(), m.mul(scalar(getLr()), direction));
  Value finite = m.compare(arith::CmpFPredicate::ONE, scalar(getFinite()),
                           m.constant(type, 0.0));
  results.append({m.select(finite, newParameter, getParameter()),
                  m.select(finite, newM, getM()),
                  m.select(finite, newV, getV())});
  return success();
}
