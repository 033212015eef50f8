// The border behind shard. Each check carries the label of the law in
// Passes.td that it enforces.
#include "passes/verify/Passes.h"

#include "passes/verify/States.h"

#include "llvm/ADT/StringExtras.h"

namespace lmc::verify {
#define GEN_PASS_DEF_VERIFYSHARDED
#include "passes/verify/Passes.h.inc"
} // namespace lmc::verify

using namespace mlir;
using namespace lmc;

namespace {

LogicalResult checkSharding(Operation *at, Attribute attribute, Type type,
                            const Twine &what, dist::MeshAttr mesh) {
  auto sharding = dyn_cast_or_null<dist::ShardingAttr>(attribute);
  auto tensor = dyn_cast<RankedTensorType>(type);
  if (!sharding || !tensor ||
      static_cast<int64_t>(sharding.getDims().size()) != tensor.getRank())
    return at->emitOpError() << "gives " << what << " of type " << type // S1
                             << " no sharding of as many dims";
  for (unsigned dim = 0; dim < sharding.getDims().size(); ++dim)
    for (StringRef axis : sharding.getAxes(dim))
      if (!llvm::is_contained(mesh.getAxes(),
                              StringAttr::get(mesh.getContext(), axis)))
        return at->emitOpError()
               << "splits dim " << dim << " of " << what // S2
               << " over \"" << axis << "\", which is no axis of the mesh";
  return success();
}

// How the values of one program lie, and whether that is what their producers
// make and their users need.
class ProgramCheck {
public:
  explicit ProgramCheck(func::FuncOp function) : function(function) {
    for (BlockArgument argument : function.getArguments())
      shardings[argument] = function.getArgAttrOfType<dist::ShardingAttr>(
          argument.getArgNumber(), dist::kShardingAttr);
    for (Operation &op : function.getBody().front())
      if (auto list = op.getAttrOfType<ArrayAttr>(dist::kShardingsAttr))
        for (auto [result, sharding] : llvm::zip(op.getResults(), list))
          shardings[result] = cast<dist::ShardingAttr>(sharding);
  }

  LogicalResult run() {
    for (Operation &op : function.getBody().front().without_terminator())
      if (failed(checkOp(&op)))
        return failure();
    return success();
  }

private:
  using Axes = SmallVector<StringRef>;

  static std::string text(ArrayRef<StringRef> axes) {
    return axes.empty() ? "no axis" : llvm::join(axes, ", ");
  }
  Axes partialOf(Value value) {
    return shardings.lookup(value).getPartialAxes();
  }
  LogicalResult checkOp(Operation *op);
  LogicalResult checkSums(Operation *op, const lm::ShardingRule &rule,
                          ArrayRef<Axes> factors);

  func::FuncOp function;
  llvm::DenseMap<Value, dist::ShardingAttr> shardings;
};

LogicalResult ProgramCheck::checkSums(Operation *op,
                                      const lm::ShardingRule &rule,
                                      ArrayRef<Axes> factors) {
  Axes expected;
  bool isPassed = !rule.sumOperands.empty();
  for (int64_t index : rule.sumOperands)
    isPassed &= partialOf(op->getOperand(index)) ==
                partialOf(op->getOperand(rule.sumOperands.front()));
  for (OpOperand &operand : op->getOpOperands()) {
    Axes partial = partialOf(operand.get());
    int64_t index = operand.getOperandNumber();
    if (isPassed && llvm::is_contained(rule.sumOperands, index))
      expected = partial;
    else if (!partial.empty())
      return op->emitOpError() << "uses operand " << index // S5
                               << ", which is partial on " << text(partial)
                               << ": a reduction is missing";
  }
  for (auto [factor, axes] : llvm::zip(rule.factors, factors))
    if (factor.kind == lm::ShardingRule::Kind::Sum)
      llvm::append_range(expected, axes);
  llvm::sort(expected);
  for (auto [index, result] : llvm::enumerate(op->getResults())) {
    Axes partial = partialOf(result);
    llvm::sort(partial);
    if (partial != expected)
      return op->emitOpError() << "makes result " << index // S6
                               << " partial on " << text(expected)
                               << ", but its sharding says " << text(partial);
  }
  return success();
}

LogicalResult ProgramCheck::checkOp(Operation *op) {
  if (auto reshard = dyn_cast<dist::ReshardOp>(op)) {
    dist::ShardingAttr from = shardings.lookup(reshard.getInput());
    if (from != reshard.getFrom())
      return op->emitOpError()
             << "takes its operand from " // S7
             << reshard.getFrom() << ", but it lies as " << from;
    if (shardings.lookup(reshard) != reshard.getTo())
      return op->emitOpError("has a result that lies not as it says"); // S7
    return success();
  }
  if (isa<dist::SendOp>(op) && !partialOf(op->getOperand(0)).empty())
    return op->emitOpError("sends a value that is partial"); // S5
  std::optional<lm::ShardingRule> rule = lm::ruleOf(op);
  auto list = op->getAttrOfType<ArrayAttr>(dist::kFactorsAttr);
  if (!rule || !list)
    return success();
  SmallVector<Axes> factors(rule->factors.size());
  for (auto [factor, axes] : llvm::zip(factors, list))
    for (Attribute axis : cast<ArrayAttr>(axes))
      factor.push_back(cast<StringAttr>(axis).getValue());
  auto checkDims = [&](ValueRange values,
                       ArrayRef<lm::ShardingRule::Dims> lists,
                       StringRef what) -> LogicalResult {
    for (auto [index, value, dims] : llvm::enumerate(values, lists))
      for (auto [dim, factor] : llvm::enumerate(dims))
        if (Axes needed = factor >= 0 ? factors[factor] : Axes();
            shardings.lookup(value).getAxes(dim) != needed)
          return op->emitOpError()
                 << "is computed with dim " << dim // S4
                 << " of " << what << " " << index << " split by "
                 << text(needed) << ", but it is split by "
                 << text(shardings.lookup(value).getAxes(dim));
    return success();
  };
  if (failed(checkDims(op->getOperands(), rule->operands, "operand")) ||
      failed(checkDims(op->getResults(), rule->results, "result")))
    return failure();
  return checkSums(op, *rule, factors);
}

LogicalResult checkFunction(func::FuncOp function, SymbolTable &symbols,
                            dist::MeshAttr mesh) {
  for (unsigned i = 0, e = function.getNumArguments(); i < e; ++i) {
    Attribute sharding = function.getArgAttr(i, dist::kShardingAttr);
    if (failed(checkSharding(function, sharding,
                             function.getArgument(i).getType(),
                             "argument " + Twine(i), mesh)))
      return failure();
    auto state =
        function.getArgAttrOfType<FlatSymbolRefAttr>(i, lm::kStateAttr);
    Operation *op = state ? symbols.lookup(state.getValue()) : nullptr;
    // An accumulator's says also on which axes it stays partial.
    auto own = op ? op->getAttrOfType<dist::ShardingAttr>(dist::kShardingAttr)
                  : dist::ShardingAttr();
    if (own && own.getDims() != cast<dist::ShardingAttr>(sharding).getDims())
      return function.emitOpError() // S3
             << "has argument " << i << " sharded as " << sharding << ", its "
             << "state " << state << " as " << op->getAttr(dist::kShardingAttr);
  }
  for (Operation &op : function.getBody().front()) {
    if (op.getNumResults() == 0)
      continue;
    auto shardings = op.getAttrOfType<ArrayAttr>(dist::kShardingsAttr);
    if (!shardings || shardings.size() != op.getNumResults())
      return op.emitOpError("has no sharding for each of its results"); // S1
    for (auto [i, result] : llvm::enumerate(op.getResults()))
      if (failed(checkSharding(&op, shardings[i], result.getType(),
                               "result " + Twine(i), mesh)))
        return failure();
  }
  return ProgramCheck(function).run();
}

LogicalResult check(ModuleOp module) {
  auto mesh = module->getAttrOfType<dist::MeshAttr>(dist::kMeshAttr);
  if (!mesh)
    return success();
  SymbolTable symbols(module);
  for (Operation &op : *module.getBody()) {
    if (RankedTensorType type = verify::declaredType(&op))
      if (failed(checkSharding(&op, op.getAttr(dist::kShardingAttr), type,
                               "itself", mesh)))
        return failure();
    if (auto function = dyn_cast<func::FuncOp>(op))
      if (failed(checkFunction(function, symbols, mesh)))
        return failure();
  }
  return success();
}

struct VerifyShardedPass
    : lmc::verify::impl::VerifyShardedBase<VerifyShardedPass> {
  using VerifyShardedBase::VerifyShardedBase;

  void runOnOperation() override {
    if (failed(check(getOperation())))
      return signalPassFailure();
    markAllAnalysesPreserved();
  }
};

} // namespace
