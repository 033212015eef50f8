// See TrainJob.h.
#include "runtime/train/TrainJob.h"
#include "runtime/base/Log.h"
#include "runtime/comm/local/LocalCommunicator.h"
#include "runtime/device/cpu/CpuDevice.h"
#include "runtime/plan/PlanFacts.h"
#include "runtime/train/Checkpoint.h"
#include "runtime/train/Trainer.h"

#include <algorithm>
#include <csignal>
#include <mutex>
#include <thread>

namespace lmc::runtime {

namespace {

struct Job {
  const plan::Plan &plan;
  const TrainOptions &options;
  const TokenData &data;
  MetricsLog &log;
  Checkpointer *checkpointer;
  GradientDump *gradients;
  std::shared_ptr<LocalWorld> world; ///< null: one rank
  int threadsPerRank;
  int64_t stackBytes;
  std::vector<int> cores;

  std::mutex mutex;
  Status firstFailure;
};

struct Rank {
  Job *job;
  int rank;
};

} // namespace

static Status runRank(Job &job, int rank, Communicator *comm) {
  CpuDevice::Options device;
  device.threads = job.threadsPerRank;
  device.stackBytes = job.stackBytes;
  device.ranksOnHost = job.options.ranks;
  device.guardPages = job.options.guardPages;
  for (int i = 0; i < job.threadsPerRank && !job.cores.empty(); ++i)
    device.cores.push_back(job.cores[size_t(rank * job.threadsPerRank + i)]);
  LMC_ASSIGN_OR_RETURN(std::unique_ptr<CpuDevice> cpu,
                       CpuDevice::create(device));
  LMC_ASSIGN_OR_RETURN(
      std::unique_ptr<Executor> executor,
      Executor::create(job.plan, *cpu, comm, rank, {job.options.profile}));
  LMC_ASSIGN_OR_RETURN(
      std::unique_ptr<Trainer> trainer,
      Trainer::create(*executor,
                      {job.options, job.data, rank == 0 ? &job.log : nullptr,
                       job.checkpointer, job.gradients}));
  LMC_RETURN_IF_ERROR(trainer->run());
  if (job.options.profile && rank == 0) {
    job.log.finish();
    printLines(executor->profileReport());
  }
  return comm ? comm->barrier() : Status();
}

static void runRankThread(void *context) {
  Rank &self = *static_cast<Rank *>(context);
  Job &job = *self.job;
  std::unique_ptr<Communicator> comm;
  if (job.world)
    comm = makeLocalCommunicator(job.world, self.rank);
  Status status = runRank(job, self.rank, comm.get());
  if (status.ok())
    return;
  {
    std::lock_guard<std::mutex> lock(job.mutex);
    if (job.firstFailure.ok())
      job.firstFailure = status;
  }
  if (comm)
    comm->abort(status);
}

static void installStopHandlers() {
  struct sigaction action = {};
  action.sa_handler = [](int) { requestStop(); };
  // A second signal ends the process at once.
  action.sa_flags = SA_RESETHAND | SA_RESTART;
  ::sigaction(SIGTERM, &action, nullptr);
  ::sigaction(SIGINT, &action, nullptr);
}

Status runTraining(const plan::Plan &plan, const TrainOptions &options) {
  if (plan.mode() != "train")
    return wrongInput("the plan is made for \"{}\", not for training",
                      plan.mode())
        .help("compile with --mode=train");
  if (plan.target() != "cpu" && !plan.target().empty())
    return wrongInput("the plan is made for the target \"{}\"; this lmrun runs "
                      "\"cpu\"",
                      plan.target());
  int64_t ranks = worldSize(plan);
  if (ranks != options.ranks) {
    std::string axes;
    for (const plan::Mesh::Axis &axis : plan.mesh().axes())
      axes += fmt::format("{}{}={}", axes.empty() ? "" : ",", axis.name(),
                          axis.size());
    return wrongInput("the plan is made for {} rank{} ({}), {} {} started",
                      ranks, ranks == 1 ? "" : "s", axes, options.ranks,
                      options.ranks == 1 ? "is" : "are")
        .help("run with --nproc {}", ranks);
  }
  LMC_ASSIGN_OR_RETURN(TokenData data, TokenData::open(options.dataPath));
  if (plan.vocabulary() > 0 && data.vocabulary() > plan.vocabulary())
    logWarning("{} was made with a vocabulary of {}, the model has {}: the run "
               "will stop at a token beyond it",
               data.path(), data.vocabulary(), plan.vocabulary());
  LMC_ASSIGN_OR_RETURN(std::unique_ptr<MetricsLog> log,
                       MetricsLog::create(options));
  std::optional<Checkpointer> checkpointer;
  if (!options.checkpointFolder.empty()) {
    checkpointer.emplace(options);
    installStopHandlers();
  }
  std::optional<GradientDump> gradients;
  if (!options.dumpGradients.empty())
    gradients.emplace(options.dumpGradients);

  std::vector<int> cores = availableCores();
  int threads = options.threads > 0
                    ? options.threads
                    : std::max(1, int(cores.size()) / options.ranks);
  if (!options.pinThreads || int(cores.size()) < threads * options.ranks)
    cores.clear();
  int64_t stack = 0;
  for (const plan::Kernel &kernel : plan.kernels())
    stack = std::max(stack, kernel.stack_bytes());
  stack = std::max<int64_t>(stack + (1 << 20), 8 << 20);

  Job job{plan,
          options,
          data,
          *log,
          checkpointer ? &*checkpointer : nullptr,
          gradients ? &*gradients : nullptr,
          ranks > 1 ? makeLocalWorld(int(ranks)) : nullptr,
          threads,
          stack,
          cores,
          {},
          {}};
  std::vector<Rank> contexts;
  for (int rank = 0; rank < int(ranks); ++rank)
    contexts.push_back({&job, rank});
  std::vector<std::thread> starters;
  Status startFailure;
  for (int rank = 1; rank < int(ranks); ++rank)
    starters.emplace_back([&, rank] {
      Status status =
          runOnBigStack(stack, runRankThread, &contexts[size_t(rank)]);
      if (!status.ok())
        makeLocalCommunicator(job.world, rank)->abort(status);
    });
  startFailure = runOnBigStack(stack, runRankThread, &contexts[0]);
  if (!startFailure.ok() && job.world)
    makeLocalCommunicator(job.world, 0)->abort(startFailure);
  for (std::thread &starter : starters)
    starter.join();
  log->finish();
  return startFailure.ok() ? job.firstFailure : startFailure;
}

} // namespace lmc::runtime
