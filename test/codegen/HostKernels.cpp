// Gives the double of the CUDA driver kernels that compute, without a GPU.
//
// lmc compile MODEL --target=cuda --compile-to=kernels > kernels.mlir
// host-kernels kernels.mlir OUT.so
//     compiles each for x86-64-v3; it has the symbol that it has in a plan for
//     a GPU. OUT.so.txt has a line for each: the symbol, how many pointers and
//     integers, which integer counts the rows (-1: none), rows, rows per unit,
//     columns
#include "test/codegen/KernelRunner.h"

#include "llvm/Support/MemoryBuffer.h"

#include <cstdio>
#include <fstream>

using namespace mlir;
using namespace lmc;

int main(int argc, char **argv) {
  if (argc != 3) {
    std::fprintf(stderr, "usage: host-kernels FILE OUT.so\n");
    return 2;
  }
  auto file = llvm::MemoryBuffer::getFile(argv[1]);
  if (!file) {
    std::fprintf(stderr, "cannot read %s\n", argv[1]);
    return 2;
  }
  test::KernelRunner runner;
  auto module = runner.parse((*file)->getBuffer().str());
  if (!module)
    return 1;
  SmallVector<plan::KernelOp> kernels = test::kernelsOf(module);
  // Those that a plan for a GPU has.
  std::vector<OwningOpRef<plan::KernelOp>> variants;
  kernels = codegen::withVariants(kernels, variants);
  codegen::CodegenOptions options;
  options.targetCpu = "x86-64-v3";
  auto compiled = codegen::compileKernels(kernels, options);
  if (failed(compiled))
    return 1;
  std::ofstream(argv[2], std::ios::binary) << compiled->object;
  std::ofstream table(std::string(argv[2]) + ".txt");
  for (const codegen::KernelFacts &facts : compiled->kernels)
    table << facts.symbol << ' ' << facts.pointers << ' ' << facts.integers()
          << ' ' << (facts.takesRows ? int(facts.takesMicroBatch) : -1) << ' '
          << facts.rows << ' ' << facts.rowsPerUnit << ' ' << facts.columns
          << '\n';
  return table.good() ? 0 : 1;
}
