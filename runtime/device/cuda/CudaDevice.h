// One NVIDIA GPU as a device: the primary context, one stream, an allocation of
// the driver's for each of the plan. See Device.h for what the calls promise;
// launches, fills and copies return before they are done, all on that stream
// and so in order. So do writes of little, which pass through pinned memory;
// read and writes of much wait for the stream.
//
// Nothing is allocated and nothing waits between the launches of a step: what
// kernels need is loaded before the first of them (the driver would otherwise
// load each at its first launch, which may wait for the GPU). A recording is a
// CUDA graph; what changes from step to step lies in the device's memory, so
// one stays valid. Marks are events, part of the graph while one is recorded.
// Under CUDA_LAUNCH_BLOCKING=1 a failure is told with the name of its kernel.
//
// Not supported yet: a second GPU (the first that
// CUDA_VISIBLE_DEVICES leaves is taken); collectives, which need NCCL; guard
// pages, which the driver does not offer; copies that overlap.
#ifndef LMC_RUNTIME_DEVICE_CUDA_CUDADEVICE_H
#define LMC_RUNTIME_DEVICE_CUDA_CUDADEVICE_H

#include "runtime/device/Device.h"
#include "runtime/device/cpu/ThreadPool.h"
#include "runtime/device/cuda/CublasLt.h"

namespace lmc::runtime {

/// A GPU as the driver describes it.
struct GpuFacts {
  std::string name;
  int capability = 0; ///< 90: sm_90
  int64_t memoryBytes = 0;
  int mostSharedBytes = 0; ///< of a kernel's block
};

class CudaDevice final : public Device {
public:
  /// `host`: the cores that compute for parallelHost.
  static StatusOr<std::unique_ptr<CudaDevice>>
  create(const ThreadPool::Options &host);
  ~CudaDevice() override;

  /// The GPUs of this machine, in the driver's order; at least one, or
  /// WrongInput.
  static StatusOr<std::vector<GpuFacts>> list();

  std::string_view name() const override { return "cuda"; }
  Status allocate(const std::vector<AllocationRequest> &blocks) override;
  std::byte *base(uint32_t block) const override { return bases[block]; }
  StatusOr<std::vector<KernelHandle>>
  loadKernels(const std::vector<CodeObject> &code,
              const std::vector<KernelRequest> &wanted) override;
  void launch(KernelHandle kernel, void *const *pointers,
              const int64_t *integers, int64_t units, Parts parts) override;
  Status prepareMatmuls(const std::vector<MatmulRequest> &wanted,
                        bool tf32) override {
    return matmuls.prepare(driver, wanted, tf32);
  }
  void matmul(uint32_t number, void *const *pointers, int64_t rows,
              bool adds) override;
  void fillZero(std::byte *target, int64_t bytes) override;
  void copy(const std::byte *source, std::byte *target, int64_t bytes) override;
  void read(const std::byte *source, void *target, int64_t bytes) override;
  void write(std::byte *target, const void *source, int64_t bytes) override;
  Status synchronize() override;
  bool canRecord() const override { return true; }
  Status beginRecording() override;
  StatusOr<std::unique_ptr<Recording>> endRecording() override;
  void replay(Recording &recording) override;
  Status reserveMarks(size_t count) override;
  void mark(size_t index) override;
  int64_t nanoseconds(size_t from, size_t to) override;
  void parallelHost(HostWork work, void *context, int64_t units) override;
  bool hostAccessible() const override { return false; }

private:
  struct Kernel {
    KernelRequest request;
    cuda::Function function = nullptr;
  };

  explicit CudaDevice(const cuda::Driver &driver) : driver(driver) {}
  /// Remembers the first failure for synchronize.
  void note(cuda::Result result, std::string_view what);
  StatusOr<cuda::Module> loadModule(const CodeObject &code);

  const cuda::Driver &driver;
  GpuFacts facts;
  std::unique_ptr<ThreadPool> pool;
  // Given back in the reverse order: the context last.
  cuda::OwnedContext context;
  cuda::OwnedStream stream;
  cuda::Matmuls matmuls;
  std::vector<cuda::OwnedEvent> marks;
  cuda::OwnedModule module;
  std::vector<cuda::OwnedMemory> memory;
  std::vector<cuda::OwnedHostMemory> hostMemory;
  /// Pinned; what writes since the last wait have put into it.
  std::byte *staging = nullptr;
  int64_t stagedBytes = 0;
  bool isRecording = false;
  std::vector<std::byte *> bases;
  std::vector<Kernel> kernels;
  /// Where a launch puts the addresses of its parameters.
  std::vector<void *> parameters;
  Status failure;
};

} // namespace lmc::runtime

#endif // LMC_RUNTIME_DEVICE_CUDA_CUDADEVICE_H
