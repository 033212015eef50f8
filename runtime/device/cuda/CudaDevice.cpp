// See CudaDevice.h.
#include "runtime/device/cuda/CudaDevice.h"
#include "runtime/base/Log.h"
#include "runtime/device/cuda/CodeChoice.h"

#include <algorithm>
#include <cstring>

namespace lmc::runtime {

using cuda::Address;
using cuda::Driver;

// A grid has no more blocks in its first dim.
static constexpr int64_t maxBlocks = (int64_t(1) << 31) - 1;
// A function may have this much dynamic shared memory without asking.
static constexpr int64_t sharedBytesForAll = 48 << 10;
// What a step writes at once: its numbers, tokens and tables.
static constexpr int64_t stagingBytes = 1 << 20;

static Address addressOf(const void *pointer) {
  return Address(reinterpret_cast<uintptr_t>(pointer));
}

static StatusOr<GpuFacts> describe(const Driver &driver, int ordinal) {
  cuda::DeviceNumber device = 0;
  LMC_RETURN_IF_ERROR(
      driver.check(driver.cuDeviceGet(&device, ordinal), "cuDeviceGet"));
  char name[256] = {};
  LMC_RETURN_IF_ERROR(
      driver.check(driver.cuDeviceGetName(name, sizeof name - 1, device),
                   "cuDeviceGetName"));
  GpuFacts facts{name};
  size_t bytes = 0;
  LMC_RETURN_IF_ERROR(driver.check(driver.cuDeviceTotalMem(&bytes, device),
                                   "cuDeviceTotalMem"));
  facts.memoryBytes = int64_t(bytes);
  int major = 0, minor = 0;
  for (auto [attribute, value] :
       {std::pair(cuda::computeCapabilityMajor, &major),
        std::pair(cuda::computeCapabilityMinor, &minor),
        std::pair(cuda::maxSharedBytesOfBlock, &facts.mostSharedBytes)})
    LMC_RETURN_IF_ERROR(
        driver.check(driver.cuDeviceGetAttribute(value, attribute, device),
                     "cuDeviceGetAttribute"));
  facts.capability = 10 * major + minor;
  return facts;
}

StatusOr<std::vector<GpuFacts>> CudaDevice::list() {
  LMC_ASSIGN_OR_RETURN(const Driver *driver, Driver::open());
  int count = 0;
  LMC_RETURN_IF_ERROR(
      driver->check(driver->cuDeviceGetCount(&count), "cuDeviceGetCount"));
  if (count == 0)
    return wrongInput("the CUDA driver has no device");
  std::vector<GpuFacts> gpus;
  for (int i = 0; i < count; ++i) {
    LMC_ASSIGN_OR_RETURN(GpuFacts facts, describe(*driver, i));
    gpus.push_back(std::move(facts));
  }
  return gpus;
}

StatusOr<std::unique_ptr<CudaDevice>>
CudaDevice::create(const ThreadPool::Options &host) {
  LMC_ASSIGN_OR_RETURN(std::vector<GpuFacts> gpus, list());
  LMC_ASSIGN_OR_RETURN(const Driver *driver, Driver::open());
  std::unique_ptr<CudaDevice> device(new CudaDevice(*driver));
  device->facts = gpus[0];
  cuda::DeviceNumber number = 0;
  LMC_RETURN_IF_ERROR(
      driver->check(driver->cuDeviceGet(&number, 0), "cuDeviceGet"));
  // The primary context, which NVIDIA's libraries use, too.
  cuda::Context context = nullptr;
  LMC_RETURN_IF_ERROR(
      driver->check(driver->cuDevicePrimaryCtxRetain(&context, number),
                    "cuDevicePrimaryCtxRetain"));
  device->context = {*driver, number};
  LMC_RETURN_IF_ERROR(
      driver->check(driver->cuCtxSetCurrent(context), "cuCtxSetCurrent"));
  cuda::Stream stream = nullptr;
  LMC_RETURN_IF_ERROR(
      driver->check(driver->cuStreamCreate(&stream, cuda::nonBlockingStream),
                    "cuStreamCreate"));
  device->stream = {*driver, stream};
  void *staging = nullptr;
  LMC_RETURN_IF_ERROR(driver->check(
      driver->cuMemHostAlloc(&staging, size_t(stagingBytes), /*flags=*/0),
      "pinned host memory for what is written"));
  device->hostMemory.emplace_back(*driver, staging);
  device->staging = static_cast<std::byte *>(staging);
  LMC_ASSIGN_OR_RETURN(device->pool, ThreadPool::create(host));
  return device;
}

CudaDevice::~CudaDevice() {
  // What is still running must not lose its memory.
  (void)driver.cuStreamSynchronize(stream.get());
}

Status CudaDevice::allocate(const std::vector<AllocationRequest> &blocks) {
  int64_t total = 0;
  for (const AllocationRequest &block : blocks)
    total += block.onHost ? 0 : block.bytes;
  size_t free = 0, all = 0;
  LMC_RETURN_IF_ERROR(
      driver.check(driver.cuMemGetInfo(&free, &all), "cuMemGetInfo"));
  if (total > int64_t(free))
    return makeError(ErrorKind::DoesNotFit,
                     "the plan does not fit: {} needed, {} free of the {} of "
                     "{}",
                     formatBytes(double(total)), formatBytes(double(free)),
                     formatBytes(double(all)), facts.name)
        .help("compile with a smaller --micro-batch or --seq; for inference, "
              "with a smaller --max-sequences or --max-length");
  for (const AllocationRequest &block : blocks) {
    bases.push_back(nullptr);
    if (block.bytes == 0)
      continue;
    std::string what =
        fmt::format("{} for {}", formatBytes(double(block.bytes)), block.name);
    if (block.onHost) {
      void *address = nullptr;
      LMC_RETURN_IF_ERROR(driver.check(
          driver.cuMemHostAlloc(&address, size_t(block.bytes), /*flags=*/0),
          what + " of pinned host memory"));
      hostMemory.emplace_back(driver, address);
      std::memset(address, 0, size_t(block.bytes));
      bases.back() = static_cast<std::byte *>(address);
      continue;
    }
    Address address = 0;
    LMC_RETURN_IF_ERROR(
        driver.check(driver.cuMemAlloc(&address, size_t(block.bytes)), what));
    memory.emplace_back(driver, address);
    bases.back() = reinterpret_cast<std::byte *>(uintptr_t(address));
    fillZero(bases.back(), block.bytes);
  }
  return synchronize();
}

StatusOr<cuda::Module> CudaDevice::loadModule(const CodeObject &code) {
  std::string log(16 << 10, '\0');
  int names[] = {cuda::jitErrorLogBuffer, cuda::jitErrorLogBufferBytes};
  void *values[] = {log.data(), reinterpret_cast<void *>(log.size())};
  cuda::Module loaded = nullptr;
  cuda::Result result = driver.cuModuleLoadDataEx(
      &loaded, code.object.data(), std::size(names), names, values);
  if (result == 0)
    return loaded;
  Status status = driver.check(
      result, fmt::format("the plan's code for {} does not load on {} (sm_{})",
                          code.targetCpu, facts.name, facts.capability));
  log.resize(std::strlen(log.c_str()));
  return log.empty() ? status : std::move(status).note("{}", log);
}

StatusOr<std::vector<KernelHandle>>
CudaDevice::loadKernels(const std::vector<CodeObject> &code,
                        const std::vector<KernelRequest> &wanted) {
  std::vector<KernelHandle> handles;
  if (wanted.empty())
    return handles;
  LMC_ASSIGN_OR_RETURN(size_t best, cuda::chooseCode(code, facts.capability));
  StatusOr<cuda::Module> tried = loadModule(code[best]);
  // An assembler that is newer than the driver writes cubins that the driver
  // does not take; it compiles the PTX beside them itself.
  for (std::vector<CodeObject> left = code; !tried.ok();) {
    left.erase(left.begin() + std::ptrdiff_t(best));
    StatusOr<size_t> next = cuda::chooseCode(left, facts.capability);
    if (!next.ok())
      return tried.status();
    best = *next;
    tried = loadModule(left[best]);
  }
  cuda::Module loaded = *tried;
  module = {driver, loaded};
  kernels.reserve(wanted.size()); // handles point into it
  for (const KernelRequest &request : wanted) {
    Kernel kernel{request};
    if (driver.cuModuleGetFunction(&kernel.function, loaded,
                                   request.symbol.c_str()) != 0)
      return corrupt("the plan's code lacks the kernel {}", request.symbol);
    LMC_RETURN_IF_ERROR(
        driver.check(driver.cuFuncLoad(kernel.function), request.label()));
    if (request.sharedBytes > facts.mostSharedBytes)
      return makeError(ErrorKind::DoesNotFit,
                       "the kernel {} shares {} in a block; {} has {}",
                       request.label(),
                       formatBytes(double(request.sharedBytes)), facts.name,
                       formatBytes(facts.mostSharedBytes))
          .help("a GPU with more, such as A100 or H100, or a model with "
                "smaller attention heads");
    if (request.sharedBytes > sharedBytesForAll)
      LMC_RETURN_IF_ERROR(
          driver.check(driver.cuFuncSetAttribute(kernel.function,
                                                 cuda::maxDynamicSharedBytes,
                                                 int(request.sharedBytes)),
                       fmt::format("{} wants {} bytes of shared memory",
                                   request.label(), request.sharedBytes)));
    parameters.resize(std::max<size_t>(
        parameters.size(), request.operands + request.integers + 1));
    kernels.push_back(std::move(kernel));
    handles.push_back(&kernels.back());
  }
  return handles;
}

void CudaDevice::note(cuda::Result result, std::string_view what) {
  if (result != 0 && failure.ok())
    failure = driver.check(result, what);
}

void CudaDevice::launch(KernelHandle handle, void *const *pointers,
                        const int64_t *integers, int64_t units, Parts) {
  const Kernel &kernel = *static_cast<const Kernel *>(handle);
  const KernelRequest &request = kernel.request;
  if (units > maxBlocks && failure.ok())
    failure = makeError(ErrorKind::DoesNotFit,
                        "the kernel {} has {} blocks; a grid has at most {}",
                        request.label(), units, maxBlocks);
  if (units <= 0 || !failure.ok())
    return;
  void **next = parameters.data();
  for (uint32_t i = 0; i < request.operands; ++i)
    *next++ = const_cast<void **>(pointers + i);
  for (uint32_t i = 0; i < request.integers; ++i)
    *next++ = const_cast<int64_t *>(integers + i);
  *next = &units;
  note(driver.cuLaunchKernel(kernel.function, unsigned(units), 1, 1,
                             request.threads, 1, 1,
                             unsigned(request.sharedBytes), stream.get(),
                             parameters.data(), nullptr),
       request.label());
}

void CudaDevice::matmul(uint32_t number, void *const *pointers, int64_t rows,
                        bool adds) {
  if (rows > 0 && failure.ok())
    failure = matmuls.run(number, pointers, rows, adds, stream.get());
}

void CudaDevice::fillZero(std::byte *target, int64_t bytes) {
  if (bytes > 0 && failure.ok())
    note(driver.cuMemsetD8Async(addressOf(target), 0, size_t(bytes),
                                stream.get()),
         "a fill");
}

// The driver tells host and device memory apart by their addresses.
void CudaDevice::copy(const std::byte *source, std::byte *target,
                      int64_t bytes) {
  if (bytes > 0 && failure.ok())
    note(driver.cuMemcpyAsync(addressOf(target), addressOf(source),
                              size_t(bytes), stream.get()),
         "a copy");
}

// Through pinned memory: a copy to any other is several times as slow.
void CudaDevice::read(const std::byte *source, void *target, int64_t bytes) {
  (void)synchronize(); // what was staged has arrived
  for (int64_t at = 0; at < bytes; at += stagingBytes) {
    int64_t part = std::min(bytes - at, stagingBytes);
    std::byte *into = static_cast<std::byte *>(target) + at;
    copy(source + at, staging, part);
    // The failure is told by the next synchronize; zeros are no result.
    if (synchronize().ok())
      std::memcpy(into, staging, size_t(part));
    else
      std::memset(into, 0, size_t(part));
  }
}

void CudaDevice::write(std::byte *target, const void *source, int64_t bytes) {
  if (bytes > stagingBytes) {
    copy(static_cast<const std::byte *>(source), target, bytes);
    (void)synchronize();
    return;
  }
  if (bytes > stagingBytes - stagedBytes)
    (void)synchronize(); // what was staged has arrived
  std::memcpy(staging + stagedBytes, source, size_t(bytes));
  copy(staging + stagedBytes, target, bytes);
  stagedBytes += (bytes + 63) / 64 * 64;
}

Status CudaDevice::synchronize() {
  note(driver.cuStreamSynchronize(stream.get()), "the GPU");
  stagedBytes = 0;
  return failure;
}

namespace {
struct CudaRecording final : Recording {
  cuda::OwnedGraphExec graph;
};
} // namespace

Status CudaDevice::beginRecording() {
  LMC_RETURN_IF_ERROR(failure);
  LMC_RETURN_IF_ERROR(driver.check(
      driver.cuStreamBeginCapture(stream.get(), cuda::captureOfThisThread),
      "recording a CUDA graph"));
  isRecording = true;
  return Status();
}

StatusOr<std::unique_ptr<Recording>> CudaDevice::endRecording() {
  isRecording = false;
  cuda::Graph captured = nullptr;
  cuda::Result result = driver.cuStreamEndCapture(stream.get(), &captured);
  cuda::OwnedGraph graph;
  if (captured)
    graph = {driver, captured};
  // What was not recorded says more than that the recording is of no use.
  LMC_RETURN_IF_ERROR(failure);
  LMC_RETURN_IF_ERROR(driver.check(result, "recording a CUDA graph"));
  cuda::GraphExec exec = nullptr;
  LMC_RETURN_IF_ERROR(driver.check(
      driver.cuGraphInstantiateWithFlags(&exec, captured, /*flags=*/0),
      "preparing a CUDA graph"));
  auto recording = std::make_unique<CudaRecording>();
  recording->graph = {driver, exec};
  LMC_RETURN_IF_ERROR(driver.check(driver.cuGraphUpload(exec, stream.get()),
                                   "uploading a CUDA graph"));
  return std::unique_ptr<Recording>(std::move(recording));
}

void CudaDevice::replay(Recording &recording) {
  if (failure.ok())
    note(driver.cuGraphLaunch(
             static_cast<CudaRecording &>(recording).graph.get(), stream.get()),
         "a CUDA graph");
}

Status CudaDevice::reserveMarks(size_t count) {
  while (marks.size() < count) {
    cuda::Event event = nullptr;
    LMC_RETURN_IF_ERROR(
        driver.check(driver.cuEventCreate(&event, /*flags=*/0), "an event"));
    marks.emplace_back(driver, event);
  }
  return Status();
}

void CudaDevice::mark(size_t index) {
  if (failure.ok())
    note(driver.cuEventRecordWithFlags(marks[index].get(), stream.get(),
                                       isRecording ? cuda::externalEvent : 0),
         "an event");
}

int64_t CudaDevice::nanoseconds(size_t from, size_t to) {
  float milliseconds = 0;
  if (failure.ok())
    note(driver.cuEventElapsedTime(&milliseconds, marks[from].get(),
                                   marks[to].get()),
         "the time between two events");
  return int64_t(double(milliseconds) * 1e6);
}

void CudaDevice::parallelHost(HostWork work, void *context, int64_t units) {
  pool->runHost(work, context, units);
}

} // namespace lmc::runtime
