// See ThreadPool.h for the protocol.
#include "runtime/device/cpu/ThreadPool.h"
#include "runtime/base/Futex.h"

#include <algorithm>
#include <cstring>
#include <sched.h>
#include <xmmintrin.h>

namespace lmc::runtime {

// Pauses before a thread goes to sleep: some 20 to 50 microseconds, longer
// than the gap between two kernels and far shorter than a scheduler's slice.
static constexpr int spinPauses = 800;

std::vector<int> availableCores() {
  std::vector<int> cores;
  cpu_set_t set;
  CPU_ZERO(&set);
  if (::sched_getaffinity(0, sizeof set, &set) == 0)
    for (int core = 0; core < CPU_SETSIZE; ++core)
      if (CPU_ISSET(core, &set))
        cores.push_back(core);
  if (cores.empty())
    cores.push_back(0);
  return cores;
}

void flushDenormals() { _mm_setcsr(_mm_getcsr() | 0x8040u); }

static void pin(pthread_t thread, int core) {
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(core, &set);
  // A core that went away is no reason to fail: the thread runs elsewhere.
  (void)::pthread_setaffinity_np(thread, sizeof set, &set);
}

StatusOr<std::unique_ptr<ThreadPool>>
ThreadPool::create(const Options &options) {
  std::unique_ptr<ThreadPool> pool(new ThreadPool);
  flushDenormals();
  if (!options.cores.empty())
    pin(::pthread_self(), options.cores[0]);
  // Without a core for each thread, a spinning one only keeps another away.
  bool coreForEach =
      options.cores.size() >= size_t(options.threads) && !options.cores.empty();
  pool->spins = coreForEach ? spinPauses : 0;
  pthread_attr_t attributes;
  ::pthread_attr_init(&attributes);
  ::pthread_attr_setstacksize(&attributes, size_t(options.stackBytes));
  Status status;
  for (int i = 1; i < options.threads; ++i) {
    pthread_t thread;
    int error = ::pthread_create(
        &thread, &attributes,
        [](void *self) -> void * {
          flushDenormals();
          static_cast<ThreadPool *>(self)->workerLoop();
          return nullptr;
        },
        pool.get());
    if (error != 0) {
      status = makeError(ErrorKind::DoesNotFit,
                         "cannot start thread {} of {} with {} bytes of "
                         "stack: {}",
                         i + 1, options.threads, options.stackBytes,
                         std::strerror(error))
                   .help("use fewer threads with --threads");
      break;
    }
    if (!options.cores.empty())
      pin(thread, options.cores[size_t(i) % options.cores.size()]);
    pool->workers.push_back(thread);
  }
  ::pthread_attr_destroy(&attributes);
  if (!status.ok())
    return status;
  return pool;
}

ThreadPool::~ThreadPool() {
  stop.store(true);
  wakeups.fetch_add(1);
  futexWake(wakeups);
  for (pthread_t worker : workers)
    ::pthread_join(worker, nullptr);
}

bool ThreadPool::takeChunk() {
  uint64_t seen = state.load(std::memory_order_acquire);
  do {
    if (uint32_t(seen) == 0)
      return false;
  } while (
      !state.compare_exchange_weak(seen, seen - 1, std::memory_order_acq_rel));
  // The chunk is ours, so the owner waits and the job stays as it is.
  uint32_t chunks = job.chunks;
  int64_t chunk = int64_t(chunks) - int64_t(uint32_t(seen));
  int64_t base = job.units / chunks, extra = job.units % chunks;
  int64_t begin = chunk * base + std::min(chunk, extra);
  job.work(job.pointers, job.integers, begin,
           begin + base + (chunk < extra ? 1 : 0));
  if (done.fetch_add(1) + 1 == chunks && ownerSleeps.load())
    futexWake(done);
  return true;
}

void ThreadPool::workerLoop() {
  while (!stop.load(std::memory_order_relaxed)) {
    if (takeChunk())
      continue;
    bool found = false;
    for (int i = 0; i < spins && !found; ++i) {
      _mm_pause();
      found = uint32_t(state.load(std::memory_order_relaxed)) != 0 ||
              stop.load(std::memory_order_relaxed);
    }
    if (found)
      continue;
    // Announce, look again, sleep: a job published in between is seen here or
    // changes `wakeups`, and the publisher sees the announcement.
    uint32_t before = wakeups.load();
    sleepers.fetch_add(1);
    if (uint32_t(state.load()) == 0 && !stop.load())
      futexWait(wakeups, before);
    sleepers.fetch_sub(1);
  }
}

void ThreadPool::run(Work work, void *const *pointers, const int64_t *integers,
                     int64_t units, int partsPerThread) {
  if (units <= 0)
    return;
  int64_t chunks =
      std::min<int64_t>(units, int64_t(partsPerThread) * numThreads());
  if (workers.empty() || chunks == 1) {
    work(pointers, integers, 0, units);
    return;
  }
  job = {work, pointers, integers, units, uint32_t(chunks)};
  done.store(0);
  state.store(uint64_t(++jobNumber) << 32 | uint64_t(chunks));
  wakeups.fetch_add(1);
  if (sleepers.load() > 0)
    futexWake(wakeups);
  while (takeChunk()) {
  }
  for (int i = 0; i < spins; ++i) {
    if (done.load(std::memory_order_acquire) == chunks)
      return;
    _mm_pause();
  }
  ownerSleeps.store(1);
  while (true) {
    uint32_t finished = done.load();
    if (finished == chunks)
      break;
    futexWait(done, finished);
  }
  ownerSleeps.store(0);
}

void ThreadPool::runHost(void (*work)(void *, int64_t, int64_t), void *context,
                         int64_t units) {
  void *pointers[] = {reinterpret_cast<void *>(work), context};
  run(
      [](void *const *pointers, const int64_t *, int64_t begin, int64_t end) {
        reinterpret_cast<void (*)(void *, int64_t, int64_t)>(pointers[0])(
            pointers[1], begin, end);
      },
      pointers, nullptr, units);
}

Status runOnBigStack(int64_t stackBytes, void (*body)(void *), void *context) {
  struct Start {
    void (*body)(void *);
    void *context;
  } start{body, context};
  pthread_attr_t attributes;
  ::pthread_attr_init(&attributes);
  ::pthread_attr_setstacksize(&attributes, size_t(stackBytes));
  pthread_t thread;
  int error = ::pthread_create(
      &thread, &attributes,
      [](void *argument) -> void * {
        Start *start = static_cast<Start *>(argument);
        start->body(start->context);
        return nullptr;
      },
      &start);
  ::pthread_attr_destroy(&attributes);
  if (error != 0)
    return makeError(ErrorKind::DoesNotFit,
                     "cannot start a thread with {} bytes of stack: {}",
                     stackBytes, std::strerror(error));
  ::pthread_join(thread, nullptr);
  return Status();
}

} // namespace lmc::runtime
