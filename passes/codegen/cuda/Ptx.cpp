// PTX for NVIDIA's GPUs; see Ptx.h.
//
// Products and sums are fused by the evaluator alone, as on the CPU: the back
// end writes .rn on both, which the assembler leaves as they are.
#include "passes/codegen/cuda/Ptx.h"

#include "llvm/Analysis/LoopInfo.h"
#include "llvm/IR/Dominators.h"
#include "llvm/IR/IRBuilder.h"
#include "llvm/IR/IntrinsicInst.h"
#include "llvm/IR/IntrinsicsNVPTX.h"
#include "llvm/IR/LegacyPassManager.h"
#include "llvm/IR/Module.h"
#include "llvm/MC/TargetRegistry.h"
#include "llvm/Support/FileSystem.h"
#include "llvm/Support/FileUtilities.h"
#include "llvm/Support/MemoryBuffer.h"
#include "llvm/Support/Path.h"
#include "llvm/Support/Program.h"
#include "llvm/Support/TargetSelect.h"
#include "llvm/Target/TargetMachine.h"
#include "llvm/Transforms/IPO/AlwaysInliner.h"

#include <cstdlib>
#include <mutex>

using namespace mlir;
using namespace lmc::codegen;

static void initializeLLVM() {
  static std::once_flag once;
  std::call_once(once, [] {
    LLVMInitializeNVPTXTargetInfo();
    LLVMInitializeNVPTXTarget();
    LLVMInitializeNVPTXTargetMC();
    LLVMInitializeNVPTXAsmPrinter();
  });
}

FailureOr<Target> cuda::resolveTarget(const std::string &name,
                                      std::string &error) {
  // Code for sm_90 runs on later GPUs, too; sm_90a would not.
  Target target;
  target.cpu = target.level = name;
  target.machine.gpu = true;
  if (name == "sm_80") {
    target.features = "+ptx78";
  } else if (name == "sm_90") {
    target.features = "+ptx83";
  } else {
    error = "there is no code for '" + name +
            "'; give --target=cuda:sm_80 (Ampere and later) or "
            "--target=cuda:sm_90 (Hopper and later)";
    return failure();
  }
  return target;
}

namespace {

// Gives the functions that a block's kernel calls their instructions.
class BlockFunctions {
public:
  BlockFunctions(llvm::Module &module, const std::string &symbol)
      : module(module), builder(module.getContext()), symbol(symbol) {}

  void define() {
    auto i32 = builder.getInt32Ty();
    body(kThreadFunction, [&](llvm::Function &) {
      return intrinsic(llvm::Intrinsic::nvvm_read_ptx_sreg_tid_x, {});
    });
    body(kUnitFunction, [&](llvm::Function &) {
      return intrinsic(llvm::Intrinsic::nvvm_read_ptx_sreg_ctaid_x, {});
    });
    body(kBarrierFunction, [&](llvm::Function &) {
      intrinsic(llvm::Intrinsic::nvvm_barrier0, {});
      return static_cast<llvm::Value *>(nullptr);
    });
    body(kShuffleFunction, [&](llvm::Function &function) {
      return intrinsic(llvm::Intrinsic::nvvm_shfl_sync_bfly_f32,
                       {llvm::ConstantInt::get(i32, -1), function.getArg(0),
                        function.getArg(1), llvm::ConstantInt::get(i32, 31)});
    });
    body(kSharedFunction, [&](llvm::Function &) {
      auto *shared = new llvm::GlobalVariable(
          module, llvm::ArrayType::get(builder.getInt8Ty(), 0),
          /*isConstant=*/false, llvm::GlobalValue::ExternalLinkage, nullptr,
          symbol + "_shared", nullptr, llvm::GlobalValue::NotThreadLocal,
          /*AddressSpace=*/3);
      shared->setAlignment(llvm::Align(16));
      return static_cast<llvm::Value *>(
          builder.CreateAddrSpaceCast(shared, builder.getPtrTy()));
    });
  }

private:
  llvm::Module &module;
  llvm::IRBuilder<> builder;
  const std::string &symbol;

  template <typename Body> void body(const char *name, Body &&make) {
    llvm::Function *function = module.getFunction(name);
    if (!function)
      return;
    builder.SetInsertPoint(
        llvm::BasicBlock::Create(module.getContext(), "", function));
    llvm::Value *result = make(*function);
    result ? builder.CreateRet(result) : builder.CreateRetVoid();
    function->setLinkage(llvm::GlobalValue::InternalLinkage);
    function->addFnAttr(llvm::Attribute::AlwaysInline);
  }
  llvm::Value *intrinsic(llvm::Intrinsic::ID id,
                         llvm::ArrayRef<llvm::Value *> operands) {
    return builder.CreateCall(llvm::Intrinsic::getDeclaration(&module, id),
                              operands);
  }
};

// A function of mathematics that no instruction computes and codegen has no
// expansion of; null if there is none.
const llvm::Function *findUnknownMath(const llvm::Module &module) {
  for (const llvm::Function &function : module)
    switch (function.getIntrinsicID()) {
    case llvm::Intrinsic::pow:
    case llvm::Intrinsic::powi:
    case llvm::Intrinsic::sin:
    case llvm::Intrinsic::cos:
    case llvm::Intrinsic::tan:
    case llvm::Intrinsic::exp:
    case llvm::Intrinsic::exp2:
    case llvm::Intrinsic::exp10:
    case llvm::Intrinsic::log:
    case llvm::Intrinsic::log2:
    case llvm::Intrinsic::log10:
      return &function;
    default:
      break;
    }
  return nullptr;
}

// A loop of so many products or more has enough to do side by side. The
// assembler would unroll it all the same, and spill what it has then.
constexpr unsigned kEnoughProducts = 16;

void keepLoops(llvm::Function &kernel) {
  llvm::DominatorTree dominators(kernel);
  llvm::LoopInfo loops(dominators);
  for (llvm::Loop *loop : loops.getLoopsInPreorder()) {
    unsigned products = 0;
    for (llvm::BasicBlock *block : loop->blocks())
      for (llvm::Instruction &one : *block)
        if (auto *call = llvm::dyn_cast<llvm::IntrinsicInst>(&one);
            call && call->getIntrinsicID() == llvm::Intrinsic::fma) {
          auto *vector = llvm::dyn_cast<llvm::FixedVectorType>(one.getType());
          products += vector ? vector->getNumElements() : 1;
        }
    if (products >= kEnoughProducts)
      loop->setLoopAlreadyUnrolled();
  }
}

void annotate(llvm::Function &kernel, const char *name, unsigned value) {
  llvm::LLVMContext &context = kernel.getContext();
  auto *number = llvm::ConstantAsMetadata::get(
      llvm::ConstantInt::get(llvm::Type::getInt32Ty(context), value));
  kernel.getParent()
      ->getOrInsertNamedMetadata("nvvm.annotations")
      ->addOperand(llvm::MDNode::get(
          context, {llvm::ValueAsMetadata::get(&kernel),
                    llvm::MDString::get(context, name), number}));
}

} // namespace

FailureOr<std::string> cuda::compileToPtx(llvm::Module &module,
                                          const std::string &symbol,
                                          unsigned threads, unsigned blocks,
                                          const Target &target,
                                          std::string &error) {
  initializeLLVM();
  const std::string triple = "nvptx64-nvidia-cuda";
  const llvm::Target *backend =
      llvm::TargetRegistry::lookupTarget(triple, error);
  if (!backend) {
    error = "this build of LLVM has no back end for NVIDIA's GPUs: " + error;
    return failure();
  }
  // The back end would end the process.
  if (const llvm::Function *unknown = findUnknownMath(module)) {
    error = "there is no expansion of " + unknown->getName().str();
    return failure();
  }
  llvm::TargetOptions options;
  options.AllowFPOpFusion = llvm::FPOpFusion::Strict;
  std::unique_ptr<llvm::TargetMachine> machine(backend->createTargetMachine(
      triple, target.level, target.features, options, std::nullopt,
      std::nullopt, llvm::CodeGenOptLevel::Aggressive));
  module.setTargetTriple(triple);
  module.setDataLayout(machine->createDataLayout());
  BlockFunctions(module, symbol).define();
  llvm::Function *kernel = module.getFunction(symbol);
  annotate(*kernel, "kernel", 1);
  annotate(*kernel, "maxntidx", threads);
  // Without it the assembler would rather spill than have fewer blocks.
  annotate(*kernel, "minctasm", blocks);
  llvm::legacy::PassManager inliner;
  inliner.add(llvm::createAlwaysInlinerLegacyPass());
  inliner.run(module);
  optimize(module, *machine);
  keepLoops(*kernel);

  llvm::SmallVector<char, 0> bytes;
  llvm::raw_svector_ostream stream(bytes);
  llvm::legacy::PassManager codegen;
  if (machine->addPassesToEmitFile(codegen, stream, nullptr,
                                   llvm::CodeGenFileType::AssemblyFile)) {
    error = "this build of LLVM cannot write PTX";
    return failure();
  }
  codegen.run(module);
  return std::string(bytes.begin(), bytes.end());
}

std::string cuda::joinPtx(const std::vector<std::string> &kernels) {
  std::string text;
  const llvm::StringRef end = ".address_size 64\n";
  for (llvm::StringRef kernel : kernels) {
    // Each begins with the same version, target and address size.
    size_t body = kernel.find(end) + end.size();
    text += text.empty() ? kernel : kernel.substr(body);
  }
  text.push_back('\0');
  return text;
}

std::string cuda::findAssembler() {
  if (auto found = llvm::sys::findProgramByName("ptxas"))
    return *found;
  for (const char *variable : {"CUDA_HOME", "CUDA_PATH"})
    if (const char *home = std::getenv(variable)) {
      llvm::SmallString<128> path(home);
      llvm::sys::path::append(path, "bin", "ptxas");
      if (llvm::sys::fs::can_execute(path))
        return path.str().str();
    }
  return {};
}

// Its exit status; `said` takes what it writes.
static int execute(const std::string &program,
                   llvm::ArrayRef<llvm::StringRef> arguments,
                   std::string &said) {
  llvm::SmallString<128> path;
  if (std::error_code code =
          llvm::sys::fs::createTemporaryFile("lmc", "log", path)) {
    said = "cannot create a temporary file: " + code.message();
    return -1;
  }
  llvm::FileRemover remove(path);
  std::string launchError;
  int status = llvm::sys::ExecuteAndWait(
      program, arguments, std::nullopt,
      {llvm::StringRef(), path.str(), path.str()}, 0, 0, &launchError);
  if (auto text = llvm::MemoryBuffer::getFile(path))
    said = (*text)->getBuffer().str();
  said += launchError;
  return status;
}

std::string cuda::assemblerVersion(const std::string &assembler) {
  std::string said;
  execute(assembler, {assembler, "--version"}, said);
  return said;
}

FailureOr<std::string> cuda::assemble(const std::string &assembler,
                                      const std::string &ptx,
                                      const Target &target, bool verbose,
                                      std::string &messages) {
  llvm::SmallString<128> input, output;
  for (auto [path, suffix] :
       {std::pair{&input, "ptx"}, std::pair{&output, "cubin"}})
    if (std::error_code code =
            llvm::sys::fs::createTemporaryFile("lmc", suffix, *path)) {
      messages = "cannot create a temporary file: " + code.message();
      return failure();
    }
  llvm::FileRemover removeInput(input), removeOutput(output);
  {
    std::error_code code;
    llvm::raw_fd_ostream stream(input, code);
    stream << llvm::StringRef(ptx).rtrim('\0');
  }
  llvm::SmallVector<llvm::StringRef> arguments{assembler, "-arch", target.level,
                                               input,     "-o",    output};
  if (verbose)
    arguments.push_back("-v");
  int status = execute(assembler, arguments, messages);
  auto cubin = llvm::MemoryBuffer::getFile(output, /*IsText=*/false,
                                           /*RequiresNullTerminator=*/false);
  if (status != 0 || !cubin) {
    messages = assembler + " failed: " + messages;
    return failure();
  }
  if (!(*cubin)->getBuffer().starts_with("\x7f"
                                         "ELF")) {
    messages = assembler + " wrote no cubin: " + messages;
    return failure();
  }
  return (*cubin)->getBuffer().str();
}
