// See OpenDevice.h.
#include "runtime/device/OpenDevice.h"
#include "runtime/device/cuda/CudaDevice.h"

namespace lmc::runtime {

static bool isCpu(std::string_view target) {
  return target == "cpu" || target.empty();
}

Status checkDevice(std::string_view target, bool matmuls) {
  if (isCpu(target))
    return Status();
  if (target != "cuda")
    return wrongInput("the plan is made for the target \"{}\"; this lmrun runs "
                      "\"cpu\" and \"cuda\"",
                      target);
  auto refuse = [](const Status &why, const char *help) {
    Status status = wrongInput("the plan is for CUDA and {}", why.message());
    for (const std::string &line : why.lines())
      status = std::move(status).line(line);
    return std::move(status).help("compile with --target=cpu, or {}", help);
  };
  StatusOr<std::vector<GpuFacts>> gpus = CudaDevice::list();
  if (!gpus.ok())
    return refuse(gpus.status(), "run where there is an NVIDIA GPU (lmrun "
                                 "devices lists them)");
  if (!matmuls)
    return Status();
  LMC_ASSIGN_OR_RETURN(const cuda::Driver *driver, cuda::Driver::open());
  StatusOr<const cuda::CublasLt *> library = cuda::CublasLt::open(*driver);
  if (!library.ok())
    return refuse(library.status(),
                  "put the folder of cuBLASLt, which comes with the CUDA "
                  "toolkit and with PyTorch, on LD_LIBRARY_PATH");
  return Status();
}

StatusOr<std::unique_ptr<Device>> openDevice(std::string_view target,
                                             bool matmuls,
                                             const CpuDevice::Options &host) {
  LMC_RETURN_IF_ERROR(checkDevice(target, matmuls));
  if (isCpu(target)) {
    LMC_ASSIGN_OR_RETURN(std::unique_ptr<CpuDevice> cpu,
                         CpuDevice::create(host));
    return std::unique_ptr<Device>(std::move(cpu));
  }
  if (host.guardPages)
    return wrongInput("--guard-pages: a GPU has no pages to put around its "
                      "memory")
        .help("leave it out, or compile with --target=cpu");
  LMC_ASSIGN_OR_RETURN(
      std::unique_ptr<CudaDevice> gpu,
      CudaDevice::create({host.threads, host.cores, host.stackBytes}));
  return std::unique_ptr<Device>(std::move(gpu));
}

} // namespace lmc::runtime
