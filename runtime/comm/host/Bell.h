// What the thread of a rank sleeps on: one word per rank, in memory that all
// ranks of the host share. Whoever does something that the rank may wait for
// rings: a peer that offers data, the thread that moves bytes of sockets, the
// heartbeat thread with a verdict. So one sleep serves every kind of waiting,
// and no wake-up can be lost.
#ifndef LMC_RUNTIME_COMM_HOST_BELL_H
#define LMC_RUNTIME_COMM_HOST_BELL_H

#include "runtime/base/Futex.h"
#include "runtime/job/Job.h"

#include <immintrin.h>
#include <sched.h>

namespace lmc::runtime {

struct alignas(64) Bell {
  std::atomic<uint32_t> rings{0};
  std::atomic<uint32_t> sleeping{0};

  void ring() {
    rings.fetch_add(1);
    if (sleeping.load())
      futexWake(rings, INT_MAX, FutexScope::Shared);
  }
};

/// The rank's end of its bell->
class Waiter {
public:
  explicit Waiter(Job &job) : job(job) {}
  /// Before the first wait.
  void setBell(Bell &given) { bell = &given; }

  /// Where every rank has one it spins before it sleeps. Where they share
  /// cores it yields: whom it waits for is mostly ready to run.
  void setOwnCore(bool own) { hasOwnCore = own; }

  /// Returns when `done()` holds; the verdict when the job ends before.
  template <typename Done> Status until(Done done) {
    if (done()) {
      Progress::count(job.progress().exchanges);
      return Status();
    }
    std::atomic<uint32_t> &activity = job.progress().activity;
    uint32_t before =
        activity.exchange(Progress::Waiting, std::memory_order_relaxed);
    bool isDone = false;
    for (int i = 0; i < (hasOwnCore ? spins : yields) && !isDone; ++i) {
      if (hasOwnCore)
        _mm_pause();
      else
        ::sched_yield();
      isDone = done();
    }
    while (!isDone && !job.over()) {
      bell->sleeping.store(1);
      uint32_t seen = bell->rings.load();
      isDone = done();
      if (!isDone && !job.over())
        futexWait(bell->rings, seen, 100'000'000, FutexScope::Shared);
      bell->sleeping.store(0);
    }
    activity.store(before, std::memory_order_relaxed);
    if (!isDone)
      return job.verdict();
    Progress::count(job.progress().exchanges);
    return Status();
  }

private:
  Job &job;
  Bell *bell = nullptr;
  bool hasOwnCore = false;
  // Tries before it sleeps.
  static constexpr int spins = 2000, yields = 200;
};

} // namespace lmc::runtime

#endif // LMC_RUNTIME_COMM_HOST_BELL_H
