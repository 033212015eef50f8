// A device that runs nothing: for dry runs of a plan of any size, to see that
// it loads, resolves and schedules. See Device.h.
//
// With `Memory::Zeros` its allocations have addresses, so that what it never
// computed can go through a communicator; the pages that nobody touches take
// no room.
//
// Not supported: results (reads give zeros, writes are lost) and host access.
#ifndef LMC_RUNTIME_DEVICE_NULL_NULLDEVICE_H
#define LMC_RUNTIME_DEVICE_NULL_NULLDEVICE_H

#include "runtime/device/SynchronousDevice.h"

#include <cstring>
#include <sys/mman.h>
#include <utility>

namespace lmc::runtime {

class NullDevice final : public SynchronousDevice {
public:
  enum class Memory { None, Zeros };
  explicit NullDevice(Memory memory = Memory::None) : memory(memory) {}
  ~NullDevice() override {
    for (auto [address, bytes] : blocks)
      if (address)
        ::munmap(address, bytes);
  }

  std::string_view name() const override { return "null"; }
  Status allocate(const std::vector<AllocationRequest> &wanted) override {
    for (const AllocationRequest &one : wanted) {
      blocks.push_back({nullptr, size_t(one.bytes)});
      if (memory == Memory::None || one.bytes == 0)
        continue;
      void *address = ::mmap(nullptr, size_t(one.bytes), PROT_READ | PROT_WRITE,
                             MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1,
                             /*offset=*/0);
      if (address == MAP_FAILED)
        return makeError(ErrorKind::DoesNotFit,
                         "no addresses for the {} bytes of {}", one.bytes,
                         one.name);
      blocks.back().first = address;
    }
    return Status();
  }
  /// What it was asked for, whether or not it has addresses for it.
  int64_t allocatedBytes() const {
    int64_t bytes = 0;
    for (auto [address, size] : blocks)
      bytes += int64_t(size);
    return bytes;
  }
  std::byte *base(uint32_t block) const override {
    return static_cast<std::byte *>(blocks[block].first);
  }
  StatusOr<std::vector<KernelHandle>>
  loadKernels(const std::vector<CodeObject> &,
              const std::vector<KernelRequest> &wanted) override {
    return std::vector<KernelHandle>(wanted.size(), nullptr);
  }
  void launch(KernelHandle, void *const *, const int64_t *, int64_t,
              Parts) override {}
  Status prepareMatmuls(const std::vector<MatmulRequest> &, bool) override {
    return Status();
  }
  void matmul(uint32_t, void *const *, int64_t, bool) override {}
  void fillZero(std::byte *, int64_t) override {}
  void copy(const std::byte *, std::byte *, int64_t) override {}
  void read(const std::byte *, void *target, int64_t bytes) override {
    std::memset(target, 0, size_t(bytes));
  }
  void write(std::byte *, const void *, int64_t) override {}
  void parallelHost(HostWork, void *, int64_t) override {}
  bool hostAccessible() const override { return false; }

private:
  Memory memory;
  std::vector<std::pair<void *, size_t>> blocks;
};

} // namespace lmc::runtime

#endif // LMC_RUNTIME_DEVICE_NULL_NULLDEVICE_H
