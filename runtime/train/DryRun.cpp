// See DryRun.h.
#include "runtime/train/DryRun.h"
#include "runtime/base/Log.h"
#include "runtime/comm/host/HostCommunicator.h"
#include "runtime/device/null/NullDevice.h"
#include "runtime/exec/Executor.h"
#include "runtime/plan/StepTime.h"
#include "runtime/train/JobFacts.h"
#include "runtime/train/TrainJob.h"

#include <algorithm>
#include <chrono>

namespace lmc::runtime {

static Status runSteps(const plan::Plan &plan, const TrainOptions &options,
                       int rank, Communicator *comm, Progress *progress) {
  StepTime planned = timeStep(plan, "train");
  Executor::Options executorOptions;
  executorOptions.progress = progress;
  executorOptions.secondsPerFlop =
      options.paceSeconds / std::max(planned.work, 1.0);
  NullDevice device(NullDevice::Memory::Zeros);
  LMC_ASSIGN_OR_RETURN(
      std::unique_ptr<Executor> executor,
      Executor::create(plan, device, comm, rank, executorOptions));
  int schedule = executor->findSchedule("train");
  if (schedule < 0)
    return wrongInput("the plan has no schedule train");
  double expected = planned.length * executorOptions.secondsPerFlop;
  std::vector<double> took;
  for (int64_t step = 1; step <= options.steps; ++step) {
    if (comm)
      LMC_RETURN_IF_ERROR(comm->barrier());
    auto start = std::chrono::steady_clock::now();
    LMC_RETURN_IF_ERROR(executor->run(schedule));
    if (comm)
      LMC_RETURN_IF_ERROR(comm->barrier());
    took.push_back(
        std::chrono::duration<double>(std::chrono::steady_clock::now() - start)
            .count());
    if (rank == 0)
      logInfo("step {}: {:.3f} s, planned {:.3f} s", step, took.back(),
              expected);
  }
  if (rank != 0)
    return Status();
  std::sort(took.begin(), took.end());
  double median = took[took.size() / 2];
  logInfo("median {:.3f} s, {:.3f} of the planned time", median,
          median / expected);
  return Status();
}

Status runDry(const plan::Plan &plan, const TrainOptions &options) {
  LMC_RETURN_IF_ERROR(checkTraining(plan, options));
  return runSteps(plan, options, 0, nullptr, nullptr);
}

Status runDryRank(const plan::Plan &plan, const TrainOptions &options,
                  const Place &place,
                  const std::function<void(const Status &)> &giveUp) {
  Job::Options jobOptions;
  jobOptions.timeoutMs = int64_t(options.timeoutSeconds * 1e3);
  jobOptions.giveUp = giveUp;
  LMC_ASSIGN_OR_RETURN(std::unique_ptr<Job> job,
                       Job::connect(place, jobOptions));
  job->setDescription([&plan](uint64_t position) {
    return describeInstruction(plan, uint32_t(position >> 32),
                               uint32_t(position));
  });
  StatusOr<std::unique_ptr<HostCommunicator>> comm =
      HostCommunicator::create(*job, {options.tcpOnly, place.hostName});
  Status ready = checkTraining(plan, options);
  LMC_RETURN_IF_ERROR(job->meet(ready.ok() ? comm.status() : ready,
                                dryFactsOf(plan, options),
                                comm.ok() ? (*comm)->endpoint() : ""));
  Status status = (*comm)->connect();
  if (status.ok())
    status =
        runSteps(plan, options, job->rank(), comm->get(), &job->progress());
  if (status.ok())
    return job->leave();
  job->fail(status);
  return job->verdict().ok() ? status : job->verdict();
}

} // namespace lmc::runtime
