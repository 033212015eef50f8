#include "passes/dist/DimNames.h"

using namespace mlir;
using namespace lmc;
using namespace lmc::dist;

static int64_t rankOf(Value value) {
  return cast<RankedTensorType>(value.getType()).getRank();
}

Names lmc::dist::readNames(Attribute dims, size_t count) {
  Names names(count);
  if (auto list = dyn_cast_or_null<ArrayAttr>(dims))
    for (auto [name, each] : llvm::zip(names, list))
      name = cast<StringAttr>(each).getValue();
  return names;
}

// A parameter's names stand at its declaration.
void DimNames::readArguments(func::FuncOp function, const StateIndex &states) {
  for (BlockArgument argument : function.getArguments()) {
    unsigned index = argument.getArgNumber();
    Operation *state =
        states.lookup(function.getArgAttr(index, lm::kStateAttr));
    names[argument] =
        readNames(state ? state->getAttr(lm::kDimsAttr)
                        : function.getArgAttr(index, lm::kDimsAttr),
                  rankOf(argument));
  }
}

// Names a dim that has no name. True if it had none.
bool DimNames::give(Value value, size_t dim, StringRef name) {
  StringRef &mine = names[value][dim];
  if (name.empty() || !mine.empty())
    return false;
  mine = name;
  return true;
}

// Carries names between the dims of one operation's factors.
bool DimNames::follow(Operation *op) {
  std::optional<lm::ShardingRule> rule = lm::ruleOf(op);
  if (!rule)
    return false;
  SmallVector<StringRef> factors(rule->factors.size());
  lm::forEachDim(op, *rule, [&](Value value, int64_t dim, int64_t factor) {
    if (factors[factor].empty())
      factors[factor] = names[value][dim];
  });
  bool changed = false;
  lm::forEachDim(op, *rule, [&](Value value, int64_t dim, int64_t factor) {
    changed |= give(value, dim, factors[factor]);
  });
  return changed;
}

bool DimNames::unify(Value sent, Value received) {
  bool changed = false;
  for (size_t dim = 0, e = rankOf(sent); dim < e; ++dim) {
    changed |= give(received, dim, names[sent][dim]);
    changed |= give(sent, dim, names[received][dim]);
  }
  return changed;
}

DimNames::DimNames(ModuleOp module) {
  StateIndex states(module);
  SmallVector<Operation *> forward;
  SmallVector<ReceiveOp> received;
  llvm::DenseMap<int64_t, Value> sent;
  for (auto function : module.getOps<func::FuncOp>()) {
    if (function.isExternal())
      continue;
    readArguments(function, states);
    for (Operation &op : function.getBody().front().without_terminator()) {
      if (isa<lm::BeginBackwardOp>(op))
        break;
      forward.push_back(&op);
      for (Value result : op.getResults())
        names[result] = Names(rankOf(result));
      if (auto send = dyn_cast<SendOp>(op))
        sent[send.getChannel()] = send.getInput();
      if (auto receive = dyn_cast<ReceiveOp>(op))
        received.push_back(receive);
    }
  }
  for (bool changed = true; changed;) {
    changed = false;
    for (Operation *op : forward)
      changed |= follow(op);
    for (Operation *op : llvm::reverse(forward))
      changed |= follow(op);
    for (ReceiveOp receive : received)
      if (Value value = sent.lookup(receive.getChannel()))
        changed |= unify(value, receive.getOutput());
  }
}
