// Which operations become one kernel.
//
// Layers are rewritten as primitives first; the primitives of one layer are a
// *unit*, and a unit has a kind (plan.kernel lists them). A kernel starts from
// a unit, its root, and takes in the elementwise units that use its results,
// each with the elementwise units that only it needs:
//
//     root   %h = contract %x, %w          kernel   %h = contract %x, %w
//     unit   %b = h + bias                    =>    %b = %h + bias
//     unit   %g = gelu(%b)                          %g = gelu(%b)
//                                                   yield %b, %g
//
// A unit joins only if everything else it reads exists where the root stands,
// so a kernel takes the root's place. Equal kernels become one.
#include "passes/plan/Passes.h"

#include "dialects/lm/TensorMath.h"
#include "dialects/plan/Plan.h"
#include "passes/lm/ProgramSignature.h"

#include "mlir/IR/IRMapping.h"
#include "mlir/Interfaces/SideEffectInterfaces.h"
#include "llvm/ADT/SetVector.h"
#include "llvm/ADT/StringMap.h"

namespace lmc::plan {
#define GEN_PASS_DEF_FORMKERNELS
#include "passes/plan/Passes.h.inc"
} // namespace lmc::plan

using namespace mlir;
using namespace lmc;
using namespace lmc::plan;

namespace {

enum class Kind { Elementwise, Row, ColumnReduce, Contraction, Scatter, Own };

RankedTensorType typeOf(Value value) {
  return cast<RankedTensorType>(value.getType());
}
ArrayRef<int64_t> shapeOf(Value value) { return typeOf(value).getShape(); }

// Elements of a shape, for comparison; a row count that is known at run time
// only is a large number.
int64_t countElements(ArrayRef<int64_t> shape) {
  int64_t count = 1;
  for (int64_t size : shape)
    count *= ShapedType::isDynamic(size) ? int64_t(1) << 32 : size;
  return count;
}

// Has a kernel of its own, which reads what lies in memory.
bool standsAlone(Operation *op) {
  return isa<lm::RopeOp, lm::AttentionOp, lm::AttentionGradOp, lm::CacheWriteOp,
             lm::PagedAttentionOp>(op);
}

bool isView(Operation *op) {
  return isa<lm::ReshapeOp, lm::SliceRowsOp, lm::ConcatRowsOp>(op);
}

// Repeated in every kernel that uses them instead of being kept.
bool isRepeated(Operation *op) {
  return op->hasTrait<OpTrait::ConstantLike>() ||
         isa<lm::BroadcastOp, lm::IotaOp>(op);
}

// Whether something beyond `isOurs` uses `value`, be it through operations that
// are repeated where they are used.
bool isUsedOutside(Value value, llvm::function_ref<bool(Operation *)> isOurs) {
  return llvm::any_of(value.getUsers(), [&](Operation *user) {
    if (isOurs(user))
      return false;
    return !isRepeated(user) || isUsedOutside(user->getResult(0), isOurs);
  });
}

// What stands between rows and columns of a shape; -1: nothing asks for one.
constexpr int64_t kNoSplit = -1, kConflict = -2;

int64_t mergeSplit(int64_t a, int64_t b) {
  if (a == kNoSplit)
    return b;
  return b == kNoSplit || a == b ? a : kConflict;
}

// A set of primitives that is never taken apart.
struct Unit {
  SmallVector<Operation *> ops;
  Kind kind = Kind::Elementwise;
  SmallVector<int64_t> shape;    // that it runs over
  SmallVector<int64_t> outShape; // of its results
  int64_t split = kNoSplit;
  int group = -1;
  size_t index = 0;
};

struct Group {
  SmallVector<Unit *> units; // the root first
  Kind kind;
  SmallVector<int64_t> shape, outShape;
  int64_t split;
};

// The split that a broadcast asks for: its operand is a prefix (one number
// per row) or a suffix (one per column) of the result's dims.
int64_t splitOf(lm::BroadcastOp op) {
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
LogicalResult classify(Unit &unit) {
  auto largest = [&](Value value) {
    if (unit.shape.empty() ||
        countElements(shapeOf(value)) > countElements(unit.shape))
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
    } else if (standsAlone(op)) {
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

// Forms the kernels of one program.
class ProgramKernels {
public:
  ProgramKernels(func::FuncOp function) : block(function.getBody().front()) {}

  LogicalResult findUnits();
  void formGroups();
  ArrayRef<Group> getGroups() const { return groups; }

  // All operations of a group, in program order.
  SmallVector<Operation *> opsOf(const Group &group) const {
    SmallVector<Operation *> ops;
    for (Unit *unit : group.units)
      llvm::append_range(ops, unit->ops);
    llvm::sort(
        ops, [](Operation *a, Operation *b) { return a->isBeforeInBlock(b); });
    return ops;
  }

private:
  Unit *unitOf(Operation *op) const { return unitOfOp.lookup(op); }
  bool joins(const Group &group, const Unit &unit) const;
  bool readable(Value value, const Group &group,
                const SmallPtrSetImpl<Unit *> &joining,
                SmallVectorImpl<Unit *> &pulled) const;
  bool isTableFromWithin(Operation *op, Value operand, const Group &group,
                         const SmallPtrSetImpl<Unit *> &joining) const;
  bool tryJoin(Group &group, int index, Unit *unit);
  void grow(Group &group, int index);

  Block &block;
  std::vector<std::unique_ptr<Unit>> units;
  llvm::DenseMap<Operation *, Unit *> unitOfOp;
  std::vector<Group> groups;
};

void eraseDead(Block &block) {
  for (Operation &op : llvm::make_early_inc_range(llvm::reverse(block)))
    if (isOpTriviallyDead(&op))
      op.erase();
}

LogicalResult ProgramKernels::findUnits() {
  // Rewrite layers as primitives; remember which came from one layer.
  llvm::DenseMap<Operation *, int> layerOf;
  int layer = 0;
  for (Operation &op : llvm::make_early_inc_range(block)) {
    auto lowerable = dyn_cast<lm::Lowerable>(op);
    if (!lowerable)
      continue;
    OpBuilder builder(&op);
    Operation *before = op.getPrevNode();
    SmallVector<Value> results;
    if (failed(lowerable.decompose(builder, results)))
      return failure();
    for (Operation *made = before ? before->getNextNode() : &block.front();
         made != &op; made = made->getNextNode())
      layerOf[made] = layer;
    ++layer;
    op.replaceAllUsesWith(results);
    op.erase();
  }
  // A broadcast that leaves the program or meets a view has to exist.
  eraseDead(block);
  llvm::DenseMap<int, Unit *> unitOfLayer;
  for (Operation &op : block.without_terminator()) {
    if (isView(&op))
      continue;
    bool exists = llvm::any_of(op.getUsers(), [](Operation *user) {
      return isView(user) || user->hasTrait<OpTrait::IsTerminator>() ||
             standsAlone(user) ||
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

bool ProgramKernels::joins(const Group &group, const Unit &unit) const {
  if (group.kind == Kind::Own)
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
  return producer->isBeforeInBlock(root) && (unit || isView(producer)) &&
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
      for (Operation *op : unit->ops)
        for (Operation *user : op->getUsers()) {
          Unit *next = unitOf(user);
          if (next && next->group < 0)
            candidates.insert(next);
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

// Turns groups into kernels and launches.
class Outliner {
public:
  Outliner(ModuleOp module, func::FuncOp function,
           llvm::StringMap<KernelOp> &kernels)
      : module(module), function(function), kernels(kernels) {}

  void run(ProgramKernels &program) {
    traceStates();
    // From the last to the first, so that a result's state is known when its
    // producer is met.
    for (const Group &group : llvm::reverse(program.getGroups()))
      outline(group, program.opsOf(group));
  }

private:
  void traceStates();
  void outline(const Group &group, ArrayRef<Operation *> ops);
  int64_t findTie(const Group &group, Value result, ArrayRef<Value> arguments,
                  Operation *root, const SmallPtrSetImpl<Operation *> &inside);
  bool lastUse(Value value, Operation *root,
               const SmallPtrSetImpl<Operation *> &inside);
  KernelOp makeKernel(const Group &group, ArrayRef<Operation *> ops,
                      ArrayRef<Value> arguments, ArrayRef<Value> results,
                      ArrayRef<int64_t> tied);
  StringRef kindName(const Group &group, ArrayRef<Operation *> ops);

  ModuleOp module;
  func::FuncOp function;
  llvm::StringMap<KernelOp> &kernels;
  llvm::DenseMap<Value, Attribute> stateOf; // the state whose bytes it takes
};

void Outliner::traceStates() {
  Operation *terminator = function.getBody().front().getTerminator();
  for (unsigned i = 0, e = function.getNumResults(); i < e; ++i)
    if (Attribute state = function.getResultAttr(i, lm::kStateAttr))
      stateOf[terminator->getOperand(i)] = state;
}

bool Outliner::lastUse(Value value, Operation *root,
                       const SmallPtrSetImpl<Operation *> &inside) {
  return llvm::all_of(value.getUsers(), [&](Operation *user) {
    return inside.contains(user) || user->isBeforeInBlock(root);
  });
}

// The argument whose bytes `result` takes: the old value of the same state,
// or a sum so far. Only where each element is read before it is written and
// by the same unit.
int64_t Outliner::findTie(const Group &group, Value result,
                          ArrayRef<Value> arguments, Operation *root,
                          const SmallPtrSetImpl<Operation *> &inside) {
  auto state = stateOf.find(result);
  if (auto write = result.getDefiningOp<lm::CacheWriteOp>())
    return llvm::find(arguments, write.getCache()) - arguments.begin();
  if (state == stateOf.end() || group.kind == Kind::Row ||
      group.kind == Kind::Own)
    return -1;
  auto fits = [&](Value value) {
    return value.getType() == result.getType() &&
           lastUse(value, root, inside) &&
           llvm::none_of(value.getUsers(), [&](Operation *user) {
             return inside.contains(user) &&
                    isa<lm::ContractOp, lm::EmbeddingGradOp, lm::ReduceOp>(
                        user);
           });
  };
  for (auto [index, value] : llvm::enumerate(arguments))
    if (auto argument = dyn_cast<BlockArgument>(value))
      if (function.getArgAttr(argument.getArgNumber(), lm::kStateAttr) ==
              state->second &&
          fits(value))
        return index;
  Operation *producer = result.getDefiningOp();
  if (!isa<arith::AddFOp>(producer))
    return -1;
  for (Value operand : producer->getOperands()) {
    auto found = llvm::find(arguments, operand);
    if (found == arguments.end() || isa<BlockArgument>(operand) ||
        stateOf.contains(operand) || !fits(operand))
      continue;
    stateOf[operand] = state->second;
    return found - arguments.begin();
  }
  return -1;
}

StringRef Outliner::kindName(const Group &group, ArrayRef<Operation *> ops) {
  switch (group.kind) {
  case Kind::Elementwise:
    return group.split == kNoSplit ? "flat" : "row";
  case Kind::Row:
    return "row";
  case Kind::ColumnReduce:
    return "column_reduce";
  case Kind::Contraction:
    return "contraction";
  case Kind::Scatter:
    return "scatter";
  case Kind::Own:
    return ops.front()->getName().stripDialect();
  }
  llvm_unreachable("every kind is named");
}

KernelOp Outliner::makeKernel(const Group &group, ArrayRef<Operation *> ops,
                              ArrayRef<Value> arguments,
                              ArrayRef<Value> results, ArrayRef<int64_t> tied) {
  OpBuilder builder(module.getContext());
  SmallVector<Type> inputs, outputs;
  for (Value value : arguments)
    inputs.push_back(value.getType());
  for (Value value : results)
    outputs.push_back(value.getType());
  Location loc = ops.front()->getLoc();
  StringRef kind = kindName(group, ops);
  auto kernel = builder.create<KernelOp>(
      loc, builder.getStringAttr("kernel"),
      TypeAttr::get(builder.getFunctionType(inputs, outputs)),
      builder.getStringAttr(kind), builder.getDenseI64ArrayAttr(tied),
      /*arg_attrs=*/nullptr, /*res_attrs=*/nullptr);
  Block *body = builder.createBlock(&kernel.getBody());
  IRMapping mapping;
  for (Value value : arguments)
    mapping.map(value, body->addArgument(value.getType(), loc));
  // Clones `op` after what it repeats.
  std::function<void(Operation *)> cloneOp = [&](Operation *op) {
    for (Value operand : op->getOperands())
      if (!mapping.contains(operand))
        cloneOp(operand.getDefiningOp());
    builder.clone(*op, mapping);
  };
  for (Operation *op : ops)
    cloneOp(op);
  SmallVector<Value> yielded;
  for (Value value : results)
    yielded.push_back(mapping.lookup(value));
  builder.create<YieldOp>(loc, yielded);

  std::string text;
  llvm::raw_string_ostream stream(text);
  kernel->print(stream, OpPrintingFlags().useLocalScope());
  auto [found, isNew] = kernels.try_emplace(text);
  if (!isNew) {
    kernel.erase();
    return found->second;
  }
  kernel.setSymName((kind + "_" + Twine(kernels.size() - 1)).str());
  module.insert(function, kernel);
  found->second = kernel;
  return kernel;
}

void Outliner::outline(const Group &group, ArrayRef<Operation *> ops) {
  SmallPtrSet<Operation *, 16> inside(ops.begin(), ops.end());
  llvm::SetVector<Value> arguments;
  std::function<void(Operation *)> addArguments = [&](Operation *op) {
    for (Value operand : op->getOperands()) {
      Operation *producer = operand.getDefiningOp();
      if (producer && inside.contains(producer))
        continue;
      // What is repeated has no launch of its own and was not outlined.
      if (producer && isRepeated(producer))
        addArguments(producer);
      else
        arguments.insert(operand);
    }
  };
  SmallVector<Value> results;
  for (Operation *op : ops) {
    addArguments(op);
    for (Value result : op->getResults())
      if (isUsedOutside(result,
                        [&](Operation *user) { return inside.contains(user); }))
        results.push_back(result);
  }
  Operation *root = group.units.front()->ops.front();
  SmallVector<int64_t> tied;
  for (Value result : results) {
    int64_t tie = findTie(group, result, arguments.getArrayRef(), root, inside);
    tied.push_back(tie >= 0 && llvm::is_contained(tied, tie) ? -1 : tie);
  }
  KernelOp kernel =
      makeKernel(group, ops, arguments.getArrayRef(), results, tied);
  OpBuilder builder(root);
  auto launch = builder.create<LaunchOp>(
      root->getLoc(), kernel.getResultTypes(),
      FlatSymbolRefAttr::get(kernel.getSymNameAttr()), arguments.getArrayRef());
  for (auto [old, replacement] : llvm::zip(results, launch.getResults())) {
    if (auto state = stateOf.find(old); state != stateOf.end()) {
      Attribute symbol = state->second;
      stateOf.erase(state);
      stateOf[replacement] = symbol;
    }
    old.replaceAllUsesWith(replacement);
  }
  for (Operation *op : llvm::reverse(ops)) {
    op->dropAllUses();
    op->erase();
  }
}

struct FormKernels : lmc::plan::impl::FormKernelsBase<FormKernels> {
  using FormKernelsBase::FormKernelsBase;

  void runOnOperation() override {
    ModuleOp module = getOperation();
    llvm::StringMap<KernelOp> kernels;
    SmallVector<func::FuncOp> programs(module.getOps<func::FuncOp>());
    for (func::FuncOp function : programs) {
      if (!function->hasAttr(lm::kProgramAttr))
        continue;
      ProgramKernels program(function);
      if (failed(program.findUnits()))
        return signalPassFailure();
      program.formGroups();
      numLaunches += program.getGroups().size();
      Outliner(module, function, kernels).run(program);
      eraseDead(function.getBody().front());
    }
    numKernels += kernels.size();
  }
};

} // namespace
