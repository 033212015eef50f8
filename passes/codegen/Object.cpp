// Machine code and linking; see Object.h.
//
// The pipeline is short on purpose: the loops are already as they should be,
// so nothing is unrolled or vectorised. Fusing of products and sums is off
// (AllowFPOpFusion::Strict): the evaluator fused what is to be fused, the same
// in every variant of a kernel.
#include "passes/codegen/Object.h"

#include "lld/Common/Driver.h"
#include "llvm/ADT/StringSet.h"
#include "llvm/IR/LegacyPassManager.h"
#include "llvm/IR/Module.h"
#include "llvm/MC/TargetRegistry.h"
#include "llvm/Passes/PassBuilder.h"
#include "llvm/Support/FileSystem.h"
#include "llvm/Support/MemoryBuffer.h"
#include "llvm/Support/SmallVectorMemoryBuffer.h"
#include "llvm/Support/TargetSelect.h"
#include "llvm/Target/TargetMachine.h"
#include "llvm/TargetParser/Host.h"
#include "llvm/TargetParser/X86TargetParser.h"
#include "llvm/Transforms/InstCombine/InstCombine.h"
#include "llvm/Transforms/Scalar/EarlyCSE.h"
#include "llvm/Transforms/Scalar/GVN.h"
#include "llvm/Transforms/Scalar/IndVarSimplify.h"
#include "llvm/Transforms/Scalar/LICM.h"
#include "llvm/Transforms/Scalar/LoopPassManager.h"
#include "llvm/Transforms/Scalar/LoopRotation.h"
#include "llvm/Transforms/Scalar/SROA.h"
#include "llvm/Transforms/Scalar/SimplifyCFG.h"

#include <mutex>
#include <sys/mman.h>
#include <unistd.h>

LLD_HAS_DRIVER(elf)

using namespace mlir;
using namespace lmc::codegen;

static void initializeLLVM() {
  static std::once_flag once;
  std::call_once(once, [] {
    LLVMInitializeX86TargetInfo();
    LLVMInitializeX86Target();
    LLVMInitializeX86TargetMC();
    LLVMInitializeX86AsmPrinter();
  });
}

FailureOr<Target> lmc::codegen::resolveTarget(const std::string &cpu,
                                              std::string &error) {
  initializeLLVM();
  Target target;
  target.cpu = cpu;
  llvm::StringSet<> features;
  if (cpu == "native") {
    target.cpu = llvm::sys::getHostCPUName().str();
    for (const auto &[name, present] : llvm::sys::getHostCPUFeatures())
      if (present)
        features.insert(name);
  } else {
    llvm::SmallVector<llvm::StringRef> known, present;
    llvm::X86::fillValidCPUArchList(known, /*Only64Bit=*/true);
    if (!llvm::is_contained(known, llvm::StringRef(cpu))) {
      error = "the processor '" + cpu +
              "' is unknown; give --target-cpu=x86-64-v3, x86-64-v4 or the "
              "name of a processor as clang's -march takes it";
      return failure();
    }
    llvm::X86::getFeaturesForCPU(cpu, present);
    // The list leaves out what others in it imply: avx512f, of avx512bw.
    llvm::StringMap<bool> implied;
    for (llvm::StringRef feature : present) {
      features.insert(feature);
      llvm::X86::updateImpliedFeatures(feature, /*Enabled=*/true, implied);
    }
    for (const auto &each : implied)
      features.insert(each.getKey());
  }
  auto hasAll = [&](std::initializer_list<llvm::StringRef> names) {
    return llvm::all_of(
        names, [&](llvm::StringRef name) { return features.contains(name); });
  };
  if (!hasAll({"avx2", "fma", "bmi", "bmi2", "f16c"})) {
    error = "the processor '" + target.cpu +
            "' lacks AVX2, FMA, BMI or F16C; kernels need x86-64-v3 at least";
    return failure();
  }
  // One of two levels, so that a plan runs on every machine of that level.
  target.machine.wide =
      hasAll({"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"});
  target.level = target.machine.wide ? "x86-64-v4" : "x86-64-v3";
  target.cpuFlags = {"avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "movbe"};
  if (target.machine.wide) {
    target.features = "-prefer-256-bit";
    target.cpuFlags.insert(
        target.cpuFlags.end(),
        {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"});
  }
  return target;
}

void lmc::codegen::optimize(llvm::Module &module,
                            llvm::TargetMachine &machine) {
  llvm::PipelineTuningOptions tuning;
  tuning.LoopVectorization = false;
  tuning.SLPVectorization = false;
  tuning.LoopUnrolling = false;
  llvm::PassBuilder builder(&machine, tuning);
  llvm::LoopAnalysisManager loops;
  llvm::FunctionAnalysisManager functions;
  llvm::CGSCCAnalysisManager graphs;
  llvm::ModuleAnalysisManager modules;
  builder.registerModuleAnalyses(modules);
  builder.registerCGSCCAnalyses(graphs);
  builder.registerFunctionAnalyses(functions);
  builder.registerLoopAnalyses(loops);
  builder.crossRegisterProxies(loops, functions, graphs, modules);
  llvm::FunctionPassManager passes;
  passes.addPass(llvm::SROAPass(llvm::SROAOptions::ModifyCFG));
  passes.addPass(llvm::EarlyCSEPass(/*UseMemorySSA=*/false));
  passes.addPass(llvm::SimplifyCFGPass());
  passes.addPass(llvm::InstCombinePass());
  llvm::LoopPassManager inner;
  inner.addPass(llvm::LoopRotatePass());
  inner.addPass(llvm::LICMPass(llvm::LICMOptions()));
  passes.addPass(llvm::createFunctionToLoopPassAdaptor(std::move(inner),
                                                       /*UseMemorySSA=*/true));
  passes.addPass(llvm::GVNPass());
  passes.addPass(llvm::InstCombinePass());
  passes.addPass(llvm::createFunctionToLoopPassAdaptor(
      llvm::IndVarSimplifyPass(), /*UseMemorySSA=*/false));
  passes.addPass(llvm::SimplifyCFGPass());
  for (llvm::Function &function : module)
    if (!function.isDeclaration())
      passes.run(function, functions);
}

FailureOr<std::string> lmc::codegen::compileToObject(llvm::Module &module,
                                                     const Target &target,
                                                     std::string &error) {
  initializeLLVM();
  const std::string triple = "x86_64-unknown-linux-gnu";
  const llvm::Target *backend =
      llvm::TargetRegistry::lookupTarget(triple, error);
  if (!backend)
    return failure();
  llvm::TargetOptions options;
  options.AllowFPOpFusion = llvm::FPOpFusion::Strict;
  std::unique_ptr<llvm::TargetMachine> machine(backend->createTargetMachine(
      triple, target.level, target.features, options, llvm::Reloc::PIC_,
      std::nullopt, llvm::CodeGenOptLevel::Default));
  module.setTargetTriple(triple);
  module.setDataLayout(machine->createDataLayout());
  for (llvm::Function &function : module) {
    if (function.isDeclaration())
      continue;
    function.addFnAttr("target-cpu", target.level);
    if (!target.features.empty())
      function.addFnAttr("target-features", target.features);
    function.addFnAttr("prefer-vector-width",
                       target.machine.wide ? "512" : "256");
    function.addFnAttr("no-builtins");
    function.addFnAttr(llvm::Attribute::NoUnwind);
  }
  optimize(module, *machine);

  llvm::SmallVector<char, 0> bytes;
  llvm::raw_svector_ostream stream(bytes);
  llvm::legacy::PassManager codegen;
  if (machine->addPassesToEmitFile(codegen, stream, nullptr,
                                   llvm::CodeGenFileType::ObjectFile)) {
    error = "this build of LLVM cannot write object files for " + triple;
    return failure();
  }
  codegen.run(module);
  return std::string(bytes.begin(), bytes.end());
}

namespace {
// An object as a file that lld can open, without a file system.
class MemoryFile {
public:
  explicit MemoryFile(const std::string &bytes) {
    descriptor = memfd_create("lmc-object", MFD_CLOEXEC);
    for (size_t done = 0; descriptor >= 0 && done < bytes.size();) {
      ssize_t count =
          write(descriptor, bytes.data() + done, bytes.size() - done);
      if (count <= 0) {
        close(descriptor);
        descriptor = -1;
        break;
      }
      done += static_cast<size_t>(count);
    }
    path = "/proc/self/fd/" + std::to_string(descriptor);
  }
  MemoryFile(const MemoryFile &) = delete;
  MemoryFile(MemoryFile &&other)
      : descriptor(other.descriptor), path(std::move(other.path)) {
    other.descriptor = -1;
  }
  ~MemoryFile() {
    if (descriptor >= 0)
      close(descriptor);
  }
  int descriptor;
  std::string path;
};
} // namespace

FailureOr<std::string>
lmc::codegen::linkObjects(const std::vector<std::string> &objects,
                          std::string &error) {
  // lld keeps global state: one link at a time.
  static std::mutex linking;
  std::lock_guard<std::mutex> lock(linking);

  std::vector<MemoryFile> files;
  files.reserve(objects.size());
  for (const std::string &object : objects) {
    files.emplace_back(object);
    if (files.back().descriptor < 0) {
      error = "cannot hold an object of " + std::to_string(object.size()) +
              " bytes in memory";
      return failure();
    }
  }
  // lld writes to a regular file only.
  llvm::SmallString<128> output;
  if (std::error_code code =
          llvm::sys::fs::createTemporaryFile("lmc", "so", output)) {
    error = "cannot create a temporary file to link to: " + code.message();
    return failure();
  }
  // lld writes through a mapping, which on a full disk ends by a signal.
  size_t bytes = 64 << 10;
  for (const std::string &object : objects)
    bytes += 2 * object.size();
  if (auto space = llvm::sys::fs::disk_space(output);
      space && space->available < bytes) {
    error = "there is no room for the kernels beside " + output.str().str() +
            ": " + std::to_string(bytes) + " bytes are wanted, " +
            std::to_string(space->available) + " are free";
    llvm::sys::fs::remove(output);
    return failure();
  }
  std::vector<const char *> arguments{"ld.lld",
                                      "-shared",
                                      "--no-undefined",
                                      "--hash-style=gnu",
                                      "--build-id=none",
                                      "--threads=1",
                                      "-s",
                                      "-z",
                                      "noexecstack",
                                      "-o",
                                      output.c_str()};
  for (const MemoryFile &file : files)
    arguments.push_back(file.path.c_str());
  std::string out, err;
  llvm::raw_string_ostream outStream(out), errStream(err);
  lld::Result result = lld::lldMain(arguments, outStream, errStream,
                                    {{lld::Gnu, &lld::elf::link}});
  auto buffer = llvm::MemoryBuffer::getFile(output, /*IsText=*/false,
                                            /*RequiresNullTerminator=*/false);
  llvm::sys::fs::remove(output);
  if (result.retCode != 0 || !buffer) {
    error = "linking " + std::to_string(objects.size()) +
            " kernels failed: " + errStream.str();
    return failure();
  }
  return (*buffer)->getBuffer().str();
}
