// lmrun devices: what this machine has for plans to run on.
#include "runtime/base/Log.h"
#include "runtime/device/cpu/CpuDevice.h"
#include "runtime/device/cuda/CudaDevice.h"
#include "tools/lmrun/Commands.h"

#include <algorithm>
#include <cstdio>

using namespace lmc::runtime;

/// The highest of the levels that plans name, then what else kernels use.
static std::string instructionSet() {
  const std::set<std::string> features = cpuFeatures();
  auto has = [&](const std::vector<const char *> &names) {
    return std::all_of(names.begin(), names.end(), [&](const char *name) {
      return features.count(name) > 0;
    });
  };
  std::string text =
      has({"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"})
          ? "x86-64-v4"
      : has({"avx2", "bmi1", "bmi2", "f16c", "fma"}) ? "x86-64-v3"
      : has({"sse4_2", "ssse3", "popcnt"})           ? "x86-64-v2"
                                                     : "x86-64";
  for (const char *more : {"avx512_bf16", "amx_tile", "amx_bf16"})
    if (features.count(more))
      text += std::string(" ") + more;
  return text;
}

static Status printDevices() {
  fmt::print("cpu   {} cores, {} of memory free, {}\n", availableCores().size(),
             formatBytes(double(availableMemoryBytes())), instructionSet());
  StatusOr<std::vector<GpuFacts>> gpus = CudaDevice::list();
  if (!gpus.ok()) {
    fmt::print("cuda  none: {}\n", gpus.status().message());
    return flushStdout();
  }
  LMC_ASSIGN_OR_RETURN(const cuda::Driver *driver, cuda::Driver::open());
  for (const GpuFacts &gpu : *gpus)
    fmt::print("cuda  {}, sm_{}, {} of memory, driver of CUDA {}\n", gpu.name,
               gpu.capability, formatBytes(double(gpu.memoryBytes)),
               driver->version());
  StatusOr<const cuda::CublasLt *> library = cuda::CublasLt::open(*driver);
  fmt::print("      {}\n", library.ok() ? "cuBLASLt " + (*library)->version()
                                        : library.status().message());
  return flushStdout();
}

CommandBody addDevicesCommand(CLI::App &app) {
  app.add_subcommand("devices",
                     "List the CPU and the GPUs that plans can run on here.")
      ->footer("Examples:\n"
               "  lmrun devices");
  return printDevices;
}
