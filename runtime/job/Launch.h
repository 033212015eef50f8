// `lmrun --nproc N`: the ranks of a job as processes of this machine, started
// and watched by the process that the user sees.
//
// The starter forks, forwards SIGTERM and SIGINT as SIGTERM, and waits. What a
// rank has to say at its end comes through a pipe, so that one message stands
// for all that say the same. When one rank has ended badly the others have a
// few seconds to find that out by themselves and say who it was; what is left
// then (stopped, hung) is killed. A rank that is stopped before it has met the
// others is seen by the starter alone, which ends it. No rank outlives the
// starter.
#ifndef LMC_RUNTIME_JOB_LAUNCH_H
#define LMC_RUNTIME_JOB_LAUNCH_H

#include "runtime/job/Place.h"

namespace lmc::runtime {

/// What a rank does. `giveUp` tells the starter and ends the process at once,
/// from any thread.
using RankBody = std::function<Status(
    const Place &place, const std::function<void(const Status &)> &giveUp)>;

/// To be called before the process has any other thread. Returns the failure
/// that ended the job, with who said so. Ranks that have met notice one that is
/// stopped (SIGSTOP) for `timeoutMs` themselves.
Status launch(int ranks, const RankBody &body, int64_t timeoutMs = 30000);

} // namespace lmc::runtime

#endif // LMC_RUNTIME_JOB_LAUNCH_H
