// Computes the values of a kernel's body at one place; see Evaluator.h.
#include "passes/codegen/Evaluator.h"
#include "passes/codegen/Philox.h"

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/Math/IR/Math.h"
#include "mlir/Dialect/Vector/IR/VectorOps.h"

using namespace mlir;
using namespace lmc;
using namespace lmc::codegen;

static Type elementOf(Value value) {
  return cast<RankedTensorType>(value.getType()).getElementType();
}

Evaluator::Evaluator(const KernelBody &body, LoopBuilder &b,
                     ValueRange pointers, Value microBatch, ValueRange randoms)
    : body(body), b(b), pointers(pointers.begin(), pointers.end()),
      microBatch(microBatch) {
  for (auto [index, op] : llvm::enumerate(randomsWithoutId(body.kernel)))
    if (2 * index + 1 < randoms.size())
      givenOfRandom[op] = {randoms[2 * index], randoms[2 * index + 1]};
}

Evaluator::Memo &Evaluator::memoOf(Level level) {
  return level == Level::Kernel ? kernelMemo
         : level == Level::Row  ? rowMemo
                                : chunkMemo;
}

LogicalResult Evaluator::beginKernel() {
  if (body.usesMicroBatch) {
    firstMicroBatch = b.equal(microBatch, b.i64(0));
    Value later = b.builder.create<arith::XOrIOp>(b.loc, firstMicroBatch,
                                                  b.boolean(true));
    laterMicroBatchMask = b.splat(later);
  }
  for (BlockArgument argument : body.block().getArguments())
    if (body.level(argument) == Level::Kernel && body.hasSpace(argument) &&
        !get(argument, Level::Kernel))
      return failure();
  for (Operation &op : body.block().without_terminator())
    if (body.level(op.getResult(0)) == Level::Kernel &&
        !get(op.getResult(0), Level::Kernel))
      return failure();
  return success();
}

LogicalResult Evaluator::beginRow(Value newRow) {
  row = newRow;
  rowMemo.clear();
  chunkMemo.clear();
  splatMemo.clear();
  randomWords.clear();
  stored.clear();
  for (BlockArgument argument : body.block().getArguments())
    if (body.level(argument) == Level::Row && !get(argument, Level::Row))
      return failure();
  return finishStage(0);
}

LogicalResult Evaluator::finishStage(int64_t stage) {
  for (Operation &op : body.block().without_terminator()) {
    Value result = op.getResult(0);
    if (body.level(result) == Level::Row && body.stage(result) == stage &&
        !isa<lm::ReduceOp>(op) && !get(result, Level::Row))
      return failure();
  }
  return success();
}

void Evaluator::beginChunk(ValueRange newOuter, Value newColumn, Value mask,
                           int newQuarter) {
  outer.assign(newOuter.begin(), newOuter.end());
  column = newColumn;
  chunkMask = mask;
  quarter = newQuarter;
  chunkMemo.clear();
  splatMemo.clear();
  if (quarter <= 0)
    randomWords.clear();
}

void Evaluator::endRows() {
  row = {};
  rowMemo.clear();
  stored.clear();
}

void Evaluator::movePlace(Value newRow, ValueRange newOuter, Value newColumn) {
  row = newRow;
  outer.assign(newOuter.begin(), newOuter.end());
  column = newColumn;
}

void Evaluator::define(Value value, Value computed) {
  memoOf(body.level(value))[value] = computed;
}
void Evaluator::readBack(Value value, Value pointer) {
  stored[value] = pointer;
}

//===----------------------------------------------------------------------===//
// Places and memory
//===----------------------------------------------------------------------===//

// Index along [lo, hi), which lies at or above the split.
Value Evaluator::rowIndex(Interval interval) {
  Value index = b.div(row, interval.lo / body.split);
  if (interval.hi == body.elements)
    return index;
  return b.rem(index, interval.hi / interval.lo);
}

// Index along any interval, of the first lane.
Value Evaluator::indexAlong(Interval interval) {
  Value index = b.i64(0);
  int64_t split = body.split;
  if (interval.hi > split && body.elements > split) {
    Interval part{std::max(interval.lo, split), interval.hi};
    index = b.mul(rowIndex(part), part.lo / interval.lo);
  }
  for (auto [number, group] : llvm::enumerate(body.columnGroups)) {
    if (group.lo < interval.lo || group.hi > interval.hi)
      continue;
    bool last = number + 1 == body.columnGroups.size();
    Value position = last ? column : outer[number];
    index = b.add(index, b.mul(position, group.lo / interval.lo));
  }
  return index;
}

Value Evaluator::offsetOf(Value value) {
  Value offset = b.i64(0);
  int64_t stride = 1;
  for (Interval interval : llvm::reverse(coverage(body.space(value)))) {
    offset = b.add(offset, b.mul(indexAlong(interval), stride));
    stride *= interval.hi / interval.lo;
  }
  return offset;
}

static bool coversLanes(const KernelBody &body, Value value) {
  if (body.columnGroups.empty())
    return false;
  Interval last = body.columnGroups.back();
  for (Interval interval : coverage(body.space(value)))
    if (interval.lo <= last.lo && interval.hi >= last.hi)
      return true;
  return false;
}

Value Evaluator::load(Value value, Value pointer, Level level,
                      Value extraMask) {
  Type element = elementOf(value);
  Value address = b.at(pointer, offsetOf(value), element);
  if (level != Level::Vector)
    return b.loadScalar(address, element);
  if (!coversLanes(body, value))
    return b.splat(b.loadScalar(address, element));
  return b.loadVector(address, element, b.andMask(chunkMask, extraMask));
}

void Evaluator::storeResult(unsigned result, Value computed, bool nonTemporal) {
  Value value = body.yield().getValues()[result];
  Value address = b.at(pointers[body.resultPointer(result)], offsetOf(value),
                       elementOf(value));
  if (isa<VectorType>(computed.getType()))
    b.store(computed, address, chunkMask, nonTemporal && !chunkMask);
  else
    b.store(computed, address);
}

//===----------------------------------------------------------------------===//
// Values
//===----------------------------------------------------------------------===//

Value Evaluator::get(Value value, Level level) {
  Level own = body.level(value);
  Memo &memo = memoOf(own);
  Value computed = memo.lookup(value);
  if (!computed) {
    computed = compute(value, own);
    if (!computed)
      return {};
    memoOf(own)[value] = computed;
  }
  if (level != Level::Vector || isa<VectorType>(computed.getType()))
    return computed;
  Value splat = splatMemo.lookup(value);
  if (!splat)
    splat = splatMemo[value] = b.splat(computed);
  return splat;
}

Value Evaluator::compute(Value value, Level level) {
  auto argument = dyn_cast<BlockArgument>(value);
  if (argument)
    return load(value, pointers[argument.getArgNumber()], level);
  if (Value pointer = stored.lookup(value))
    if (level == Level::Vector)
      return load(value, pointer, level);
  Operation *op = value.getDefiningOp();
  if (auto constant = dyn_cast<arith::ConstantOp>(op)) {
    auto dense = dyn_cast<DenseElementsAttr>(constant.getValue());
    if (!dense || !dense.isSplat()) {
      op->emitOpError() << "in a kernel must be the same for all elements";
      return {};
    }
    return b.builder.create<arith::ConstantOp>(
        b.loc, cast<TypedAttr>(dense.getSplatValue<Attribute>()));
  }
  if (auto broadcast = dyn_cast<lm::BroadcastOp>(op))
    return get(broadcast.getInput(), level);
  if (auto cast = dyn_cast<lm::ReshapeOp>(op))
    return get(cast.getInput(), level);
  if (auto accumulate = dyn_cast<lm::AccumulateOp>(op))
    return computeAccumulate(accumulate, level);
  if (auto iota = dyn_cast<lm::IotaOp>(op))
    return computeIota(iota, level);
  if (auto gather = dyn_cast<lm::EmbeddingOp>(op))
    return computeGather(gather, level);
  if (auto random = dyn_cast<lm::RandomUniformOp>(op))
    return computeRandom(random, level);
  if (isa<lm::ReduceOp, lm::ContractOp, lm::EmbeddingGradOp>(op)) {
    op->emitOpError() << "is used before it is computed in a kernel of kind '"
                      << const_cast<plan::KernelOp &>(body.kernel).getKind()
                      << "'";
    return {};
  }
  return computeElementwise(op, level);
}

// The product that `value` is, if nothing else uses it.
static arith::MulFOp productOf(Value value, const KernelBody &body,
                               Level level) {
  auto product = value.getDefiningOp<arith::MulFOp>();
  if (!product || !value.hasOneUse() || body.level(value) != level)
    return {};
  return elementOf(value).isF32() ? product : arith::MulFOp();
}

Value Evaluator::computeElementwise(Operation *op, Level level) {
  OpBuilder &builder = b.builder;
  if (isa<arith::AddFOp, arith::SubFOp>(op)) {
    bool subtract = isa<arith::SubFOp>(op);
    for (unsigned side : {0u, 1u}) {
      auto product = productOf(op->getOperand(side), body, level);
      if (!product)
        continue;
      Value x = get(product.getLhs(), level), y = get(product.getRhs(), level);
      Value other = get(op->getOperand(1 - side), level);
      if (!x || !y || !other)
        return {};
      if (subtract && side == 0)
        other = builder.create<arith::NegFOp>(b.loc, other);
      if (subtract && side == 1)
        x = builder.create<arith::NegFOp>(b.loc, x);
      return b.fma(x, y, other);
    }
  }
  SmallVector<Value> operands;
  for (Value operand : op->getOperands()) {
    Value computed = get(operand, level);
    if (!computed)
      return {};
    operands.push_back(computed);
  }
  Type type = elementOf(op->getResult(0));
  if (level == Level::Vector)
    type = b.vectorOf(type);
  OperationState state(b.loc, op->getName());
  state.addOperands(operands);
  state.addAttributes(op->getDiscardableAttrDictionary().getValue());
  state.propertiesAttr = op->getPropertiesAsAttribute();
  state.addTypes(type);
  return builder.create(state)->getResult(0);
}

Value Evaluator::computeAccumulate(lm::AccumulateOp op, Level level) {
  Value value = get(op.getValue(), level);
  auto argument = dyn_cast<BlockArgument>(op.getAccumulator());
  if (!value)
    return {};
  if (level == Level::Vector && argument && !b.aligned &&
      coversLanes(body, op.getAccumulator())) {
    // With no lane set nothing is read and zero is added.
    Value accumulator = load(argument, pointers[argument.getArgNumber()], level,
                             laterMicroBatchMask);
    return b.addf(accumulator, value);
  }
  Value accumulator = get(op.getAccumulator(), level);
  if (!accumulator)
    return {};
  return b.select(firstMicroBatch, value, b.addf(accumulator, value));
}

Value Evaluator::computeIota(lm::IotaOp op, Level level) {
  Interval dim = body.space(op.getOutput())[op.getDim()];
  Value index = b.toI32(indexAlong(dim));
  if (level != Level::Vector)
    return index;
  Interval last = body.columnGroups.back();
  Value lanes = b.splat(index);
  if (dim.lo > last.lo || dim.hi < last.hi)
    return lanes;
  return b.builder.create<arith::AddIOp>(b.loc, lanes, b.iota32());
}

Value Evaluator::computeGather(lm::EmbeddingOp op, Level level) {
  Value index = get(op.getIndices(), Level::Row);
  if (!index)
    return {};
  if (isa<VectorType>(index.getType())) {
    op.emitOpError() << "gathers single elements, not rows";
    return {};
  }
  OpBuilder &builder = b.builder;
  auto table = cast<RankedTensorType>(op.getTable().getType());
  Type element = table.getElementType();
  auto argument = dyn_cast<BlockArgument>(op.getTable());
  if (!argument) {
    op.emitOpError() << "must gather from an argument of the kernel";
    return {};
  }
  // The rows of a table that a step computes are counted at run time; who
  // gives the indices keeps them below.
  int64_t numRows = table.isDynamicDim(0) ? INT32_MAX : table.getDimSize(0);
  Value valid = builder.create<arith::CmpIOp>(b.loc, arith::CmpIPredicate::ult,
                                              index, b.i32(numRows));
  Value safe = b.toI64(b.select(valid, index, b.i32(0)));
  // The row's elements are the columns.
  int64_t width = 1;
  for (int64_t size : table.getShape().drop_front())
    width *= size;
  Value offset = b.add(b.mul(safe, width),
                       width > 1 ? indexAlong(Interval{1, width}) : b.i64(0));
  Value address = b.at(pointers[argument.getArgNumber()], offset, element);
  if (level != Level::Vector)
    return b.select(valid, b.loadScalar(address, element), b.zeros(element));
  Value loaded = b.loadVector(address, element, chunkMask);
  return b.select(valid, loaded, b.zeros(loaded.getType()));
}

// The runs of a random tensor: of each dim that is split, from the last to the
// first, the elements of one index of the dims before it; in the tensor that
// has the later ones whole, and with this one whole, too.
static SmallVector<std::pair<int64_t, int64_t>> runsOf(lm::RandomUniformOp op) {
  SmallVector<std::pair<int64_t, int64_t>> runs;
  if (!op.getWhole())
    return runs;
  ArrayRef<int64_t> whole = *op.getWhole();
  ArrayRef<int64_t> shape = cast<RankedTensorType>(op.getType()).getShape();
  int64_t inner = 1;
  for (size_t dim = shape.size(); dim-- > 1;) {
    if (shape[dim] != whole[dim])
      runs.push_back({shape[dim] * inner, whole[dim] * inner});
    inner *= whole[dim];
  }
  return runs;
}

// The index of an element, or of several, in the tensor of which this one is a
// part. The offset of the part itself comes with the first element.
Value Evaluator::inWhole(lm::RandomUniformOp op, Value element) {
  OpBuilder &builder = b.builder;
  auto number = [&](int64_t value) -> Value {
    auto type = dyn_cast<VectorType>(element.getType());
    return type ? b.splat(b.i64(value), type.getNumElements()) : b.i64(value);
  };
  for (auto [run, stride] : runsOf(op)) {
    Value index = builder.create<arith::DivUIOp>(b.loc, element, number(run));
    Value gap =
        builder.create<arith::MulIOp>(b.loc, index, number(stride - run));
    element = builder.create<arith::AddIOp>(b.loc, element, gap);
  }
  return element;
}

Value Evaluator::computeRandom(lm::RandomUniformOp op, Level level) {
  Value seedLow = get(op.getSeedLow(), Level::Kernel);
  Value seedHigh = get(op.getSeedHigh(), Level::Kernel);
  Value step = get(op.getStep(), Level::Kernel);
  if (!seedLow || !seedHigh || !step)
    return {};
  Value id = givenOfRandom.lookup(op).first;
  Value first = givenOfRandom.lookup(op).second;
  if (op.getId())
    id = b.i64(*op.getId());
  Philox philox(b, seedLow, seedHigh, step, id);
  Value element = indexAlong(Interval{1, body.elements});
  auto fromFirst = [&](Value at) -> Value {
    if (!first)
      return at;
    bool isVector = isa<VectorType>(at.getType());
    return b.builder.create<arith::AddIOp>(b.loc, at,
                                           isVector ? b.splat(first) : first);
  };
  if (level != Level::Vector)
    return philox.uniform(fromFirst(inWhole(op, element)));
  // Runs of whole 64s keep neighbours together, and 64-aligned.
  auto runs = runsOf(op);
  bool together = runs.empty() || runs.front().first % 64 == 0;
  if (quarter < 0 || b.lanes != 16 || !together) {
    Type i64s = b.vectorOf(b.builder.getI64Type());
    Value lane = b.builder.create<arith::ExtSIOp>(b.loc, i64s, b.iota32());
    Value elements =
        b.builder.create<arith::AddIOp>(b.loc, b.splat(element), lane);
    return philox.uniforms(fromFirst(inWhole(op, elements)));
  }
  auto &words = randomWords[op];
  if (quarter == 0)
    words = philox.alignedWords(fromFirst(inWhole(op, element)));
  return philox.toUniform(words[quarter]);
}
