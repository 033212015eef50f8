// Makes kernels and launches of the groups that KernelGroups forms: a kernel is
// outlined from the last group to the first, gets the bytes of a state where it
// may write in place, and equal kernels become one.
#include "passes/plan/Passes.h"

#include "dialects/lm/ProgramSignature.h"
#include "dialects/lm/TensorMath.h"
#include "dialects/plan/Plan.h"
#include "passes/plan/KernelGroups.h"

#include "mlir/IR/IRMapping.h"
#include "llvm/ADT/SetVector.h"
#include "llvm/ADT/StringMap.h"

namespace lmc::plan {
#define GEN_PASS_DEF_FORMKERNELS
#include "passes/plan/Passes.h.inc"
} // namespace lmc::plan

using namespace mlir;
using namespace lmc;
using namespace lmc::plan;

namespace {

// Turns groups into kernels and launches.
class Outliner {
public:
  Outliner(ModuleOp module, func::FuncOp function,
           llvm::StringMap<KernelOp> &kernels)
      : module(module), function(function), kernels(kernels) {}

  void run(ProgramKernels &program) {
    traceStates();
    // From the last to the first, so that a result's state is known when its
    // producer is met.
    for (const Group &group : llvm::reverse(program.getGroups()))
      outline(group, program.opsOf(group));
  }

private:
  void traceStates();
  void outline(const Group &group, ArrayRef<Operation *> ops);
  int64_t findTie(const Group &group, Value result, ArrayRef<Value> arguments,
                  Operation *root, const SmallPtrSetImpl<Operation *> &inside);
  bool lastUse(Value value, Operation *root,
               const SmallPtrSetImpl<Operation *> &inside);
  KernelOp makeKernel(const Group &group, ArrayRef<Operation *> ops,
                      ArrayRef<Value> arguments, ArrayRef<Value> results,
                      ArrayRef<int64_t> tied);
  StringRef kindName(const Group &group, ArrayRef<Operation *> ops);

  ModuleOp module;
  func::FuncOp function;
  llvm::StringMap<KernelOp> &kernels;
  llvm::DenseMap<Value, Attribute> stateOf; // the state whose bytes it takes
};

void Outliner::traceStates() {
  Operation *terminator = function.getBody().front().getTerminator();
  for (unsigned i = 0, e = function.getNumResults(); i < e; ++i)
    if (Attribute state = function.getResultAttr(i, lm::kStateAttr))
      stateOf[terminator->getOperand(i)] = state;
}

bool Outliner::lastUse(Value value, Operation *root,
                       const SmallPtrSetImpl<Operation *> &inside) {
  return llvm::all_of(value.getUsers(), [&](Operation *user) {
    return inside.contains(user) || user->isBeforeInBlock(root);
  });
}

// The argument whose bytes `result` takes: the old value of the same state,
// or a sum so far. Only where each element is read before it is written and
// by the same unit.
int64_t Outliner::findTie(const Group &group, Value result,
                          ArrayRef<Value> arguments, Operation *root,
                          const SmallPtrSetImpl<Operation *> &inside) {
  if (auto write = result.getDefiningOp<lm::CacheWriteOp>())
    return llvm::find(arguments, write.getCache()) - arguments.begin();
  auto state = stateOf.find(result);
  if (state == stateOf.end() || group.kind == Kind::Row ||
      group.kind == Kind::Own)
    return -1;
  auto fits = [&](Value value) {
    return value.getType() == result.getType() &&
           lastUse(value, root, inside) &&
           llvm::none_of(value.getUsers(), [&](Operation *user) {
             return inside.contains(user) &&
                    isa<lm::ContractOp, lm::EmbeddingGradOp, lm::ReduceOp>(
                        user);
           });
  };
  for (auto [index, value] : llvm::enumerate(arguments))
    if (auto argument = dyn_cast<BlockArgument>(value))
      if (function.getArgAttr(argument.getArgNumber(), lm::kStateAttr) ==
              state->second &&
          fits(value))
        return index;
  Operation *producer = result.getDefiningOp();
  if (!isa<arith::AddFOp>(producer))
    return -1;
  for (Value operand : producer->getOperands()) {
    auto found = llvm::find(arguments, operand);
    if (found == arguments.end() || isa<BlockArgument>(operand) ||
        stateOf.contains(operand) || !fits(operand))
      continue;
    stateOf[operand] = state->second;
    return found - arguments.begin();
  }
  return -1;
}

StringRef Outliner::kindName(const Group &group, ArrayRef<Operation *> ops) {
  switch (group.kind) {
  case Kind::Elementwise:
    return group.split == kNoSplit ? "flat" : "row";
  case Kind::Row:
    return "row";
  case Kind::ColumnReduce:
    return "column_reduce";
  case Kind::Contraction:
    return "contraction";
  case Kind::Scatter:
    return "scatter";
  case Kind::Own:
    return ops.front()->getName().stripDialect();
  }
  llvm_unreachable("every kind is named");
}

KernelOp Outliner::makeKernel(const Group &group, ArrayRef<Operation *> ops,
                              ArrayRef<Value> arguments,
                              ArrayRef<Value> results, ArrayRef<int64_t> tied) {
  OpBuilder builder(module.getContext());
  SmallVector<Type> inputs, outputs;
  for (Value value : arguments)
    inputs.push_back(value.getType());
  for (Value value : results)
    outputs.push_back(value.getType());
  Location loc = ops.front()->getLoc();
  StringRef kind = kindName(group, ops);
  auto kernel = builder.create<KernelOp>(
      loc, builder.getStringAttr("kernel"),
      TypeAttr::get(builder.getFunctionType(inputs, outputs)),
      builder.getStringAttr(kind), builder.getDenseI64ArrayAttr(tied),
      /*arg_attrs=*/nullptr, /*res_attrs=*/nullptr);
  Block *body = builder.createBlock(&kernel.getBody());
  IRMapping mapping;
  for (Value value : arguments)
    mapping.map(value, body->addArgument(value.getType(), loc));
  // Clones `op` after what it repeats.
  std::function<void(Operation *)> cloneOp = [&](Operation *op) {
    for (Value operand : op->getOperands())
      if (!mapping.contains(operand))
        cloneOp(operand.getDefiningOp());
    builder.clone(*op, mapping);
  };
  for (Operation *op : ops)
    cloneOp(op);
  SmallVector<Value> yielded;
  for (Value value : results)
    yielded.push_back(mapping.lookup(value));
  builder.create<YieldOp>(loc, yielded);

  std::string text;
  llvm::raw_string_ostream stream(text);
  kernel->print(stream, OpPrintingFlags().useLocalScope());
  auto [found, isNew] = kernels.try_emplace(text);
  if (!isNew) {
    kernel.erase();
    return found->second;
  }
  kernel.setSymName((kind + "_" + Twine(kernels.size() - 1)).str());
  module.insert(function, kernel);
  found->second = kernel;
  return kernel;
}

void Outliner::outline(const Group &group, ArrayRef<Operation *> ops) {
  SmallPtrSet<Operation *, 16> inside(ops.begin(), ops.end());
  llvm::SetVector<Value> arguments;
  std::function<void(Operation *)> addArguments = [&](Operation *op) {
    for (Value operand : op->getOperands()) {
      Operation *producer = operand.getDefiningOp();
      if (producer && inside.contains(producer))
        continue;
      // What is repeated has no launch of its own and was not outlined.
      if (producer && isRepeated(producer))
        addArguments(producer);
      else
        arguments.insert(operand);
    }
  };
  SmallVector<Value> results;
  for (Operation *op : ops) {
    addArguments(op);
    for (Value result : op->getResults())
      if (isUsedOutside(result,
                        [&](Operation *user) { return inside.contains(user); }))
        results.push_back(result);
  }
  Operation *root = group.units.front()->ops.front();
  SmallVector<int64_t> tied;
  for (Value result : results) {
    int64_t tie = findTie(group, result, arguments.getArrayRef(), root, inside);
    tied.push_back(tie >= 0 && llvm::is_contained(tied, tie) ? -1 : tie);
  }
  KernelOp kernel =
      makeKernel(group, ops, arguments.getArrayRef(), results, tied);
  OpBuilder builder(root);
  auto launch = builder.create<LaunchOp>(
      root->getLoc(), kernel.getResultTypes(),
      FlatSymbolRefAttr::get(kernel.getSymNameAttr()), arguments.getArrayRef());
  for (auto [old, replacement] : llvm::zip(results, launch.getResults())) {
    if (auto state = stateOf.find(old); state != stateOf.end()) {
      Attribute symbol = state->second;
      stateOf.erase(state);
      stateOf[replacement] = symbol;
    }
    old.replaceAllUsesWith(replacement);
  }
  for (Operation *op : llvm::reverse(ops)) {
    op->dropAllUses();
    op->erase();
  }
}

struct FormKernels : lmc::plan::impl::FormKernelsBase<FormKernels> {
  using FormKernelsBase::FormKernelsBase;

  void runOnOperation() override {
    ModuleOp module = getOperation();
    llvm::StringMap<KernelOp> kernels;
    SmallVector<func::FuncOp> programs(module.getOps<func::FuncOp>());
    for (func::FuncOp function : programs) {
      if (!function->hasAttr(lm::kProgramAttr))
        continue;
      ProgramKernels program(function);
      if (failed(program.findUnits()))
        return signalPassFailure();
      program.formGroups();
      numLaunches += program.getGroups().size();
      Outliner(module, function, kernels).run(program);
      eraseDead(function.getBody().front());
    }
    numKernels += kernels.size();
  }
};

} // namespace
