// Units, their kinds, and the groups that they grow to; see KernelGroups.h.
#include "passes/plan/KernelGroups.h"

#include "dialects/dist/Dist.h"
#include "dialects/lm/Lm.h"
#include "dialects/lm/TensorMath.h"

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Interfaces/SideEffectInterfaces.h"
#include "llvm/ADT/SetVector.h"

using namespace mlir;
using namespace lmc;
using namespace lmc::plan;

static RankedTensorType typeOf(Value value) {
  return cast<RankedTensorType>(value.getType());
}
static ArrayRef<int64_t> shapeOf(Value value) {
  return typeOf(value).getShape();
}

// Elements of a shape, for comparison; a row count that is known at run time
// only is a large number.
static int64_t countElements(ArrayRef<int64_t> shape) {
  int64_t count = 1;
  for (int64_t size : shape)
    count *= ShapedType::isDynamic(size) ? int64_t(1) << 32 : size;
  return count;
}

// Brings a kernel of its own, which reads what lies in memory.
static bool bringsKernel(Operation *op) {
  return isa<lm::RopeOp, lm::AttentionOp, lm::AttentionGradOp, lm::CacheWriteOp,
             lm::PagedAttentionOp>(op);
}

static bool isView(Operation *op) {
  return isa<lm::ReshapeOp, lm::SliceRowsOp, lm::ConcatRowsOp>(op);
}

// An instruction of its own, never part of a kernel.
static bool standsAlone(Operation *op) {
  return isView(op) || dist::isCollective(op) ||
         isa<dist::SendOp, dist::ReceiveOp>(op);
}

bool lmc::plan::isRepeated(Operation *op) {
  return op->hasTrait<OpTrait::ConstantLike>() ||
         isa<lm::BroadcastOp, lm::IotaOp>(op);
}

bool lmc::plan::isUsedOutside(Value value,
                              llvm::function_ref<bool(Operation *)> isOurs) {
  return llvm::any_of(value.getUsers(), [&](Operation *user) {
    if (isOurs(user))
      return false;
    return !isRepeated(user) || isUsedOutside(user->getResult(0), isOurs);
  });
}

static int64_t mergeSplit(int64_t a, int64_t b) {
  if (a == kNoSplit)
    return b;
  return b == kNoSplit || a == b ? a : kConflict;
}

// The split that a broadcast asks for: its operand is a prefix (one number
// per row) or a suffix (one per column) of the result's dims.
static int64_t splitOf(lm::BroadcastOp op) {
  ArrayRef<int64_t> dims = op.getDims();
  int64_t numDims = typeOf(op.getOutput()).getRank();
  int64_t count = dims.size();
  if (count == 0 || count == numDims)
    return kNoSplit;
  if (dims.front() == 0 && dims.back() == count - 1)
    return count;
  if (dims.back() == numDims - 1 && dims.front() == numDims - count)
    return numDims - count;
  return kConflict;
}

// Sorts out what one unit is. Fails for a reduction that no kernel does.
static LogicalResult classify(Unit &unit) {
  // Of equals the one of more dims: a reduction's input, where all that it
  // reduces has size 1.
  auto measure = [](ArrayRef<int64_t> shape) {
    return std::make_pair(countElements(shape), shape.size());
  };
  auto largest = [&](Value value) {
    if (unit.shape.empty() || measure(shapeOf(value)) > measure(unit.shape))
      unit.shape.assign(shapeOf(value).begin(), shapeOf(value).end());
  };
  for (Operation *op : unit.ops) {
    for (Value result : op->getResults())
      largest(result);
    if (auto contract = dyn_cast<lm::ContractOp>(op)) {
      unit.kind = Kind::Contraction;
      unit.split = mergeSplit(unit.split, typeOf(contract.getLhs()).getRank() -
                                              contract.getLhsDims().size());
    } else if (isa<lm::EmbeddingGradOp>(op)) {
      unit.kind = Kind::Scatter;
    } else if (bringsKernel(op)) {
      unit.kind = Kind::Own;
    } else if (auto embedding = dyn_cast<lm::EmbeddingOp>(op)) {
      unit.kind = Kind::Row;
      unit.split =
          mergeSplit(unit.split, typeOf(embedding.getIndices()).getRank());
    } else if (auto reduce = dyn_cast<lm::ReduceOp>(op)) {
      ArrayRef<int64_t> dims = reduce.getDims();
      int64_t numDims = typeOf(reduce.getInput()).getRank();
      int64_t count = dims.size();
      largest(reduce.getInput());
      if (dims.front() == numDims - count && dims.back() == numDims - 1) {
        unit.kind = Kind::Row;
        unit.split = mergeSplit(unit.split, numDims - count);
      } else if (dims.front() == 0 && dims.back() == count - 1) {
        unit.kind = Kind::ColumnReduce;
        unit.split = mergeSplit(unit.split, count);
      } else {
        return op->emitOpError()
               << "reduces dims that are neither the first nor the last ones; "
                  "no kernel does that";
      }
    } else if (auto broadcast = dyn_cast<lm::BroadcastOp>(op)) {
      unit.split = mergeSplit(unit.split, splitOf(broadcast));
    }
    for (Value operand : op->getOperands())
      if (auto broadcast = operand.getDefiningOp<lm::BroadcastOp>())
        unit.split = mergeSplit(unit.split, splitOf(broadcast));
  }
  unit.outShape = unit.shape;
  if (unit.kind == Kind::ColumnReduce)
    unit.outShape.erase(unit.outShape.begin(),
                        unit.outShape.begin() +
                            std::max<int64_t>(0, unit.split));
  if (unit.kind == Kind::Contraction || unit.kind == Kind::Scatter)
    for (Operation *op : unit.ops)
      if (isa<lm::ContractOp, lm::EmbeddingGradOp>(op))
        unit.outShape = unit.shape =
            SmallVector<int64_t>(shapeOf(op->getResult(0)));
  if (unit.split == kConflict)
    return unit.ops.front()->emitOpError()
           << "mixes rows of different lengths; no kernel does that";
  return success();
}

void lmc::plan::eraseDead(Block &block) {
  for (Operation &op : llvm::make_early_inc_range(llvm::reverse(block)))
    if (isOpTriviallyDead(&op))
      op.erase();
}

// Kernels are made of primitives; another dialect's operation has to say what
// it is in terms of them.
static LogicalResult checkKnown(Operation *op) {
  if (auto random = dyn_cast<lm::Drawing>(op);
      random && random.draws() && !random.getId()) {
    InFlightDiagnostic error =
        op->emitOpError("draws random numbers, but has no id to tell them "
                        "from those of others");
    error.attachNote() << "help: give it `id = N : i64`";
    return error;
  }
  StringRef dialect = op->getName().getDialectNamespace();
  for (StringRef known : {"arith", "math", "lm", "dist", "plan", "func"})
    if (dialect == known)
      return success();
  InFlightDiagnostic error = op->emitOpError("has no way to a kernel");
  error.attachNote() << "help: implement Lowerable";
  return error;
}

LogicalResult ProgramKernels::findUnits() {
  // Rewrite layers as primitives; remember which came from one layer.
  llvm::DenseMap<Operation *, int> layerOf;
  int layer = 0;
  for (Block::iterator next = block.begin(); next != block.end();) {
    Operation &op = *next++;
    auto lowerable = dyn_cast<lm::Lowerable>(op);
    if (!lowerable) {
      if (failed(checkKnown(&op)))
        return failure();
      continue;
    }
    OpBuilder builder(&op);
    Operation *before = op.getPrevNode();
    SmallVector<Value> results;
    if (failed(lowerable.decompose(builder, results)))
      return failure();
    // Layers may be made of layers; these are visited next.
    int current = layer++;
    if (auto outer = layerOf.find(&op); outer != layerOf.end()) {
      current = outer->second;
      layerOf.erase(outer);
    }
    Block::iterator first =
        before ? std::next(Block::iterator(before)) : block.begin();
    for (Operation &made : llvm::make_range(first, Block::iterator(op)))
      layerOf[&made] = current;
    if (first != Block::iterator(op))
      next = first;
    op.replaceAllUsesWith(results);
    op.erase();
  }
  // A broadcast that leaves the program or meets a view has to exist.
  eraseDead(block);
  llvm::DenseMap<int, Unit *> unitOfLayer;
  for (Operation &op : block.without_terminator()) {
    if (standsAlone(&op))
      continue;
    bool exists = llvm::any_of(op.getUsers(), [](Operation *user) {
      return standsAlone(user) || user->hasTrait<OpTrait::IsTerminator>() ||
             bringsKernel(user) ||
             isa<lm::ContractOp, lm::EmbeddingGradOp>(user);
    });
    if (isRepeated(&op) && !exists)
      continue;
    auto found = layerOf.find(&op);
    Unit *&unit =
        found == layerOf.end() ? unitOfOp[&op] : unitOfLayer[found->second];
    if (!unit) {
      units.push_back(std::make_unique<Unit>());
      unit = units.back().get();
      unit->index = units.size() - 1;
    }
    unit->ops.push_back(&op);
    unitOfOp[&op] = unit;
  }
  for (auto &unit : units)
    if (failed(classify(*unit)))
      return failure();
  return success();
}

// A product of a known number of rows, with no more of its layer than a sum.
bool ProgramKernels::mayBeMatmul(const Group &group) const {
  return matmuls && group.kind == Kind::Contraction &&
         llvm::all_of(group.units.front()->ops, [](Operation *op) {
           return isa<lm::ContractOp, arith::AddFOp>(op) &&
                  cast<RankedTensorType>(op->getResult(0).getType())
                      .hasStaticShape();
         });
}

// One sum with a value that is there, if nobody else wants the product.
bool ProgramKernels::joinsMatmul(const Group &group, const Unit &unit) const {
  if (group.units.size() != 1 || unit.ops.size() != 1 ||
      !isa<arith::AddFOp, lm::AccumulateOp>(unit.ops.front()))
    return false;
  Operation *sum = unit.ops.front();
  Operation *product = group.units.front()->ops.back();
  return llvm::is_contained(sum->getOperands(), product->getResult(0)) &&
         llvm::none_of(sum->getOperands(),
                       [&](Value operand) {
                         Operation *producer = operand.getDefiningOp();
                         return producer && isRepeated(producer);
                       }) &&
         !isUsedOutside(product->getResult(0),
                        [&](Operation *user) { return user == sum; });
}

bool ProgramKernels::joins(const Group &group, const Unit &unit) const {
  if (group.kind == Kind::Own ||
      (mayBeMatmul(group) && !joinsMatmul(group, unit)))
    return false;
  int64_t split = mergeSplit(group.split, unit.split);
  if (unit.kind == Kind::Elementwise)
    return unit.shape == group.outShape &&
           (group.kind == Kind::ColumnReduce || group.kind == Kind::Scatter
                ? unit.split == kNoSplit
                : split != kConflict);
  return unit.kind == Kind::Row &&
         (group.kind == Kind::Elementwise || group.kind == Kind::Row) &&
         unit.shape == group.shape && split != kConflict;
}

// Whether `value` exists where the group's root stands or can be pulled in.
bool ProgramKernels::readable(Value value, const Group &group,
                              const SmallPtrSetImpl<Unit *> &joining,
                              SmallVectorImpl<Unit *> &pulled) const {
  Operation *producer = value.getDefiningOp();
  if (!producer)
    return true;
  Unit *unit = unitOf(producer);
  if (unit && (llvm::is_contained(group.units, unit) || joining.contains(unit)))
    return true;
  Operation *root = group.units.front()->ops.front();
  if (!unit && isRepeated(producer))
    return llvm::all_of(producer->getOperands(), [&](Value operand) {
      return readable(operand, group, joining, pulled);
    });
  if (unit && unit->group >= 0) {
    // Its kernel stands where that kernel's root stands.
    Operation *other = groups[unit->group].units.front()->ops.front();
    return other->isBeforeInBlock(root);
  }
  if (unit && unit->kind == Kind::Elementwise && joins(group, *unit)) {
    if (!llvm::is_contained(pulled, unit))
      pulled.push_back(unit);
    return true;
  }
  return producer->isBeforeInBlock(root) && (unit || standsAlone(producer)) &&
         (!isView(producer) ||
          llvm::all_of(producer->getOperands(), [&](Value operand) {
            SmallVector<Unit *> none;
            return readable(operand, group, joining, none) && none.empty();
          }));
}

// A kernel gathers rows of memory, not of a value that it is about to write.
bool ProgramKernels::isTableFromWithin(
    Operation *op, Value operand, const Group &group,
    const SmallPtrSetImpl<Unit *> &joining) const {
  auto gather = dyn_cast<lm::EmbeddingOp>(op);
  if (!gather || gather.getTable() != operand || !operand.getDefiningOp())
    return false;
  Unit *unit = unitOf(operand.getDefiningOp());
  return unit && (unit->group < 0 || joining.contains(unit) ||
                  llvm::is_contained(group.units, unit));
}

bool ProgramKernels::tryJoin(Group &group, int index, Unit *unit) {
  SmallPtrSet<Unit *, 8> joining;
  SmallVector<Unit *> work{unit};
  joining.insert(unit);
  while (!work.empty()) {
    Unit *next = work.pop_back_val();
    if (!joins(group, *next))
      return false;
    SmallVector<Unit *> pulled;
    for (Operation *op : next->ops)
      for (Value operand : op->getOperands())
        if (isTableFromWithin(op, operand, group, joining) ||
            !readable(operand, group, joining, pulled))
          return false;
    for (Unit *p : pulled)
      if (joining.insert(p).second)
        work.push_back(p);
  }
  // A unit that is pulled in must serve this kernel alone.
  auto isOurs = [&](Operation *op) {
    Unit *owner = unitOf(op);
    return owner &&
           (joining.contains(owner) || llvm::is_contained(group.units, owner));
  };
  for (Unit *pulled : joining)
    if (pulled != unit)
      for (Operation *op : pulled->ops)
        for (Value result : op->getResults())
          if (isUsedOutside(result, isOurs))
            return false;
  SmallVector<Unit *> ordered(joining.begin(), joining.end());
  llvm::sort(ordered, [](Unit *a, Unit *b) { return a->index < b->index; });
  for (Unit *joined : ordered) {
    joined->group = index;
    group.units.push_back(joined);
    if (group.kind != Kind::ColumnReduce && group.kind != Kind::Scatter)
      group.split = mergeSplit(group.split, joined->split);
    if (joined->kind == Kind::Row)
      group.kind = Kind::Row;
  }
  return true;
}

void ProgramKernels::grow(Group &group, int index) {
  for (bool changed = true; changed;) {
    changed = false;
    llvm::SetVector<Unit *> candidates;
    for (Unit *unit : group.units)
      for (Operation *op : unit->ops) {
        // One that a collective reads: who else uses it, has one of its own.
        if (op->hasTrait<OpTrait::ConstantLike>())
          continue;
        for (Operation *user : op->getUsers()) {
          Unit *next = unitOf(user);
          if (next && next->group < 0)
            candidates.insert(next);
        }
      }
    SmallVector<Unit *> ordered(candidates.begin(), candidates.end());
    llvm::sort(ordered, [](Unit *a, Unit *b) { return a->index < b->index; });
    for (Unit *next : ordered)
      if (next->group < 0)
        changed |= tryJoin(group, index, next);
  }
}

void ProgramKernels::formGroups() {
  for (auto &unit : units) {
    if (unit->group >= 0)
      continue;
    int index = groups.size();
    groups.push_back(
        {{unit.get()}, unit->kind, unit->shape, unit->outShape, unit->split});
    unit->group = index;
    grow(groups.back(), index);
  }
}
