// Cuts the programs "step" into the programs forward and backward, or forward
// and the halves of the backward.
#include "passes/lm/Passes.h"

#include "dialects/dist/Dist.h"
#include "dialects/lm/ProgramSignature.h"
#include "dialects/plan/Plan.h"
#include "passes/lm/BackwardHalves.h"

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

// One of the programs: the operations of `step` that it takes over.
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
    builder.clone(*op, mapping)->removeAttr(kAtOnceAttr);
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
    SmallVector<Operation *> forward, backward;
    bool behind = false;
    for (Operation &op : step.getBody().front().without_terminator()) {
      if (isa<BeginBackwardOp>(op))
        behind = true;
      else
        (behind ? backward : forward).push_back(&op);
    }
    if (!behind)
      return step.emitError() << "no lm.begin_backward in @" << step.getName();
    SmallVector<Part> parts = {{"forward", std::move(forward), {}, {}}};
    llvm::DenseSet<Operation *> inputHalf;
    if (splitBackward)
      inputHalf = findInputHalf(parts.front().ops, backward);
    if (inputHalf.empty()) {
      parts.push_back({"backward", std::move(backward), {}, {}});
    } else {
      parts.push_back({"backward_input", {}, {}, {}});
      parts.push_back({"backward_weight", {}, {}, {}});
      for (Operation *op : backward)
        parts[inputHalf.contains(op) ? 1 : 2].ops.push_back(op);
    }

    llvm::DenseMap<Operation *, size_t> partOf;
    for (auto [index, part] : llvm::enumerate(parts))
      for (Operation *op : part.ops)
        partOf[op] = index;
    for (size_t index = 1; index < parts.size(); ++index)
      repeatConstants(parts[index], index, partOf);
    findSaved(step, parts, partOf);
    step.erase();
    return success();
  }

  // Finds what parts take and give, and builds them.
  void findSaved(func::FuncOp step, MutableArrayRef<Part> parts,
                 const llvm::DenseMap<Operation *, size_t> &partOf) {
    llvm::DenseMap<Value, StringAttr> saved;
    for (auto [index, part] : llvm::enumerate(parts))
      for (Operation *op : part.ops)
        for (Value operand : op->getOperands()) {
          Operation *producer = operand.getDefiningOp();
          size_t from = producer ? partOf.lookup(producer) : index;
          if (!producer || from != index)
            part.arguments.insert(operand);
          if (from == index || saved.contains(operand))
            continue;
          // One name in all chunks would tie a backward to another's forward.
          auto name = StringAttr::get(
              &getContext(), "saved" + Twine(saved.size()) + suffixOf(step));
          saved[operand] = name;
          parts[from].results.push_back({operand, kSavedAttr, name});
          ++numSaved;
        }
    Operation *terminator = step.getBody().front().getTerminator();
    for (auto [index, value] : llvm::enumerate(terminator->getOperands())) {
      Operation *producer = value.getDefiningOp();
      Part &part = producer ? parts[partOf.lookup(producer)] : parts.back();
      NamedAttribute tie = *step.getResultAttrs(index).begin();
      part.results.push_back({value, tie.getName(), tie.getValue()});
      if (!producer)
        part.arguments.insert(value);
    }
    for (const Part &part : parts)
      buildPart(step, part, saved);
  }

  // Constants of other parts that this one uses are made there again.
  void repeatConstants(Part &part, size_t index,
                       llvm::DenseMap<Operation *, size_t> &partOf) {
    llvm::DenseMap<Operation *, Operation *> copies;
    for (size_t i = 0; i < part.ops.size(); ++i)
      for (OpOperand &operand : part.ops[i]->getOpOperands()) {
        Operation *producer = operand.get().getDefiningOp();
        if (!isConstant(producer) || partOf.lookup(producer) == index)
          continue;
        Operation *&copy = copies[producer];
        if (!copy) {
          OpBuilder builder(part.ops.front());
          copy = builder.clone(*producer);
          partOf[copy] = index;
        }
        operand.set(copy->getResult(0));
      }
    SmallVector<Operation *> all;
    for (auto &[producer, copy] : copies)
      all.push_back(copy);
    llvm::sort(
        all, [](Operation *a, Operation *b) { return a->isBeforeInBlock(b); });
    part.ops.insert(part.ops.begin(), all.begin(), all.end());
  }
};

} // namespace
