// The laws of the lm operations. Each check carries the label of the
// constraint in LmOps.td that it enforces.
#include "dialects/lm/Lm.h"

using namespace mlir;
using namespace lmc::lm;

namespace {

RankedTensorType typeOf(Value value) {
  return cast<RankedTensorType>(value.getType());
}

ArrayRef<int64_t> shapeOf(Value value) { return typeOf(value).getShape(); }

std::string text(ArrayRef<int64_t> shape) {
  std::string result = "[";
  for (auto [index, size] : llvm::enumerate(shape))
    result += (index ? ", " : "") +
              (ShapedType::isDynamic(size) ? "?" : std::to_string(size));
  return result + "]";
}

// Checks that `value` has `expected` as its shape.
LogicalResult expectShape(Operation *op, StringRef name, Value value,
                          ArrayRef<int64_t> expected) {
  if (shapeOf(value) == expected)
    return success();
  return op->emitOpError() << name << " has shape " << text(shapeOf(value))
                           << ", expected " << text(expected);
}

bool isIncreasing(ArrayRef<int64_t> dims, int64_t numDims) {
  int64_t last = -1;
  for (int64_t dim : dims) {
    if (dim <= last || dim >= numDims)
      return false;
    last = dim;
  }
  return true;
}

// A leading or a trailing run of the dims of a tensor with `numDims` dims.
bool isRun(ArrayRef<int64_t> dims, int64_t numDims) {
  if (!isIncreasing(dims, numDims) || dims.empty())
    return false;
  if (dims.back() - dims.front() + 1 != static_cast<int64_t>(dims.size()))
    return false;
  return dims.front() == 0 || dims.back() == numDims - 1;
}

template <typename T> SmallVector<T> concat(ArrayRef<T> a, ArrayRef<T> b) {
  SmallVector<T> result(a);
  result.append(b.begin(), b.end());
  return result;
}

} // namespace

LogicalResult ParameterOp::verify() {
  auto type = dyn_cast<RankedTensorType>(getType());
  if (!type || !type.hasStaticShape())
    return emitOpError() << "needs a static tensor type, has " << getType();
  if (!getInitialization().get("kind"))
    return emitOpError() << "has no kind in its initialization";
  if (std::optional<ArrayRef<int64_t>> unpadded = getUnpadded()) {
    ArrayRef<int64_t> shape = type.getShape();
    if (unpadded->size() != shape.size() ||
        llvm::any_of(llvm::zip(*unpadded, shape), [](auto sizes) {
          auto [part, size] = sizes;
          return part < 0 || part > size;
        }))
      return emitOpError() << "of shape " << text(shape)
                           << " cannot be padded from " << text(*unpadded);
  }
  return success();
}

LogicalResult BroadcastOp::verify() {
  ArrayRef<int64_t> input = shapeOf(getInput()), output = shapeOf(getOutput());
  if (getDims().size() != input.size() ||
      !isIncreasing(getDims(), output.size()))
    return emitOpError() << "dims " << text(getDims())
                         << " must be one increasing dim of the result for "
                            "each of the operand's "
                         << input.size() << " dims (C1)";
  for (auto [index, dim] : llvm::enumerate(getDims()))
    if (input[index] != output[dim])
      return emitOpError() << "operand dim " << index << " of size "
                           << input[index] << " becomes result dim " << dim
                           << " of size " << output[dim] << " (C2)";
  return success();
}

LogicalResult ReduceOp::verify() {
  if (getKind() != "sum" && getKind() != "max")
    return emitOpError() << "kind is '" << getKind()
                         << "', expected 'sum' or 'max' (C3)";
  ArrayRef<int64_t> input = shapeOf(getInput());
  if (getDims().empty() || !isIncreasing(getDims(), input.size()))
    return emitOpError() << "dims " << text(getDims())
                         << " must be some, increase and lie below "
                         << input.size() << " (C1)";
  SmallVector<int64_t> expected;
  for (auto [index, size] : llvm::enumerate(input))
    if (!llvm::is_contained(getDims(), static_cast<int64_t>(index)))
      expected.push_back(size);
  if (shapeOf(getOutput()) != ArrayRef<int64_t>(expected))
    return emitOpError() << "result has shape " << text(shapeOf(getOutput()))
                         << ", expected " << text(expected) << " (C2)";
  return success();
}

LogicalResult ContractOp::verify() {
  ArrayRef<int64_t> lhs = shapeOf(getLhs()), rhs = shapeOf(getRhs());
  ArrayRef<int64_t> lhsDims = getLhsDims(), rhsDims = getRhsDims();
  if (!isRun(lhsDims, lhs.size()) || !isRun(rhsDims, rhs.size()))
    return emitOpError() << "contracts dims " << text(lhsDims) << " of lhs and "
                         << text(rhsDims)
                         << " of rhs; each must be a leading or a trailing "
                            "run (C2)";
  if (lhsDims.size() != rhsDims.size())
    return emitOpError() << "contracts " << lhsDims.size() << " dims of lhs, "
                         << rhsDims.size() << " of rhs (C1)";
  for (auto [l, r] : llvm::zip(lhsDims, rhsDims))
    if (lhs[l] != rhs[r])
      return emitOpError() << "contracts lhs dim " << l << " of size " << lhs[l]
                           << " with rhs dim " << r << " of size " << rhs[r]
                           << " (C1)";
  SmallVector<int64_t> expected;
  for (int64_t i = 0, e = lhs.size(); i < e; ++i)
    if (!llvm::is_contained(lhsDims, i))
      expected.push_back(lhs[i]);
  for (int64_t i = 0, e = rhs.size(); i < e; ++i)
    if (!llvm::is_contained(rhsDims, i))
      expected.push_back(rhs[i]);
  if (shapeOf(getOutput()) != ArrayRef<int64_t>(expected))
    return emitOpError() << "result has shape " << text(shapeOf(getOutput()))
                         << ", expected " << text(expected) << " (C3)";
  return success();
}

LogicalResult EmbeddingOp::verify() {
  // (C1)
  return expectShape(
      *this, "result", getOutput(),
      concat(shapeOf(getIndices()), shapeOf(getTable()).drop_front()));
}

LogicalResult ReshapeOp::verify() {
  auto input = typeOf(getInput()), output = typeOf(getOutput());
  if (input.hasStaticShape() && output.hasStaticShape() &&
      input.getNumElements() != output.getNumElements())
    return emitOpError() << "turns " << input.getNumElements()
                         << " elements into " << output.getNumElements()
                         << " (C1)";
  return success();
}

LogicalResult SliceRowsOp::verify() {
  ArrayRef<int64_t> input = shapeOf(getInput()), output = shapeOf(getOutput());
  if (output.empty() || output.size() > input.size())
    return emitOpError() << "result needs 1 to " << input.size()
                         << " dims, has " << output.size() << " (C1)";
  size_t flattened = input.size() - output.size() + 1;
  int64_t rows = product(input.take_front(flattened));
  if (input.drop_front(flattened) != output.drop_front(1) ||
      static_cast<int64_t>(getOffset()) < 0 ||
      static_cast<int64_t>(getOffset()) + output[0] > rows)
    return emitOpError() << "takes rows [" << getOffset() << ", "
                         << getOffset() + output[0] << ") of shape "
                         << text(output) << " from " << text(input) << " (C1)";
  return success();
}

LogicalResult LinearOp::verify() {
  ArrayRef<int64_t> input = shapeOf(getInput()), weight = shapeOf(getWeight());
  size_t count = getNumContracted();
  if (count < 1 || count > input.size() || count >= weight.size() ||
      input.take_back(count) != weight.take_front(count))
    return emitOpError() << "contracts " << count << " trailing dims of input "
                         << text(input) << " with leading dims of weight "
                         << text(weight) << " (C1)";
  if (getBias() && shapeOf(getBias()) != weight.drop_front(count))
    return expectShape(*this, "bias (C2)", getBias(), weight.drop_front(count));
  // (C3)
  return expectShape(*this, "result", getOutput(),
                     concat(input.drop_back(count), weight.drop_front(count)));
}

LogicalResult GeluOp::verify() {
  if (getForm() != "exact" && getForm() != "tanh" && getForm() != "quick")
    return emitOpError() << "form is '" << getForm()
                         << "', expected 'exact', 'tanh' or 'quick'";
  return success();
}

static LogicalResult verifyNorm(Operation *op, Value input, ValueRange vectors,
                                ValueRange statistics, Value output) {
  ArrayRef<int64_t> shape = shapeOf(input);
  if (shape.empty())
    return op->emitOpError() << "needs an input of at least one dim";
  // layer_norm C1, rms_norm C1
  for (Value vector : vectors)
    if (failed(expectShape(op, "weight or bias", vector, shape.take_back())))
      return failure();
  // layer_norm C2, rms_norm C2
  for (Value statistic : statistics)
    if (failed(expectShape(op, "statistic", statistic, shape.drop_back())))
      return failure();
  return expectShape(op, "result", output, shape);
}

LogicalResult LayerNormOp::verify() {
  SmallVector<Value> vectors{getWeight()};
  if (getBias())
    vectors.push_back(getBias());
  return verifyNorm(*this, getInput(), vectors, {getMean(), getRstd()},
                    getOutput());
}

LogicalResult RmsNormOp::verify() {
  return verifyNorm(*this, getInput(), getWeight(), getRstd(), getOutput());
}

LogicalResult RopeOp::verify() {
  ArrayRef<int64_t> shape = shapeOf(getInput());
  ArrayRef<int64_t> table = shapeOf(getTable());
  ArrayRef<int64_t> tokens = shapeOf(getPositions());
  if (shape.size() != tokens.size() + 3 ||
      shape.take_front(tokens.size()) != tokens)
    return emitOpError() << "positions " << text(tokens)
                         << " must be the input's dims " << text(shape)
                         << " without the last three";
  size_t slots = shape.size() - 2;
  if (table.size() != 2 || table[1] % 2 != 0 || table[1] > shape.back())
    return emitOpError() << "table " << text(table)
                         << " must be [P, r] with r even and at most K of "
                         << text(shape) << " (C1)";
  if (static_cast<int64_t>(getNumRotated()) > shape[slots])
    return emitOpError() << "rotates " << getNumRotated() << " of "
                         << shape[slots] << " slots (C2)";
  if (getLayout() != "half" && getLayout() != "interleaved")
    return emitOpError() << "layout is '" << getLayout()
                         << "', expected 'half' or 'interleaved'";
  return success();
}

// The operands of dropout come together.
template <typename Op>
static LogicalResult verifyDropout(Op op, StringRef law) {
  bool draws = op.draws();
  for (Value value : {op.getSeedLow(), op.getSeedHigh(), op.getStep()})
    if (bool(value) != draws)
      return op.emitOpError()
             << (draws ? "has a dropout rate, but no seed or no step ("
                       : "has a seed or a step, but no dropout rate (")
             << law << ")";
  return success();
}

LogicalResult AttentionOp::verify() {
  ArrayRef<int64_t> s = shapeOf(getQkv());
  if (s.size() != 5 || s[3] < 3)
    return emitOpError() << "qkv has shape " << text(s)
                         << ", expected [B, T, G, R+2, K] with R >= 1 (C1)";
  // (C2)
  if (failed(expectShape(*this, "output", getOutput(),
                         {s[0], s[1], s[2], s[3] - 2, s[4]})))
    return failure();
  if (failed(expectShape(*this, "logsumexp", getLogsumexp(),
                         {s[0], s[2], s[3] - 2, s[1]})))
    return failure();
  return verifyDropout(*this, "C3");
}

LogicalResult AttentionGradOp::verify() { return verifyDropout(*this, "C1"); }

// The keys and values of qkv's tokens fit into the cache.
static LogicalResult verifyCache(Operation *op, Value qkv, Value cache,
                                 ValueRange perToken) {
  ArrayRef<int64_t> s = shapeOf(qkv), c = shapeOf(cache);
  if (s.size() != 4 || s[2] < 3)
    return op->emitOpError() << "qkv has shape " << text(s)
                             << ", expected [T, G, R+2, K] with R >= 1 (C1)";
  if (c.size() != 4 ||
      failed(expectShape(op, "cache (C1)", cache, {c[0], s[1], 2, s[3]})))
    return c.size() == 4 ? failure()
                         : op->emitOpError() << "cache has shape " << text(c)
                                             << ", expected [C, G, 2, K] (C1)";
  for (Value value : perToken)
    if (failed(expectShape(op, "a number per token (C1)", value, {s[0]})))
      return failure();
  return success();
}

LogicalResult CacheWriteOp::verify() {
  // (C1)
  if (failed(verifyCache(*this, getQkv(), getCache(), getSlots())))
    return failure();
  if (getOutput().getType() != getCache().getType())
    return emitOpError() << "result is of type " << getOutput().getType()
                         << ", the cache of " << getCache().getType()
                         << " (C2)";
  return success();
}

LogicalResult PagedAttentionOp::verify() {
  if (failed(verifyCache(*this, getQkv(), getCache(),
                         {getPositions(), getSequences()})))
    return failure();
  if (shapeOf(getPages()).size() != 2)
    return emitOpError() << "pages have shape " << text(shapeOf(getPages()))
                         << ", expected [S, P] (C1)";
  int64_t size = getPageSize(), rows = shapeOf(getCache())[0];
  if (size < 1 || rows % size != 0)
    return emitOpError() << "pages of " << size << " tokens do not part "
                         << rows << " rows of the cache (C2)";
  ArrayRef<int64_t> s = shapeOf(getQkv());
  return expectShape(*this, "result (C3)", getOutput(),
                     {s[0], s[1], s[2] - 2, s[3]});
}

LogicalResult CrossEntropyOp::verify() {
  ArrayRef<int64_t> rows = shapeOf(getLogits()).drop_back();
  for (Value value : {getTargets(), getWeights(), getLoss(), getLogsumexp()})
    if (failed(expectShape(*this, "operand or result (C1)", value, rows)))
      return failure();
  return success();
}
