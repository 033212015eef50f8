#include "passes/dist/ShardingTable.h"

using namespace mlir;
using namespace lmc;
using namespace lmc::dist;

ShardingAttr lmc::dist::makeSharding(MLIRContext *context, const DimAxes &dims,
                                     ArrayRef<StringRef> partial) {
  Builder b(context);
  SmallVector<Attribute> lists;
  for (const Axes &axes : dims)
    lists.push_back(b.getStrArrayAttr(axes));
  return ShardingAttr::get(context, b.getArrayAttr(lists),
                           b.getStrArrayAttr(partial));
}

DimAxes lmc::dist::readDims(ShardingAttr sharding) {
  DimAxes dims;
  for (unsigned i = 0, e = sharding.getDims().size(); i < e; ++i)
    dims.emplace_back(sharding.getAxes(i));
  return dims;
}

static bool isPartial(Value value) {
  auto result = dyn_cast<OpResult>(value);
  auto list = result
                  ? result.getOwner()->getAttrOfType<ArrayAttr>(kShardingsAttr)
                  : ArrayAttr();
  return list && !cast<ShardingAttr>(list[result.getResultNumber()])
                      .getPartial()
                      .empty();
}

Value lmc::dist::lastTerm(Value value) {
  while (Operation *op = value.getDefiningOp()) {
    std::optional<lm::ShardingRule> rule = lm::ruleOf(op);
    if (!rule)
      break;
    Value last;
    for (int64_t index : rule->sumOperands)
      if (Value term = op->getOperand(index);
          isPartial(term) && (!last || last.getDefiningOp()->isBeforeInBlock(
                                           term.getDefiningOp())))
        last = term;
    if (!last)
      break;
    value = last;
  }
  return value;
}

StateIndex::StateIndex(ModuleOp module) {
  for (Operation &op : *module.getBody())
    if (isa<lm::ParameterOp, lm::StateOp>(op))
      states[SymbolTable::getSymbolName(&op)] = &op;
}

Operation *StateIndex::lookup(Attribute state) const {
  auto symbol = dyn_cast_or_null<FlatSymbolRefAttr>(state);
  return symbol ? states.lookup(symbol.getAttr()) : nullptr;
}

Operation *StateIndex::speaker(Attribute state) const {
  Operation *op = lookup(state);
  if (auto owned = dyn_cast_or_null<lm::StateOp>(op))
    if (owned.getParameterAttr())
      return lookup(owned.getParameterAttr());
  return op;
}
