// Runs a block's threads as fibres; see BlockEmulator.h.
#include "test/codegen/BlockEmulator.h"

#include "passes/codegen/Lowering.h"
#include "passes/codegen/Object.h"

#include "mlir/Parser/Parser.h"
#include "llvm/IR/IRBuilder.h"
#include "llvm/IR/LLVMContext.h"
#include "llvm/IR/Module.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <csetjmp>
#include <sstream>
#include <ucontext.h>

using namespace mlir;
using namespace lmc;
using namespace lmc::test;

namespace {

constexpr size_t kStackBytes = 64 << 10; // of a fibre
constexpr size_t kMostThreads = 1024;
constexpr ptrdiff_t kSharedGuard = 64;
constexpr unsigned kWarp = 32;

struct Fibre {
  enum State { Runnable, AtBarrier, AtShuffle, Done } state = Runnable;
  bool started = false;
  ucontext_t start;
  jmp_buf here;         // where it goes on
  void *site = nullptr; // where it waits
  float given = 0, taken = 0;
  int32_t mask = 0;
};

// The block that runs on this thread of the host.
struct RunningBlock {
  std::vector<Fibre> fibres;
  std::vector<char> shared;
  jmp_buf scheduler;
  unsigned current = 0;
  int64_t unit = 0;
  std::function<void()> body;

  void wait(Fibre::State state, void *site) {
    Fibre &fibre = fibres[current];
    fibre.state = state;
    fibre.site = site;
    // A jump asks nothing of the kernel, which swapcontext does.
    if (_setjmp(fibre.here) == 0)
      _longjmp(scheduler, 1);
  }
  // Returns when the fibre waits or ends.
  __attribute__((noinline)) void resume(unsigned index) {
    current = index;
    if (_setjmp(scheduler) != 0)
      return;
    Fibre &fibre = fibres[index];
    if (fibre.started)
      _longjmp(fibre.here, 1);
    fibre.started = true;
    setcontext(&fibre.start);
  }
};
RunningBlock *running = nullptr;

int32_t threadHook() { return int32_t(running->current); }
int32_t unitHook() { return int32_t(running->unit); }
void barrierHook() {
  running->wait(Fibre::AtBarrier, __builtin_return_address(0));
}
float shuffleHook(float value, int32_t mask) {
  Fibre &fibre = running->fibres[running->current];
  fibre.given = value;
  fibre.mask = mask;
  running->wait(Fibre::AtShuffle, __builtin_return_address(0));
  return fibre.taken;
}
void *sharedHook() {
  auto address = reinterpret_cast<uintptr_t>(running->shared.data());
  return running->shared.data() + (64 - address % 64) % 64;
}

// In the order of the table that a module exports.
const std::pair<const char *, void *> kHooks[] = {
    {codegen::kThreadFunction, reinterpret_cast<void *>(threadHook)},
    {codegen::kUnitFunction, reinterpret_cast<void *>(unitHook)},
    {codegen::kBarrierFunction, reinterpret_cast<void *>(barrierHook)},
    {codegen::kShuffleFunction, reinterpret_cast<void *>(shuffleHook)},
    {codegen::kSharedFunction, reinterpret_cast<void *>(sharedHook)},
};
constexpr const char *kTable = "lmc_emulator_hooks";
constexpr const char *kEntry = "lmc_emulator_entry";

void fibreMain() {
  running->body();
  running->fibres[running->current].state = Fibre::Done;
  _longjmp(running->scheduler, 1);
}

// Whether all of [begin, end) wait in `state` at one place.
bool meet(const std::vector<Fibre> &fibres, size_t begin, size_t end,
          Fibre::State state) {
  for (size_t i = begin; i < end; ++i)
    if (fibres[i].state != state || fibres[i].site != fibres[begin].site ||
        fibres[i].mask != fibres[begin].mask)
      return false;
  return true;
}

std::string describe(const std::vector<Fibre> &fibres) {
  std::ostringstream text;
  const char *const names[] = {"runs", "waits at a barrier",
                               "waits at a shuffle", "is done"};
  for (size_t i = 0; i < fibres.size(); ++i)
    if (i == 0 || fibres[i].state != fibres[i - 1].state ||
        fibres[i].site != fibres[i - 1].site)
      text << "\n  from thread " << i << " on: " << names[fibres[i].state]
           << " (" << fibres[i].site << ")";
  return text.str();
}

// Runs all fibres to their end; false if they cannot meet.
bool schedule(RunningBlock &block, bool reverse) {
  size_t count = block.fibres.size();
  while (true) {
    bool progress = false, done = true;
    for (size_t i = 0; i < count; ++i) {
      size_t index = reverse ? count - 1 - i : i;
      Fibre &fibre = block.fibres[index];
      if (fibre.state == Fibre::Runnable) {
        block.resume(unsigned(index));
        progress = true;
      }
      done &= fibre.state == Fibre::Done;
    }
    if (done)
      return true;
    for (size_t warp = 0; warp < count; warp += kWarp) {
      if (!meet(block.fibres, warp, warp + kWarp, Fibre::AtShuffle))
        continue;
      for (size_t i = warp; i < warp + kWarp; ++i)
        block.fibres[i].taken =
            block.fibres[warp + ((i - warp) ^ block.fibres[i].mask)].given;
      for (size_t i = warp; i < warp + kWarp; ++i)
        block.fibres[i].state = Fibre::Runnable;
      progress = true;
    }
    for (Fibre &fibre : block.fibres)
      if (fibre.state != Fibre::AtShuffle)
        fibre.mask = 0;
    if (meet(block.fibres, 0, count, Fibre::AtBarrier)) {
      for (Fibre &fibre : block.fibres)
        fibre.state = Fibre::Runnable;
      progress = true;
    }
    if (!progress)
      return false;
  }
}

// Gives the module's functions of a block bodies that call through a table, and
// the kernel an entry that takes its operands from arrays.
void bindToHost(llvm::Module &module, const codegen::KernelFacts &facts) {
  llvm::IRBuilder<> builder(module.getContext());
  auto *ptr = builder.getPtrTy();
  auto *tableType = llvm::ArrayType::get(ptr, std::size(kHooks));
  auto *table = new llvm::GlobalVariable(
      module, tableType, false, llvm::GlobalValue::ExternalLinkage,
      llvm::Constant::getNullValue(tableType), kTable);
  for (size_t i = 0; i < std::size(kHooks); ++i) {
    llvm::Function *function = module.getFunction(kHooks[i].first);
    if (!function)
      continue;
    function->setLinkage(llvm::GlobalValue::InternalLinkage);
    // As the instructions are: a place of the code where threads meet stays
    // one.
    function->setConvergent();
    builder.SetInsertPoint(
        llvm::BasicBlock::Create(module.getContext(), "", function));
    llvm::Value *hook = builder.CreateLoad(
        ptr, builder.CreateConstInBoundsGEP2_32(tableType, table, 0, i));
    llvm::SmallVector<llvm::Value *> arguments;
    for (llvm::Argument &argument : function->args())
      arguments.push_back(&argument);
    // A jump, so that the hook sees the place of the kernel that calls.
    llvm::CallInst *call =
        builder.CreateCall(function->getFunctionType(), hook, arguments);
    call->setTailCallKind(llvm::CallInst::TCK_MustTail);
    call->setConvergent();
    function->getReturnType()->isVoidTy() ? builder.CreateRetVoid()
                                          : builder.CreateRet(call);
  }
  llvm::Function *kernel = module.getFunction(facts.symbol);
  auto *entry = llvm::Function::Create(
      llvm::FunctionType::get(builder.getVoidTy(), {ptr, ptr}, false),
      llvm::GlobalValue::ExternalLinkage, kEntry, module);
  builder.SetInsertPoint(
      llvm::BasicBlock::Create(module.getContext(), "", entry));
  llvm::SmallVector<llvm::Value *> operands;
  unsigned pointers = 0, integers = 0;
  for (llvm::Argument &argument : kernel->args()) {
    bool isPointer = argument.getType()->isPointerTy();
    llvm::Value *from = builder.CreateConstGEP1_32(
        argument.getType(), entry->getArg(isPointer ? 0 : 1),
        isPointer ? pointers++ : integers++);
    operands.push_back(builder.CreateLoad(argument.getType(), from));
  }
  builder.CreateCall(kernel, operands);
  builder.CreateRetVoid();
}

} // namespace

EmulatedKernel::EmulatedKernel(plan::KernelOp kernel) { lower(kernel); }

void EmulatedKernel::lower(plan::KernelOp kernel) {
  // Operations of code generation live in a context that knows them.
  DialectRegistry registry;
  codegen::registerCodegenDialects(registry);
  MLIRContext context(registry, MLIRContext::Threading::DISABLED);
  context.loadAllAvailableDialects();
  std::string text;
  llvm::raw_string_ostream stream(text);
  kernel->print(stream, OpPrintingFlags().useLocalScope());
  auto parsed = parseSourceString<ModuleOp>(text, &context);
  ASSERT_TRUE(parsed);
  auto copy = *parsed->getOps<plan::KernelOp>().begin();
  codegen::Machine machine;
  machine.gpu = true;
  auto planned = codegen::getKernelFacts(copy, machine);
  ASSERT_TRUE(succeeded(planned));
  facts = *planned;
  facts.symbol = copy.getSymName().str();
  auto module = codegen::buildKernelModule(copy, machine);
  ASSERT_TRUE(module);
  load(*module);
}

EmulatedKernel::EmulatedKernel(ModuleOp module,
                               const codegen::KernelFacts &facts)
    : facts(facts) {
  load(module);
}
EmulatedKernel::~EmulatedKernel() = default;

void EmulatedKernel::load(ModuleOp module) {
  ASSERT_TRUE(succeeded(codegen::lowerToLLVM(module)));
  llvm::LLVMContext context;
  auto ir = codegen::translateToLLVMIR(module, context);
  ASSERT_TRUE(ir);
  bindToHost(*ir, facts);
  std::string error;
  auto target = codegen::resolveTarget("x86-64-v3", error);
  auto compiled = codegen::compileToObject(*ir, *target, error);
  ASSERT_TRUE(succeeded(compiled)) << error;
  auto linked = codegen::linkObjects({*compiled}, error);
  ASSERT_TRUE(succeeded(linked)) << error;
  object = std::make_unique<LoadedObject>(*linked);
  auto **table = reinterpret_cast<void **>(object->find(kTable));
  ASSERT_TRUE(table);
  for (size_t i = 0; i < std::size(kHooks); ++i)
    table[i] = kHooks[i].second;
  function = reinterpret_cast<decltype(function)>(
      reinterpret_cast<void *>(object->find(kEntry)));
}

bool EmulatedKernel::run(void *const *pointers, const int64_t *integers,
                         int64_t begin, int64_t end) {
  // The kernel's integers, and behind them the number of units.
  std::vector<int64_t> numbers(integers, integers + facts.integers());
  numbers.push_back(end);
  RunningBlock block;
  static const std::unique_ptr<char[]> stacks(
      new char[kMostThreads * kStackBytes]);
  block.body = [&] { function(pointers, numbers.data()); };
  running = &block;
  bool allMet = true;
  for (int64_t unit = begin; unit < end && allMet; ++unit) {
    block.unit = unit;
    // Floats of 0xff are NaN.
    block.shared.assign(size_t(facts.sharedBytes) + 64 + kSharedGuard, '\xff');
    block.fibres.assign(facts.threads, Fibre());
    for (unsigned i = 0; i < facts.threads; ++i) {
      ucontext_t &context = block.fibres[i].start;
      getcontext(&context);
      context.uc_stack.ss_sp = stacks.get() + i * kStackBytes;
      context.uc_stack.ss_size = kStackBytes;
      context.uc_link = nullptr;
      makecontext(&context, fibreMain, 0);
    }
    allMet = schedule(block, reverse);
    if (!allMet)
      ADD_FAILURE() << "the threads of block " << unit << " of " << facts.symbol
                    << " do not meet:" << describe(block.fibres);
    const char *end = static_cast<char *>(sharedHook()) + facts.sharedBytes;
    if (std::count(end, end + kSharedGuard, '\xff') != kSharedGuard)
      ADD_FAILURE() << facts.symbol << " wrote past its shared memory";
  }
  running = nullptr;
  reverse = !reverse;
  return allMet;
}
