// Propagation through factors. Worked example, tp = 2, w marked on its second
// dim:
//
//     %y = linear %x[B,D], %w[D,F]    factors B, D, F
//     w: F has tp       =>  y's dim 1, which is F too, gets tp
//     %g = gelu %y      =>  g's dim 1 gets tp
//     %z = linear %g[B,F], %v[F,D]    F is summed: v's dim 0 gets tp, and z is
//                                     partial on tp (Partition sees to that)
//
// One algorithm for all operations: they differ in their rules only. Marks come
// in rounds, by priority: an axis that an earlier round gave to a factor of an
// operation stays there, so that a later one cannot take it to another factor.
// Every axis of a dim remembers the mark that it came from.
#include "passes/dist/Passes.h"

#include "passes/dist/ShardingTable.h"

#include "dialects/lm/TensorMath.h"

#include <set>

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

// What splits a dim, and why.
struct DimSplit {
  Axes axes;
  int64_t priority = 0;
  StringAttr origin;
};
using Splits = SmallVector<DimSplit, 6>;

bool usesAxis(const Splits &splits, StringRef axis) {
  return llvm::any_of(splits, [&](const DimSplit &split) {
    return llvm::is_contained(split.axes, axis);
  });
}

bool overlaps(const Axes &a, const Axes &b) {
  return llvm::any_of(
      a, [&](StringRef axis) { return llvm::is_contained(b, axis); });
}

class Propagation {
public:
  Propagation(ModuleOp module) : module(module), states(module) {}

  void seed();
  LogicalResult run();
  int64_t write();
  int64_t getNumConflicts() const { return conflicts; }

private:
  // A mark whose round has not come.
  struct Pending {
    Value value; // or, where it is null,
    Operation *state = nullptr;
    MarkAttr mark;
  };

  Splits &splitsOf(Value value) {
    Splits &splits = values[value];
    splits.resize(rankOf(value));
    return splits;
  }
  Splits &splitsOf(Operation *state) {
    Splits &splits = stateSplits[state];
    splits.resize(getStateType(state).getRank());
    return splits;
  }
  static RankedTensorType getStateType(Operation *state) {
    if (auto parameter = dyn_cast<lm::ParameterOp>(state))
      return parameter.getTensorType();
    return cast<lm::StateOp>(state).getTensorType();
  }
  void addMarks(Attribute marks, ValueRange results, Operation *state);
  Splits given(ShardingAttr sharding);
  void applyMarks(int64_t priority);
  void runToFixpoint();
  // Rewrites operations that are sharded on a factor they cannot keep whole.
  // True if there was one: propagation has to go on.
  FailureOr<bool> decomposeSharded();
  // Calls `visit(value, state)` for every argument and result tied to one.
  void forEachTied(llvm::function_ref<void(Value, Operation *)> visit);
  // What is sent and what is received on one channel lie alike.
  bool unifyTransfers();
  bool unify(Splits &first, Splits &second);
  Splits chooseFactors(Operation *op, const lm::ShardingRule &rule,
                       int64_t *dropped = nullptr);
  bool carry(Operation *op);

  ModuleOp module;
  StateIndex states;
  llvm::DenseMap<Value, Splits> values;
  llvm::DenseMap<Operation *, Splits> stateSplits;
  llvm::DenseSet<Value> closed; // gets nothing beyond its marks
  SmallVector<Pending> pending;
  int64_t conflicts = 0;
};

// A sharding that stands there already counts as a mark of priority 0.
Splits Propagation::given(ShardingAttr sharding) {
  Splits splits;
  auto origin = StringAttr::get(module.getContext(), "given");
  for (const Axes &axes : readDims(sharding))
    splits.push_back({axes, 0, axes.empty() ? StringAttr() : origin});
  return splits;
}

void Propagation::addMarks(Attribute marks, ValueRange results,
                           Operation *state) {
  if (auto list = dyn_cast_or_null<ArrayAttr>(marks))
    for (MarkAttr mark : list.getAsRange<MarkAttr>())
      pending.push_back(
          {state ? Value() : results[mark.getResult()], state, mark});
}

void Propagation::seed() {
  for (Operation &op : *module.getBody()) {
    if (!isa<lm::ParameterOp, lm::StateOp>(op))
      continue;
    if (auto sharding = op.getAttrOfType<ShardingAttr>(kShardingAttr))
      stateSplits[&op] = given(sharding);
    addMarks(op.removeAttr(kMarksAttr), {}, &op);
  }
  for (auto function : module.getOps<func::FuncOp>()) {
    for (BlockArgument argument : function.getArguments()) {
      unsigned i = argument.getArgNumber();
      if (auto sharding =
              function.getArgAttrOfType<ShardingAttr>(i, kShardingAttr))
        values[argument] = given(sharding);
      addMarks(function.removeArgAttr(i, kMarksAttr), argument, nullptr);
      if (function.removeArgAttr(i, kClosedAttr))
        closed.insert(argument);
    }
    for (Operation &op : function.getBody().front())
      addMarks(op.removeAttr(kMarksAttr), op.getResults(), nullptr);
  }
}

// Gives the marks of one round to dims that are free.
void Propagation::applyMarks(int64_t priority) {
  for (const Pending &each : pending) {
    if (each.mark.getPriority() != priority)
      continue;
    Splits &splits = each.value ? splitsOf(each.value) : splitsOf(each.state);
    Axes axes;
    for (Attribute axis : each.mark.getAxes())
      axes.push_back(cast<StringAttr>(axis).getValue());
    size_t dim = each.mark.getDim();
    if (dim >= splits.size() || !splits[dim].axes.empty() ||
        llvm::any_of(axes,
                     [&](StringRef axis) { return usesAxis(splits, axis); }))
      ++conflicts;
    else
      splits[dim] = {axes, priority, each.mark.getOrigin()};
  }
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
      splitsOf(value); // a new entry may move the others
      Splits &mine = splitsOf(receive.getOutput());
      changed |= unify(splitsOf(value), mine);
    }
  });
  return changed;
}

// Makes two values lie alike: each has what the other has. Where an axis would
// then serve two dims, the first is right. True if something changed.
bool Propagation::unify(Splits &first, Splits &second) {
  bool changed = false;
  for (auto [x, y] : llvm::zip(first, second)) {
    bool isFree = llvm::none_of(
        y.axes, [&](StringRef axis) { return usesAxis(first, axis); });
    if (x.axes.empty() && !y.axes.empty() && isFree) {
      x = y;
      changed = true;
    }
  }
  for (auto [x, y] : llvm::zip(first, second))
    if (x.axes != y.axes) {
      y = x;
      changed = true;
    }
  return changed;
}

// The axes that split each factor of `op`, of all that its tensors have. An
// axis serves one factor: the one of the earlier priority, then the one that
// the operands name first.
Splits Propagation::chooseFactors(Operation *op, const lm::ShardingRule &rule,
                                  int64_t *dropped) {
  Splits wanted(rule.factors.size()), chosen(rule.factors.size());
  SmallVector<int64_t> order;
  lm::forEachDim(op, rule, [&](Value value, int64_t dim, int64_t factor) {
    const DimSplit &split = splitsOf(value)[dim];
    DimSplit &best = wanted[factor];
    if (rule.factors[factor].kind == Kind::Replicated || split.axes.empty())
      return;
    if (best.axes.empty())
      order.push_back(factor);
    if (best.axes.empty() || split.priority < best.priority ||
        (split.priority == best.priority &&
         split.axes.size() > best.axes.size()))
      best = split;
  });
  SmallVector<std::tuple<int64_t, size_t, int64_t>> byPriority;
  for (auto [index, factor] : llvm::enumerate(order))
    byPriority.push_back({wanted[factor].priority, index, factor});
  llvm::sort(byPriority);
  for (const auto &[priority, index, chosenFactor] : byPriority) {
    int64_t factor = chosenFactor; // lambdas capture no binding
    bool isFree = llvm::none_of(chosen, [&](const DimSplit &other) {
      return overlaps(wanted[factor].axes, other.axes);
    });
    if (isFree)
      chosen[factor] = wanted[factor];
    else if (dropped)
      ++*dropped;
  }
  return chosen;
}

// Carries axes between the dims of one operation's factors.
bool Propagation::carry(Operation *op) {
  std::optional<lm::ShardingRule> rule = lm::ruleOf(op);
  if (!rule)
    return false;
  Splits factors = chooseFactors(op, *rule);
  bool changed = false;
  lm::forEachDim(op, *rule, [&](Value value, int64_t dim, int64_t factor) {
    const DimSplit &from = factors[factor];
    Splits &splits = splitsOf(value);
    if (from.axes.empty() || !splits[dim].axes.empty() ||
        closed.contains(value) || llvm::any_of(from.axes, [&](StringRef axis) {
          return usesAxis(splits, axis);
        }))
      return;
    splits[dim] = from;
    changed = true;
  });
  return changed;
}

void Propagation::runToFixpoint() {
  for (bool changed = true; changed;) {
    changed = false;
    forEachTied([&](Value value, Operation *state) {
      changed |= unify(splitsOf(state), splitsOf(value));
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

LogicalResult Propagation::run() {
  std::set<int64_t> rounds{0};
  for (const Pending &each : pending)
    rounds.insert(each.mark.getPriority());
  for (int64_t round : rounds) {
    applyMarks(round);
    for (;;) {
      runToFixpoint();
      FailureOr<bool> again = decomposeSharded();
      if (failed(again))
        return failure();
      if (!*again)
        break;
    }
  }
  return success();
}

FailureOr<bool> Propagation::decomposeSharded() {
  llvm::SetVector<Operation *> sharded;
  for (auto function : module.getOps<func::FuncOp>())
    for (Operation &op : function.getBody().front()) {
      std::optional<lm::ShardingRule> rule = lm::ruleOf(&op);
      if (!rule)
        continue;
      for (auto [operand, dims] : llvm::zip(op.getOperands(), rule->operands))
        for (auto [dim, factor] : llvm::enumerate(dims))
          if (factor >= 0 && rule->factors[factor].kind == Kind::Decompose &&
              !splitsOf(operand)[dim].axes.empty())
            sharded.insert(&op);
    }
  for (Operation *op : sharded) {
    auto lowerable = dyn_cast<lm::Lowerable>(op);
    if (!lowerable)
      return op->emitOpError("is sharded on a dim that it can only be sharded "
                             "on as primitives, and has none");
    OpBuilder builder(op);
    SmallVector<Value> results;
    if (failed(lowerable.decompose(builder, results)))
      return failure();
    for (auto [old, result] : llvm::zip(op->getResults(), results)) {
      Splits splits = splitsOf(old);
      values.erase(old);
      values[result] = std::move(splits);
      for (Pending &each : pending)
        if (each.value == old)
          each.value = result;
    }
    op->replaceAllUsesWith(results);
    op->erase();
  }
  return !sharded.empty();
}

int64_t Propagation::write() {
  MLIRContext *context = module.getContext();
  Builder b(context);
  int64_t sharded = 0;
  auto sharding = [&](const Splits &splits) {
    DimAxes dims;
    for (const DimSplit &split : splits)
      dims.push_back(split.axes);
    if (llvm::any_of(dims, [](const Axes &axes) { return !axes.empty(); }))
      ++sharded;
    return makeSharding(context, dims);
  };
  // For people: what each dim's axes come from.
  bool isSplit = false;
  auto origins = [&](const Splits &splits) {
    SmallVector<Attribute> list;
    for (const DimSplit &split : splits) {
      list.push_back(split.origin ? split.origin : b.getStringAttr(""));
      isSplit |= bool(split.origin);
    }
    return b.getArrayAttr(list);
  };
  auto setOrigins = [&](Operation *op, ArrayAttr list) {
    if (std::exchange(isSplit, false))
      op->setAttr(kOriginsAttr, list);
  };
  for (Operation &op : *module.getBody())
    if (isa<lm::ParameterOp, lm::StateOp>(op)) {
      const Splits &splits = splitsOf(states.speaker(
          FlatSymbolRefAttr::get(SymbolTable::getSymbolName(&op))));
      op.setAttr(kShardingAttr, sharding(splits));
      setOrigins(&op, origins(splits));
    }
  for (auto function : module.getOps<func::FuncOp>()) {
    for (BlockArgument argument : function.getArguments())
      function.setArgAttr(argument.getArgNumber(), kShardingAttr,
                          sharding(splitsOf(argument)));
    for (Operation &op : function.getBody().front()) {
      if (std::optional<lm::ShardingRule> rule = lm::ruleOf(&op)) {
        SmallVector<Attribute> factors;
        for (const DimSplit &factor : chooseFactors(&op, *rule, &conflicts))
          factors.push_back(b.getStrArrayAttr(factor.axes));
        op.setAttr(kFactorsAttr, b.getArrayAttr(factors));
      }
      SmallVector<Attribute> shardings, from;
      for (Value result : op.getResults()) {
        shardings.push_back(sharding(splitsOf(result)));
        from.push_back(origins(splitsOf(result)));
      }
      if (shardings.empty())
        continue;
      op.setAttr(kShardingsAttr, b.getArrayAttr(shardings));
      setOrigins(&op, b.getArrayAttr(from));
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
    if (failed(propagation.run()))
      return signalPassFailure();
    numSharded += propagation.write();
    numConflicts += propagation.getNumConflicts();
  }
};

} // namespace
