// The vocabulary, rounded up.
//
//     table [50257,D] --head--> logits [B,T,50257] --> loss
//
// becomes
//
//     table [50304,D] --head--> logits [B,T,50304] --mask--> loss
//
// so that ranks have equal parts of it, and rows of logits begin where lines of
// memory do: no product reads or writes rows of 50257 numbers at the speed of
// the memory. It is Megatron-LM's --make-vocab-size-divisible-by.
//
// Which dims are the vocabulary's is followed through the factors of
// operations, as axes are. A row of padding is zero and stays so: no index
// names it, its logits weigh nothing in the loss, so that its gradient is zero.
#include "passes/dist/Passes.h"

#include "dialects/lm/ProgramSignature.h"
#include "dialects/lm/TensorMath.h"
#include "passes/dist/DimNames.h"

#include <limits>
#include <numeric>

namespace lmc::dist {
#define GEN_PASS_DEF_PADVOCABULARY
#include "passes/dist/Passes.h.inc"
} // namespace lmc::dist

using namespace mlir;
using namespace lmc;
using namespace lmc::dist;

namespace {

using Kind = lm::ShardingRule::Kind;
using lm::TensorMath;

// The dims of the forward's values that are the vocabulary.
class VocabularyDims {
public:
  static constexpr llvm::StringLiteral kName = "V";
  explicit VocabularyDims(ModuleOp module)
      : module(module), names(module), symbols(module) {}

  bool contains(Value value, int64_t dim) const {
    return names.of(value)[dim] == kName;
  }
  int64_t count(Value value) const {
    return llvm::count(names.of(value), kName);
  }
  // The parameter that an argument is; null for an input.
  lm::ParameterOp parameterOf(func::FuncOp forward, unsigned index) {
    auto state =
        forward.getArgAttrOfType<FlatSymbolRefAttr>(index, lm::kStateAttr);
    return state ? symbols.lookup<lm::ParameterOp>(state.getValue())
                 : lm::ParameterOp();
  }
  // What a value's type becomes.
  RankedTensorType padded(Value value, int64_t multiple) const {
    RankedTensorType type = TensorMath::typeOf(value);
    SmallVector<int64_t> shape(type.getShape());
    for (auto [dim, size] : llvm::enumerate(shape))
      if (contains(value, dim))
        size = llvm::alignTo(size, multiple);
    return RankedTensorType::get(shape, type.getElementType());
  }

  // Where padding would be seen: by an input or output, or by an operation that
  // takes all of the vocabulary into account, save a loss.
  std::optional<Location> findObstacle(func::FuncOp forward);

private:
  bool mayPad(Operation *op) const;
  bool staysFinite(Operation *op) const;
  bool isIndexedWithin(Operation *op, const lm::ShardingRule &rule) const;

  ModuleOp module;
  DimNames names;
  SymbolTable symbols;
};

// Whether zeros become finite numbers, and finite gradients zero ones: what is
// not a number in the padding would be so everywhere behind the next product.
bool VocabularyDims::staysFinite(Operation *op) const {
  if (auto divide = dyn_cast<arith::DivFOp>(op)) {
    Operation *divisor = divide.getRhs().getDefiningOp();
    auto repeated = dyn_cast_or_null<lm::BroadcastOp>(divisor);
    return repeated ? count(repeated.getInput()) == 0
                    : isa_and_nonnull<arith::ConstantOp>(divisor);
  }
  return isa<arith::AddFOp, arith::SubFOp, arith::MulFOp, arith::NegFOp,
             math::TanhOp, lm::BroadcastOp, lm::ContractOp, lm::LinearOp,
             lm::EmbeddingOp, lm::CrossEntropyOp>(op);
}

// Whether `op` has indices into the vocabulary, and none beyond it: those that
// the host hands in are checked.
bool VocabularyDims::isIndexedWithin(Operation *op,
                                     const lm::ShardingRule &rule) const {
  if (rule.indexFactor < 0)
    return false;
  auto vocabulary = module->getAttrOfType<IntegerAttr>("lm.vocabulary");
  auto indices = dyn_cast<BlockArgument>(op->getOperand(rule.indexOperand));
  if (!vocabulary || !indices ||
      vocabulary.getInt() != rule.factors[rule.indexFactor].size)
    return false;
  auto function = cast<func::FuncOp>(indices.getOwner()->getParentOp());
  auto name = function.getArgAttrOfType<StringAttr>(indices.getArgNumber(),
                                                    lm::kInputAttr);
  return name && (name == "tokens" || name == "targets");
}

// Whether `op` computes the same from padded operands.
bool VocabularyDims::mayPad(Operation *op) const {
  int64_t left = 0;
  for (Value value : op->getOperands())
    left += count(value);
  for (Value value : op->getResults())
    left += count(value);
  if (left == 0)
    return true;
  if (auto constant = dyn_cast<arith::ConstantOp>(op))
    return isa<SplatElementsAttr>(constant.getValue());
  std::optional<lm::ShardingRule> rule = lm::ruleOf(op);
  if (!rule || !staysFinite(op))
    return false;
  // Of each factor: no dim is something else.
  SmallVector<bool> isWhole(rule->factors.size(), true);
  lm::forEachDim(op, *rule, [&](Value value, int64_t dim, int64_t factor) {
    isWhole[factor] = isWhole[factor] && contains(value, dim);
  });
  bool isIndexed = isIndexedWithin(op, *rule);
  lm::forEachDim(op, *rule, [&](Value value, int64_t dim, int64_t factor) {
    bool alone = factor == rule->indexFactor
                     ? isIndexed
                     : rule->factors[factor].kind == Kind::Parallel;
    if (isWhole[factor] && alone)
      --left;
  });
  return left == 0;
}

std::optional<Location> VocabularyDims::findObstacle(func::FuncOp forward) {
  for (BlockArgument argument : forward.getArguments()) {
    lm::ParameterOp parameter = parameterOf(forward, argument.getArgNumber());
    if (count(argument) > 0 && (!parameter || parameter.getUnpadded()))
      return parameter ? parameter.getLoc() : argument.getLoc();
  }
  Block &block = forward.getBody().front();
  for (Operation &op : block.without_terminator())
    if (!mayPad(&op))
      return op.getLoc();
  for (Value output : block.getTerminator()->getOperands())
    if (count(output) > 0)
      return output.getLoc();
  return std::nullopt;
}

struct PadVocabulary : lmc::dist::impl::PadVocabularyBase<PadVocabulary> {
  using PadVocabularyBase::PadVocabularyBase;

  void runOnOperation() override {
    if (failed(run()))
      signalPassFailure();
  }

  LogicalResult run() {
    ModuleOp module = getOperation();
    if (multiple < 1 ||
        llvm::any_of(sizes, [](int64_t size) { return size < 1; }))
      return module.emitError("a multiple or a size of an axis is less than 1");
    auto forward = module.lookupSymbol<func::FuncOp>("forward");
    if (!forward || forward.isExternal())
      return success();
    columnsOf.clear();
    VocabularyDims dims(module);
    int64_t parts = countParts(), whole = multiple * parts;
    if (std::optional<Location> obstacle = dims.findObstacle(forward)) {
      warnIfUneven(forward, dims, parts, *obstacle);
      return success();
    }
    for (BlockArgument argument : forward.getArguments())
      padArgument(argument, forward, dims, whole);
    SmallVector<lm::CrossEntropyOp> losses;
    for (Operation &op : forward.getBody().front().without_terminator()) {
      if (auto loss = dyn_cast<lm::CrossEntropyOp>(op))
        losses.push_back(loss);
      for (Value result : op.getResults())
        padResult(result, dims, whole);
    }
    for (lm::CrossEntropyOp loss : losses)
      maskLoss(loss);
    forward.setFunctionType(FunctionType::get(
        &getContext(), forward.getBody().front().getArgumentTypes(),
        forward.getResultTypes()));
    return success();
  }

  // Into which rules may split the vocabulary: a dim that has a number instead
  // of a name may be it, too.
  int64_t countParts() {
    int64_t parts = 1, number = 0;
    for (auto rule : getOperation().getOps<RuleOp>()) {
      if (rule.getKind() == "input" ||
          (rule.getDim() != VocabularyDims::kName &&
           rule.getDim().getAsInteger(10, number)))
        continue;
      int64_t ranks = 1;
      for (auto [axis, size] : llvm::zip(kMeshAxes, sizes))
        if (llvm::is_contained(rule.getAxes().getAsValueRange<StringAttr>(),
                               axis))
          ranks *= size;
      parts = std::lcm(parts, ranks);
    }
    return parts;
  }

  // A rule's split that the padding would have been for is refused later.
  void warnIfUneven(func::FuncOp forward, VocabularyDims &dims, int64_t parts,
                    Location obstacle) {
    bool isUneven = llvm::any_of(forward.getArguments(), [&](Value argument) {
      return dims.padded(argument, parts) != argument.getType();
    });
    if (isUneven)
      emitWarning(obstacle) << "the vocabulary is not padded to " << parts
                            << " equal parts: this would see the padding";
  }

  void padArgument(BlockArgument argument, func::FuncOp forward,
                   VocabularyDims &dims, int64_t whole) {
    RankedTensorType type = TensorMath::typeOf(argument),
                     wider = dims.padded(argument, whole);
    if (type == wider)
      return;
    lm::ParameterOp parameter =
        dims.parameterOf(forward, argument.getArgNumber());
    parameter.setType(wider);
    parameter.setUnpadded(type.getShape());
    argument.setType(wider);
    columnsOf[argument] = type.getShape().back();
    ++numPadded;
  }

  void padResult(Value value, const VocabularyDims &dims, int64_t whole) {
    RankedTensorType type = TensorMath::typeOf(value),
                     wider = dims.padded(value, whole);
    if (type == wider)
      return;
    columnsOf[value] = type.getShape().back();
    value.setType(wider);
    if (auto constant = value.getDefiningOp<arith::ConstantOp>())
      constant.setValueAttr(DenseElementsAttr::get(
          wider, cast<DenseElementsAttr>(constant.getValue())
                     .getSplatValue<Attribute>()));
  }

  // Columns of padding weigh nothing: they get a bias, through which gradients
  // pass as they are.
  void maskLoss(lm::CrossEntropyOp loss) {
    Value logits = loss.getLogits();
    auto columns = columnsOf.find(logits);
    if (columns == columnsOf.end())
      return;
    OpBuilder builder(loss);
    TensorMath m(builder, loss.getLoc());
    RankedTensorType type = TensorMath::typeOf(logits);
    int64_t last = type.getRank() - 1;
    auto row = RankedTensorType::get(type.getShape().take_back(),
                                     type.getElementType());
    auto index = RankedTensorType::get(row.getShape(), builder.getI32Type());
    Value exists = builder.create<arith::CmpIOp>(
        loss.getLoc(), arith::CmpIPredicate::slt,
        builder.create<lm::IotaOp>(loss.getLoc(), index, 0),
        m.constant(index, double(columns->second)));
    Value bias =
        m.select(exists, m.constant(row, 0),
                 m.constant(row, -std::numeric_limits<double>::infinity()));
    loss.getLogitsMutable().assign(
        m.add(logits, m.broadcast(bias, type, {last})));
  }

  // Of what was padded, the last dim before.
  llvm::DenseMap<Value, int64_t> columnsOf;
};

} // namespace
