// A training job that computes nothing: every rank runs its schedule on the
// null device, and instructions take their planned time. Transfers and
// collectives are real, so that a schedule can be timed with as many ranks as
// one likes on any machine.
#ifndef LMC_RUNTIME_TRAIN_DRYRUN_H
#define LMC_RUNTIME_TRAIN_DRYRUN_H

#include "runtime/job/Job.h"
#include "runtime/plan/plan.pb.h"
#include "runtime/train/TrainOptions.h"

namespace lmc::runtime {

/// One rank of such a job of processes, of `options.steps` steps. The busiest
/// pipeline stage works `options.paceSeconds` in a step. Rank 0 tells how long
/// steps took and how long they should.
Status runDryRank(const plan::Plan &plan, const TrainOptions &options,
                  const Place &place,
                  const std::function<void(const Status &)> &giveUp);

/// The same for a plan of one rank.
Status runDry(const plan::Plan &plan, const TrainOptions &options);

} // namespace lmc::runtime

#endif // LMC_RUNTIME_TRAIN_DRYRUN_H
