// See CpuDevice.h.
#include "runtime/device/cpu/CpuDevice.h"
#include "runtime/base/Log.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <limits>
#include <sys/mman.h>
#include <unistd.h>

namespace lmc::runtime {

static constexpr size_t hugePageBytes = size_t(2) << 20;
// Below this a copy or fill is done before the pool has woken up.
static constexpr int64_t splitBytes = 256 << 10;

static int64_t readNumber(const char *path) {
  std::ifstream file(path);
  int64_t value = -1;
  return file >> value ? value : -1;
}

int64_t availableMemoryBytes() {
  int64_t available = std::numeric_limits<int64_t>::max();
  std::ifstream meminfo("/proc/meminfo");
  for (std::string line; std::getline(meminfo, line);)
    if (line.compare(0, 13, "MemAvailable:") == 0)
      available = std::strtoll(line.c_str() + 13, nullptr, 10) * 1024;
  // Memory of files that the group could give back counts as used here; so
  // the answer may be a little too small, never too large.
  int64_t limit = readNumber("/sys/fs/cgroup/memory.max");
  int64_t used = readNumber("/sys/fs/cgroup/memory.current");
  if (limit >= 0 && used >= 0) {
    int64_t files = 0;
    std::ifstream stat("/sys/fs/cgroup/memory.stat");
    std::string key;
    for (int64_t value; stat >> key >> value;)
      if (key == "inactive_file" || key == "active_file")
        files += value;
    available = std::min(available, limit - used + files);
  }
  return available;
}

StatusOr<std::unique_ptr<CpuDevice>> CpuDevice::create(const Options &options) {
  std::unique_ptr<CpuDevice> device(new CpuDevice(options));
  LMC_ASSIGN_OR_RETURN(
      device->pool,
      ThreadPool::create({options.threads, options.cores, options.stackBytes}));
  return device;
}

CpuDevice::~CpuDevice() {
  for (const Mapping &mapping : mappings)
    ::munmap(mapping.address, mapping.bytes);
}

static Status cannotMap(int64_t bytes) {
  return makeError(ErrorKind::DoesNotFit, "cannot map {} of memory: {}",
                   formatBytes(double(bytes)), std::strerror(errno));
}

Status CpuDevice::allocate(const std::vector<AllocationRequest> &blocks) {
  int64_t total = 0;
  for (const AllocationRequest &block : blocks)
    total += block.bytes;
  int64_t available = availableMemoryBytes();
  if (total > available / options.ranksOnHost) {
    Status status = makeError(
        ErrorKind::DoesNotFit,
        "the plan does not fit: {} needed on each of {} rank{}, {} free on "
        "this machine",
        formatBytes(double(total)), options.ranksOnHost,
        options.ranksOnHost == 1 ? "" : "s", formatBytes(double(available)));
    std::vector<AllocationRequest> largest = blocks;
    std::sort(largest.begin(), largest.end(),
              [](const auto &a, const auto &b) { return a.bytes > b.bytes; });
    for (size_t i = 0; i < std::min<size_t>(3, largest.size()); ++i)
      status = std::move(status).note("{} takes {}", largest[i].name,
                                      formatBytes(double(largest[i].bytes)));
    return std::move(status).help(
        "compile with a smaller --micro-batch or --seq; for inference, with a "
        "smaller --max-sequences or --max-length");
  }
  if (options.guardPages)
    return allocateGuarded(blocks);
  for (bool onHost : {false, true}) {
    int64_t bytes = 0;
    for (const AllocationRequest &block : blocks)
      if (block.onHost == onHost)
        bytes += block.bytes;
    if (bytes == 0)
      continue;
    // Reserve a little more address space, so that the arena can begin on a
    // huge page; what is not used stays unmapped.
    size_t reserved = size_t(bytes) + hugePageBytes;
    void *address = ::mmap(nullptr, reserved, PROT_NONE,
                           MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (address == MAP_FAILED)
      return cannotMap(bytes);
    mappings.push_back({address, reserved});
    uintptr_t start = (uintptr_t(address) + hugePageBytes - 1) / hugePageBytes *
                      hugePageBytes;
    auto *arena = reinterpret_cast<std::byte *>(start);
    if (::mprotect(arena, size_t(bytes), PROT_READ | PROT_WRITE) != 0)
      return cannotMap(bytes);
    (void)::madvise(arena, size_t(bytes), MADV_HUGEPAGE); // advice only
    bases.resize(blocks.size());
    for (size_t i = 0; i < blocks.size(); ++i)
      if (blocks[i].onHost == onHost) {
        bases[i] = arena;
        arena += blocks[i].bytes;
      }
  }
  bases.resize(blocks.size());
  return Status();
}

Status
CpuDevice::allocateGuarded(const std::vector<AllocationRequest> &blocks) {
  const size_t page = size_t(::sysconf(_SC_PAGESIZE));
  for (const AllocationRequest &block : blocks) {
    size_t body = (size_t(block.bytes) + page - 1) / page * page;
    size_t bytes = body + 2 * page;
    void *address = ::mmap(nullptr, bytes, PROT_NONE,
                           MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (address == MAP_FAILED)
      return cannotMap(block.bytes);
    mappings.push_back({address, bytes});
    auto *start = static_cast<std::byte *>(address) + page;
    if (body != 0 && ::mprotect(start, body, PROT_READ | PROT_WRITE) != 0)
      return cannotMap(block.bytes);
    // The block ends at the guard: reading past it is the usual mistake.
    bases.push_back(start + (body - size_t(block.bytes)));
  }
  return Status();
}

StatusOr<std::vector<KernelHandle>>
CpuDevice::loadKernels(const std::vector<CodeObject> &objects,
                       const std::vector<KernelRequest> &wanted) {
  std::vector<KernelHandle> handles;
  if (wanted.empty())
    return handles;
  LMC_ASSIGN_OR_RETURN(size_t best, chooseCode(objects, cpuFeatures()));
  LMC_ASSIGN_OR_RETURN(LoadedCode loaded, LoadedCode::load(objects[best]));
  for (const KernelRequest &kernel : wanted) {
    void *address = loaded.find(kernel.symbol);
    if (!address)
      return corrupt("the plan's code for {} lacks the kernel {}",
                     objects[best].targetCpu, kernel.symbol);
    handles.push_back(address);
  }
  code.push_back(std::move(loaded));
  return handles;
}

void CpuDevice::launch(KernelHandle kernel, void *const *pointers,
                       const int64_t *integers, int64_t units, Parts parts) {
  auto work = reinterpret_cast<ThreadPool::Work>(const_cast<void *>(kernel));
  if (parts == Parts::One)
    work(pointers, integers, 0, units);
  else
    pool->run(work, pointers, integers, units,
              parts == Parts::OnePerThread ? 1 : ThreadPool::defaultParts);
}

Status CpuDevice::prepareMatmuls(const std::vector<MatmulRequest> &wanted,
                                 bool) {
  return wanted.empty() ? Status()
                        : wrongInput("the CPU has no library for matmuls; its "
                                     "products are kernels of the plan");
}

// Large fills and copies are shared out in blocks of this size.
static constexpr int64_t blockBytes = 64 << 10;

void CpuDevice::fillZero(std::byte *target, int64_t bytes) {
  if (bytes < splitBytes) {
    std::memset(target, 0, size_t(bytes));
    return;
  }
  void *pointers[] = {target};
  pool->run(
      [](void *const *pointers, const int64_t *integers, int64_t begin,
         int64_t end) {
        int64_t from = begin * blockBytes;
        int64_t to = std::min(end * blockBytes, integers[0]);
        std::memset(static_cast<std::byte *>(pointers[0]) + from, 0,
                    size_t(to - from));
      },
      pointers, &bytes, (bytes + blockBytes - 1) / blockBytes);
}

void CpuDevice::copy(const std::byte *source, std::byte *target,
                     int64_t bytes) {
  bool overlaps = source < target + bytes && target < source + bytes;
  if (bytes < splitBytes || overlaps) {
    std::memmove(target, source, size_t(bytes));
    return;
  }
  void *pointers[] = {const_cast<std::byte *>(source), target};
  pool->run(
      [](void *const *pointers, const int64_t *integers, int64_t begin,
         int64_t end) {
        int64_t from = begin * blockBytes;
        int64_t to = std::min(end * blockBytes, integers[0]);
        std::memcpy(static_cast<std::byte *>(pointers[1]) + from,
                    static_cast<const std::byte *>(pointers[0]) + from,
                    size_t(to - from));
      },
      pointers, &bytes, (bytes + blockBytes - 1) / blockBytes);
}

void CpuDevice::read(const std::byte *source, void *target, int64_t bytes) {
  std::memcpy(target, source, size_t(bytes));
}

void CpuDevice::write(std::byte *target, const void *source, int64_t bytes) {
  std::memcpy(target, source, size_t(bytes));
}

void CpuDevice::parallelHost(HostWork work, void *context, int64_t units) {
  pool->runHost(work, context, units);
}

} // namespace lmc::runtime
