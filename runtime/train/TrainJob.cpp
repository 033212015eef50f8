// See TrainJob.h.
#include "runtime/train/TrainJob.h"
#include "runtime/base/Log.h"
#include "runtime/base/Thread.h"
#include "runtime/comm/Traffic.h"
#include "runtime/comm/host/HostCommunicator.h"
#include "runtime/comm/local/LocalCommunicator.h"
#include "runtime/device/OpenDevice.h"
#include "runtime/device/cpu/CpuDevice.h"
#include "runtime/plan/PlanFacts.h"
#include "runtime/train/Checkpoint.h"
#include "runtime/train/JobFacts.h"
#include "runtime/train/Trainer.h"

#include <algorithm>
#include <csignal>
#include <mutex>
#include <numeric>

namespace lmc::runtime {

namespace {

/// What the ranks of this process share.
struct Setup {
  const plan::Plan &plan;
  const TrainOptions &options;
  const TokenData &data;
  MetricsLog *log = nullptr; ///< rank 0's
  int ranksOnHost = 1;
  int threadsPerRank = 1;
  int64_t stackBytes = 0;
  std::vector<int> cores; ///< of all ranks of the host; empty: not pinned
};

struct LocalJob {
  Setup setup;
  std::shared_ptr<LocalWorld> world; ///< null: one rank
  std::mutex mutex;
  Status firstFailure;
};

struct LocalRank {
  LocalJob *job;
  int rank;
  std::unique_ptr<Trace> trace; ///< null: none
};

} // namespace

namespace {
/// What every rank exchanged in its last step, for rank 0 to tell.
class TrafficReport {
public:
  /// Before the first instruction, on all ranks.
  Status open(Communicator &comm) {
    std::vector<int> all(size_t(comm.numRanks()));
    std::iota(all.begin(), all.end(), 0);
    LMC_ASSIGN_OR_RETURN(
        group, comm.openGroup(all, int64_t(all.size() * sizeof(Traffic))));
    return Status();
  }
  /// On all ranks; their rows, in rank order.
  StatusOr<std::vector<Traffic>> gather(Communicator &comm,
                                        const Traffic &mine) const {
    std::vector<Traffic> all(size_t(comm.numRanks()));
    LMC_RETURN_IF_ERROR(comm.collective(
        {CollectiveKind::AllGather, Reduction::Sum, DataType::I64, group,
         int64_t(all.size() * sizeof(Traffic) / sizeof(int64_t))},
        reinterpret_cast<const std::byte *>(&mine),
        reinterpret_cast<std::byte *>(all.data())));
    return all;
  }

private:
  int group = -1;
};
} // namespace

static std::string trafficTable(const std::vector<Traffic> &ranks) {
  std::string text =
      fmt::format("\n{:>6} {:<16} {:>8} {:>14} {:>14} {:>10}\n", "rank",
                  "a step's", "calls", "bytes", "received", "ms");
  for (size_t rank = 0; rank < ranks.size(); ++rank)
    for (int i = 0; i < trafficRows; ++i)
      if (const Traffic::Row &row = ranks[rank].rows[size_t(i)]; row.calls > 0)
        text += fmt::format("{:>6} {:<16} {:>8} {:>14} {:>14} {:10.2f}\n", rank,
                            trafficRowNames[i], row.calls, row.bytes,
                            row.received, double(row.timeNs) / 1e6);
  return text;
}

/// `place` is the rank's number among those of this host.
static Status runRank(const Setup &setup, int rank, int place,
                      Communicator *inner, Progress *progress, Trace *trace) {
  std::optional<CountingCommunicator> counting;
  Communicator *comm = inner ? &counting.emplace(*inner) : nullptr;
  const TrainOptions &options = setup.options;
  CpuDevice::Options device;
  device.threads = setup.threadsPerRank;
  device.stackBytes = setup.stackBytes;
  device.ranksOnHost = setup.ranksOnHost;
  device.guardPages = options.guardPages;
  for (int i = 0; i < setup.threadsPerRank && !setup.cores.empty(); ++i)
    device.cores.push_back(
        setup.cores[size_t(place * setup.threadsPerRank + i)]);
  LMC_ASSIGN_OR_RETURN(
      std::unique_ptr<Device> opened,
      openDevice(setup.plan.target(), hasMatmuls(setup.plan), device));
  LMC_ASSIGN_OR_RETURN(std::unique_ptr<Executor> executor,
                       Executor::create(setup.plan, *opened, comm, rank,
                                        {options.profile, progress}));
  if (trace)
    LMC_RETURN_IF_ERROR(executor->setTrace(trace));
  TrafficReport report;
  if (comm)
    LMC_RETURN_IF_ERROR(report.open(*comm));
  std::optional<Checkpointer> checkpointer;
  if (!options.checkpointFolder.empty())
    checkpointer.emplace(options);
  LMC_ASSIGN_OR_RETURN(
      std::unique_ptr<Trainer> trainer,
      Trainer::create(*executor, {options, setup.data, setup.log,
                                  checkpointer ? &*checkpointer : nullptr,
                                  counting ? &counting->traffic() : nullptr}));
  LMC_RETURN_IF_ERROR(trainer->run());
  std::vector<Traffic> traffic;
  if (comm) {
    LMC_ASSIGN_OR_RETURN(traffic, report.gather(*comm, trainer->stepTraffic()));
  }
  if (options.profile && rank == 0) {
    (void)setup.log->finish();
    printLines(executor->profileReport() + (comm ? trafficTable(traffic) : ""));
  }
  return comm ? comm->barrier() : Status();
}

/// The first signal asks for a checkpoint and the end; a later one ends the
/// process at once. Launchers send it to the group and to the process: what
/// comes within a second is one.
static void onStopSignal(int signal) {
  static std::atomic<int64_t> first{0};
  timespec now;
  ::clock_gettime(CLOCK_MONOTONIC, &now);
  int64_t ms = int64_t(now.tv_sec) * 1000 + now.tv_nsec / 1000000;
  int64_t before = 0;
  if (first.compare_exchange_strong(before, ms) || ms - before < 1000)
    return requestStop();
  std::signal(signal, SIG_DFL);
  std::raise(signal);
}

static void installStopHandlers(const TrainOptions &options) {
  if (options.checkpointFolder.empty())
    return;
  for (int signal : {SIGTERM, SIGINT}) {
    struct sigaction action = {}, before = {};
    action.sa_handler = onStopSignal;
    action.sa_flags = SA_RESTART;
    ::sigaction(signal, nullptr, &before);
    if (before.sa_handler != SIG_IGN)
      ::sigaction(signal, &action, nullptr);
  }
}

Status checkTraining(const plan::Plan &plan, const TrainOptions &options) {
  if (plan.mode() != "train")
    return wrongInput("the plan is made for \"{}\", not for training",
                      plan.mode())
        .help("compile with --mode=train");
  LMC_RETURN_IF_ERROR(checkSettings(plan, options));
  int64_t ranks = worldSize(plan);
  // A dry run needs no device.
  if (options.paceSeconds == 0) {
    if (plan.target() == "cuda" && ranks > 1)
      return wrongInput("the plan is for CUDA and {} ranks; ranks cannot "
                        "exchange what lies on GPUs yet",
                        ranks)
          .help("compile without --mesh, or with --target=cpu");
    LMC_RETURN_IF_ERROR(checkDevice(plan.target(), hasMatmuls(plan)));
  }
  if (ranks == options.ranks)
    return Status();
  std::vector<std::string> axes;
  for (const plan::Mesh::Axis &axis : plan.mesh().axes())
    if (axis.size() > 1)
      axes.push_back(fmt::format("{}={}", axis.name(), axis.size()));
  std::string mesh = fmt::format(" (mesh {})", fmt::join(axes, ","));
  Status status = wrongInput("the plan is made for {} rank{}{}, not for {}",
                             ranks, ranks == 1 ? "" : "s",
                             axes.empty() ? "" : mesh, options.ranks);
  for (const std::string &sentence : options.strayVariables)
    status = std::move(status).note("{}", sentence);
  return std::move(status).help("run with {}, or compile with another --mesh",
                                options.rightStart.empty()
                                    ? fmt::format("--nproc {}", ranks)
                                    : options.rightStart);
}

Status checkMemoryOfAllRanks(const plan::Plan &plan) {
  int64_t stages = 1;
  for (const plan::Mesh::Axis &axis : plan.mesh().axes())
    if (axis.name() == "pp")
      stages = axis.size();
  double bytes = 0;
  for (const plan::Allocation &allocation : plan.allocations())
    for (int64_t stage = 0; stage < stages; ++stage)
      bytes += double(bytesOnStage(allocation, stage));
  bytes *= double(worldSize(plan) / stages);
  double available = double(availableMemoryBytes());
  if (bytes <= available)
    return Status();
  return makeError(ErrorKind::DoesNotFit,
                   "the plan does not fit: {} needed by {} ranks together, {} "
                   "free on this machine",
                   formatBytes(bytes), worldSize(plan), formatBytes(available))
      .help("start the ranks on several machines, by srun, mpirun or torchrun, "
            "or compile with a smaller --micro-batch or --seq");
}

/// Threads, stack and cores, from what this process may use.
static void shareMachine(Setup &setup, bool isAlone) {
  const TrainOptions &options = setup.options;
  setup.cores = availableCores();
  int sharers = isAlone ? 1 : setup.ranksOnHost;
  setup.threadsPerRank = options.threads > 0
                             ? options.threads
                             : std::max(1, int(setup.cores.size()) / sharers);
  if (!options.pinThreads ||
      int(setup.cores.size()) < setup.threadsPerRank * sharers)
    setup.cores.clear();
  int64_t stack = 0;
  for (const plan::Kernel &kernel : setup.plan.kernels())
    stack = std::max(stack, kernel.stack_bytes());
  setup.stackBytes = std::max<int64_t>(stack + (1 << 20), 8 << 20);
}

static void runLocalRank(void *context) {
  LocalRank &self = *static_cast<LocalRank *>(context);
  LocalJob &job = *self.job;
  std::unique_ptr<Communicator> comm;
  if (job.world)
    comm = makeLocalCommunicator(job.world, self.rank);
  Status status = runRank(job.setup, self.rank, self.rank, comm.get(),
                          /*progress=*/nullptr, self.trace.get());
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

static void warnOfVocabulary(const plan::Plan &plan, const TokenData &data) {
  if (plan.vocabulary() > 0 && data.vocabulary() > plan.vocabulary())
    logWarning("{} was made with a vocabulary of {}, the model has {}: the run "
               "will stop at a token beyond it",
               data.path(), data.vocabulary(), plan.vocabulary());
}

Status runTraining(const plan::Plan &plan, const TrainOptions &options) {
  LMC_RETURN_IF_ERROR(checkTraining(plan, options));
  LMC_RETURN_IF_ERROR(checkOutputs(options));
  LMC_ASSIGN_OR_RETURN(TokenData data, TokenData::open(options.dataPath));
  data.nameWhenCut();
  warnOfVocabulary(plan, data);
  LMC_ASSIGN_OR_RETURN(std::unique_ptr<MetricsLog> log,
                       MetricsLog::create(options));
  installStopHandlers(options);
  const int ranks = options.ranks;
  LocalJob job{{plan, options, data, log.get(), ranks, 1, 0, {}},
               ranks > 1 ? makeLocalWorld(ranks) : nullptr,
               {},
               {}};
  shareMachine(job.setup, /*isAlone=*/false);
  std::vector<LocalRank> contexts;
  for (int rank = 0; rank < ranks; ++rank) {
    contexts.push_back({&job, rank, nullptr});
    LMC_ASSIGN_OR_RETURN(contexts.back().trace,
                         Trace::create(plan, options.trace, rank));
  }
  std::vector<std::thread> starters;
  Status startFailure;
  for (int rank = 1; rank < ranks; ++rank) {
    auto runOne = [&, rank] {
      Status status = runOnBigStack(job.setup.stackBytes, runLocalRank,
                                    &contexts[size_t(rank)]);
      if (!status.ok())
        makeLocalCommunicator(job.world, rank)->abort(status);
    };
    StatusOr<std::thread> starter = startThread("lmc-rank", runOne);
    if (starter.ok())
      starters.push_back(*std::move(starter));
    else
      makeLocalCommunicator(job.world, rank)->abort(starter.status());
  }
  startFailure =
      runOnBigStack(job.setup.stackBytes, runLocalRank, &contexts[0]);
  if (!startFailure.ok() && job.world)
    makeLocalCommunicator(job.world, 0)->abort(startFailure);
  for (std::thread &starter : starters)
    starter.join();
  Status lost = log->finish();
  Status end = !startFailure.ok()       ? startFailure
               : !job.firstFailure.ok() ? job.firstFailure
                                        : lost;
  for (LocalRank &one : contexts)
    end = closeTrace(one.trace.get(), std::move(end));
  return end;
}

namespace {
struct ProcessRank {
  const Setup &setup;
  HostCommunicator &comm;
  Job &job;
  int place;
  Trace *trace;
  Status status;
};
} // namespace

/// Whether a launcher has given this process cores of its own.
static bool isBound(const Place &place) {
  return !place.forked && int(availableCores().size()) <
                              int(std::thread::hardware_concurrency());
}

static Status runJoined(Job &job, HostCommunicator &comm,
                        const plan::Plan &plan, const TrainOptions &options,
                        const TokenData &data, const Place &place,
                        Trace *trace) {
  LMC_RETURN_IF_ERROR(comm.connect());
  std::unique_ptr<MetricsLog> log;
  if (job.rank() == 0) {
    LMC_ASSIGN_OR_RETURN(log, MetricsLog::create(options));
  }
  installStopHandlers(options);
  const std::vector<int> &here = comm.ranksOnHost();
  Setup setup{plan, options, data, log.get(), int(here.size()), 1, 0, {}};
  shareMachine(setup, isBound(place));
  int index =
      isBound(place)
          ? 0
          : int(std::find(here.begin(), here.end(), job.rank()) - here.begin());
  ProcessRank self{setup, comm, job, index, trace, {}};
  LMC_RETURN_IF_ERROR(runOnBigStack(
      setup.stackBytes,
      [](void *context) {
        ProcessRank &self = *static_cast<ProcessRank *>(context);
        self.status = runRank(self.setup, self.job.rank(), self.place,
                              &self.comm, &self.job.progress(), self.trace);
      },
      &self));
  Status lost = log ? log->finish() : Status();
  return self.status.ok() ? lost : self.status;
}

Status runTrainingRank(const plan::Plan &plan, const TrainOptions &options,
                       const Place &place,
                       const std::function<void(const Status &)> &giveUp) {
  Job::Options jobOptions;
  jobOptions.timeoutMs = int64_t(options.timeoutSeconds * 1e3);
  StatusOr<std::unique_ptr<Trace>> trace =
      Trace::create(plan, options.trace, place.rank);
  Trace *opened = trace.ok() ? trace->get() : nullptr;
  // The rank's own thread hangs then.
  jobOptions.giveUp = giveUp;
  if (giveUp && opened)
    jobOptions.giveUp = [&giveUp, opened](const Status &verdict) {
      giveUp(closeTrace(opened, verdict));
    };
  LMC_ASSIGN_OR_RETURN(std::unique_ptr<Job> job,
                       Job::connect(place, jobOptions));
  // From here on the others are told what goes wrong.
  job->setDescription([&plan](uint64_t position) {
    return describeInstruction(plan, uint32_t(position >> 32),
                               uint32_t(position));
  });
  Status ready = checkTraining(plan, options);
  if (ready.ok() && job->rank() == 0)
    ready = checkOutputs(options);
  if (ready.ok())
    ready = trace.status();
  StatusOr<TokenData> data =
      ready.ok() ? TokenData::open(options.dataPath) : ready;
  StatusOr<std::unique_ptr<HostCommunicator>> comm =
      HostCommunicator::create(*job, {options.tcpOnly, place.hostName});
  if (data.ok()) {
    data->nameWhenCut();
    if (job->rank() == 0)
      warnOfVocabulary(plan, *data);
  }
  JobFacts facts;
  if (data.ok() && comm.ok())
    facts = factsOf(plan, options, *data);
  LMC_RETURN_IF_ERROR(job->meet(data.ok() ? comm.status() : data.status(),
                                facts, comm.ok() ? (*comm)->endpoint() : ""));
  Status status = runJoined(*job, **comm, plan, options, *data, place, opened);
  // Told to stop is no failure: all ranks are told at the same step.
  if (status.ok() || status.kind() == ErrorKind::Stopped) {
    Status left = job->leave();
    return closeTrace(opened, left.ok() ? status : left);
  }
  job->fail(status);
  return closeTrace(opened, job->verdict().ok() ? status : job->verdict());
}

} // namespace lmc::runtime
