// What a kernel's body means, operation by operation; see Reference.h.
#include "test/codegen/Reference.h"

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/Math/IR/Math.h"
#include "llvm/ADT/TypeSwitch.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <functional>

using namespace mlir;
using namespace lmc;
using namespace lmc::test;

namespace {

int64_t productOf(llvm::ArrayRef<int64_t> shape) {
  int64_t count = 1;
  for (int64_t size : shape)
    count *= size;
  return count;
}

// Static shape of a result, its dynamic leading dim taken from `count`.
Tensor make(Value value, int64_t leading) {
  Tensor tensor;
  for (int64_t size : cast<RankedTensorType>(value.getType()).getShape())
    tensor.shape.push_back(ShapedType::isDynamic(size) ? leading : size);
  tensor.data.resize(productOf(tensor.shape));
  return tensor;
}

std::vector<int64_t> indexOf(int64_t flat, llvm::ArrayRef<int64_t> shape) {
  std::vector<int64_t> index(shape.size());
  for (size_t i = shape.size(); i-- > 0;) {
    index[i] = flat % shape[i];
    flat /= shape[i];
  }
  return index;
}

int64_t flatOf(llvm::ArrayRef<int64_t> index, llvm::ArrayRef<int64_t> shape) {
  int64_t flat = 0;
  for (size_t i = 0; i < shape.size(); ++i)
    flat = flat * shape[i] + index[i];
  return flat;
}

double elementwise(Operation *op, llvm::ArrayRef<double> x) {
  if (isa<arith::AddFOp, arith::AddIOp>(op))
    return x[0] + x[1];
  if (isa<arith::SubFOp, arith::SubIOp>(op))
    return x[0] - x[1];
  if (isa<arith::MulFOp, arith::MulIOp>(op))
    return x[0] * x[1];
  if (isa<arith::DivFOp>(op))
    return x[0] / x[1];
  if (isa<arith::NegFOp>(op))
    return -x[0];
  if (isa<arith::MaximumFOp, arith::MaxNumFOp>(op))
    return std::max(x[0], x[1]);
  if (isa<arith::MinimumFOp, arith::MinNumFOp>(op))
    return std::min(x[0], x[1]);
  if (isa<arith::SelectOp>(op))
    return x[0] != 0 ? x[1] : x[2];
  if (isa<arith::SIToFPOp>(op))
    return x[0];
  if (auto compare = dyn_cast<arith::CmpFOp>(op)) {
    switch (compare.getPredicate()) {
    case arith::CmpFPredicate::OGT:
      return x[0] > x[1];
    case arith::CmpFPredicate::OGE:
    case arith::CmpFPredicate::UGE:
      return x[0] >= x[1];
    case arith::CmpFPredicate::OLT:
      return x[0] < x[1];
    case arith::CmpFPredicate::OLE:
      return x[0] <= x[1];
    case arith::CmpFPredicate::OEQ:
      return x[0] == x[1];
    case arith::CmpFPredicate::ONE:
    case arith::CmpFPredicate::UNE:
      return x[0] != x[1];
    default:
      break;
    }
  }
  if (auto compare = dyn_cast<arith::CmpIOp>(op)) {
    if (compare.getPredicate() == arith::CmpIPredicate::eq)
      return x[0] == x[1];
    if (compare.getPredicate() == arith::CmpIPredicate::slt)
      return x[0] < x[1];
  }
  if (isa<math::ExpOp>(op))
    return std::exp(x[0]);
  if (isa<math::LogOp>(op))
    return std::log(x[0]);
  if (isa<math::TanhOp>(op))
    return std::tanh(x[0]);
  if (isa<math::ErfOp>(op))
    return std::erf(x[0]);
  if (isa<math::SqrtOp>(op))
    return std::sqrt(x[0]);
  if (isa<math::RsqrtOp>(op))
    return 1 / std::sqrt(x[0]);
  if (isa<math::AbsFOp>(op))
    return std::fabs(x[0]);
  std::fprintf(stderr, "the reference does not know %s\n",
               op->getName().getStringRef().str().c_str());
  std::abort();
}

double uniform(uint32_t seedLow, uint32_t seedHigh, uint32_t step, uint64_t id,
               uint64_t element) {
  uint64_t block = (element >> 6) * 16 + (element & 15);
  uint32_t c[4] = {uint32_t(block), uint32_t(block >> 32), step, 0};
  uint32_t k[2] = {seedLow ^ uint32_t(id), seedHigh ^ uint32_t(id >> 32)};
  for (int round = 0; round < 10; ++round) {
    uint64_t p0 = uint64_t(0xD2511F53u) * c[0];
    uint64_t p1 = uint64_t(0xCD9E8D57u) * c[2];
    uint32_t next[4] = {uint32_t(p1 >> 32) ^ c[1] ^ k[0], uint32_t(p1),
                        uint32_t(p0 >> 32) ^ c[3] ^ k[1], uint32_t(p0)};
    std::copy(next, next + 4, c);
    k[0] += 0x9E3779B9u;
    k[1] += 0xBB67AE85u;
  }
  return (c[(element >> 4) & 3] >> 8) * 0x1p-24;
}

// Attention, forward and backward, one query at a time.
struct AttentionShape {
  int64_t b, t, g, r, k;
  double scale;
  bool causal;
  int64_t window;
  const Tensor *segments = nullptr;
  // Of dropout: 0 or 1 / (1 - rate) for (b, g, r, query, key).
  std::function<double(int64_t, int64_t, int64_t, int64_t, int64_t)> factor;

  template <typename Op, typename In>
  AttentionShape(Op op, const In &in, int64_t microBatch)
      : scale(op.getScale().convertToFloat()), causal(op.getCausal()),
        window(op.getWindow()) {
    const Tensor &qkv = in(op.getQkv());
    b = qkv.shape[0], t = qkv.shape[1], g = qkv.shape[2];
    r = qkv.shape[3] - 2, k = qkv.shape[4];
    if (op.getSegments())
      segments = &in(op.getSegments());
    factor = [](auto...) { return 1.0; };
    if (!op.getRate())
      return;
    auto integer = [&](Value value) {
      return uint32_t(int32_t(in(value).data[0]));
    };
    factor = [=, rate = in(op.getRate()).data[0],
              low = integer(op.getSeedLow()), high = integer(op.getSeedHigh()),
              step = integer(op.getStep()),
              id = op.getId().value_or(kGivenRandomId),
              first = op.getId() ? 0 : firstNumber(op, microBatch),
              heads = (op.getWhole() ? (*op.getWhole())[1] : g) * r, r = r,
              t = t](int64_t bi, int64_t gi, int64_t ri, int64_t query,
                     int64_t key) {
      int64_t row = (bi * heads + gi * r + ri) * t + query;
      int64_t number = first + row * ((t + 63) / 64 * 64) + key;
      return uniform(low, high, step, id, number) >= rate ? 1 / (1 - rate) : 0;
    };
  }
  int64_t slot(int64_t bi, int64_t ti, int64_t gi, int64_t s) const {
    return (((bi * t + ti) * g + gi) * (r + 2) + s) * k;
  }
  int64_t head(int64_t bi, int64_t ti, int64_t gi, int64_t ri) const {
    return (((bi * t + ti) * g + gi) * r + ri) * k;
  }
  int64_t lse(int64_t bi, int64_t gi, int64_t ri, int64_t ti) const {
    return ((bi * g + gi) * r + ri) * t + ti;
  }
  bool sees(int64_t bi, int64_t query, int64_t key) const {
    if (causal && key > query)
      return false;
    if (window > 0 && key <= query - window)
      return false;
    return !segments ||
           segments->data[bi * t + query] == segments->data[bi * t + key];
  }
};

double dot(const double *a, const double *b, int64_t count) {
  double sum = 0;
  for (int64_t i = 0; i < count; ++i)
    sum += a[i] * b[i];
  return sum;
}

template <typename Body>
void overQueries(const AttentionShape &s, const Body &body) {
  for (int64_t b = 0; b < s.b; ++b)
    for (int64_t g = 0; g < s.g; ++g)
      for (int64_t r = 0; r < s.r; ++r)
        for (int64_t t = 0; t < s.t; ++t)
          body(b, g, r, t);
}

void attention(const AttentionShape &s, const Tensor &qkv, Tensor &output,
               Tensor &logsumexp) {
  overQueries(s, [&](int64_t b, int64_t g, int64_t r, int64_t t) {
    const double *q = &qkv.data[s.slot(b, t, g, r)];
    std::vector<double> score(s.t, -HUGE_VAL);
    double top = -HUGE_VAL, sum = 0;
    for (int64_t key = 0; key < s.t; ++key)
      if (s.sees(b, t, key)) {
        score[key] = s.scale * dot(q, &qkv.data[s.slot(b, key, g, s.r)], s.k);
        top = std::max(top, score[key]);
      }
    for (int64_t key = 0; key < s.t; ++key)
      sum += std::exp(score[key] - top);
    double *out = &output.data[s.head(b, t, g, r)];
    for (int64_t key = 0; key < s.t; ++key)
      for (int64_t i = 0; i < s.k; ++i)
        out[i] += s.factor(b, g, r, t, key) * std::exp(score[key] - top) / sum *
                  qkv.data[s.slot(b, key, g, s.r + 1) + i];
    logsumexp.data[s.lse(b, g, r, t)] = top + std::log(sum);
  });
}

void attentionGrad(const AttentionShape &s, const Tensor &qkv,
                   const Tensor &output, const Tensor &logsumexp,
                   const Tensor &gradient, Tensor &result) {
  overQueries(s, [&](int64_t b, int64_t g, int64_t r, int64_t t) {
    const double *q = &qkv.data[s.slot(b, t, g, r)];
    const double *dOut = &gradient.data[s.head(b, t, g, r)];
    double delta = dot(dOut, &output.data[s.head(b, t, g, r)], s.k);
    for (int64_t key = 0; key < s.t; ++key) {
      if (!s.sees(b, t, key))
        continue;
      int64_t keyAt = s.slot(b, key, g, s.r);
      int64_t valueAt = s.slot(b, key, g, s.r + 1);
      double p = std::exp(s.scale * dot(q, &qkv.data[keyAt], s.k) -
                          logsumexp.data[s.lse(b, g, r, t)]);
      double factor = s.factor(b, g, r, t, key);
      double dScore =
          s.scale * p * (factor * dot(dOut, &qkv.data[valueAt], s.k) - delta);
      for (int64_t i = 0; i < s.k; ++i) {
        result.data[valueAt + i] += factor * p * dOut[i];
        result.data[keyAt + i] += dScore * q[i];
        result.data[s.slot(b, t, g, r) + i] += dScore * qkv.data[keyAt + i];
      }
    }
  });
}

// A token's last two slots become a row of the cache.
void cacheWrite(const Tensor &qkv, const Tensor &slots, Tensor &cache) {
  int64_t g = qkv.shape[1], slotsOfGroup = qkv.shape[2], k = qkv.shape[3];
  for (int64_t t = 0; t < qkv.shape[0]; ++t)
    for (int64_t i = 0; i < g; ++i)
      for (int64_t e = 0; e < 2 * k; ++e) {
        int64_t row = int64_t(slots.data[t]);
        int64_t from = ((t * g + i) * slotsOfGroup + slotsOfGroup - 2) * k + e;
        if (row >= 0 && row < cache.shape[0])
          cache.data[(row * g + i) * 2 * k + e] = qkv.data[from];
      }
}

// Attention of each token to its sequence's rows of the cache.
template <typename In>
void pagedAttention(lm::PagedAttentionOp op, const In &in, Tensor &out) {
  const Tensor &qkv = in(op.getQkv()), &cache = in(op.getCache());
  const Tensor &pages = in(op.getPages());
  int64_t g = qkv.shape[1], r = qkv.shape[2] - 2, k = qkv.shape[3];
  int64_t size = op.getPageSize(), perSequence = pages.shape[1];
  auto clamp = [](double value, int64_t end) {
    return std::clamp<int64_t>(int64_t(value), 0, end - 1);
  };
  for (int64_t t = 0; t < qkv.shape[0]; ++t) {
    int64_t position = clamp(in(op.getPositions()).data[t], perSequence * size);
    int64_t sequence = clamp(in(op.getSequences()).data[t], pages.shape[0]);
    auto keyOf = [&](int64_t p, int64_t group) {
      int64_t page = int64_t(pages.data[sequence * perSequence + p / size]);
      int64_t row = clamp(double(page * size + p % size), cache.shape[0]);
      return &cache.data[(row * g + group) * 2 * k];
    };
    int64_t first = op.getWindow()
                        ? std::max<int64_t>(position - op.getWindow() + 1, 0)
                        : 0;
    for (int64_t i = 0; i < g; ++i)
      for (int64_t head = 0; head < r; ++head) {
        const double *q = &qkv.data[((t * g + i) * (r + 2) + head) * k];
        std::vector<double> score;
        double top = -HUGE_VAL, sum = 0;
        for (int64_t p = first; p <= position; ++p) {
          score.push_back(op.getScale().convertToFloat() *
                          dot(q, keyOf(p, i), k));
          top = std::max(top, score.back());
        }
        for (double &value : score)
          sum += value = std::exp(value - top);
        for (int64_t p = first; p <= position; ++p)
          for (int64_t e = 0; e < k; ++e)
            out.data[((t * g + i) * r + head) * k + e] +=
                score[p - first] / sum * keyOf(p, i)[k + e];
      }
  }
}

class Interpreter {
public:
  Interpreter(int64_t microBatch, int64_t leading)
      : microBatch(microBatch), leading(leading) {}
  llvm::DenseMap<Value, Tensor> values;
  void run(Operation *op);

private:
  int64_t microBatch, leading;
  const Tensor &in(Value value) { return values.find(value)->second; }
  void define(Value value, Tensor tensor) { values[value] = tensor; }
  void runContract(lm::ContractOp op);
  void runReduce(lm::ReduceOp op);
  void runRope(lm::RopeOp op);
};

void Interpreter::runContract(lm::ContractOp op) {
  const Tensor &lhs = in(op.getLhs()), &rhs = in(op.getRhs());
  Tensor out = make(op.getOutput(), leading);
  size_t count = op.getLhsDims().size();
  bool lhsFirst = op.getLhsDims()[0] == 0 && count < lhs.shape.size();
  bool rhsFirst = op.getRhsDims()[0] == 0;
  int64_t k = 1;
  for (int64_t dim : op.getLhsDims())
    k *= lhs.shape[dim];
  int64_t m = lhs.size() / k, n = rhs.size() / k;
  std::vector<double> row(n);
  for (int64_t i = 0; i < m; ++i) {
    std::fill(row.begin(), row.end(), 0.0);
    for (int64_t l = 0; l < k; ++l) {
      double x = lhs.data[lhsFirst ? l * m + i : i * k + l];
      for (int64_t j = 0; j < n; ++j)
        row[j] += x * rhs.data[rhsFirst ? l * n + j : j * k + l];
    }
    std::copy(row.begin(), row.end(), out.data.begin() + i * n);
  }
  define(op.getOutput(), out);
}

void Interpreter::runReduce(lm::ReduceOp op) {
  const Tensor &input = in(op.getInput());
  Tensor out = make(op.getOutput(), leading);
  bool isMax = op.getKind() == "max";
  std::fill(out.data.begin(), out.data.end(), isMax ? -HUGE_VAL : 0.0);
  for (int64_t e = 0; e < input.size(); ++e) {
    std::vector<int64_t> index = indexOf(e, input.shape), kept;
    for (size_t i = 0; i < index.size(); ++i)
      if (!llvm::is_contained(op.getDims(), int64_t(i)))
        kept.push_back(index[i]);
    double &sum = out.data[flatOf(kept, out.shape)];
    sum = isMax ? std::max(sum, input.data[e]) : sum + input.data[e];
  }
  define(op.getOutput(), out);
}

void Interpreter::runRope(lm::RopeOp op) {
  Tensor out = in(op.getInput());
  const Tensor input = out;
  const Tensor &positions = in(op.getPositions()), &table = in(op.getTable());
  size_t rank = out.shape.size();
  int64_t slots = out.shape[rank - 2], width = out.shape[rank - 1];
  int64_t perToken = out.shape[rank - 3] * slots * width;
  int64_t r = table.shape[1];
  for (int64_t e = 0; e < out.size(); e += width) {
    if (e / width % slots >= int64_t(op.getNumRotated()))
      continue;
    int64_t position = int64_t(positions.data[e / perToken]);
    for (int64_t i = 0; i < r / 2; ++i) {
      bool pairs = op.getLayout() == "interleaved";
      int64_t x = e + (pairs ? 2 * i : i),
              y = e + (pairs ? 2 * i + 1 : i + r / 2);
      double c = table.data[position * r + i];
      double s = table.data[position * r + r / 2 + i];
      if (op.getInverse())
        s = -s;
      out.data[x] = input.data[x] * c - input.data[y] * s;
      out.data[y] = input.data[y] * c + input.data[x] * s;
    }
  }
  define(op.getOutput(), out);
}

void Interpreter::run(Operation *op) {
  auto in = [this](Value value) -> const Tensor & {
    return values.find(value)->second;
  };
  if (auto constant = dyn_cast<arith::ConstantOp>(op)) {
    Tensor out = make(op->getResult(0), leading);
    auto dense = cast<DenseElementsAttr>(constant.getValue());
    double value = isa<FloatType>(dense.getElementType())
                       ? dense.getSplatValue<APFloat>().convertToDouble()
                       : double(dense.getSplatValue<APInt>().getSExtValue());
    std::fill(out.data.begin(), out.data.end(), value);
    return define(op->getResult(0), out);
  }
  if (auto contract = dyn_cast<lm::ContractOp>(op))
    return runContract(contract);
  if (auto reduce = dyn_cast<lm::ReduceOp>(op))
    return runReduce(reduce);
  if (auto rope = dyn_cast<lm::RopeOp>(op))
    return runRope(rope);
  if (auto attend = dyn_cast<lm::AttentionOp>(op)) {
    Tensor out = make(attend.getOutput(), leading);
    Tensor lse = make(attend.getLogsumexp(), leading);
    AttentionShape shape(attend, in, microBatch);
    attention(shape, in(attend.getQkv()), out, lse);
    define(attend.getOutput(), out);
    return define(attend.getLogsumexp(), lse);
  }
  if (auto grad = dyn_cast<lm::AttentionGradOp>(op)) {
    Tensor out = make(grad.getQkvGradient(), leading);
    AttentionShape shape(grad, in, microBatch);
    attentionGrad(shape, in(grad.getQkv()), in(grad.getOutput()),
                  in(grad.getLogsumexp()), in(grad.getGradient()), out);
    return define(grad.getQkvGradient(), out);
  }
  Tensor out = make(op->getResult(0), leading);
  if (auto write = dyn_cast<lm::CacheWriteOp>(op)) {
    out = in(write.getCache());
    cacheWrite(in(write.getQkv()), in(write.getSlots()), out);
  } else if (auto paged = dyn_cast<lm::PagedAttentionOp>(op)) {
    pagedAttention(paged, in, out);
  } else if (auto broadcast = dyn_cast<lm::BroadcastOp>(op)) {
    const Tensor &input = in(broadcast.getInput());
    for (int64_t e = 0; e < out.size(); ++e) {
      std::vector<int64_t> index = indexOf(e, out.shape), from;
      for (int64_t dim : broadcast.getDims())
        from.push_back(index[dim]);
      out.data[e] = input.data[flatOf(from, input.shape)];
    }
  } else if (auto iota = dyn_cast<lm::IotaOp>(op)) {
    for (int64_t e = 0; e < out.size(); ++e)
      out.data[e] = double(indexOf(e, out.shape)[iota.getDim()]);
  } else if (auto random = dyn_cast<lm::RandomUniformOp>(op)) {
    int64_t first = random.getId() ? 0 : firstNumber(random, microBatch);
    std::vector<int64_t> whole = out.shape;
    if (random.getWhole())
      whole.assign(random.getWhole()->begin(), random.getWhole()->end());
    for (int64_t e = 0; e < out.size(); ++e)
      out.data[e] = uniform(uint32_t(int32_t(in(random.getSeedLow()).data[0])),
                            uint32_t(int32_t(in(random.getSeedHigh()).data[0])),
                            uint32_t(int32_t(in(random.getStep()).data[0])),
                            random.getId().value_or(kGivenRandomId),
                            first + flatOf(indexOf(e, out.shape), whole));
  } else if (auto reshape = dyn_cast<lm::ReshapeOp>(op)) {
    out.data = in(reshape.getInput()).data;
  } else if (auto gather = dyn_cast<lm::EmbeddingOp>(op)) {
    const Tensor &table = in(gather.getTable());
    const Tensor &indices = in(gather.getIndices());
    int64_t width = out.size() / std::max<int64_t>(indices.size(), 1);
    for (int64_t e = 0; e < out.size(); ++e) {
      int64_t row = int64_t(indices.data[e / width]);
      if (row >= 0 && row < table.shape[0])
        out.data[e] = table.data[row * width + e % width];
    }
  } else if (auto scatter = dyn_cast<lm::EmbeddingGradOp>(op)) {
    const Tensor &indices = in(scatter.getIndices());
    const Tensor &gradient = in(scatter.getGradient());
    int64_t width = gradient.size() / indices.size();
    for (int64_t e = 0; e < gradient.size(); ++e) {
      int64_t row = int64_t(indices.data[e / width]);
      if (row >= 0 && row < out.shape[0])
        out.data[row * width + e % width] += gradient.data[e];
    }
  } else if (auto accumulate = dyn_cast<lm::AccumulateOp>(op)) {
    out = in(accumulate.getValue());
    if (microBatch != 0)
      for (int64_t e = 0; e < out.size(); ++e)
        out.data[e] += in(accumulate.getAccumulator()).data[e];
  } else {
    for (int64_t e = 0; e < out.size(); ++e) {
      llvm::SmallVector<double> operands;
      for (Value operand : op->getOperands())
        operands.push_back(in(operand).data[e]);
      out.data[e] = elementwise(op, operands);
    }
  }
  define(op->getResult(0), out);
}

} // namespace

int64_t test::firstNumber(lm::Drawing random, int64_t microBatch) {
  auto type = cast<RankedTensorType>(random.getDrawnFor().getType());
  auto whole = random->getAttrOfType<DenseI64ArrayAttr>("whole");
  return microBatch * random.getDrawnPerElement() *
         lm::product(whole ? whole.asArrayRef() : type.getShape());
}

std::vector<Tensor> test::interpret(plan::KernelOp kernel,
                                    const std::vector<Tensor> &arguments,
                                    int64_t microBatch) {
  int64_t leading = 0;
  Block &block = kernel.getBody().front();
  for (auto [argument, tensor] : llvm::zip(block.getArguments(), arguments))
    if (cast<RankedTensorType>(argument.getType()).getRank() > 0 &&
        cast<RankedTensorType>(argument.getType()).isDynamicDim(0))
      leading = tensor.shape[0];
  Interpreter interpreter(microBatch, leading);
  for (auto [argument, tensor] : llvm::zip(block.getArguments(), arguments))
    interpreter.values[argument] = tensor;
  for (Operation &op : block.without_terminator())
    interpreter.run(&op);
  std::vector<Tensor> results;
  for (Value value : block.getTerminator()->getOperands())
    results.push_back(interpreter.values[value]);
  return results;
}
