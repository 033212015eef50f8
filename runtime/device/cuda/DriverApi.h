// The part of the CUDA driver's interface that we call: a few types, numbers
// and function types, so that a build needs no CUDA toolkit. DriverApiTest.cpp
// holds them against <cuda.h> where there is one.
//
// Names are the driver's; none of them is linked against. Driver.h finds the
// functions at run time.
#ifndef LMC_RUNTIME_DEVICE_CUDA_DRIVERAPI_H
#define LMC_RUNTIME_DEVICE_CUDA_DRIVERAPI_H

#include <cstddef>
#include <cstdint>

namespace lmc::runtime::cuda {

using Result = int; ///< CUresult; 0 is success
using DeviceNumber = int;
using Address = unsigned long long; ///< CUdeviceptr
using Context = struct ContextTag *;
using Module = struct ModuleTag *;
using Function = struct FunctionTag *;
using Stream = struct StreamTag *;
using Event = struct EventTag *;
using Graph = struct GraphTag *;
using GraphExec = struct GraphExecTag *;

constexpr Result outOfMemory = 2, noDevice = 100;
constexpr int computeCapabilityMajor = 75, computeCapabilityMinor = 76;
constexpr int maxSharedBytesOfBlock = 97; ///< attribute of a device
constexpr int maxDynamicSharedBytes = 8;  ///< attribute of a function
constexpr int jitErrorLogBuffer = 5, jitErrorLogBufferBytes = 6;
constexpr unsigned nonBlockingStream = 1;
constexpr int captureOfThisThread = 1;
/// An event recorded while a stream is captured becomes part of the graph; not
/// allowed else.
constexpr unsigned externalEvent = 1;

/// The interface whose versions of the functions below we ask for: the first
/// that has all of them (cuFuncLoad is of 12.4).
constexpr int apiVersion = 12040;

/// F(name, parameters...) for every function. The names are without the
/// version that <cuda.h> adds: cuGetProcAddress takes name and apiVersion.
// clang-format off
#define LMC_CUDA_FUNCTIONS(F)                                                  \
  F(cuInit, unsigned flags)                                                    \
  F(cuGetErrorName, Result error, const char **name)                           \
  F(cuGetErrorString, Result error, const char **text)                         \
  F(cuDriverGetVersion, int *version)                                          \
  F(cuDeviceGetCount, int *count)                                              \
  F(cuDeviceGet, DeviceNumber *device, int ordinal)                            \
  F(cuDeviceGetName, char *name, int bytes, DeviceNumber device)               \
  F(cuDeviceGetAttribute, int *value, int attribute, DeviceNumber device)      \
  F(cuDeviceTotalMem, size_t *bytes, DeviceNumber device)                      \
  F(cuDevicePrimaryCtxRetain, Context *context, DeviceNumber device)           \
  F(cuDevicePrimaryCtxRelease, DeviceNumber device)                            \
  F(cuCtxSetCurrent, Context context)                                          \
  F(cuMemGetInfo, size_t *free, size_t *total)                                 \
  F(cuMemAlloc, Address *address, size_t bytes)                                \
  F(cuMemFree, Address address)                                                \
  F(cuMemHostAlloc, void **address, size_t bytes, unsigned flags)              \
  F(cuMemFreeHost, void *address)                                              \
  F(cuStreamCreate, Stream *stream, unsigned flags)                            \
  F(cuStreamDestroy, Stream stream)                                            \
  F(cuStreamSynchronize, Stream stream)                                        \
  F(cuStreamBeginCapture, Stream stream, int mode)                             \
  F(cuStreamEndCapture, Stream stream, Graph *graph)                           \
  F(cuGraphInstantiateWithFlags, GraphExec *exec, Graph graph,                 \
    unsigned long long flags)                                                  \
  F(cuGraphUpload, GraphExec exec, Stream stream)                              \
  F(cuGraphLaunch, GraphExec exec, Stream stream)                              \
  F(cuGraphDestroy, Graph graph)                                               \
  F(cuGraphExecDestroy, GraphExec exec)                                        \
  F(cuEventCreate, Event *event, unsigned flags)                               \
  F(cuEventDestroy, Event event)                                               \
  F(cuEventRecordWithFlags, Event event, Stream stream, unsigned flags)        \
  F(cuEventElapsedTime, float *milliseconds, Event from, Event to)             \
  F(cuMemcpyAsync, Address target, Address source, size_t bytes,               \
    Stream stream)                                                             \
  F(cuMemsetD8Async, Address target, unsigned char value, size_t bytes,        \
    Stream stream)                                                             \
  F(cuModuleLoadDataEx, Module *module, const void *image, unsigned options,   \
    int *names, void **values)                                                 \
  F(cuModuleUnload, Module module)                                             \
  F(cuModuleGetFunction, Function *function, Module module, const char *name)  \
  F(cuFuncLoad, Function function)                                             \
  F(cuFuncSetAttribute, Function function, int attribute, int value)           \
  F(cuLaunchKernel, Function function, unsigned gridX, unsigned gridY,         \
    unsigned gridZ, unsigned blockX, unsigned blockY, unsigned blockZ,         \
    unsigned sharedBytes, Stream stream, void **parameters, void **extra)
// clang-format on

/// The type of each: cuInitFunction, ...
#define LMC_CUDA_TYPE(name, ...) using name##Function = Result (*)(__VA_ARGS__);
LMC_CUDA_FUNCTIONS(LMC_CUDA_TYPE)
#undef LMC_CUDA_TYPE

/// The one function that is looked up by its full name.
using cuGetProcAddressFunction = Result (*)(const char *name, void **function,
                                            int version, uint64_t flags,
                                            int *found);

} // namespace lmc::runtime::cuda

#endif // LMC_RUNTIME_DEVICE_CUDA_DRIVERAPI_H
