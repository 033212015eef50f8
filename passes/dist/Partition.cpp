// Local shapes and collectives. What is partial is followed in program order:
// a product over a sharded factor makes its result partial; sums pass through
// additions; anywhere else the value is all-reduced, once, behind its producer.
//
// Gradients cross from `step` to `update` partial on the data axes: their
// accumulators are remembered, and `update` reduces them before it reads them.
#include "passes/dist/Passes.h"

#include "passes/dist/LocalIndex.h"
#include "passes/dist/ShardingTable.h"

#include "llvm/ADT/SetVector.h"

namespace lmc::dist {
#define GEN_PASS_DEF_PARTITION
#include "passes/dist/Passes.h.inc"
} // namespace lmc::dist

using namespace mlir;
using namespace lmc;
using namespace lmc::dist;

namespace {

using Kind = lm::ShardingRule::Kind;
using PartialAxes = llvm::SmallSetVector<StringRef, 2>;

// A sum passes through: f(a1 + a2, b1 + b2) = f(a1, b1) + f(a2, b2).
bool isLinear(Operation *op) {
  if (auto reduce = dyn_cast<lm::ReduceOp>(op))
    return reduce.getKind() == "sum";
  return isa<arith::AddFOp, arith::SubFOp, lm::AccumulateOp>(op);
}

class ProgramPartition {
public:
  ProgramPartition(func::FuncOp function, MeshAttr mesh,
                   const StateIndex &states,
                   llvm::DenseMap<Attribute, PartialAxes> &statePartial)
      : function(function), mesh(mesh), states(states),
        statePartial(statePartial) {}

  LogicalResult run();
  int64_t getNumAllReduces() const { return allReduces; }

private:
  LogicalResult readShardings();
  LogicalResult visit(Operation *op);
  void widenReduction(AllReduceOp op);
  LogicalResult checkRandom(Operation *op);
  LogicalResult checkOperand(Operation *op, unsigned index,
                             const lm::ShardingRule &rule,
                             ArrayRef<Axes> factorAxes);
  LogicalResult checkWhole(Operation *op);
  LogicalResult finishResults();
  void findFilled();
  Value reduced(Value value, StringRef kind, const PartialAxes &axes);
  void reduceStates();
  LogicalResult localize(Value value);
  // A copy: asking for another value may move the entries.
  PartialAxes partialOf(Value value) const { return partial.lookup(value); }

  func::FuncOp function;
  MeshAttr mesh;
  const StateIndex &states;
  llvm::DenseMap<Attribute, PartialAxes> &statePartial;
  llvm::DenseMap<Value, DimAxes> dims;
  llvm::DenseMap<Value, PartialAxes> partial;
  llvm::DenseMap<Value, Value> reducedValue;
  llvm::DenseSet<Attribute> filled;
  int64_t allReduces = 0;
};

LogicalResult ProgramPartition::readShardings() {
  for (BlockArgument argument : function.getArguments()) {
    auto sharding = function.getArgAttrOfType<ShardingAttr>(
        argument.getArgNumber(), kShardingAttr);
    DimAxes &axes = dims[argument];
    axes.resize(cast<RankedTensorType>(argument.getType()).getRank());
    if (sharding)
      axes = readDims(sharding);
  }
  for (Operation &op : function.getBody().front()) {
    auto shardings = op.getAttrOfType<ArrayAttr>(kShardingsAttr);
    for (auto [index, result] : llvm::enumerate(op.getResults()))
      if (shardings)
        dims[result] = readDims(cast<ShardingAttr>(shardings[index]));
      else
        dims[result].resize(cast<RankedTensorType>(result.getType()).getRank());
    for (StringRef spent : {kShardingsAttr, kFactorsAttr, kOriginsAttr})
      op.removeAttr(spent);
  }
  return success();
}

// `value` with its sum (or maximum) taken over `axes`.
Value ProgramPartition::reduced(Value value, StringRef kind,
                                const PartialAxes &axes) {
  Value &known = reducedValue[value];
  if (known)
    return known;
  OpBuilder b(function.getContext());
  b.setInsertionPointAfterValue(value);
  auto op = b.create<AllReduceOp>(value.getLoc(), value.getType(),
                                  b.getStringAttr(kind), value,
                                  b.getStrArrayAttr(axes.getArrayRef()),
                                  /*tied=*/UnitAttr());
  DimAxes axesOfDims = dims[value]; // a new entry may move the others
  dims[op.getOutput()] = std::move(axesOfDims);
  ++allReduces;
  return known = op.getOutput();
}

LogicalResult ProgramPartition::checkOperand(Operation *op, unsigned index,
                                             const lm::ShardingRule &rule,
                                             ArrayRef<Axes> factorAxes) {
  for (auto [dim, factor] : llvm::enumerate(rule.operands[index])) {
    if (factor < 0)
      continue;
    const Axes &have = dims[op->getOperand(index)][dim];
    if (have == factorAxes[factor])
      continue;
    auto list = [](const Axes &axes) {
      return axes.empty() ? std::string("no axis") : llvm::join(axes, ", ");
    };
    return op->emitOpError()
           << "needs dim " << dim << " of operand " << index << " split by "
           << list(factorAxes[factor]) << ", but it is split by " << list(have)
           << "; this reshard is not supported";
  }
  return success();
}

// An operation without a rule computes right on whole tensors alone.
LogicalResult ProgramPartition::checkWhole(Operation *op) {
  if (op->getNumOperands() == 0 || op->hasTrait<OpTrait::IsTerminator>())
    return success();
  auto axesOf = [&](Value value) {
    Axes axes;
    for (const Axes &each : dims.lookup(value))
      llvm::append_range(axes, each);
    return axes;
  };
  for (ValueRange values :
       {ValueRange(op->getOperands()), ValueRange(op->getResults())})
    for (Value value : values)
      if (Axes axes = axesOf(value); !axes.empty())
        return op->emitOpError()
               << "has no sharding rule, and one of its tensors is split by "
               << llvm::join(axes, ", ")
               << "; help: implement Shardable, or give an elementwise "
                  "operation the trait SameOperandsAndResultType";
  return success();
}

// A sum over stages takes the other axes along.
void ProgramPartition::widenReduction(AllReduceOp op) {
  PartialAxes have = partialOf(op.getInput());
  if (have.empty())
    return;
  llvm::SmallSetVector<Attribute, 4> axes;
  for (Attribute axis : mesh.getAxes())
    if (llvm::is_contained(op.getAxes(), axis) ||
        have.contains(cast<StringAttr>(axis).getValue()))
      axes.insert(axis);
  op.setAxesAttr(ArrayAttr::get(op.getContext(), axes.getArrayRef()));
}

// Random numbers are counted along samples: data ranks share them out, and no
// other axis splits them.
LogicalResult ProgramPartition::checkRandom(Operation *op) {
  Axes data;
  for (StringRef axis : {"dp", "fsdp"})
    if (mesh.getSize(axis) > 1)
      data.push_back(axis);
  for (auto [dim, axes] : llvm::enumerate(dims[op->getResult(0)])) {
    Axes split;
    for (StringRef axis : axes)
      if (mesh.getSize(axis) > 1)
        split.push_back(axis);
    if (split != (dim == 0 ? data : Axes()))
      return op->emitOpError()
             << "draws random numbers for a tensor whose dim " << dim
             << " is split by "
             << (split.empty() ? "no axis" : llvm::join(split, ", "))
             << "; samples split by the data axes are supported; help: set "
                "this dropout rate to 0";
  }
  return success();
}

LogicalResult ProgramPartition::visit(Operation *op) {
  if (auto reduce = dyn_cast<AllReduceOp>(op);
      reduce && reduce.getKind() == "sum") {
    widenReduction(reduce);
    return success();
  }
  if (auto send = dyn_cast<SendOp>(op)) {
    if (PartialAxes axes = partialOf(send.getInput()); !axes.empty())
      send.getInputMutable().assign(reduced(send.getInput(), "sum", axes));
    return success();
  }
  if (isa<ReceiveOp>(op))
    return success();
  std::optional<lm::ShardingRule> rule = ruleOf(op);
  if (!rule) {
    if (failed(checkWhole(op)))
      return failure();
    for (OpOperand &operand : op->getOpOperands())
      if (!partialOf(operand.get()).empty() &&
          !op->hasTrait<OpTrait::IsTerminator>())
        operand.set(reduced(operand.get(), "sum", partialOf(operand.get())));
    return success();
  }
  SmallVector<Axes> factorAxes(rule->factors.size());
  auto gather = [&](auto range, ArrayRef<lm::ShardingRule::Dims> lists) {
    for (auto [value, factors] : llvm::zip(range, lists))
      for (auto [dim, factor] : llvm::enumerate(factors))
        if (factor >= 0 && rule->factors[factor].kind != Kind::Replicated &&
            factorAxes[factor].empty())
          factorAxes[factor] = dims[value][dim];
  };
  gather(op->getOperands(), rule->operands);
  gather(op->getResults(), rule->results);
  for (unsigned i = 0; i < rule->operands.size(); ++i)
    if (failed(checkOperand(op, i, *rule, factorAxes)))
      return failure();
  if (isa<lm::RandomUniformOp, lm::DropoutOp>(op) && failed(checkRandom(op)))
    return failure();

  // Partial operands pass through a sum if all of them are partial alike. An
  // accumulator is partial as what is added to it.
  PartialAxes passed;
  SmallVector<OpOperand *> needed;
  for (OpOperand &operand : op->getOpOperands())
    if (!isa<lm::AccumulateOp>(op) || operand.getOperandNumber() == 1)
      needed.push_back(&operand);
  bool alike = isLinear(op) && llvm::all_of(needed, [&](OpOperand *operand) {
                 const PartialAxes &axes = partialOf(operand->get());
                 const PartialAxes &first = partialOf(needed.front()->get());
                 return axes.getArrayRef() == first.getArrayRef();
               });
  if (alike)
    passed = partialOf(needed.front()->get());
  else
    for (OpOperand *operand : needed)
      if (PartialAxes axes = partialOf(operand->get()); !axes.empty())
        operand->set(reduced(operand->get(), "sum", axes));
  if (rule->indexOperand >= 0 && !factorAxes[rule->indexFactor].empty()) {
    OpBuilder b(op);
    OpOperand &operand = op->getOpOperand(rule->indexOperand);
    const Axes &axes = factorAxes[rule->indexFactor];
    Value old = operand.get();
    int64_t size = rule->factors[rule->indexFactor].size;
    Operation *before = op->getPrevNode();
    operand.set(shiftIndices(b, op->getLoc(), function, old, axes,
                             localSize(size, axes, mesh), mesh));
    // The new operations lie as the indices do.
    Operation *made = before ? before->getNextNode() : &op->getBlock()->front();
    for (; made != op; made = made->getNextNode())
      for (Value result : made->getResults())
        dims[result] = cast<RankedTensorType>(result.getType()).getRank() == 0
                           ? DimAxes()
                           : dims[old];
  }
  PartialAxes sums(passed), maxima;
  for (auto [factor, axes] : llvm::zip(rule->factors, factorAxes)) {
    if (factor.kind == Kind::Sum)
      sums.insert(axes.begin(), axes.end());
    if (factor.kind == Kind::Max)
      maxima.insert(axes.begin(), axes.end());
  }
  for (Value result : op->getResults())
    partial[result] = sums;
  if (maxima.empty())
    return success();
  for (Value result : op->getResults()) {
    Value maximum = reduced(result, "max", maxima);
    result.replaceAllUsesExcept(maximum, maximum.getDefiningOp());
  }
  return success();
}

// The accumulators that the program adds to.
void ProgramPartition::findFilled() {
  for (BlockArgument argument : function.getArguments())
    if (llvm::any_of(argument.getUses(), [](OpOperand &use) {
          return isa<lm::AccumulateOp>(use.getOwner()) &&
                 use.getOperandNumber() == 0;
        }))
      filled.insert(
          function.getArgAttr(argument.getArgNumber(), lm::kStateAttr));
}

// Accumulators that are partial are reduced where a program other than one
// that fills them starts, and stay so.
void ProgramPartition::reduceStates() {
  Operation *terminator = function.getBody().front().getTerminator();
  SmallVector<lm::TiedResult> results;
  llvm::DenseSet<Attribute> returned;
  for (unsigned i = 0, e = function.getNumResults(); i < e; ++i) {
    NamedAttribute tie = *function.getResultAttrs(i).begin();
    for (NamedAttribute attribute : function.getResultAttrs(i))
      if (attribute.getName() != kShardingAttr)
        tie = attribute;
    results.push_back(
        {terminator->getOperand(i), tie.getName(), tie.getValue()});
    if (tie.getName() == lm::kStateAttr)
      returned.insert(tie.getValue());
  }
  size_t before = results.size();
  for (BlockArgument argument : function.getArguments()) {
    Attribute state =
        function.getArgAttr(argument.getArgNumber(), lm::kStateAttr);
    auto found = statePartial.find(state);
    if (!state || found == statePartial.end() || found->second.empty() ||
        filled.contains(state))
      continue;
    Value sum = reduced(argument, "sum", found->second);
    cast<AllReduceOp>(sum.getDefiningOp()).setTied(true);
    argument.replaceAllUsesExcept(sum, sum.getDefiningOp());
    if (!returned.contains(state))
      results.push_back({sum, lm::kStateAttr, state});
  }
  // `results` was read before operands were replaced.
  for (auto [i, value] : llvm::enumerate(terminator->getOperands()))
    results[i].value = value;
  if (results.size() > before)
    lm::setResults(function, results);
}

LogicalResult ProgramPartition::finishResults() {
  Operation *terminator = function.getBody().front().getTerminator();
  for (OpOperand &operand : terminator->getOpOperands()) {
    Attribute state =
        function.getResultAttr(operand.getOperandNumber(), lm::kStateAttr);
    PartialAxes axes = partialOf(operand.get());
    auto reduction = operand.get().getDefiningOp<AllReduceOp>();
    if (reduction && reduction.getTied())
      continue;
    auto owned = dyn_cast_or_null<lm::StateOp>(states.lookup(state));
    if (owned && owned.getKind() == "accumulator" && filled.contains(state)) {
      auto [found, isNew] = statePartial.try_emplace(state, axes);
      if (!isNew && found->second.getArrayRef() != axes.getArrayRef())
        return function.emitError()
               << "two programs leave " << state << " partial on other axes";
      continue;
    }
    if (!axes.empty())
      operand.set(reduced(operand.get(), "sum", axes));
  }
  return success();
}

LogicalResult ProgramPartition::localize(Value value) {
  auto type = cast<RankedTensorType>(value.getType());
  SmallVector<int64_t> shape(type.getShape());
  auto vocabulary =
      function->getParentOfType<ModuleOp>()->getAttrOfType<IntegerAttr>(
          "lm.vocabulary");
  for (auto [size, axes] : llvm::zip(shape, dims[value])) {
    int64_t local = localSize(size, axes, mesh);
    bool mayPad = vocabulary && vocabulary.getInt() == size;
    int64_t parts = 1;
    for (StringRef axis : axes)
      parts *= mesh.getSize(axis);
    if (size % parts != 0 && !mayPad)
      return emitError(value.getLoc())
             << "a dim of size " << size << " cannot be split into " << parts
             << " equal parts over axis " << llvm::join(axes, ", ")
             << "; help: choose a size of the axis that divides " << size;
    size = local;
  }
  auto local = RankedTensorType::get(shape, type.getElementType());
  value.setType(local);
  if (auto constant = value.getDefiningOp<arith::ConstantOp>())
    constant.setValueAttr(DenseElementsAttr::get(
        local, cast<DenseElementsAttr>(constant.getValue())
                   .getSplatValue<Attribute>()));
  return success();
}

LogicalResult ProgramPartition::run() {
  if (failed(readShardings()))
    return failure();
  SmallVector<Operation *> ops;
  for (Operation &op : function.getBody().front())
    ops.push_back(&op);
  findFilled();
  reduceStates();
  for (Operation *op : ops)
    if (failed(visit(op)))
      return failure();
  if (failed(finishResults()))
    return failure();
  for (BlockArgument argument : function.getArguments())
    if (failed(localize(argument)))
      return failure();
  for (Operation &op : function.getBody().front())
    for (Value result : op.getResults())
      if (failed(localize(result)))
        return failure();
  Operation *terminator = function.getBody().front().getTerminator();
  function.setFunctionType(FunctionType::get(
      function.getContext(), function.getBody().front().getArgumentTypes(),
      terminator->getOperandTypes()));
  return success();
}

struct Partition : lmc::dist::impl::PartitionBase<Partition> {
  using PartitionBase::PartitionBase;

  void runOnOperation() override {
    ModuleOp module = getOperation();
    auto mesh = module->getAttrOfType<MeshAttr>(kMeshAttr);
    if (!mesh)
      return;
    StateIndex states(module);
    llvm::DenseMap<Attribute, PartialAxes> statePartial;
    for (auto function : module.getOps<func::FuncOp>()) {
      ProgramPartition program(function, mesh, states, statePartial);
      if (failed(program.run()))
        return signalPassFailure();
      numAllReduces += program.getNumAllReduces();
    }
  }
};

} // namespace
