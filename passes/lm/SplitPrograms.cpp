// Cuts the programs "step" into the programs forward and backward.
#include "passes/lm/Passes.h"

#include "dialects/lm/ProgramSignature.h"
#include "dialects/plan/Plan.h"

#include "mlir/IR/IRMapping.h"
#include "mlir/IR/Matchers.h"
#include "llvm/ADT/SetVector.h"

namespace lmc::lm {
#define GEN_PASS_DEF_SPLITPROGRAMS
#include "passes/lm/Passes.h.inc"
} // namespace lmc::lm

using namespace mlir;
using namespace lmc;
using namespace lmc::lm;

namespace {

// One of the two programs: the operations of `step` that it takes over.
struct Part {
  StringRef name;
  SmallVector<Operation *> ops;
  llvm::SetVector<Value> arguments; // values from outside, in order of use
  SmallVector<TiedResult> results;  // in terms of the values of `step`
};

bool isConstant(Operation *op) {
  return op && op->hasTrait<OpTrait::ConstantLike>();
}

// step.1 becomes forward.1 and backward.1.
StringRef suffixOf(func::FuncOp step) {
  StringRef suffix = step.getName();
  suffix.consume_front("step");
  return suffix;
}

func::FuncOp buildPart(func::FuncOp step, const Part &part,
                       const llvm::DenseMap<Value, StringAttr> &saved) {
  OpBuilder builder(step);
  std::string name = (part.name + suffixOf(step)).str();
  auto function = builder.create<func::FuncOp>(step.getLoc(), name,
                                               builder.getFunctionType({}, {}));
  function->setAttr(kProgramAttr, builder.getStringAttr(part.name));
  for (StringRef kept : {plan::kChunkAttr, plan::kStageAttr})
    if (Attribute value = step->getAttr(kept))
      function->setAttr(kept, value);
  builder.setInsertionPointToStart(function.addEntryBlock());
  Operation *terminator = builder.create<func::ReturnOp>(step.getLoc());
  builder.setInsertionPoint(terminator);
  IRMapping mapping;
  ProgramArguments arguments(function);
  for (Value value : part.arguments) {
    DictionaryAttr attributes;
    if (auto argument = dyn_cast<BlockArgument>(value))
      attributes = step.getArgAttrDict(argument.getArgNumber());
    else
      attributes = builder.getDictionaryAttr(
          builder.getNamedAttr(kSavedAttr, saved.lookup(value)));
    mapping.map(value,
                arguments.add(value.getType(), attributes, value.getLoc()));
  }
  for (Operation *op : part.ops)
    builder.clone(*op, mapping);
  arguments.finish();
  SmallVector<TiedResult> results(part.results);
  for (TiedResult &result : results)
    result.value = mapping.lookup(result.value);
  setResults(function, results);
  return function;
}

struct SplitPrograms : lmc::lm::impl::SplitProgramsBase<SplitPrograms> {
  using SplitProgramsBase::SplitProgramsBase;

  void runOnOperation() override {
    SmallVector<func::FuncOp> steps;
    for (auto function : getOperation().getOps<func::FuncOp>())
      if (auto program = function->getAttrOfType<StringAttr>(kProgramAttr);
          program && program.getValue() == "step")
        steps.push_back(function);
    if (steps.empty()) {
      getOperation().emitError("no program \"step\" to split");
      return signalPassFailure();
    }
    for (func::FuncOp step : steps)
      if (failed(split(step)))
        return signalPassFailure();
  }

  LogicalResult split(func::FuncOp step) {
    Part forward{"forward", {}, {}, {}}, backward{"backward", {}, {}, {}};
    llvm::DenseSet<Operation *> isForward;
    bool behind = false;
    for (Operation &op : step.getBody().front().without_terminator()) {
      if (isa<BeginBackwardOp>(op)) {
        behind = true;
        continue;
      }
      (behind ? backward : forward).ops.push_back(&op);
      if (!behind)
        isForward.insert(&op);
    }
    if (!behind)
      return step.emitError() << "no lm.begin_backward in @" << step.getName();
    repeatConstants(backward, isForward);

    llvm::DenseMap<Value, StringAttr> saved;
    auto use = [&](Part &part, Value value) {
      Operation *producer = value.getDefiningOp();
      bool crosses =
          &part == &backward && producer && isForward.contains(producer);
      if (!producer || crosses)
        part.arguments.insert(value);
      if (crosses && !saved.contains(value)) {
        // One name in all chunks would tie a backward to another's forward.
        auto name = StringAttr::get(
            &getContext(), "saved" + Twine(saved.size()) + suffixOf(step));
        saved[value] = name;
        forward.results.push_back({value, kSavedAttr, name});
        ++numSaved;
      }
    };
    for (Part *part : {&forward, &backward})
      for (Operation *op : part->ops)
        for (Value operand : op->getOperands())
          use(*part, operand);
    Operation *terminator = step.getBody().front().getTerminator();
    for (auto [index, value] : llvm::enumerate(terminator->getOperands())) {
      Operation *producer = value.getDefiningOp();
      Part &part =
          producer && isForward.contains(producer) ? forward : backward;
      NamedAttribute tie = *step.getResultAttrs(index).begin();
      part.results.push_back({value, tie.getName(), tie.getValue()});
      if (!producer)
        part.arguments.insert(value);
    }
    buildPart(step, forward, saved);
    buildPart(step, backward, saved);
    step.erase();
    return success();
  }

  // Constants of the forward that the backward uses are made there again.
  void repeatConstants(Part &backward,
                       const llvm::DenseSet<Operation *> &isForward) {
    llvm::DenseMap<Operation *, Operation *> copies;
    for (size_t i = 0; i < backward.ops.size(); ++i)
      for (OpOperand &operand : backward.ops[i]->getOpOperands()) {
        Operation *producer = operand.get().getDefiningOp();
        if (!isConstant(producer) || !isForward.contains(producer))
          continue;
        Operation *&copy = copies[producer];
        if (!copy) {
          OpBuilder builder(backward.ops.front());
          copy = builder.clone(*producer);
        }
        operand.set(copy->getResult(0));
      }
    SmallVector<Operation *> all;
    for (auto &[producer, copy] : copies)
      all.push_back(copy);
    llvm::sort(
        all, [](Operation *a, Operation *b) { return a->isBeforeInBlock(b); });
    backward.ops.insert(backward.ops.begin(), all.begin(), all.end());
  }
};

} // namespace
