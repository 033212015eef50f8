// How far a rank is, for whoever watches it from another thread: the
// heartbeats carry these numbers to the job's control plane, which tells a
// slow rank from a hung one by them.
#ifndef LMC_RUNTIME_BASE_PROGRESS_H
#define LMC_RUNTIME_BASE_PROGRESS_H

#include <atomic>
#include <cstdint>

namespace lmc::runtime {

struct Progress {
  enum Activity : uint32_t {
    Host = 0,        ///< starting, loading, saving: takes what it takes
    Instruction = 1, ///< executing a program of the plan
    Waiting = 2,     ///< for another rank
    Step = 3,        ///< between the programs of steps: data, metrics
  };
  std::atomic<uint64_t> instructions{0}; ///< executed so far
  /// The one under way: program of the plan in the upper half, instruction of
  /// the program in the lower.
  std::atomic<uint64_t> position{0};
  /// Those that began last, by their number from the start on, modulo `kept`.
  static constexpr uint64_t kept = 4;
  std::atomic<uint64_t> recent[kept] = {};
  /// What it got from other ranks in the instruction under way.
  std::atomic<uint64_t> exchanges{0};
  std::atomic<uint32_t> activity{Host};

  void begin(uint64_t at) {
    position.store(at, std::memory_order_relaxed);
    recent[instructions.load(std::memory_order_relaxed) % kept].store(
        at, std::memory_order_relaxed);
    exchanges.store(0, std::memory_order_relaxed);
  }

  /// While it lives, the rank is busy with that.
  class Scope {
  public:
    Scope(Progress &progress, Activity now)
        : progress(progress),
          before(progress.activity.exchange(now, std::memory_order_relaxed)) {}
    ~Scope() { progress.activity.store(before, std::memory_order_relaxed); }
    Scope(const Scope &) = delete;

  private:
    Progress &progress;
    uint32_t before;
  };

  /// Of a counter that one thread alone writes.
  static void count(std::atomic<uint64_t> &counter) {
    counter.store(counter.load(std::memory_order_relaxed) + 1,
                  std::memory_order_relaxed);
  }
};

} // namespace lmc::runtime

#endif // LMC_RUNTIME_BASE_PROGRESS_H
