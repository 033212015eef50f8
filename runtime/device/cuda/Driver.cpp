// See Driver.h.
#include "runtime/device/cuda/Driver.h"

#include <dlfcn.h>

namespace lmc::runtime::cuda {

static StatusOr<Driver> load() {
  void *library = ::dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
  if (!library)
    return wrongInput("libcuda.so.1 cannot be loaded: {}", ::dlerror());
  auto find = reinterpret_cast<cuGetProcAddressFunction>(
      ::dlsym(library, "cuGetProcAddress_v2"));
  // What dlsym finds under the plain names has the calling conventions of the
  // first CUDA versions, so there is no other way.
  auto tooOld = [](const char *name) {
    return wrongInput("the CUDA driver is too old: it has no {}", name)
        .help("a driver of CUDA {}.{} or later is needed", apiVersion / 1000,
              apiVersion % 1000 / 10);
  };
  if (!find)
    return tooOld("cuGetProcAddress_v2");
  Driver driver;
#define LMC_CUDA_FIND(name, ...)                                               \
  {                                                                            \
    void *address = nullptr;                                                   \
    if (find(#name, &address, apiVersion, /*flags=*/0, nullptr) != 0 ||        \
        !address)                                                              \
      return tooOld(#name);                                                    \
    driver.name = reinterpret_cast<name##Function>(address);                   \
  }
  LMC_CUDA_FUNCTIONS(LMC_CUDA_FIND)
#undef LMC_CUDA_FIND
  if (Result result = driver.cuInit(0); result != 0)
    return makeError(
        ErrorKind::WrongInput, "{}",
        driver.check(result, "the CUDA driver cannot start").message());
  return driver;
}

StatusOr<const Driver *> Driver::open() {
  static const StatusOr<Driver> driver = load();
  if (!driver.ok())
    return driver.status();
  return &*driver;
}

Status Driver::check(Result result, std::string_view what) const {
  if (result == 0)
    return Status();
  const char *name = nullptr, *text = nullptr;
  if (cuGetErrorName(result, &name) != 0 || !name)
    name = "an error without a name";
  if (cuGetErrorString(result, &text) != 0 || !text)
    text = "error of the CUDA driver";
  return makeError(result == outOfMemory ? ErrorKind::DoesNotFit
                                         : ErrorKind::JobFailed,
                   "{}: {} ({}, {})", what, text, name, result);
}

std::string Driver::version() const {
  int number = 0;
  if (cuDriverGetVersion(&number) != 0)
    return "unknown";
  return fmt::format("{}.{}", number / 1000, number % 1000 / 10);
}

} // namespace lmc::runtime::cuda
