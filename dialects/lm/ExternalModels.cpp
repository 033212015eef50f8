// Differentiable for operations of arith and math, so that a pass never asks
// for an operation by name.
#include "dialects/lm/ExternalModels.h"

#include "dialects/lm/TensorMath.h"

using namespace mlir;
using namespace lmc::lm;

namespace {

using Gradients = SmallVectorImpl<Value>;

// `Derive` turns (math, op, gradient of the result) into operand gradients.
template <typename Op, void (*Derive)(TensorMath &, Op, Value, Gradients &)>
struct Model : Differentiable::ExternalModel<Model<Op, Derive>, Op> {
  LogicalResult buildBackward(Operation *op, OpBuilder &builder,
                              ArrayRef<Value> resultGradients, ArrayRef<bool>,
                              Gradients &gradients) const {
    TensorMath m(builder, op->getLoc());
    Derive(m, cast<Op>(op), resultGradients[0], gradients);
    return success();
  }
};

void add(TensorMath &, arith::AddFOp, Value dy, Gradients &g) {
  g.append({dy, dy});
}
void sub(TensorMath &m, arith::SubFOp, Value dy, Gradients &g) {
  g.append({dy, m.neg(dy)});
}
void mul(TensorMath &m, arith::MulFOp op, Value dy, Gradients &g) {
  g.append({m.mul(dy, op.getRhs()), m.mul(dy, op.getLhs())});
}
void div(TensorMath &m, arith::DivFOp op, Value dy, Gradients &g) {
  Value dLhs = m.div(dy, op.getRhs());
  g.append({dLhs, m.neg(m.mul(dLhs, op.getResult()))});
}
void neg(TensorMath &m, arith::NegFOp, Value dy, Gradients &g) {
  g.push_back(m.neg(dy));
}
void exp(TensorMath &m, math::ExpOp op, Value dy, Gradients &g) {
  g.push_back(m.mul(dy, op.getResult()));
}
void log(TensorMath &m, math::LogOp op, Value dy, Gradients &g) {
  g.push_back(m.div(dy, op.getOperand()));
}
void tanh(TensorMath &m, math::TanhOp op, Value dy, Gradients &g) {
  Value y = op.getResult();
  Value one = m.constant(TensorMath::typeOf(y), 1.0);
  g.push_back(m.mul(dy, m.sub(one, m.mul(y, y))));
}
void sqrt(TensorMath &m, math::SqrtOp op, Value dy, Gradients &g) {
  g.push_back(m.div(m.mul(dy, 0.5), op.getResult()));
}
void select(TensorMath &m, arith::SelectOp op, Value dy, Gradients &g) {
  Value zero = m.constant(TensorMath::typeOf(dy), 0.0);
  g.append({Value(), m.select(op.getCondition(), dy, zero),
            m.select(op.getCondition(), zero, dy)});
}

} // namespace

void lmc::lm::registerExternalModels(DialectRegistry &registry) {
  registry.addExtension(+[](MLIRContext *context, arith::ArithDialect *) {
    arith::AddFOp::attachInterface<Model<arith::AddFOp, add>>(*context);
    arith::SubFOp::attachInterface<Model<arith::SubFOp, sub>>(*context);
    arith::MulFOp::attachInterface<Model<arith::MulFOp, mul>>(*context);
    arith::DivFOp::attachInterface<Model<arith::DivFOp, div>>(*context);
    arith::NegFOp::attachInterface<Model<arith::NegFOp, neg>>(*context);
    arith::SelectOp::attachInterface<Model<arith::SelectOp, select>>(*context);
  });
  registry.addExtension(+[](MLIRContext *context, math::MathDialect *) {
    math::ExpOp::attachInterface<Model<math::ExpOp, exp>>(*context);
    math::LogOp::attachInterface<Model<math::LogOp, log>>(*context);
    math::TanhOp::attachInterface<Model<math::TanhOp, tanh>>(*context);
    math::SqrtOp::attachInterface<Model<math::SqrtOp, sqrt>>(*context);
  });
}
