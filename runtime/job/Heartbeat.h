// What a rank's heartbeat says of it: how far it is, and the instructions it
// came by. The control plane tells slow from hung by these numbers, and
// whoever reports a failure says in words where the ranks were.
#ifndef LMC_RUNTIME_JOB_HEARTBEAT_H
#define LMC_RUNTIME_JOB_HEARTBEAT_H

#include "runtime/base/Progress.h"
#include "runtime/base/Status.h"

#include <functional>
#include <iterator>

namespace lmc::runtime {

struct Heartbeat {
  uint64_t instructions = 0, position = 0, exchanges = 0;
  uint32_t activity = Progress::Host;
  uint64_t before[Progress::kept - 1] = {}; ///< positions, the latest first

  static Heartbeat of(const Progress &progress);
};
std::string encode(const Heartbeat &heartbeat);
bool decode(std::string_view payload, Heartbeat &heartbeat);

/// A report says of so many ranks where they were, the first ones.
inline constexpr int reportedRanks = 32;

/// Says in words where a Progress::position is.
using Describe = std::function<std::string(uint64_t position)>;

/// Adds notes of where `who` (a rank) was; none when it has not begun. Without
/// `describe` a position is its number.
Status withPosition(Status status, std::string_view who,
                    const Heartbeat &heartbeat, const Describe &describe);

} // namespace lmc::runtime

#endif // LMC_RUNTIME_JOB_HEARTBEAT_H
