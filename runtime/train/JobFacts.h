// What the ranks of a training job must agree about, by name, so that a
// difference can be told in words.
#ifndef LMC_RUNTIME_TRAIN_JOBFACTS_H
#define LMC_RUNTIME_TRAIN_JOBFACTS_H

#include "runtime/data/TokenData.h"
#include "runtime/job/ControlServer.h"
#include "runtime/plan/plan.pb.h"
#include "runtime/train/TrainOptions.h"

namespace lmc::runtime {

JobFacts factsOf(const plan::Plan &plan, const TrainOptions &options,
                 const TokenData &data);

/// Of a job on the null device.
JobFacts dryFactsOf(const plan::Plan &plan, const TrainOptions &options);

/// What a run that goes on from a checkpoint must have in common with the run
/// that saved it, to go on bit for bit: which samples a step takes, in which
/// order.
JobFacts orderFacts(const plan::Plan &plan, const TrainOptions &options,
                    const TokenData &data);

/// The numbers of a run, and how the learning rate goes. A run may go on with
/// others.
JobFacts rateFacts(const plan::Plan &plan, const TrainOptions &options);

} // namespace lmc::runtime

#endif // LMC_RUNTIME_TRAIN_JOBFACTS_H
