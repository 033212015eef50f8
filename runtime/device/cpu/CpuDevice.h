// The host as a device: arenas from mmap, kernels from the plan's ELF object,
// run on a pinned thread pool. See Device.h for what the calls promise; here
// every call is done when it returns.
#ifndef LMC_RUNTIME_DEVICE_CPU_CPUDEVICE_H
#define LMC_RUNTIME_DEVICE_CPU_CPUDEVICE_H

#include "runtime/device/SynchronousDevice.h"
#include "runtime/device/cpu/KernelLoader.h"
#include "runtime/device/cpu/ThreadPool.h"

namespace lmc::runtime {

class CpuDevice final : public SynchronousDevice {
public:
  struct Options {
    int threads = 1;
    std::vector<int> cores;       ///< to pin to; empty: not pinned
    int64_t stackBytes = 8 << 20; ///< of each pool thread
    /// Ranks of this machine that allocate the same: the check whether the
    /// memory is there counts them all.
    int ranksOnHost = 1;
    /// Puts every block against a page that no one may touch, so that a
    /// kernel that leaves its block stops the process. Rounds up to pages.
    bool guardPages = false;
  };
  static StatusOr<std::unique_ptr<CpuDevice>> create(const Options &options);
  ~CpuDevice() override;

  std::string_view name() const override { return "cpu"; }
  Status allocate(const std::vector<AllocationRequest> &blocks) override;
  std::byte *base(uint32_t block) const override { return bases[block]; }
  StatusOr<std::vector<KernelHandle>>
  loadKernels(const std::vector<CodeObject> &code,
              const std::vector<KernelRequest> &wanted) override;
  void launch(KernelHandle kernel, void *const *pointers,
              const int64_t *integers, int64_t units, Parts parts) override;
  Status prepareMatmuls(const std::vector<MatmulRequest> &wanted,
                        bool tf32) override;
  void matmul(uint32_t, void *const *, int64_t, bool) override {
  } // prepared none
  void fillZero(std::byte *target, int64_t bytes) override;
  void copy(const std::byte *source, std::byte *target, int64_t bytes) override;
  void read(const std::byte *source, void *target, int64_t bytes) override;
  void write(std::byte *target, const void *source, int64_t bytes) override;
  void parallelHost(HostWork work, void *context, int64_t units) override;
  bool hostAccessible() const override { return true; }

private:
  explicit CpuDevice(Options options) : options(std::move(options)) {}
  Status allocateGuarded(const std::vector<AllocationRequest> &blocks);

  struct Mapping {
    void *address;
    size_t bytes;
  };
  Options options;
  std::unique_ptr<ThreadPool> pool;
  std::vector<LoadedCode> code;
  std::vector<Mapping> mappings;
  std::vector<std::byte *> bases;
};

/// Memory that this process may still take: what the machine and its control
/// group have free.
int64_t availableMemoryBytes();

} // namespace lmc::runtime

#endif // LMC_RUNTIME_DEVICE_CPU_CPUDEVICE_H
