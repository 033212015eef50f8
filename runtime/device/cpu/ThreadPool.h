// The cores of one rank: a pool of pinned threads that share out the units of
// one kernel at a time.
//
// The thread that creates the pool is its thread 0: it publishes a job, takes
// part in it and returns when all units are done. The others wait for the next
// job, first spinning for some ten microseconds, then asleep on a futex.
//
//   state   [ job number : 32 | chunks left : 32 ]      one atomic word
//
// A thread takes chunk n by lowering "chunks left" from n+1 to n with a
// compare-and-swap; the job number in the same word makes a late comer of the
// previous job fail and look again, so nobody has to acknowledge a job and a
// thread that the kernel has descheduled delays nothing but its own chunk.
// Chunks are contiguous ranges of units, mostly four per thread: few enough to
// cost nothing, enough to even out threads of unequal speed. Which thread runs
// which chunk has no influence on the result.
//
// Every thread flushes denormals to zero (FTZ, DAZ): decayed optimizer moments
// would otherwise run at a tenth of the speed.
#ifndef LMC_RUNTIME_DEVICE_CPU_THREADPOOL_H
#define LMC_RUNTIME_DEVICE_CPU_THREADPOOL_H

#include "runtime/base/Status.h"

#include <atomic>
#include <cstdint>
#include <pthread.h>

namespace lmc::runtime {

/// The cores that this process may run on, in order.
std::vector<int> availableCores();

/// Sets flush-to-zero and denormals-are-zero for the calling thread.
void flushDenormals();

class ThreadPool {
public:
  /// The signature of kernels (see plan.proto, message Kernel).
  using Work = void (*)(void *const *pointers, const int64_t *integers,
                        int64_t begin, int64_t end);

  struct Options {
    int threads = 1;              ///< with the calling one
    std::vector<int> cores;       ///< to pin to, thread i to core i; empty: no
    int64_t stackBytes = 8 << 20; ///< of each thread but the calling one
  };
  static StatusOr<std::unique_ptr<ThreadPool>> create(const Options &options);
  ~ThreadPool();
  ThreadPool(const ThreadPool &) = delete;

  /// Runs `work` over [0, units); only from the thread that created the pool.
  void run(Work work, void *const *pointers, const int64_t *integers,
           int64_t units, int partsPerThread = defaultParts);
  static constexpr int defaultParts = 4;
  /// The same for what is no kernel (Device::parallelHost).
  void runHost(void (*work)(void *context, int64_t begin, int64_t end),
               void *context, int64_t units);

  int numThreads() const { return int(workers.size()) + 1; }

private:
  ThreadPool() = default;
  void workerLoop();
  bool takeChunk();

  struct Job {
    Work work;
    void *const *pointers;
    const int64_t *integers;
    int64_t units;
    uint32_t chunks;
  };

  alignas(64) std::atomic<uint64_t> state{0};
  alignas(64) std::atomic<uint32_t> done{0};
  alignas(64) Job job{};
  alignas(64) std::atomic<uint32_t> wakeups{0};
  std::atomic<uint32_t> sleepers{0};
  std::atomic<uint32_t> ownerSleeps{0};
  std::atomic<bool> stop{false};
  uint32_t jobNumber = 0;
  int spins = 0;
  std::vector<pthread_t> workers;
};

/// Runs `body` on a fresh thread with `stackBytes` of stack and waits for it:
/// kernels keep their packing areas on the stack, more than a main thread is
/// sure to have.
Status runOnBigStack(int64_t stackBytes, void (*body)(void *), void *context);

} // namespace lmc::runtime

#endif // LMC_RUNTIME_DEVICE_CPU_THREADPOOL_H
