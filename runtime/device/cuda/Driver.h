// The CUDA driver, found at run time: libcuda.so.1 by dlopen, its functions
// through cuGetProcAddress. Nothing of CUDA is linked, and a process that runs
// no plan for CUDA does not look for it.
//
// A Driver is opened once for a process and stays: the library cannot be
// unloaded safely. Any thread may use it; what a context is current in is a
// thread's own.
#ifndef LMC_RUNTIME_DEVICE_CUDA_DRIVER_H
#define LMC_RUNTIME_DEVICE_CUDA_DRIVER_H

#include "runtime/base/Status.h"
#include "runtime/device/cuda/DriverApi.h"

namespace lmc::runtime::cuda {

struct Driver {
  /// The initialised driver. WrongInput with the loader's or the driver's own
  /// words when there is none, or one that is too old.
  static StatusOr<const Driver *> open();

  /// Success, or "WHAT: the driver's words (CUDA_ERROR_...)".
  Status check(Result result, std::string_view what) const;

  /// Of the CUDA interface that it implements: "13.0".
  std::string version() const;

#define LMC_CUDA_MEMBER(name, ...) name##Function name = nullptr;
  LMC_CUDA_FUNCTIONS(LMC_CUDA_MEMBER)
#undef LMC_CUDA_MEMBER
};

/// A handle of the driver's that is given back with `release`; move-only.
template <typename Handle, Result (*Driver::*release)(Handle)> class Owned {
public:
  Owned() = default;
  Owned(const Driver &driver, Handle handle)
      : driver(&driver), handle(handle) {}
  Owned(Owned &&other) noexcept
      : driver(std::exchange(other.driver, nullptr)), handle(other.handle) {}
  Owned &operator=(Owned &&other) noexcept {
    std::swap(driver, other.driver);
    std::swap(handle, other.handle);
    return *this;
  }
  ~Owned() {
    if (driver)
      (void)(driver->*release)(handle);
  }
  Handle get() const { return handle; }

private:
  const Driver *driver = nullptr;
  Handle handle{};
};

using OwnedContext = Owned<DeviceNumber, &Driver::cuDevicePrimaryCtxRelease>;
using OwnedStream = Owned<Stream, &Driver::cuStreamDestroy>;
using OwnedEvent = Owned<Event, &Driver::cuEventDestroy>;
using OwnedGraph = Owned<Graph, &Driver::cuGraphDestroy>;
using OwnedGraphExec = Owned<GraphExec, &Driver::cuGraphExecDestroy>;
using OwnedModule = Owned<Module, &Driver::cuModuleUnload>;
using OwnedMemory = Owned<Address, &Driver::cuMemFree>;
using OwnedHostMemory = Owned<void *, &Driver::cuMemFreeHost>;

} // namespace lmc::runtime::cuda

#endif // LMC_RUNTIME_DEVICE_CUDA_DRIVER_H
