// Native code for kernels: the order of work. See Codegen.h.
//
// Each kernel is printed, and from its text alone compiled on some thread in a
// context of that thread's own: contexts are not shared, so threads do not
// meet, and the text together with target and compiler is the key of the
// cache. The text has no name: a kernel is called by the digest of its text, so
// that other models, and the same one after a change elsewhere, find it.
#include "passes/codegen/Codegen.h"
#include "passes/codegen/Cache.h"
#include "passes/codegen/Lowering.h"
#include "passes/codegen/Object.h"
#include "passes/codegen/cuda/Kernels.h"
#include "passes/codegen/cuda/Ptx.h"

#include "mlir/Parser/Parser.h"
#include "llvm/ADT/StringExtras.h"
#include "llvm/ADT/StringMap.h"
#include "llvm/IR/LLVMContext.h"
#include "llvm/IR/Module.h"
#include "llvm/Support/SHA256.h"
#include "llvm/Support/raw_ostream.h"

#include <algorithm>
#include <atomic>
#include <thread>

using namespace mlir;
using namespace lmc;
using namespace lmc::codegen;

// Of sm_80; later ones have more.
static constexpr int64_t kMostSharedBytes = 163 << 10;

FailureOr<KernelFacts> codegen::getKernelFacts(plan::KernelOp kernel,
                                               const Machine &machine) {
  KernelFacts facts;
  facts.pointers = countPointers(kernel);
  facts.takesMicroBatch = codegen::takesMicroBatch(kernel);
  facts.takesRows = codegen::takesRows(kernel);
  facts.randoms = randomsWithoutId(kernel).size();
  facts.mostRows = kernel.getMostRows().value_or(0);
  if (failed(planKernel(kernel, machine, facts)))
    return failure();
  if (machine.gpu) {
    facts.stackBytes = 0;
    if (facts.sharedBytes > kMostSharedBytes)
      return kernel.emitOpError()
             << "shares " << facts.sharedBytes
             << " bytes in a block; a GPU's block has " << kMostSharedBytes;
  }
  for (Operation &op : kernel.getBody().front())
    if (auto costed = dyn_cast<lm::Costed>(op))
      if (facts.flops == 0 && !facts.takesRows)
        facts.flops = costed.getFlops();
  return facts;
}

SmallVector<plan::KernelOp>
codegen::withVariants(ArrayRef<plan::KernelOp> kernels,
                      std::vector<OwningOpRef<plan::KernelOp>> &made) {
  SmallVector<plan::KernelOp> all;
  for (plan::KernelOp kernel : kernels) {
    all.push_back(kernel);
    if (kernel.getKind() != "contraction")
      continue;
    for (int64_t rows : cuda::fewRowsOf(kernel)) {
      plan::KernelOp variant = kernel.clone();
      variant.setSymName((kernel.getSymName() + "_rows_" + Twine(rows)).str());
      variant.setMostRows(rows);
      made.emplace_back(variant);
      all.push_back(variant);
    }
  }
  return all;
}

namespace {

// A kernel, and what became of it.
struct Compiled {
  std::string text, symbol;
  unsigned threads, blocks; // see KernelFacts
  std::string object;
  std::string error;
};

void compileText(const Target &target, MLIRContext &context, Compiled &result) {
  std::string messages;
  ScopedDiagnosticHandler handler(&context, [&](Diagnostic &diagnostic) {
    llvm::raw_string_ostream(messages) << diagnostic.str() << '\n';
    return success();
  });
  auto fail = [&](const std::string &what) {
    result.error = messages.empty() ? what : messages;
  };
  auto module = parseSourceString<ModuleOp>(
      result.text, ParserConfig(&context, /*verifyAfterParse=*/false));
  if (!module)
    return fail("cannot read back the kernel's text");
  auto kernel = *module->getOps<plan::KernelOp>().begin();
  kernel.setSymName(result.symbol);
  auto built = buildKernelModule(kernel, target.machine);
  if (!built)
    return fail("cannot build its loops");
  if (failed(lowerToLLVM(*built)))
    return fail("cannot lower its loops to LLVM");
  llvm::LLVMContext llvmContext;
  auto ir = translateToLLVMIR(*built, llvmContext);
  if (!ir)
    return fail("cannot translate it to LLVM IR");
  std::string error;
  auto object = target.machine.gpu
                    ? cuda::compileToPtx(*ir, result.symbol, result.threads,
                                         result.blocks, target, error)
                    : compileToObject(*ir, target, error);
  if (failed(object))
    return fail(error);
  result.object = std::move(*object);
}

std::string printNameless(plan::KernelOp kernel) {
  plan::KernelOp copy = kernel.clone();
  copy.setSymName("kernel");
  std::string text;
  llvm::raw_string_ostream stream(text);
  copy->print(stream, OpPrintingFlags().useLocalScope());
  copy->erase();
  return text;
}

std::string symbolOf(StringRef text) {
  llvm::SHA256 hash;
  hash.update(text);
  auto digest = hash.final();
  return "kernel_" + llvm::toHex(llvm::ArrayRef<uint8_t>(digest).take_front(16),
                                 /*LowerCase=*/true);
}

// A plan's PTX as machine code, if there is an assembler that can.
void assembleCached(const Cache &cache, const Target &target,
                    MLIRContext *context, CompiledKernels &result) {
  std::string assembler = cuda::findAssembler(), error;
  if (assembler.empty())
    return;
  std::string key = result.object + cuda::assemblerVersion(assembler);
  if (cache.find(key, result.cubin))
    return;
  auto cubin = cuda::assemble(assembler, result.object, target,
                              /*verbose=*/false, error);
  if (failed(cubin)) {
    emitWarning(UnknownLoc::get(context))
        << "the plan has PTX alone, which the driver compiles when it is "
           "loaded: "
        << error;
    return;
  }
  result.cubin = std::move(*cubin);
  cache.insert(key, result.cubin);
}

} // namespace

FailureOr<CompiledKernels>
codegen::compileKernels(ArrayRef<plan::KernelOp> kernels,
                        const CodegenOptions &options) {
  if (kernels.empty())
    return CompiledKernels();
  std::string error;
  bool isGpu = StringRef(options.targetCpu).starts_with("sm_");
  auto target = isGpu ? cuda::resolveTarget(options.targetCpu, error)
                      : resolveTarget(options.targetCpu, error);
  plan::KernelOp first = kernels.front();
  if (failed(target))
    return first.emitError() << error;

  CompiledKernels result;
  result.targetCpu = target->cpu;
  result.cpuFeatures = target->cpuFlags;
  std::vector<Compiled> compiled;
  std::vector<plan::KernelOp> origins;  // of `compiled`, for diagnostics
  llvm::StringMap<std::string> symbols; // by text
  for (plan::KernelOp kernel : kernels) {
    auto facts = getKernelFacts(kernel, target->machine);
    if (failed(facts))
      return failure();
    std::string text = printNameless(kernel);
    auto [symbol, isNew] = symbols.try_emplace(text);
    if (isNew) {
      symbol->second = symbolOf(text);
      compiled.push_back(
          {text, symbol->second, facts->threads, facts->blocks, "", ""});
      origins.push_back(kernel);
    }
    facts->symbol = symbol->second;
    result.kernels.push_back(std::move(*facts));
  }

  Cache cache(options.cacheDirectory, *target);
  std::atomic<size_t> next{0};
  auto work = [&] {
    DialectRegistry registry;
    registerCodegenDialects(registry);
    MLIRContext context(registry, MLIRContext::Threading::DISABLED);
    context.loadAllAvailableDialects();
    while (true) {
      size_t index = next.fetch_add(1);
      if (index >= compiled.size())
        return;
      Compiled &one = compiled[index];
      if (cache.find(one.text, one.object))
        continue;
      compileText(*target, context, one);
      if (one.error.empty())
        cache.insert(one.text, one.object);
    }
  };
  unsigned threads = options.threads
                         ? options.threads
                         : std::max(1u, std::thread::hardware_concurrency());
  threads = std::min<size_t>(threads, compiled.size());
  std::vector<std::thread> pool;
  for (unsigned i = 1; i < threads; ++i)
    pool.emplace_back(work);
  work();
  for (std::thread &thread : pool)
    thread.join();

  std::vector<std::string> objects;
  for (auto [index, one] : llvm::enumerate(compiled)) {
    if (!one.error.empty())
      return origins[index].emitOpError()
             << "cannot be compiled: " << one.error;
    objects.push_back(std::move(one.object));
  }
  if (isGpu) {
    result.object = cuda::joinPtx(objects);
    if (options.assemble)
      assembleCached(cache, *target, first.getContext(), result);
    return result;
  }
  auto object = linkObjects(objects, error);
  if (failed(object))
    return emitError(UnknownLoc::get(first.getContext())) << error;
  result.object = std::move(*object);
  return result;
}
