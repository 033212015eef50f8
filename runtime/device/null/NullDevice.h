// A device that holds nothing and runs nothing: for dry runs of a plan of any
// size, to see that it loads, resolves and schedules. See Device.h.
//
// Not supported: reading results (reads give zeros) and host access.
#ifndef LMC_RUNTIME_DEVICE_NULL_NULLDEVICE_H
#define LMC_RUNTIME_DEVICE_NULL_NULLDEVICE_H

#include "runtime/device/Device.h"

#include <cstring>

namespace lmc::runtime {

class NullDevice final : public Device {
public:
  std::string_view name() const override { return "null"; }
  Status allocate(const std::vector<AllocationRequest> &requests) override {
    for (const AllocationRequest &request : requests)
      askedBytes += request.bytes;
    return Status();
  }
  /// What a device that holds something would have allocated.
  int64_t allocatedBytes() const { return askedBytes; }
  std::byte *base(uint32_t) const override { return nullptr; }
  StatusOr<std::vector<KernelHandle>>
  loadKernels(const std::vector<CodeObject> &,
              const std::vector<std::string> &symbols) override {
    return std::vector<KernelHandle>(symbols.size(), nullptr);
  }
  void launch(KernelHandle, void *const *, const int64_t *, int64_t,
              Parts) override {}
  void fillZero(std::byte *, int64_t) override {}
  void copy(const std::byte *, std::byte *, int64_t) override {}
  void read(const std::byte *, void *target, int64_t bytes) override {
    std::memset(target, 0, size_t(bytes));
  }
  void write(std::byte *, const void *, int64_t) override {}
  Status synchronize() override { return Status(); }
  void parallelHost(HostWork, void *, int64_t) override {}
  bool hostAccessible() const override { return false; }

private:
  int64_t askedBytes = 0;
};

} // namespace lmc::runtime

#endif // LMC_RUNTIME_DEVICE_NULL_NULLDEVICE_H
