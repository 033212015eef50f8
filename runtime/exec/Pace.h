// The clock of a device that computes nothing but takes the time that it would.
//
// Instructions queue up on it as on a stream: each ends its time behind the one
// before, or behind now. Only before bytes leave the rank, and at the end of a
// step, is there something to wait for; so a thousand short instructions cost
// one sleep.
#ifndef LMC_RUNTIME_EXEC_PACE_H
#define LMC_RUNTIME_EXEC_PACE_H

#include <algorithm>
#include <chrono>
#include <thread>

namespace lmc::runtime {

class Pace {
public:
  void compute(double seconds) {
    end = std::max(end, Clock::now()) +
          std::chrono::duration_cast<Clock::duration>(
              std::chrono::duration<double>(seconds));
  }
  /// Until all that was asked is done.
  void wait() const { std::this_thread::sleep_until(end); }

private:
  using Clock = std::chrono::steady_clock;
  Clock::time_point end{};
};

} // namespace lmc::runtime

#endif // LMC_RUNTIME_EXEC_PACE_H
