// A training job on this machine: one thread per rank, each with its device,
// its executor and its trainer.
#ifndef LMC_RUNTIME_TRAIN_TRAINJOB_H
#define LMC_RUNTIME_TRAIN_TRAINJOB_H

#include "runtime/plan/plan.pb.h"
#include "runtime/train/TrainOptions.h"

#include "runtime/base/Status.h"

namespace lmc::runtime {

/// Trains; returns the failure that ended the job, the first one when several
/// ranks failed. SIGTERM and SIGINT save and stop when there is a checkpoint
/// folder.
Status runTraining(const plan::Plan &plan, const TrainOptions &options);

} // namespace lmc::runtime

#endif // LMC_RUNTIME_TRAIN_TRAINJOB_H
