// The vocabulary in whole lines of memory.
//
//     table [50257,D] --head--> logits [B,T,50257] --> loss
//
// becomes
//
//     table [50304,D] --head--> logits [B,T,50304] --mask--> loss
//
// A row of 50257 numbers begins anywhere in a line, and no matrix product reads
// or writes such rows at the speed of the memory. Whoever trains GPT-2 pads
// them: Megatron-LM's --make-vocab-size-divisible-by.
//
// Which dims are the vocabulary's is followed through the factors of
// operations, as axes are. A row of padding is zero and stays so: no index
// names it, its logits weigh nothing in the loss, so that its gradient is zero.
#include "passes/lm/Passes.h"

#include "dialects/lm/ProgramSignature.h"
#include "dialects/lm/TensorMath.h"

#include "llvm/ADT/DenseSet.h"

namespace lmc::lm {
#define GEN_PASS_DEF_PADVOCABULARY
#include "passes/lm/Passes.h.inc"
} // namespace lmc::lm

using namespace mlir;
using namespace lmc::lm;

namespace {

using Kind = ShardingRule::Kind;

// The dims of the forward's values that are the vocabulary.
class VocabularyDims {
public:
  VocabularyDims(func::FuncOp forward, SymbolTable &symbols)
      : forward(forward), symbols(symbols) {}

  // Fails where a padded vocabulary would be seen: by an input or output, by
  // the random numbers of a draw, or by an operation that takes all of it into
  // account, save a loss.
  LogicalResult find();

  bool contains(Value value, int64_t dim) const {
    return dims.contains({value, dim});
  }
  // The dims of `value` that are.
  int64_t count(Value value) const {
    auto type = dyn_cast<RankedTensorType>(value.getType());
    return llvm::count_if(llvm::seq<int64_t>(0, type ? type.getRank() : 0),
                          [&](int64_t dim) { return contains(value, dim); });
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
  ParameterOp parameterOf(BlockArgument argument) {
    auto state = forward.getArgAttrOfType<FlatSymbolRefAttr>(
        argument.getArgNumber(), kStateAttr);
    return state ? symbols.lookup<ParameterOp>(state.getValue())
                 : ParameterOp();
  }

private:
  void start();
  bool follow(Operation *op);
  bool mayPad(Operation *op) const;

  func::FuncOp forward;
  SymbolTable &symbols;
  llvm::DenseSet<std::pair<Value, int64_t>> dims;
};

// Parameters say what their dims are called.
void VocabularyDims::start() {
  for (BlockArgument argument : forward.getArguments()) {
    ParameterOp parameter = parameterOf(argument);
    auto names =
        parameter ? parameter->getAttrOfType<ArrayAttr>(kDimsAttr) : nullptr;
    if (!names)
      continue;
    for (auto [dim, name] : llvm::enumerate(names.getAsRange<StringAttr>()))
      if (name.getValue() == "V")
        dims.insert({argument, dim});
  }
}

// Carries the vocabulary between the dims of its factors.
bool VocabularyDims::follow(Operation *op) {
  std::optional<ShardingRule> rule = ruleOf(op);
  if (!rule)
    return false;
  llvm::DenseSet<int64_t> factors;
  forEachDim(op, *rule, [&](Value value, int64_t dim, int64_t factor) {
    if (contains(value, dim))
      factors.insert(factor);
  });
  bool changed = false;
  forEachDim(op, *rule, [&](Value value, int64_t dim, int64_t factor) {
    if (factors.contains(factor))
      changed |= dims.insert({value, dim}).second;
  });
  return changed;
}

// Whether `op` computes the same from padded operands.
bool VocabularyDims::mayPad(Operation *op) const {
  int64_t left = 0;
  for (ValueRange values :
       {ValueRange(op->getOperands()), ValueRange(op->getResults())})
    for (Value value : values)
      left += count(value);
  if (left == 0)
    return true;
  if (auto constant = dyn_cast<arith::ConstantOp>(op))
    return isa<SplatElementsAttr>(constant.getValue());
  std::optional<ShardingRule> rule = ruleOf(op);
  if (!rule || isa<Drawing>(op))
    return false;
  forEachDim(op, *rule, [&](Value value, int64_t dim, int64_t factor) {
    bool isIndexed = factor == rule->indexFactor;
    if (contains(value, dim) &&
        (rule->factors[factor].kind == Kind::Parallel ||
         (isIndexed && isa<EmbeddingOp, CrossEntropyOp>(op))))
      --left;
  });
  return left == 0;
}

LogicalResult VocabularyDims::find() {
  start();
  Block &block = forward.getBody().front();
  for (bool changed = true; changed;) {
    changed = false;
    for (Operation &op : block.without_terminator())
      changed |= follow(&op);
    for (Operation &op : llvm::reverse(block.without_terminator()))
      changed |= follow(&op);
  }
  for (auto [value, dim] : dims)
    if (auto argument = dyn_cast<BlockArgument>(value);
        argument && !parameterOf(argument))
      return failure();
  return success(
      llvm::none_of(block.getTerminator()->getOperands(),
                    [&](Value output) { return count(output) > 0; }) &&
      llvm::all_of(block.without_terminator(),
                   [&](Operation &op) { return mayPad(&op); }));
}

struct PadVocabulary : lmc::lm::impl::PadVocabularyBase<PadVocabulary> {
  using PadVocabularyBase::PadVocabularyBase;

  void runOnOperation() override {
    if (multiple < 1) {
      getOperation()->emitError("the vocabulary becomes a multiple of 1 or "
                                "more, not of ")
          << int64_t(multiple);
      return signalPassFailure();
    }
    SymbolTable symbols(getOperation());
    auto forward = symbols.lookup<func::FuncOp>("forward");
    if (!forward || forward.isExternal())
      return;
    VocabularyDims dims(forward, symbols);
    if (failed(dims.find()))
      return;
    for (BlockArgument argument : forward.getArguments())
      padArgument(argument, dims);
    SmallVector<CrossEntropyOp> losses;
    for (Operation &op : forward.getBody().front().without_terminator()) {
      if (auto loss = dyn_cast<CrossEntropyOp>(op))
        losses.push_back(loss);
      for (Value result : op.getResults())
        padResult(result, dims);
    }
    for (CrossEntropyOp loss : losses)
      maskLoss(loss);
    forward.setFunctionType(FunctionType::get(
        &getContext(), forward.getBody().front().getArgumentTypes(),
        forward.getResultTypes()));
  }

  void padArgument(BlockArgument argument, VocabularyDims &dims) {
    RankedTensorType type = TensorMath::typeOf(argument),
                     wider = dims.padded(argument, multiple);
    if (type == wider)
      return;
    ParameterOp parameter = dims.parameterOf(argument);
    parameter.setType(wider);
    parameter.setUnpadded(type.getShape());
    argument.setType(wider);
    ++numPadded;
  }

  void padResult(Value value, const VocabularyDims &dims) {
    RankedTensorType wider = dims.padded(value, multiple);
    if (value.getType() == wider)
      return;
    sizes[value] = TensorMath::typeOf(value).getShape().back();
    value.setType(wider);
    if (auto constant = value.getDefiningOp<arith::ConstantOp>())
      constant.setValueAttr(DenseElementsAttr::get(
          wider, cast<DenseElementsAttr>(constant.getValue())
                     .getSplatValue<Attribute>()));
  }

  void maskLoss(CrossEntropyOp loss) {
    auto size = sizes.find(loss.getLogits());
    if (size == sizes.end())
      return;
    OpBuilder builder(loss);
    TensorMath m(builder, loss.getLoc());
    loss.getLogitsMutable().assign(m.maskFrom(size->second, loss.getLogits()));
  }

  // The last dim of a result before it was padded.
  llvm::DenseMap<Value, int64_t> sizes;
};

} // namespace
