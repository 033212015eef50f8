// Infers where the values of a kernel's body lie; see KernelBody.h.
#include "passes/codegen/KernelBody.h"

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/Math/IR/Math.h"

#include <set>

using namespace mlir;
using namespace lmc;
using namespace lmc::codegen;

//===----------------------------------------------------------------------===//
// Shapes and spaces
//===----------------------------------------------------------------------===//

static int64_t sizeOf(int64_t dim) {
  return ShapedType::isDynamic(dim) ? kDynamicSize : dim;
}

static ArrayRef<int64_t> shapeOf(Value value) {
  return cast<RankedTensorType>(value.getType()).getShape();
}

int64_t codegen::countElements(Type type) {
  int64_t count = 1;
  for (int64_t dim : cast<RankedTensorType>(type).getShape())
    count *= sizeOf(dim);
  return count;
}

// The space of a tensor that holds every element from `lo` on.
static Space denseSpace(ArrayRef<int64_t> shape, int64_t lo = 1) {
  Space space(shape.size());
  for (size_t i = shape.size(); i-- > 0;) {
    space[i] = {lo, lo * sizeOf(shape[i])};
    lo = space[i].hi;
  }
  return space;
}

Space codegen::coverage(const Space &space) {
  Space merged;
  for (Interval interval : space) {
    if (interval.lo == interval.hi)
      continue;
    if (!merged.empty() && merged.back().lo == interval.hi)
      merged.back().lo = interval.lo;
    else
      merged.push_back(interval);
  }
  return merged;
}

// The same elements under another shape; empty if a dim would lie across a
// gap.
static std::optional<Space> reshape(const Space &space,
                                    ArrayRef<int64_t> shape) {
  Space covered = coverage(space), result(shape.size());
  int64_t at = covered.empty() ? 1 : covered.back().lo;
  for (size_t i = shape.size(); i-- > 0;) {
    int64_t size = sizeOf(shape[i]);
    if (size == 1) {
      result[i] = {at, at};
      continue;
    }
    if (!covered.empty() && at == covered.back().hi) {
      covered.pop_back();
      if (!covered.empty())
        at = covered.back().lo;
    }
    if (covered.empty() || covered.back().hi % (at * size) != 0)
      return std::nullopt;
    result[i] = {at, at * size};
    at *= size;
  }
  return result;
}

const Space &KernelBody::space(Value value) const {
  static const Space scalar;
  auto found = spaces.find(value);
  return found == spaces.end() ? scalar : found->second;
}

plan::YieldOp KernelBody::yield() const {
  return cast<plan::YieldOp>(block().getTerminator());
}
Block &KernelBody::block() const {
  return const_cast<plan::KernelOp &>(kernel).getBody().front();
}

bool KernelBody::isTied(unsigned result) const {
  return const_cast<plan::KernelOp &>(kernel).getTied()[result] >= 0;
}
unsigned KernelBody::resultPointer(unsigned index) const {
  return resultPointerOf(kernel, index);
}

unsigned codegen::resultPointerOf(plan::KernelOp kernel, unsigned result) {
  ArrayRef<int64_t> tied = kernel.getTied();
  if (tied[result] >= 0)
    return static_cast<unsigned>(tied[result]);
  unsigned pointer = kernel.getFunctionType().getNumInputs();
  for (unsigned i = 0; i < result; ++i)
    pointer += tied[i] < 0;
  return pointer;
}

unsigned codegen::countPointers(plan::KernelOp kernel) {
  unsigned count = kernel.getFunctionType().getNumInputs();
  for (int64_t argument : kernel.getTied())
    count += argument < 0;
  return count;
}

bool codegen::takesMicroBatch(plan::KernelOp kernel) {
  for (Operation &op : kernel.getBody().front())
    if (isa<lm::AccumulateOp>(op))
      return true;
  return false;
}

bool codegen::takesRows(plan::KernelOp kernel) {
  auto dynamic = [](Type type) {
    auto tensor = dyn_cast<RankedTensorType>(type);
    return tensor && tensor.getRank() > 0 && tensor.isDynamicDim(0);
  };
  return llvm::any_of(kernel.getFunctionType().getInputs(), dynamic) ||
         llvm::any_of(kernel.getFunctionType().getResults(), dynamic);
}

SmallVector<lm::Drawing> codegen::randomsWithoutId(plan::KernelOp kernel) {
  SmallVector<lm::Drawing> result;
  for (auto random : kernel.getBody().getOps<lm::Drawing>())
    if (random.draws() && !random.getId())
      result.push_back(random);
  return result;
}

//===----------------------------------------------------------------------===//
// Inference
//===----------------------------------------------------------------------===//

static bool isElementwise(Operation *op) {
  return isa<lm::AccumulateOp>(op) ||
         (isa_and_nonnull<arith::ArithDialect, math::MathDialect>(
              op->getDialect()) &&
          op->getNumResults() == 1 && op->getNumOperands() > 0);
}

bool KernelBody::assign(Value value, const Space &space) {
  return spaces.try_emplace(value, space).second;
}

// One step of inference; true if something new is known.
bool KernelBody::propagate(Operation *op) {
  auto known = [&](Value v) { return spaces.count(v) != 0; };
  bool changed = false;
  if (isElementwise(op)) {
    Value source;
    for (Value v : op->getOperands())
      if (!source && known(v))
        source = v;
    if (!source && known(op->getResult(0)))
      source = op->getResult(0);
    if (!source)
      return false;
    Space from = spaces[source];
    for (Value v : op->getOperands())
      if (shapeOf(v) == shapeOf(source))
        changed |= assign(v, from);
    return assign(op->getResult(0), from) || changed;
  }
  if (auto broadcast = dyn_cast<lm::BroadcastOp>(op)) {
    if (!known(broadcast.getOutput()))
      return false;
    Space from;
    for (int64_t dim : broadcast.getDims())
      from.push_back(spaces[broadcast.getOutput()][dim]);
    return assign(broadcast.getInput(), from);
  }
  if (auto reduce = dyn_cast<lm::ReduceOp>(op)) {
    if (!known(reduce.getInput()))
      return false;
    Space from;
    const Space &input = spaces[reduce.getInput()];
    for (size_t i = 0; i < input.size(); ++i)
      if (!llvm::is_contained(reduce.getDims(), static_cast<int64_t>(i)))
        from.push_back(input[i]);
    return assign(reduce.getOutput(), from);
  }
  if (auto cast = dyn_cast<lm::ReshapeOp>(op)) {
    Value in = cast.getInput(), out = cast.getOutput();
    if (known(in) == known(out))
      return false;
    Value from = known(in) ? in : out, to = known(in) ? out : in;
    if (auto space = reshape(spaces[from], shapeOf(to)))
      return assign(to, *space);
    return false;
  }
  if (auto gather = dyn_cast<lm::EmbeddingOp>(op)) {
    if (!known(gather.getOutput()))
      return false;
    const Space &output = spaces[gather.getOutput()];
    size_t rank = shapeOf(gather.getIndices()).size();
    return assign(gather.getIndices(),
                  Space(output.begin(), output.begin() + rank));
  }
  return false;
}

LogicalResult KernelBody::inferSpaces() {
  llvm::SmallDenseSet<Value> outside; // not in the reference space
  SmallVector<Value> values(block().getArguments());
  for (Operation &op : block().without_terminator()) {
    values.append(op.result_begin(), op.result_end());
    if (auto gather = dyn_cast<lm::EmbeddingOp>(op))
      outside.insert(gather.getTable());
    else if (auto contract = dyn_cast<lm::ContractOp>(op)) {
      outside.insert(contract.getLhs());
      outside.insert(contract.getRhs());
    } else if (auto scatter = dyn_cast<lm::EmbeddingGradOp>(op)) {
      outside.insert(scatter.getIndices());
      outside.insert(scatter.getGradient());
    } else if (auto reduce = dyn_cast<lm::ReduceOp>(op))
      reductions.push_back(reduce);
    else if (isa<lm::AccumulateOp>(op))
      usesMicroBatch = true;
    else if (!isElementwise(&op) &&
             !isa<arith::ConstantOp, lm::BroadcastOp, lm::ReshapeOp, lm::IotaOp,
                  lm::RandomUniformOp>(op))
      return op.emitOpError() << "has no emitter in a kernel of kind '"
                              << kernel.getKind() << "'";
  }
  for (Value value : values) {
    if (!isa<RankedTensorType>(value.getType()))
      return emitError(value.getLoc())
             << "a kernel's body holds tensors only, not " << value.getType();
    for (auto [index, dim] : llvm::enumerate(shapeOf(value)))
      if (ShapedType::isDynamic(dim) && index > 0)
        return emitError(value.getLoc())
               << "only the leading dim of a kernel's tensor may be dynamic, "
                  "but this one is "
               << value.getType();
    if (!outside.count(value))
      elements = std::max(elements, countElements(value.getType()));
  }
  for (Value value : values) {
    int64_t count = countElements(value.getType());
    if (outside.count(value) || (count != elements && count != 1))
      continue;
    if (count == 1)
      spaces[value] = Space(shapeOf(value).size(), Interval{1, 1});
    else
      spaces[value] = denseSpace(shapeOf(value));
  }
  for (bool changed = true; changed;) {
    changed = false;
    for (Operation &op : block().without_terminator())
      changed |= propagate(&op);
  }
  for (Value value : values)
    if (!outside.count(value) && !spaces.count(value)) {
      if (value.use_empty())
        continue;
      return emitError(value.getLoc())
             << "a tensor of " << value.getType()
             << " is no view of the kernel's index space of " << elements
             << " elements";
    }
  return success();
}

LogicalResult KernelBody::chooseSplit(Split mode, int64_t explicitSplit) {
  std::set<int64_t> edges{1, elements};
  for (auto &[value, space] : spaces)
    for (Interval interval : coverage(space))
      edges.insert({interval.lo, interval.hi});
  for (Operation &op : block()) {
    if (auto iota = dyn_cast<lm::IotaOp>(op)) {
      Interval dim = space(iota.getOutput())[iota.getDim()];
      edges.insert({dim.lo, dim.hi});
    }
  }
  if (mode == Split::Flat) {
    split = elements;
  } else if (mode == Split::Explicit) {
    split = explicitSplit;
  } else {
    split = 0;
    for (lm::ReduceOp reduce : reductions) {
      int64_t reduced = mode == Split::Columns
                            ? countElements(reduce.getOutput().getType())
                            : 1;
      if (mode == Split::Rows)
        for (int64_t dim : reduce.getDims())
          reduced *= sizeOf(shapeOf(reduce.getInput())[dim]);
      if (split && split != reduced)
        return reduce.emitOpError()
               << "reduces rows of " << reduced
               << " elements in a kernel that reduces rows of " << split;
      split = reduced;
    }
    if (!split)
      for (Operation &op : block())
        if (auto gather = dyn_cast<lm::EmbeddingOp>(op))
          split = countElements(gather.getOutput().getType()) /
                  countElements(gather.getIndices().getType());
    if (!split && takesRows(kernel))
      split = elements / kDynamicSize;
    if (!split) {
      // The narrowest row that is still long enough for vectors.
      split = elements;
      for (int64_t edge : edges)
        if (edge >= 256 || edge == *std::prev(edges.end(), 2)) {
          split = edge > 1 ? edge : elements;
          break;
        }
    }
  }
  edges.insert(split);
  int64_t previous = 1;
  for (int64_t edge : edges) {
    if (edge % previous != 0)
      return kernel.emitOpError()
             << "broadcasts along runs of " << previous << " and of " << edge
             << " elements, which do not nest";
    if (edge > 1 && edge <= split)
      columnGroups.insert(columnGroups.begin(), Interval{previous, edge});
    previous = edge;
  }
  dynamicRows = takesRows(kernel);
  if (dynamicRows && (elements % kDynamicSize != 0 || split >= kDynamicSize))
    return kernel.emitOpError()
           << "has a dynamic leading dim that its rows do not follow";
  return success();
}

Level KernelBody::placeOf(Value value) const {
  Level level = Level::Kernel;
  for (Interval interval : coverage(space(value))) {
    if (interval.lo < split)
      return Level::Vector;
    level = Level::Row;
  }
  return level;
}

LogicalResult KernelBody::computeLevels(Split mode) {
  auto ofSpace = [&](Value value) { return placeOf(value); };
  for (Value argument : block().getArguments())
    levels[argument] = ofSpace(argument);
  for (Operation &op : block().without_terminator()) {
    if (op.getNumResults() != 1)
      return op.emitOpError() << "must have one result in a kernel";
    Value result = op.getResult(0);
    Level level = Level::Kernel;
    int64_t stage = 0;
    if (isa<lm::ReduceOp>(op)) {
      level = mode == Split::Columns ? Level::Vector : Level::Row;
      stage = stages[op.getOperand(0)] + 1;
      numStages = std::max(numStages, stage);
    } else {
      // An operand's level counts only where it is not a mere repetition.
      if (!isa<arith::ConstantOp>(op) && op.getNumOperands() == 0)
        level = ofSpace(result);
      bool given = isa<lm::ContractOp, lm::EmbeddingGradOp>(op);
      if (given || isa<lm::RandomUniformOp>(op))
        level = ofSpace(result);
      for (Value operand : op.getOperands()) {
        if (given)
          continue;
        if (auto gather = dyn_cast<lm::EmbeddingOp>(op))
          if (operand == gather.getTable()) {
            level = std::max(level, ofSpace(result));
            continue;
          }
        level = std::max(level, levels[operand]);
        stage = std::max(stage, stages[operand]);
      }
    }
    levels[result] = level;
    stages[result] = stage;
  }
  return success();
}

FailureOr<KernelBody> KernelBody::analyze(plan::KernelOp kernel, Split split,
                                          int64_t explicitSplit) {
  KernelBody body;
  body.kernel = kernel;
  if (failed(body.inferSpaces()) ||
      failed(body.chooseSplit(split, explicitSplit)) ||
      failed(body.computeLevels(split)))
    return failure();
  return body;
}
