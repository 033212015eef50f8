// Writes what check-device runs: every kernel of some modules, compiled for a
// target, with arguments and what plain float64 loops say of its results.
//
// lmc compile MODEL --compile-to=kernels > kernels.mlir
// write-device-cases x86-64-v3 cpu.cases kernels.mlir...
// write-device-cases sm_90 gpu.cases kernels.mlir...
// write-device-cases --kinds    prints the kinds of kernels that there are
//
// For a GPU kernels come with their variants for few rows; products that a
// library computes are check-device's own.
#include "test/codegen/KernelRunner.h"

#include "llvm/Support/MemoryBuffer.h"

#include <gtest/gtest.h>

#include <cstdio>
#include <fstream>

using namespace mlir;
using namespace lmc;

int main(int argc, char **argv) {
  testing::InitGoogleTest();
  if (argc == 2 && llvm::StringRef(argv[1]) == "--kinds") {
    for (llvm::StringRef kind : codegen::kernelKinds())
      std::printf("%s\n", kind.str().c_str());
    return 0;
  }
  if (argc < 4) {
    std::fprintf(stderr, "usage: write-device-cases TARGET OUT FILE..., or "
                         "write-device-cases --kinds\n");
    return 2;
  }
  bool isGpu = llvm::StringRef(argv[1]).starts_with("sm_");
  test::KernelRunner runner;
  SmallVector<plan::KernelOp> kernels;
  for (int i = 3; i < argc; ++i) {
    auto file = llvm::MemoryBuffer::getFile(argv[i]);
    if (!file) {
      std::fprintf(stderr, "cannot read %s\n", argv[i]);
      return 2;
    }
    ModuleOp module = runner.parse((*file)->getBuffer().str());
    if (!module)
      return 1;
    kernels.append(test::kernelsOf(module));
  }
  std::vector<OwningOpRef<plan::KernelOp>> variants;
  if (isGpu)
    kernels = codegen::withVariants(kernels, variants);
  codegen::CodegenOptions options;
  options.targetCpu = argv[1];
  auto compiled = codegen::compileKernels(kernels, options);
  if (failed(compiled))
    return 1;

  test::DeviceCases cases;
  cases.set_target(isGpu ? "cuda" : "cpu");
  for (const std::string &object : {compiled->object, compiled->cubin}) {
    if (object.empty())
      continue; // no assembler
    test::DeviceCode *code = cases.add_code();
    code->set_target_cpu(compiled->targetCpu);
    for (const std::string &feature : compiled->cpuFeatures)
      code->add_cpu_features(feature);
    code->set_object(object);
  }
  for (auto [kernel, facts] : llvm::zip(kernels, compiled->kernels)) {
    test::describeCase(kernel, facts, *cases.add_cases());
    cases.set_stack_bytes(std::max(cases.stack_bytes(), facts.stackBytes));
  }
  std::ofstream out(argv[2], std::ios::binary);
  if (!cases.SerializeToOstream(&out) || !out.flush()) {
    std::fprintf(stderr, "cannot write %s\n", argv[2]);
    return 1;
  }
  return 0;
}
