// Reverse mode. Worked example, y = x w, l = sum(y):
//
//     forward                 backward, built from the last op to the first
//     %y = linear %x, %w      dy = broadcast(seed)     (of l by the sum)
//     %l = reduce %y          dw = contract x^T dy     (of l by w)
//
// An operation is differentiated if a trainable parameter reaches it and its
// result reaches the loss. A value that is used several times gets the sum of
// its gradients, in the reverse order of its uses.
//
// An operation's backward runs in the model chunk of the operation. A parameter
// that several chunks use has one accumulator, and each chunk adds what its own
// operations contribute.
#include "passes/lm/Passes.h"

#include "dialects/dist/Dist.h"
#include "dialects/lm/ProgramSignature.h"
#include "dialects/lm/TensorMath.h"

#include "llvm/ADT/DenseSet.h"
#include "llvm/ADT/MapVector.h"

namespace lmc::lm {
#define GEN_PASS_DEF_DIFFERENTIATE
#include "passes/lm/Passes.h.inc"
} // namespace lmc::lm

using namespace mlir;
using namespace lmc::lm;

namespace {

using lmc::dist::kChunkAttr;
using GradientMap = llvm::DenseMap<Value, SmallVector<Value, 2>>;

// Values that depend on a trainable parameter.
llvm::DenseSet<Value> findActive(func::FuncOp function, SymbolTable &symbols) {
  llvm::DenseSet<Value> active;
  for (BlockArgument argument : function.getArguments()) {
    auto state = function.getArgAttrOfType<FlatSymbolRefAttr>(
        argument.getArgNumber(), kStateAttr);
    auto parameter =
        state ? symbols.lookup<ParameterOp>(state.getValue()) : ParameterOp();
    if (parameter && parameter.getTrainable())
      active.insert(argument);
  }
  for (Operation &op : function.getBody().front())
    if (llvm::any_of(op.getOperands(),
                     [&](Value v) { return active.contains(v); }))
      for (Value result : op.getResults())
        if (isa<FloatType>(getElementTypeOrSelf(result)))
          active.insert(result);
  return active;
}

// The sum of the gradients that reached `value`, or null.
Value sumGradients(TensorMath &m, const GradientMap &gradients, Value value) {
  auto found = gradients.find(value);
  if (found == gradients.end())
    return {};
  Value sum;
  for (Value part : found->second)
    sum = sum ? m.add(sum, part) : part;
  return sum;
}

// Gives `op` the chunk of `like`.
void copyChunk(Operation *op, Operation *like) {
  if (Attribute chunk = like ? like->getAttr(kChunkAttr) : Attribute())
    op->setAttr(kChunkAttr, chunk);
}

LogicalResult differentiateOp(Operation *op, OpBuilder &builder,
                              const llvm::DenseSet<Value> &active,
                              GradientMap &gradients) {
  TensorMath m(builder, op->getLoc());
  SmallVector<Value> resultGradients;
  for (Value result : op->getResults())
    resultGradients.push_back(sumGradients(m, gradients, result));
  auto differentiable = dyn_cast<Differentiable>(op);
  if (!differentiable)
    return op->emitOpError()
           << "has no backward, and a trainable parameter reaches the loss "
              "through it";
  SmallVector<bool> wanted;
  for (Value operand : op->getOperands())
    wanted.push_back(active.contains(operand));
  SmallVector<Value> operandGradients;
  if (failed(differentiable.buildBackward(builder, resultGradients, wanted,
                                          operandGradients)))
    return failure();
  if (operandGradients.size() != op->getNumOperands())
    return op->emitOpError()
           << "built " << operandGradients.size() << " gradients for "
           << op->getNumOperands() << " operands";
  for (auto [operand, gradient] :
       llvm::zip(op->getOperands(), operandGradients))
    if (gradient && active.contains(operand))
      gradients[operand].push_back(gradient);
  return success();
}

struct Differentiate : lmc::lm::impl::DifferentiateBase<Differentiate> {
  using DifferentiateBase::DifferentiateBase;

  void runOnOperation() override {
    ModuleOp module = getOperation();
    SymbolTable symbols(module);
    auto function = symbols.lookup<func::FuncOp>("forward");
    if (!function) {
      module.emitError("no function @forward to differentiate");
      return signalPassFailure();
    }
    auto evaluate = function.clone();
    evaluate.setName("evaluate");
    symbols.insert(evaluate, std::next(Block::iterator(function)));
    if (failed(finishEvaluate(evaluate, symbols)) ||
        failed(buildStep(function, symbols)))
      signalPassFailure();
  }

  // The index of the result `lm.output = name`, or -1.
  static int findOutput(func::FuncOp function, StringRef name) {
    for (unsigned i = 0, e = function.getNumResults(); i < e; ++i)
      if (auto output =
              function.getResultAttrOfType<StringAttr>(i, kOutputAttr))
        if (output.getValue() == name)
          return i;
    return -1;
  }

  // Sums over micro-batches of the scalar outputs, as states.
  void accumulateOutputs(func::FuncOp function, ProgramArguments &arguments,
                         OpBuilder &builder, SymbolTable &symbols,
                         SmallVectorImpl<TiedResult> &results) {
    Operation *terminator = function.getBody().front().getTerminator();
    for (unsigned i = 0, e = function.getNumResults(); i < e; ++i) {
      auto output = function.getResultAttrOfType<StringAttr>(i, kOutputAttr);
      if (!output)
        continue;
      Value value = terminator->getOperand(i);
      Value old =
          accumulatorFor(function, arguments, symbols, output.getValue(), {},
                         cast<RankedTensorType>(value.getType()));
      auto sum = builder.create<AccumulateOp>(value.getLoc(), old, value);
      copyChunk(sum, value.getDefiningOp());
      results.push_back({sum, kStateAttr, FlatSymbolRefAttr::get(output)});
    }
  }

  // The argument that holds the accumulator `name`; the state is declared
  // where it is not yet.
  Value accumulatorFor(func::FuncOp function, ProgramArguments &arguments,
                       SymbolTable &symbols, StringRef name,
                       StringAttr parameter, RankedTensorType type) {
    OpBuilder b(function);
    if (!symbols.lookup(name)) {
      auto state = b.create<StateOp>(
          function.getLoc(), b.getStringAttr(name),
          b.getStringAttr("accumulator"), TypeAttr::get(type),
          parameter ? FlatSymbolRefAttr::get(parameter) : nullptr,
          b.getStringAttr(parameter ? "gradient" : name),
          /*values=*/nullptr);
      symbols.insert(state, Block::iterator(function));
    }
    return arguments.getOrAdd(type, kStateAttr,
                              FlatSymbolRefAttr::get(&getContext(), name),
                              function.getLoc());
  }

  LogicalResult finishEvaluate(func::FuncOp function, SymbolTable &symbols) {
    // Dropout is the identity there.
    function.walk([](DropoutOp op) {
      op.getOutput().replaceAllUsesWith(op.getInput());
      op.erase();
    });
    function.walk([](AttentionOp op) {
      op.getRateMutable().clear();
      op.getSeedLowMutable().clear();
      op.getSeedHighMutable().clear();
      op.getStepMutable().clear();
      op.removeIdAttr();
    });
    function->setAttr(kProgramAttr, StringAttr::get(&getContext(), "evaluate"));
    OpBuilder builder(function.getBody().front().getTerminator());
    SmallVector<TiedResult> results;
    ProgramArguments arguments(function);
    accumulateOutputs(function, arguments, builder, symbols, results);
    arguments.finish();
    setResults(function, results);
    return success();
  }

  LogicalResult buildStep(func::FuncOp function, SymbolTable &symbols) {
    int lossIndex = findOutput(function, "loss_sum");
    if (lossIndex < 0)
      return function.emitError("no result lm.output = \"loss_sum\"");
    llvm::DenseSet<Value> active = findActive(function, symbols);
    Operation *terminator = function.getBody().front().getTerminator();
    SmallVector<Operation *> forward;
    for (Operation &op : function.getBody().front().without_terminator())
      forward.push_back(&op);

    OpBuilder builder(terminator);
    builder.create<BeginBackwardOp>(function.getLoc());
    Value loss = terminator->getOperand(lossIndex);
    GradientMap gradients;
    TensorMath m(builder, loss.getLoc());
    gradients[loss].push_back(
        m.constant(cast<RankedTensorType>(loss.getType()), seed));
    for (Operation *op : llvm::reverse(forward)) {
      bool reached = llvm::any_of(op->getResults(), [&](Value v) {
        return active.contains(v) && gradients.contains(v);
      });
      if (!reached)
        continue;
      Operation *last = terminator->getPrevNode();
      if (failed(differentiateOp(op, builder, active, gradients)))
        return failure();
      while ((last = last->getNextNode()) != terminator)
        copyChunk(last, op);
      ++numDifferentiated;
    }

    SmallVector<TiedResult> results;
    ProgramArguments arguments(function);
    for (unsigned i = 0, e = function.getNumArguments(); i < e; ++i)
      collectGradient(function, i, arguments, builder, symbols, gradients,
                      results);
    accumulateOutputs(function, arguments, builder, symbols, results);
    arguments.finish();
    setResults(function, results);
    symbols.remove(function);
    function.setName("step");
    function->setAttr(kProgramAttr, StringAttr::get(&getContext(), "step"));
    symbols.insert(function);
    return success();
  }

  // Adds the gradients of the parameter in argument `index`, one behind the
  // other, to its accumulator; those of each chunk for themselves.
  void collectGradient(func::FuncOp function, unsigned index,
                       ProgramArguments &arguments, OpBuilder &builder,
                       SymbolTable &symbols, const GradientMap &gradients,
                       SmallVectorImpl<TiedResult> &results) {
    auto state =
        function.getArgAttrOfType<FlatSymbolRefAttr>(index, kStateAttr);
    auto parameter =
        state ? symbols.lookup<ParameterOp>(state.getValue()) : ParameterOp();
    if (!parameter || !parameter.getTrainable())
      return;
    auto found = gradients.find(function.getArgument(index));
    if (found == gradients.end()) {
      ++numUnused;
      parameter.emitWarning("the loss does not depend on this parameter; it "
                            "is not updated");
      return;
    }
    std::string name = (parameter.getSymName() + ".gradient").str();
    Value accumulator =
        accumulatorFor(function, arguments, symbols, name,
                       parameter.getSymNameAttr(), parameter.getTensorType());
    llvm::MapVector<Attribute, Value> sums; // of each chunk
    for (Value part : found->second) {
      // Each part is added right behind its producer, so that it need not be
      // kept.
      OpBuilder::InsertionGuard guard(builder);
      Operation *producer = part.getDefiningOp();
      Value &sum = sums[producer->getAttr(kChunkAttr)];
      Operation *last = sum ? sum.getDefiningOp() : producer;
      builder.setInsertionPointAfter(last->isBeforeInBlock(producer) ? producer
                                                                     : last);
      if (sum)
        sum = builder.create<arith::AddFOp>(part.getLoc(), sum, part);
      else
        sum = builder.create<AccumulateOp>(part.getLoc(), accumulator, part);
      copyChunk(sum.getDefiningOp(), producer);
    }
    for (auto &[chunk, sum] : sums)
      results.push_back(
          {sum, kStateAttr, FlatSymbolRefAttr::get(&getContext(), name)});
  }
};

} // namespace
