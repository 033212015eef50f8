// Launches of the double of the CUDA driver; see StubKernelsForTest.h.
#include "runtime/device/cuda/StubKernelsForTest.h"

#include "runtime/device/cuda/ptx/Interpreter.h"

#include <cstdio>

using namespace lmc::ptx;

static Memory &memory() {
  static Memory memory;
  return memory;
}

void lmcStubAllocated(uint64_t address, void *bytes, size_t size) {
  memory().add(address, static_cast<char *>(bytes), size);
}
void lmcStubFreed(uint64_t address) { memory().remove(address); }

const void *lmcStubLoadKernels(const char *ptx) {
  std::string error;
  std::unique_ptr<Module> module = Module::parse(ptx, error);
  if (!module)
    std::fprintf(stderr, "the double of the CUDA driver: %s\n", error.c_str());
  return module.release();
}

int lmcStubRunKernel(const void *kernels, const char *name, unsigned blocks,
                     unsigned threads, unsigned sharedBytes,
                     const uint64_t *parameters, unsigned parameterCount) {
  const auto *module = static_cast<const Module *>(kernels);
  std::string wrong =
      run(*module,
          {module->find(name), 0, blocks, threads, sharedBytes,
           std::vector<uint64_t>(parameters, parameters + parameterCount)},
          memory());
  if (wrong.empty())
    return 0;
  std::fprintf(stderr, "the double of the CUDA driver: %s\n", wrong.c_str());
  return 700;
}
