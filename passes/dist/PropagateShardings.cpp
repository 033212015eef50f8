// Propagation through factors. Worked example, tp = 2, w marked on its second
// dim:
//
//     %y = linear %x[B,D], %w[D,F]    factors B, D, F
//     w: F has tp       =>  y's dim 1, which is F too, gets tp
//     %g = gelu %y      =>  g's dim 1 gets tp
//     %z = linear %g[B,F], %v[F,D]    F is summed: v's dim 0 gets tp, and z is
//                                     partial on tp (Partition sees to that)
//
// One algorithm for all operations: they differ in their rules only.
#include "passes/dist/Passes.h"

#include "passes/dist/LocalIndex.h"
#include "passes/dist/ShardingTable.h"

#include <limits>

namespace lmc::dist {
#define GEN_PASS_DEF_PROPAGATESHARDINGS
#include "passes/dist/Passes.h.inc"
} // namespace lmc::dist

using namespace mlir;
using namespace lmc;
using namespace lmc::dist;

namespace {

using Kind = lm::ShardingRule::Kind;

int64_t rankOf(Value value) {
  return cast<RankedTensorType>(value.getType()).getRank();
}

bool usesAxis(const DimAxes &dims, StringRef axis) {
  return llvm::any_of(
      dims, [&](const Axes &axes) { return llvm::is_contained(axes, axis); });
}

class Propagation {
public:
  Propagation(ModuleOp module) : module(module), states(module) {}

  void seed();
  void runToFixpoint();
  // Rewrites operations that are sharded on a factor they cannot keep whole.
  // True if there was one: propagation has to go on.
  FailureOr<bool> decomposeSharded();
  int64_t write();
  int64_t getNumConflicts() const { return conflicts; }

private:
  DimAxes &dimsOf(Value value) {
    DimAxes &dims = values[value];
    dims.resize(rankOf(value));
    return dims;
  }
  DimAxes &dimsOf(Operation *state) {
    DimAxes &dims = stateDims[state];
    dims.resize(getStateType(state).getRank());
    return dims;
  }
  static RankedTensorType getStateType(Operation *state) {
    if (auto parameter = dyn_cast<lm::ParameterOp>(state))
      return parameter.getTensorType();
    return cast<lm::StateOp>(state).getTensorType();
  }
  // Calls `visit(value, state)` for every argument and result tied to one.
  void forEachTied(llvm::function_ref<void(Value, Operation *)> visit);
  // What is sent and what is received on one channel lie alike.
  bool unifyTransfers();
  bool unify(DimAxes &a, DimAxes &b);
  bool carry(Operation *op);
  void maskLoss(lm::CrossEntropyOp loss, func::FuncOp function,
                ArrayRef<StringRef> axes);

  ModuleOp module;
  StateIndex states;
  llvm::DenseMap<Value, DimAxes> values;
  llvm::DenseMap<Operation *, DimAxes> stateDims;
  int64_t conflicts = 0;
};

void Propagation::seed() {
  for (Operation &op : *module.getBody())
    if (auto sharding = op.getAttrOfType<ShardingAttr>(kShardingAttr))
      stateDims[&op] = readDims(sharding);
  for (auto function : module.getOps<func::FuncOp>())
    for (unsigned i = 0, e = function.getNumArguments(); i < e; ++i)
      if (auto sharding =
              function.getArgAttrOfType<ShardingAttr>(i, kShardingAttr))
        values[function.getArgument(i)] = readDims(sharding);
}

void Propagation::forEachTied(
    llvm::function_ref<void(Value, Operation *)> visit) {
  for (auto function : module.getOps<func::FuncOp>()) {
    for (unsigned i = 0, e = function.getNumArguments(); i < e; ++i)
      if (Operation *state =
              states.speaker(function.getArgAttr(i, lm::kStateAttr)))
        visit(function.getArgument(i), state);
    Operation *terminator = function.getBody().front().getTerminator();
    for (unsigned i = 0, e = function.getNumResults(); i < e; ++i)
      if (Operation *state =
              states.speaker(function.getResultAttr(i, lm::kStateAttr)))
        visit(terminator->getOperand(i), state);
  }
}

bool Propagation::unifyTransfers() {
  llvm::DenseMap<int64_t, Value> sent;
  module.walk([&](SendOp send) { sent[send.getChannel()] = send.getInput(); });
  bool changed = false;
  module.walk([&](ReceiveOp receive) {
    if (Value value = sent.lookup(receive.getChannel())) {
      dimsOf(value); // a new entry may move the others
      DimAxes &mine = dimsOf(receive.getOutput());
      changed |= unify(dimsOf(value), mine);
    }
  });
  return changed;
}

// Fills what one side lacks from the other. True if something changed.
bool Propagation::unify(DimAxes &a, DimAxes &b) {
  bool changed = false;
  for (auto [x, y] : llvm::zip(a, b)) {
    if (x.empty() == y.empty())
      continue;
    (x.empty() ? x : y) = x.empty() ? y : x;
    changed = true;
  }
  return changed;
}

// Carries axes between the dims of one operation's factors.
bool Propagation::carry(Operation *op) {
  std::optional<lm::ShardingRule> rule = ruleOf(op);
  if (!rule)
    return false;
  SmallVector<Axes> factorAxes(rule->factors.size());
  auto forEachDim =
      [&](llvm::function_ref<void(DimAxes &, unsigned, int64_t)> visit) {
        auto visitAll = [&](auto range,
                            ArrayRef<lm::ShardingRule::Dims> lists) {
          for (auto [value, dims] : llvm::zip(range, lists))
            for (auto [dim, factor] : llvm::enumerate(dims))
              if (factor >= 0)
                visit(dimsOf(value), dim, factor);
        };
        visitAll(op->getOperands(), rule->operands);
        visitAll(op->getResults(), rule->results);
      };
  forEachDim([&](DimAxes &dims, unsigned dim, int64_t factor) {
    if (rule->factors[factor].kind == Kind::Replicated ||
        dims[dim].size() <= factorAxes[factor].size())
      return;
    // An axis serves one factor of an operation.
    for (auto [other, axes] : llvm::enumerate(factorAxes))
      if (static_cast<int64_t>(other) != factor)
        for (StringRef axis : dims[dim])
          if (llvm::is_contained(axes, axis)) {
            ++conflicts;
            return;
          }
    factorAxes[factor] = dims[dim];
  });
  bool changed = false;
  forEachDim([&](DimAxes &dims, unsigned dim, int64_t factor) {
    const Axes &axes = factorAxes[factor];
    if (axes.empty() || !dims[dim].empty() ||
        llvm::any_of(axes,
                     [&](StringRef axis) { return usesAxis(dims, axis); }))
      return;
    dims[dim] = axes;
    changed = true;
  });
  return changed;
}

void Propagation::runToFixpoint() {
  for (bool changed = true; changed;) {
    changed = false;
    forEachTied([&](Value value, Operation *state) {
      changed |= unify(dimsOf(value), dimsOf(state));
    });
    changed |= unifyTransfers();
    for (auto function : module.getOps<func::FuncOp>()) {
      Block &block = function.getBody().front();
      for (Operation &op : block)
        changed |= carry(&op);
      for (Operation &op : llvm::reverse(block))
        changed |= carry(&op);
    }
  }
}

// A loss over a sharded vocabulary: targets count from the rank's first
// column, and columns beyond the vocabulary weigh nothing.
void Propagation::maskLoss(lm::CrossEntropyOp loss, func::FuncOp function,
                           ArrayRef<StringRef> axes) {
  auto mesh = module->getAttrOfType<MeshAttr>(kMeshAttr);
  Value logits = loss.getLogits();
  auto type = cast<RankedTensorType>(logits.getType());
  int64_t vocabulary = type.getShape().back();
  int64_t local = localSize(vocabulary, axes, mesh);
  OpBuilder builder(loss);
  loss.getTargetsMutable().assign(shiftIndices(
      builder, loss.getLoc(), function, loss.getTargets(), axes, local, mesh));
  int64_t parts = 1;
  for (StringRef axis : axes)
    parts *= mesh.getSize(axis);
  if (vocabulary == parts * local)
    return;
  builder.setInsertionPointAfterValue(logits);
  lm::TensorMath m(builder, loss.getLoc());
  auto indexType = RankedTensorType::get(type.getShape(), builder.getI32Type());
  auto scalar = RankedTensorType::get({}, builder.getI32Type());
  Value first = firstRow(builder, loss.getLoc(), function, axes, local, mesh);
  Value valid = builder.create<arith::SubIOp>(
      loss.getLoc(), m.constant(scalar, double(vocabulary)), first);
  Value column =
      builder.create<lm::IotaOp>(loss.getLoc(), indexType, type.getRank() - 1);
  Value exists = builder.create<arith::CmpIOp>(
      loss.getLoc(), arith::CmpIPredicate::slt, column,
      m.broadcastScalar(valid, indexType));
  Value lowest = m.constant(type, -std::numeric_limits<double>::infinity());
  auto masked =
      builder.create<arith::SelectOp>(loss.getLoc(), exists, logits, lowest);
  logits.replaceAllUsesExcept(masked, masked);
}

FailureOr<bool> Propagation::decomposeSharded() {
  SmallVector<Operation *> sharded;
  llvm::DenseMap<Operation *, Axes> axesOf;
  for (auto function : module.getOps<func::FuncOp>())
    for (Operation &op : function.getBody().front()) {
      std::optional<lm::ShardingRule> rule = ruleOf(&op);
      if (!rule)
        continue;
      for (auto [operand, dims] : llvm::zip(op.getOperands(), rule->operands))
        for (auto [dim, factor] : llvm::enumerate(dims))
          if (factor >= 0 && rule->factors[factor].kind == Kind::Decompose &&
              !dimsOf(operand)[dim].empty() && !axesOf.contains(&op)) {
            sharded.push_back(&op);
            axesOf[&op] = dimsOf(operand)[dim];
          }
    }
  for (Operation *op : sharded) {
    if (auto loss = dyn_cast<lm::CrossEntropyOp>(op))
      maskLoss(loss, op->getParentOfType<func::FuncOp>(), axesOf[op]);
    auto lowerable = dyn_cast<lm::Lowerable>(op);
    if (!lowerable)
      return op->emitOpError("is sharded on a dim that it can only be sharded "
                             "on as primitives, and has none");
    OpBuilder builder(op);
    SmallVector<Value> results;
    if (failed(lowerable.decompose(builder, results)))
      return failure();
    for (Value result : op->getResults())
      values.erase(result);
    op->replaceAllUsesWith(results);
    op->erase();
  }
  return !sharded.empty();
}

int64_t Propagation::write() {
  MLIRContext *context = module.getContext();
  int64_t sharded = 0;
  auto attribute = [&](const DimAxes &dims) {
    if (llvm::any_of(dims, [](const Axes &axes) { return !axes.empty(); }))
      ++sharded;
    return makeSharding(context, dims);
  };
  for (Operation &op : *module.getBody())
    if (isa<lm::ParameterOp, lm::StateOp>(op))
      op.setAttr(kShardingAttr,
                 attribute(dimsOf(states.speaker(FlatSymbolRefAttr::get(
                     SymbolTable::getSymbolName(&op))))));
  for (auto function : module.getOps<func::FuncOp>()) {
    for (BlockArgument argument : function.getArguments())
      function.setArgAttr(argument.getArgNumber(), kShardingAttr,
                          attribute(dimsOf(argument)));
    for (Operation &op : function.getBody().front()) {
      SmallVector<Attribute> shardings;
      for (Value result : op.getResults())
        shardings.push_back(attribute(dimsOf(result)));
      if (!shardings.empty())
        op.setAttr(kShardingsAttr, ArrayAttr::get(context, shardings));
    }
  }
  return sharded;
}

struct PropagateShardings
    : lmc::dist::impl::PropagateShardingsBase<PropagateShardings> {
  using PropagateShardingsBase::PropagateShardingsBase;

  void runOnOperation() override {
    ModuleOp module = getOperation();
    if (!module->hasAttr(kMeshAttr))
      return;
    Propagation propagation(module);
    propagation.seed();
    for (;;) {
      propagation.runToFixpoint();
      FailureOr<bool> again = propagation.decomposeSharded();
      if (failed(again))
        return signalPassFailure();
      if (!*again)
        break;
    }
    numSharded += propagation.write();
    numConflicts += propagation.getNumConflicts();
  }
};

} // namespace
