// An independent witness of a plan's memory: no header of the compiler, only
// the plan. Replays the reads and writes of a schedule, byte range by byte
// range, and reports
//
//   - reads of bytes that nothing has written, or that lost their meaning
//     (scratch does not outlive a call);
//   - torn reads: bytes of a value of which another part was overwritten by a
//     write that reaches beyond what is read, so that two values that were
//     alive at once shared bytes;
//   - operands of one instruction that overlap without being the same;
//   - lost writes: nobody reads them (a result without a reader, or a value
//     that another one was laid upon);
//   - the largest sum of bytes alive at one instruction: written, and read
//     later before they are written again.
#ifndef LMC_TEST_PLAN_REPLAY_H
#define LMC_TEST_PLAN_REPLAY_H

#include "runtime/plan/plan.pb.h"

#include <string>
#include <vector>

namespace lmc::test {

struct ReplayResult {
  std::vector<std::string> findings;   // empty: nothing wrong
  std::vector<std::string> lostWrites; // in scratch and saved values
  int64_t arenaBytes = 0;              // of scratch and saved values
  int64_t liveBytes = 0;               // the most of them alive at once
  int64_t fixedBytes = 0;              // of everything else: alive always
  int64_t instructions = 0;

  // What is allocated, over what is needed.
  double ratio() const {
    return double(arenaBytes + fixedBytes) / double(liveBytes + fixedBytes);
  }
};

// On the first and the last rank of the schedule's stage. `plan` has passed
// the runtime's checker.
ReplayResult replay(const plan::Plan &plan, const plan::Schedule &schedule);

} // namespace lmc::test

#endif // LMC_TEST_PLAN_REPLAY_H
