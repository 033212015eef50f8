// Our declarations of the CUDA driver against those of the toolkit. Compiled
// only where <cuda.h> is; there is nothing to run.
#include "runtime/device/cuda/DriverApi.h"

#include <cuda.h>
#include <type_traits>

namespace ours = lmc::runtime::cuda;

/// Both are pointers, or both are numbers of the same size.
template <typename A, typename B>
constexpr bool passesAlike =
    sizeof(A) == sizeof(B) && std::is_pointer_v<A> == std::is_pointer_v<B>;

template <typename A, typename B> struct CallsAlike : std::false_type {};
template <typename A, typename... As, typename B, typename... Bs>
struct CallsAlike<A (*)(As...), B (*)(Bs...)> {
  static constexpr bool same() {
    if constexpr (sizeof...(As) == sizeof...(Bs))
      return passesAlike<A, B> && (passesAlike<As, Bs> && ...);
    return false;
  }
  static constexpr bool value = same();
};

// `name` alone is what <cuda.h> makes of it, such as cuMemAlloc_v2; before ##
// it stays as it is.
#define LMC_CUDA_CHECK(name, ...)                                              \
  static_assert(CallsAlike<ours::name##Function, decltype(&::name)>::value,    \
                #name);
LMC_CUDA_FUNCTIONS(LMC_CUDA_CHECK)
static_assert(CallsAlike<ours::cuGetProcAddressFunction,
                         decltype(&::cuGetProcAddress)>::value);

static_assert(ours::outOfMemory == CUDA_ERROR_OUT_OF_MEMORY);
static_assert(ours::noDevice == CUDA_ERROR_NO_DEVICE);
static_assert(ours::computeCapabilityMajor ==
              CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR);
static_assert(ours::computeCapabilityMinor ==
              CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR);
static_assert(ours::maxSharedBytesOfBlock ==
              CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN);
static_assert(ours::maxDynamicSharedBytes ==
              CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES);
static_assert(ours::jitErrorLogBuffer == CU_JIT_ERROR_LOG_BUFFER);
static_assert(ours::jitErrorLogBufferBytes ==
              CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES);
static_assert(ours::nonBlockingStream == CU_STREAM_NON_BLOCKING);
static_assert(ours::captureOfThisThread == CU_STREAM_CAPTURE_MODE_THREAD_LOCAL);
static_assert(ours::externalEvent == CU_EVENT_RECORD_EXTERNAL);
static_assert(ours::apiVersion <= CUDA_VERSION);
