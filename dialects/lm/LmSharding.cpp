// Shardable and Costed: the factors of each operation and its FLOPs.
#include "dialects/lm/Lm.h"

#include "mlir/Dialect/Arith/IR/Arith.h"

using namespace mlir;
using namespace lmc::lm;

using Kind = ShardingRule::Kind;
using Dims = ShardingRule::Dims;

static ArrayRef<int64_t> shapeOf(Value value) {
  return cast<RankedTensorType>(value.getType()).getShape();
}

namespace {

// Collects a rule operand by operand. Factors are made by the first tensor
// that has them and named by later ones.
class RuleBuilder {
public:
  explicit RuleBuilder(Operation *op) : op(op) {}

  // New factors for dims [first, first + count) of `value`.
  Dims factors(Value value, int64_t first, int64_t count,
               Kind kind = Kind::Parallel) {
    Dims dims;
    for (int64_t size : shapeOf(value).slice(first, count))
      dims.push_back(rule.addFactor(size, kind));
    return dims;
  }
  Dims factors(Value value, Kind kind = Kind::Parallel) {
    return factors(value, 0, shapeOf(value).size(), kind);
  }
  static Dims concat(const Dims &a, const Dims &b) {
    Dims result(a);
    result.append(b.begin(), b.end());
    return result;
  }
  RuleBuilder &operand(const Dims &dims) {
    rule.operands.push_back(dims);
    return *this;
  }
  RuleBuilder &result(const Dims &dims) {
    rule.results.push_back(dims);
    return *this;
  }
  // The operand added last holds indices into `factor`.
  RuleBuilder &indexes(int64_t factor) {
    rule.indexOperand = static_cast<int64_t>(rule.operands.size()) - 1;
    rule.indexFactor = factor;
    return *this;
  }
  ShardingRule finish() {
    // Operands that take no part (scalars) come last and have no dims.
    while (rule.operands.size() < op->getNumOperands())
      rule.operands.push_back(
          Dims(shapeOf(op->getOperand(rule.operands.size())).size(), -1));
    return std::move(rule);
  }

private:
  Operation *op;
  ShardingRule rule;
};

// Normalisation over the last dim, which stays whole.
struct NormFactors {
  Dims rows, all, last;
  NormFactors(RuleBuilder &b, Value input) {
    int64_t numDims = shapeOf(input).size();
    rows = b.factors(input, 0, numDims - 1);
    last = b.factors(input, numDims - 1, 1, Kind::Replicated);
    all = RuleBuilder::concat(rows, last);
  }
};

} // namespace

ShardingRule lmc::lm::elementwiseRule(Operation *op) {
  ShardingRule rule;
  Dims dims;
  for (int64_t size : shapeOf(op->getResult(0)))
    dims.push_back(rule.addFactor(size));
  for (Value operand : op->getOperands())
    rule.operands.push_back(shapeOf(operand).size() == dims.size() ? dims
                                                                   : Dims());
  for (size_t i = 0; i < op->getNumResults(); ++i)
    rule.results.push_back(dims);
  return rule;
}

void lmc::lm::forEachDim(
    Operation *op, const ShardingRule &rule,
    llvm::function_ref<void(Value, int64_t, int64_t)> visit) {
  auto visitAll = [&](auto range, ArrayRef<Dims> lists) {
    for (auto [value, dims] : llvm::zip(range, lists))
      for (auto [dim, factor] : llvm::enumerate(dims))
        if (factor >= 0)
          visit(value, dim, factor);
  };
  visitAll(op->getOperands(), rule.operands);
  visitAll(op->getResults(), rule.results);
}

std::optional<ShardingRule> lmc::lm::ruleOf(Operation *op) {
  if (auto shardable = dyn_cast<Shardable>(op))
    return shardable.getShardingRule();
  if (op->getNumResults() == 0 || op->getNumOperands() == 0 ||
      !(op->hasTrait<OpTrait::Elementwise>() ||
        op->hasTrait<OpTrait::SameOperandsAndResultType>()))
    return std::nullopt;
  ShardingRule rule = elementwiseRule(op);
  if (isa<arith::AddFOp, arith::SubFOp>(op))
    rule.sumOperands = {0, 1};
  return rule;
}

// The accumulator is partial as what is added to it.
ShardingRule AccumulateOp::getShardingRule() {
  ShardingRule rule = elementwiseRule(*this);
  rule.sumOperands = {1};
  return rule;
}
ShardingRule DropoutOp::getShardingRule() { return elementwiseRule(*this); }
ShardingRule AdamwUpdateOp::getShardingRule() { return elementwiseRule(*this); }
ShardingRule RandomUniformOp::getShardingRule() {
  return elementwiseRule(*this);
}
ShardingRule IotaOp::getShardingRule() { return elementwiseRule(*this); }

ShardingRule BroadcastOp::getShardingRule() {
  RuleBuilder b(*this);
  Dims output = b.factors(getOutput()), input;
  for (int64_t dim : getDims())
    input.push_back(output[dim]);
  return b.operand(input).result(output).finish();
}

ShardingRule ReduceOp::getShardingRule() {
  RuleBuilder b(*this);
  Dims input, output;
  for (int64_t i = 0, e = shapeOf(getInput()).size(); i < e; ++i) {
    bool reduced = llvm::is_contained(getDims(), i);
    Kind kind = !reduced ? Kind::Parallel
                         : (getKind() == "max" ? Kind::Max : Kind::Sum);
    Dims factor = b.factors(getInput(), i, 1, kind);
    input.push_back(factor[0]);
    if (!reduced)
      output.push_back(factor[0]);
  }
  ShardingRule rule = b.operand(input).result(output).finish();
  if (getKind() == "sum")
    rule.sumOperands = {0};
  return rule;
}

ShardingRule ContractOp::getShardingRule() {
  RuleBuilder b(*this);
  Dims lhs, rhs, output;
  for (int64_t i = 0, e = shapeOf(getLhs()).size(); i < e; ++i) {
    bool summed = llvm::is_contained(getLhsDims(), i);
    lhs.push_back(
        b.factors(getLhs(), i, 1, summed ? Kind::Sum : Kind::Parallel)[0]);
    if (!summed)
      output.push_back(lhs.back());
  }
  for (int64_t i = 0, e = shapeOf(getRhs()).size(); i < e; ++i) {
    auto *found = llvm::find(getRhsDims(), i);
    if (found != getRhsDims().end()) {
      rhs.push_back(lhs[getLhsDims()[found - getRhsDims().begin()]]);
      continue;
    }
    rhs.push_back(b.factors(getRhs(), i, 1)[0]);
    output.push_back(rhs.back());
  }
  return b.operand(lhs).operand(rhs).result(output).finish();
}

ShardingRule LinearOp::getShardingRule() {
  RuleBuilder b(*this);
  int64_t count = getNumContracted();
  int64_t numRows = shapeOf(getInput()).size() - count;
  Dims rows = b.factors(getInput(), 0, numRows);
  // A bias must not be added to each partial sum.
  Dims inner = b.factors(getInput(), numRows, count,
                         getBias() ? Kind::Decompose : Kind::Sum);
  Dims outer =
      b.factors(getWeight(), count, shapeOf(getWeight()).size() - count);
  b.operand(RuleBuilder::concat(rows, inner))
      .operand(RuleBuilder::concat(inner, outer));
  if (getBias())
    b.operand(outer);
  return b.result(RuleBuilder::concat(rows, outer)).finish();
}

ShardingRule EmbeddingOp::getShardingRule() {
  // An index outside the local rows gives zeros, so a table that is sharded
  // by rows gives partial sums.
  RuleBuilder b(*this);
  Dims rows = b.factors(getTable(), 0, 1, Kind::Sum);
  Dims inner = b.factors(getTable(), 1, shapeOf(getTable()).size() - 1);
  Dims indices = b.factors(getIndices());
  return b.operand(RuleBuilder::concat(rows, inner))
      .operand(indices)
      .indexes(rows[0])
      .result(RuleBuilder::concat(indices, inner))
      .finish();
}

ShardingRule EmbeddingGradOp::getShardingRule() {
  RuleBuilder b(*this);
  Dims rows = b.factors(getOutput(), 0, 1);
  Dims inner = b.factors(getOutput(), 1, shapeOf(getOutput()).size() - 1);
  Dims indices = b.factors(getIndices(), Kind::Sum);
  return b.operand(indices)
      .indexes(rows[0])
      .operand(RuleBuilder::concat(indices, inner))
      .result(RuleBuilder::concat(rows, inner))
      .finish();
}

ShardingRule LayerNormOp::getShardingRule() {
  RuleBuilder b(*this);
  NormFactors f(b, getInput());
  b.operand(f.all).operand(f.last);
  if (getBias())
    b.operand(f.last);
  return b.result(f.all).result(f.rows).result(f.rows).finish();
}

ShardingRule LayerNormInputGradOp::getShardingRule() {
  RuleBuilder b(*this);
  NormFactors f(b, getInput());
  return b.operand(f.all)
      .operand(f.all)
      .operand(f.last)
      .operand(f.rows)
      .operand(f.rows)
      .result(f.all)
      .finish();
}

ShardingRule LayerNormWeightGradOp::getShardingRule() {
  RuleBuilder b(*this);
  int64_t numRows = shapeOf(getInput()).size() - 1;
  Dims rows = b.factors(getInput(), 0, numRows, Kind::Sum);
  Dims last = b.factors(getInput(), numRows, 1);
  Dims all = RuleBuilder::concat(rows, last);
  return b.operand(all)
      .operand(all)
      .operand(rows)
      .operand(rows)
      .result(last)
      .result(last)
      .finish();
}

ShardingRule RmsNormOp::getShardingRule() {
  RuleBuilder b(*this);
  NormFactors f(b, getInput());
  return b.operand(f.all).operand(f.last).result(f.all).result(f.rows).finish();
}

ShardingRule RmsNormInputGradOp::getShardingRule() {
  RuleBuilder b(*this);
  NormFactors f(b, getInput());
  return b.operand(f.all)
      .operand(f.all)
      .operand(f.last)
      .operand(f.rows)
      .result(f.all)
      .finish();
}

ShardingRule RmsNormWeightGradOp::getShardingRule() {
  RuleBuilder b(*this);
  int64_t numRows = shapeOf(getInput()).size() - 1;
  Dims rows = b.factors(getInput(), 0, numRows, Kind::Sum);
  Dims last = b.factors(getInput(), numRows, 1);
  Dims all = RuleBuilder::concat(rows, last);
  return b.operand(all).operand(all).operand(rows).result(last).finish();
}

ShardingRule RopeOp::getShardingRule() {
  RuleBuilder b(*this);
  Dims all = b.factors(getInput(), 0, 3);
  Dims slots = b.factors(getInput(), 3, 2, Kind::Replicated);
  Dims positions(all.begin(), all.begin() + 2);
  Dims qkv = RuleBuilder::concat(all, slots);
  return b.operand(qkv).operand(positions).result(qkv).finish();
}

// The factors of attention: samples and key/value heads are independent;
// tokens, slots and head width stay whole.
namespace {
struct AttentionFactors {
  Dims qkv, output, logsumexp, segments;
  AttentionFactors(RuleBuilder &b, Value qkvValue) {
    int64_t sample = b.factors(qkvValue, 0, 1)[0];
    int64_t token = b.factors(qkvValue, 1, 1, Kind::Replicated)[0];
    int64_t group = b.factors(qkvValue, 2, 1)[0];
    int64_t slot = b.factors(qkvValue, 3, 1, Kind::Replicated)[0];
    int64_t width = b.factors(qkvValue, 4, 1, Kind::Replicated)[0];
    qkv = {sample, token, group, slot, width};
    output = {sample, token, group, -1, width};
    logsumexp = {sample, group, -1, token};
    segments = {sample, token};
  }
};
} // namespace

ShardingRule AttentionOp::getShardingRule() {
  RuleBuilder b(*this);
  AttentionFactors f(b, getQkv());
  b.operand(f.qkv);
  if (getSegments())
    b.operand(f.segments);
  return b.result(f.output).result(f.logsumexp).finish();
}

ShardingRule AttentionGradOp::getShardingRule() {
  RuleBuilder b(*this);
  AttentionFactors f(b, getQkv());
  b.operand(f.qkv).operand(f.output).operand(f.logsumexp).operand(f.output);
  if (getSegments())
    b.operand(f.segments);
  return b.result(f.qkv).finish();
}

ShardingRule CrossEntropyOp::getShardingRule() {
  RuleBuilder b(*this);
  int64_t numRows = shapeOf(getLogits()).size() - 1;
  Dims rows = b.factors(getLogits(), 0, numRows);
  Dims last = b.factors(getLogits(), numRows, 1, Kind::Decompose);
  return b.operand(RuleBuilder::concat(rows, last))
      .operand(rows)
      .indexes(last[0])
      .operand(rows)
      .result(rows)
      .result(rows)
      .finish();
}

ShardingRule CrossEntropyGradOp::getShardingRule() {
  RuleBuilder b(*this);
  int64_t numRows = shapeOf(getLogits()).size() - 1;
  Dims rows = b.factors(getLogits(), 0, numRows);
  Dims last = b.factors(getLogits(), numRows, 1);
  Dims all = RuleBuilder::concat(rows, last);
  return b.operand(all)
      .operand(rows)
      .indexes(last[0])
      .operand(rows)
      .operand(rows)
      .result(all)
      .finish();
}

//===----------------------------------------------------------------------===//
// FLOPs
//===----------------------------------------------------------------------===//

int64_t ContractOp::getFlops() {
  int64_t inner = 1;
  for (int64_t dim : getLhsDims())
    inner *= shapeOf(getLhs())[dim];
  return 2 * inner * product(shapeOf(getOutput()));
}

int64_t LinearOp::getFlops() {
  return 2 * product(shapeOf(getInput()).take_back(getNumContracted())) *
         product(shapeOf(getOutput()));
}

// Two products of [T, K] by [K, T] shape per query head, half of it when
// causal.
static int64_t attentionFlops(Value qkv, bool causal, int64_t products) {
  ArrayRef<int64_t> s = shapeOf(qkv);
  int64_t full = 2 * products * s[0] * s[1] * s[1] * s[2] * (s[3] - 2) * s[4];
  return causal ? full / 2 : full;
}

int64_t AttentionOp::getFlops() {
  return attentionFlops(getQkv(), getCausal(), 2);
}
int64_t AttentionGradOp::getFlops() {
  return attentionFlops(getQkv(), getCausal(), 5);
}
