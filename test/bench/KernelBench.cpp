// Compiles every kernel of a module and runs each alone: how long compiling
// took, and each kernel's time, bytes and flops per second. The bandwidth of a
// plain copy in the same run is the yardstick of the memory-bound ones.
//
// lmc compile MODEL --compile-to=kernels > kernels.mlir
// kernel-bench kernels.mlir [threads] [repetitions]
// kernel-bench kernels.mlir --check    compares each with plain loops instead
#include "test/codegen/KernelRunner.h"

#include "llvm/Support/MemoryBuffer.h"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <immintrin.h>

using namespace mlir;
using namespace lmc;
using namespace lmc::test;

namespace {

double cpuTime() {
  timespec time;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
  return time.tv_sec + 1e-9 * time.tv_nsec;
}

double wallTime() {
  return std::chrono::duration<double>(
             std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

int64_t elementsOf(Type type) {
  int64_t count = 1;
  for (int64_t size : cast<RankedTensorType>(type).getShape())
    count *= ShapedType::isDynamic(size) ? 1 : size;
  return count;
}

// Bytes per second, read and written, of a copy beyond the cache.
double probeCopy() {
  std::vector<char> from(64 << 20, 1), to(64 << 20, 2);
  double best = 1e30;
  for (int i = 0; i < 5; ++i) {
    double start = cpuTime();
    std::memcpy(to.data(), from.data(), from.size());
    best = std::min(best, cpuTime() - start);
    asm volatile("" : : "r"(to.data()) : "memory"); // the copy is wanted
  }
  return 2.0 * from.size() / best;
}

} // namespace

int main(int argc, char **argv) {
  if (argc < 2) {
    std::fprintf(stderr, "usage: kernel-bench FILE [threads] [repetitions]\n");
    return 2;
  }
  _mm_setcsr(_mm_getcsr() | 0x8040); // as the runtime's threads have it
  int repetitions = argc > 3 ? std::atoi(argv[3]) : 3;
  auto file = llvm::MemoryBuffer::getFile(argv[1]);
  if (!file) {
    std::fprintf(stderr, "cannot read %s\n", argv[1]);
    return 2;
  }
  KernelRunner runner;
  auto module = runner.parse((*file)->getBuffer().str());
  if (!module)
    return 1;
  std::vector<plan::KernelOp> kernels;
  for (auto kernel : module.getOps<plan::KernelOp>())
    kernels.push_back(kernel);
  if (argc > 2 && std::strcmp(argv[2], "--check") == 0) {
    for (plan::KernelOp kernel : kernels) {
      std::printf("%s\n", kernel.getSymName().str().c_str());
      std::fflush(stdout);
      RunOptions run;
      run.positive = 1.1; // second moments and variances are
      run.microBatch = 1;
      runner.check(kernel, run);
    }
    return 0;
  }
  codegen::CodegenOptions options;
  options.threads = argc > 2 ? unsigned(std::atoi(argv[2])) : 0;
  double start = wallTime(), startCpu = cpuTime();
  auto compiled = codegen::compileKernels(kernels, options);
  if (failed(compiled))
    return 1;
  std::printf("%zu kernels compiled in %.2f s (%.2f s of this thread), "
              "%zu bytes; a copy runs at %.1f GB/s\n",
              kernels.size(), wallTime() - start, cpuTime() - startCpu,
              compiled->object.size(), probeCopy() * 1e-9);
  if (repetitions == 0)
    return 0;

  LoadedObject object(compiled->object);
  std::printf("%-20s %10s %8s %8s %9s\n", "kernel", "us", "GB/s", "GF/s",
              "stack KB");
  for (auto [index, kernel] : llvm::enumerate(kernels)) {
    plan::KernelOp op = kernel;
    const codegen::KernelFacts &facts = compiled->kernels[index];
    auto *run = object.find(facts.symbol);
    std::vector<std::vector<float>> arrays;
    int64_t bytes = 0;
    auto addArray = [&](Type type) {
      bool isFloat = cast<RankedTensorType>(type).getElementType().isF32();
      arrays.emplace_back(elementsOf(type) + 64);
      bytes += elementsOf(type) * 4;
      if (isFloat)
        for (size_t i = 0; i < arrays.back().size(); ++i)
          arrays.back()[i] = float((i * 2654435761u >> 16) % 255) / 255 + 0.5f;
    };
    ArrayRef<int64_t> tied = op.getTied();
    for (Type type : op.getFunctionType().getInputs())
      addArray(type);
    for (auto [result, type] :
         llvm::enumerate(op.getFunctionType().getResults())) {
      if (tied[result] < 0)
        addArray(type);
      else
        bytes += elementsOf(type) * 4;
    }
    std::vector<void *> pointers;
    for (auto &array : arrays)
      pointers.push_back(array.data());
    std::vector<int64_t> integers(facts.integers(), 0);
    if (facts.takesRows)
      integers[facts.takesMicroBatch] = 1;
    int64_t rows = facts.takesRows ? 1 : facts.rows;
    int64_t units =
        (rows + facts.rowsPerUnit - 1) / facts.rowsPerUnit * facts.columns;
    double best = 1e30;
    for (int i = 0; i < repetitions; ++i) {
      double from = cpuTime();
      run(pointers.data(), integers.data(), 0, units);
      best = std::min(best, cpuTime() - from);
    }
    std::printf("%-20s %10.1f %8.1f %8.1f %9.0f\n",
                op.getSymName().str().c_str(), best * 1e6, bytes / best * 1e-9,
                facts.flops / best * 1e-9, facts.stackBytes / 1024.0);
    std::fflush(stdout);
  }
  return 0;
}
