// A training job: one rank, all ranks as threads of this process, or this
// process's rank of a job of processes. Each rank has its device, its
// executor and its trainer.
#ifndef LMC_RUNTIME_TRAIN_TRAINJOB_H
#define LMC_RUNTIME_TRAIN_TRAINJOB_H

#include "runtime/base/Status.h"
#include "runtime/job/Place.h"
#include "runtime/plan/plan.pb.h"
#include "runtime/train/TrainOptions.h"

namespace lmc::runtime {

/// Whether the plan can be trained with as many ranks and with these numbers;
/// looks at nothing else, so that a wrong call starts no process.
Status checkTraining(const plan::Plan &plan, const TrainOptions &options);

/// Whether this machine has the memory for all ranks of the plan; the error
/// says how much of it they would take together.
Status checkMemoryOfAllRanks(const plan::Plan &plan);

/// Trains with all ranks in this process; returns the failure that ended the
/// job, the first one when several ranks failed. SIGTERM and SIGINT save and
/// stop when there is a checkpoint folder.
Status runTraining(const plan::Plan &plan, const TrainOptions &options);

/// The same for one rank of a job of processes. `giveUp` is called, from
/// another thread, when the job is over and this rank does not come back from
/// what it is doing; it ends the process.
Status runTrainingRank(const plan::Plan &plan, const TrainOptions &options,
                       const Place &place,
                       const std::function<void(const Status &)> &giveUp);

} // namespace lmc::runtime

#endif // LMC_RUNTIME_TRAIN_TRAINJOB_H
