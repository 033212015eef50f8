// Makes kernels and launches of the groups that KernelGroups forms: a kernel is
// outlined from the last group to the first, gets the bytes of a state where it
// may write in place, and equal kernels become one.
#include "passes/plan/Passes.h"

#include "dialects/lm/ProgramSignature.h"
#include "dialects/lm/TensorMath.h"
#include "dialects/plan/Matmul.h"
#include "passes/plan/KernelGroups.h"

#include "mlir/IR/IRMapping.h"
#include "llvm/ADT/SetVector.h"

#include <map>
#include <vector>

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
  using Key = std::vector<int64_t>;
  using Kernels = std::map<Key, KernelOp>;

  Outliner(ModuleOp module, func::FuncOp function, Kernels &kernels,
           bool matmuls)
      : module(module), function(function), kernels(kernels), matmuls(matmuls) {
  }

  void run(ProgramKernels &program) {
    traceStates();
    // From the last to the first, so that a result's state is known when its
    // producer is met.
    for (const Group &group : llvm::reverse(program.getGroups()))
      outline(group, program.opsOf(group));
  }

private:
  struct Draft;
  void traceStates();
  void outline(const Group &group, ArrayRef<Operation *> ops);
  int64_t findTie(const Group &group, Value result, ArrayRef<Value> arguments,
                  Operation *root, const SmallPtrSetImpl<Operation *> &inside);
  bool lastUse(Value value, Operation *root,
               const SmallPtrSetImpl<Operation *> &inside);
  Key keyOf(const Draft &draft);
  KernelOp buildKernel(const Draft &draft);
  KernelOp getKernel(const Draft &draft);
  StringRef kindName(const Group &group, ArrayRef<Operation *> ops);

  ModuleOp module;
  func::FuncOp function;
  Kernels &kernels;
  bool matmuls;
  // The state whose bytes a value takes, and its first element there.
  using StatePlace = std::pair<Attribute, int64_t>;
  llvm::DenseMap<Value, StatePlace> stateOf;
  StatePlace stateRead(Value value);
};

// Of a result that is rows laid together, each part takes its own.
void Outliner::traceStates() {
  Operation *terminator = function.getBody().front().getTerminator();
  SmallVector<std::pair<Value, StatePlace>> open;
  for (unsigned i = 0, e = function.getNumResults(); i < e; ++i)
    if (Attribute state = function.getResultAttr(i, lm::kStateAttr))
      open.push_back({terminator->getOperand(i), {state, 0}});
  while (!open.empty()) {
    auto [value, place] = open.pop_back_val();
    stateOf[value] = place;
    Operation *producer = value.getDefiningOp();
    if (isa_and_nonnull<lm::ReshapeOp, lm::ConcatRowsOp>(producer))
      for (Value operand : producer->getOperands()) {
        open.push_back({operand, place});
        place.second +=
            cast<RankedTensorType>(operand.getType()).getNumElements();
      }
  }
}

// The state that `value` is a view of, if it is.
Outliner::StatePlace Outliner::stateRead(Value value) {
  int64_t offset = 0;
  while (auto *producer = value.getDefiningOp()) {
    if (auto slice = dyn_cast<lm::SliceRowsOp>(producer)) {
      auto type = cast<RankedTensorType>(slice.getType());
      offset += slice.getOffset() * type.getNumElements() /
                std::max<int64_t>(type.getDimSize(0), 1);
    } else if (!isa<lm::ReshapeOp>(producer)) {
      return {};
    }
    value = producer->getOperand(0);
  }
  return {function.getArgAttr(cast<BlockArgument>(value).getArgNumber(),
                              lm::kStateAttr),
          offset};
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
    if (stateRead(value) == state->second && fits(value))
      return index;
  Operation *producer = result.getDefiningOp();
  if (!isa<arith::AddFOp>(producer))
    return -1;
  for (Value operand : producer->getOperands()) {
    auto found = llvm::find(arguments, operand);
    if (found == arguments.end() || stateRead(operand).first ||
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

// A kernel before it is built.
struct Outliner::Draft {
  StringRef kind;
  SmallVector<Operation *> body; // what is repeated stands before its users
  ArrayRef<Value> arguments, results;
  ArrayRef<int64_t> tied;
};

// The operations of a kernel, with what they repeat.
static SmallVector<Operation *> listBody(ArrayRef<Operation *> ops,
                                         ArrayRef<Value> arguments) {
  llvm::SetVector<Operation *> body;
  llvm::SmallDenseSet<Value> given(arguments.begin(), arguments.end());
  std::function<void(Operation *)> add = [&](Operation *op) {
    if (body.contains(op))
      return;
    for (Value operand : op->getOperands())
      if (!given.contains(operand))
        add(operand.getDefiningOp());
    body.insert(op);
  };
  for (Operation *op : ops)
    add(op);
  return body.takeVector();
}

// What makes two kernels equal, as a list of uniqued pointers and of numbers:
// values are numbered in their order. Printing each kernel to compare texts
// took half of this pass's time.
Outliner::Key Outliner::keyOf(const Draft &draft) {
  Key key;
  llvm::DenseMap<Value, int64_t> numbers;
  auto add = [&](const void *pointer) {
    key.push_back(reinterpret_cast<intptr_t>(pointer));
  };
  auto define = [&](Value value) {
    add(value.getType().getAsOpaquePointer());
    numbers.try_emplace(value, numbers.size());
  };
  add(StringAttr::get(module.getContext(), draft.kind).getAsOpaquePointer());
  key.push_back(draft.arguments.size());
  for (Value value : draft.arguments)
    define(value);
  for (Operation *op : draft.body) {
    add(op->getName().getAsOpaquePointer());
    add(op->getAttrDictionary().getAsOpaquePointer());
    key.push_back(op->getNumOperands());
    for (Value operand : op->getOperands())
      key.push_back(numbers.at(operand));
    for (Value result : op->getResults())
      define(result);
  }
  for (auto [value, argument] : llvm::zip(draft.results, draft.tied)) {
    key.push_back(numbers.at(value));
    key.push_back(argument);
  }
  return key;
}

KernelOp Outliner::buildKernel(const Draft &draft) {
  OpBuilder builder(module.getContext());
  SmallVector<Type> inputs, outputs;
  for (Value value : draft.arguments)
    inputs.push_back(value.getType());
  for (Value value : draft.results)
    outputs.push_back(value.getType());
  Location loc = draft.body.front()->getLoc();
  auto kernel = builder.create<KernelOp>(
      loc, builder.getStringAttr(draft.kind + "_" + Twine(kernels.size())),
      TypeAttr::get(builder.getFunctionType(inputs, outputs)),
      builder.getStringAttr(draft.kind),
      builder.getDenseI64ArrayAttr(draft.tied),
      /*arg_attrs=*/nullptr, /*res_attrs=*/nullptr, /*most_rows=*/nullptr);
  Block *body = builder.createBlock(&kernel.getBody());
  IRMapping mapping;
  for (Value value : draft.arguments)
    mapping.map(value, body->addArgument(value.getType(), loc));
  for (Operation *op : draft.body)
    builder.clone(*op, mapping);
  SmallVector<Value> yielded;
  for (Value value : draft.results)
    yielded.push_back(mapping.lookup(value));
  builder.create<YieldOp>(loc, yielded);
  if (matmuls && draft.kind == "contraction" && describeMatmul(kernel)) {
    kernel.setKind(kMatmulKind);
    kernel.setSymName((kMatmulKind + "_" + Twine(kernels.size())).str());
  }
  module.insert(function, kernel);
  return kernel;
}

KernelOp Outliner::getKernel(const Draft &draft) {
  Key key = keyOf(draft);
  auto found = kernels.find(key);
  if (found != kernels.end())
    return found->second;
  KernelOp kernel = buildKernel(draft);
  kernels.emplace(std::move(key), kernel);
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
  // Layers differ in the ids of their random numbers: these go to the launch,
  // so that all layers run one kernel.
  SmallVector<int64_t> randomIds;
  for (Operation *op : ops) {
    addArguments(op);
    for (Value result : op->getResults())
      if (isUsedOutside(result,
                        [&](Operation *user) { return inside.contains(user); }))
        results.push_back(result);
    if (auto random = dyn_cast<lm::Drawing>(op); random && random.draws()) {
      randomIds.push_back(*random.getId());
      op->removeAttr("id");
    }
  }
  Operation *root = group.units.front()->ops.front();
  SmallVector<int64_t> tied;
  for (Value result : results) {
    int64_t tie = findTie(group, result, arguments.getArrayRef(), root, inside);
    tied.push_back(tie >= 0 && llvm::is_contained(tied, tie) ? -1 : tie);
  }
  KernelOp kernel =
      getKernel({kindName(group, ops), listBody(ops, arguments.getArrayRef()),
                 arguments.getArrayRef(), results, tied});
  OpBuilder builder(root);
  auto launch = builder.create<LaunchOp>(
      root->getLoc(), kernel.getResultTypes(),
      FlatSymbolRefAttr::get(kernel.getSymNameAttr()), arguments.getArrayRef(),
      randomIds.empty() ? nullptr : builder.getDenseI64ArrayAttr(randomIds));
  for (auto [old, replacement] : llvm::zip(results, launch.getResults())) {
    if (auto state = stateOf.find(old); state != stateOf.end()) {
      StatePlace place = state->second;
      stateOf.erase(state);
      stateOf[replacement] = place;
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
    Outliner::Kernels kernels;
    SmallVector<func::FuncOp> programs(module.getOps<func::FuncOp>());
    for (func::FuncOp function : programs) {
      if (!function->hasAttr(lm::kProgramAttr))
        continue;
      ProgramKernels program(function, matmuls);
      if (failed(program.findUnits()))
        return signalPassFailure();
      program.formGroups();
      numLaunches += program.getGroups().size();
      Outliner(module, function, kernels, matmuls).run(program);
      eraseDead(function.getBody().front());
    }
    numKernels += kernels.size();
    for (auto &[key, kernel] : kernels)
      numMatmuls += KernelOp(kernel).getKind() == kMatmulKind;
  }
};

} // namespace
