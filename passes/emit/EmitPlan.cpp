// See EmitPlan.h. Compiles the kernels that programs run, for every target
// CPU, and lets PlanWriter write the rest.
#include "passes/emit/EmitPlan.h"
#include "passes/emit/PlanWriter.h"
#include "runtime/plan/PlanCheck.h"

using namespace mlir;
namespace plan = lmc::plan;

namespace {

// The kernels that programs run, in the order of their first run, without those
// that a library computes.
FailureOr<SmallVector<plan::KernelOp>> collectKernels(ModuleOp module) {
  SymbolTable symbols(module);
  llvm::SetVector<Operation *> kernels;
  bool failed = false;
  for (auto program : module.getOps<plan::ProgramOp>())
    for (auto run : program.getBody().getOps<plan::RunOp>()) {
      auto kernel = symbols.lookup<plan::KernelOp>(run.getKernel());
      if (!kernel) {
        run.emitOpError() << "runs @" << run.getKernel()
                          << ", which is no kernel";
        failed = true;
        continue;
      }
      if (kernel.getKind() != plan::kMatmulKind)
        kernels.insert(kernel);
    }
  if (failed)
    return failure();
  SmallVector<plan::KernelOp> result;
  for (Operation *kernel : kernels)
    result.push_back(cast<plan::KernelOp>(kernel));
  return result;
}

// Every target's code must be launched alike.
bool launchAlike(const lmc::codegen::KernelFacts &a,
                 const lmc::codegen::KernelFacts &b) {
  return a.symbol == b.symbol && a.rows == b.rows &&
         a.rowsPerUnit == b.rowsPerUnit && a.columns == b.columns &&
         a.pointers == b.pointers && a.takesMicroBatch == b.takesMicroBatch &&
         a.takesRows == b.takesRows && a.randoms == b.randoms;
}

} // namespace

FailureOr<plan::Plan> lmc::emit::emitPlan(ModuleOp module,
                                          const EmitOptions &options) {
  FailureOr<SmallVector<plan::KernelOp>> kernels = collectKernels(module);
  if (failed(kernels))
    return failure();

  std::vector<OwningOpRef<plan::KernelOp>> variants;
  if (options.target == "cuda")
    *kernels = codegen::withVariants(*kernels, variants);

  plan::Plan plan;
  plan.set_compiler_version(LMC_VERSION);
  plan.set_target(options.target);
  std::vector<codegen::KernelFacts> facts;
  for (const std::string &cpu : options.targetCpus) {
    codegen::CodegenOptions codegenOptions;
    codegenOptions.targetCpu = cpu;
    codegenOptions.threads = options.threads;
    codegenOptions.cacheDirectory = options.cacheDirectory;
    FailureOr<codegen::CompiledKernels> compiled =
        codegen::compileKernels(*kernels, codegenOptions);
    if (failed(compiled))
      return failure();
    plan::Code *code = plan.add_code();
    code->set_target_cpu(compiled->targetCpu);
    for (const std::string &feature : compiled->cpuFeatures)
      code->add_cpu_features(feature);
    code->set_object(compiled->object);
    if (!compiled->cubin.empty()) {
      plan::Code *cubin = plan.add_code();
      cubin->set_target_cpu(compiled->targetCpu);
      cubin->set_object(compiled->cubin);
    }
    if (facts.empty()) {
      facts = compiled->kernels;
      continue;
    }
    for (auto [index, kernel] : llvm::enumerate(compiled->kernels)) {
      if (!launchAlike(facts[index], kernel))
        return (*kernels)[index].emitOpError()
               << "is launched otherwise for " << cpu << " than for "
               << options.targetCpus.front()
               << "; compile one plan for each of them";
      facts[index].stackBytes =
          std::max(facts[index].stackBytes, kernel.stackBytes);
    }
  }
  if (facts.size() != kernels->size())
    return module.emitError()
           << facts.size() << " kernels were compiled of " << kernels->size()
           << " that are run; name at least one target CPU";

  PlanWriter writer(module, plan);
  writer.writeMesh();
  if (failed(writer.writeSettings()) || failed(writer.writeDeclarations()) ||
      failed(writer.writeStates()) ||
      failed(writer.writePrograms(*kernels, facts)) ||
      failed(writer.writeSchedules()))
    return failure();
  writer.writeReshards();
  if (runtime::Status status = runtime::checkPlan(plan); !status.ok())
    return module.emitError() << status.message();
  return std::move(plan);
}
