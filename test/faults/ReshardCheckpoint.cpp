// A checkpoint onto another mesh, with no step in between.
//
//   reshard-checkpoint PLAN FROM TO
//
// Loads the newest checkpoint of the folder FROM into the ranks of PLAN, as
// threads of this process, and saves it into the folder TO.
#include "runtime/base/Log.h"
#include "runtime/comm/local/LocalCommunicator.h"
#include "runtime/device/cpu/CpuDevice.h"
#include "runtime/plan/PlanCheck.h"
#include "runtime/plan/PlanFacts.h"
#include "runtime/plan/PlanFile.h"
#include "runtime/train/Checkpoint.h"

#include <thread>

using namespace lmc;
using namespace lmc::runtime;

namespace {
struct Reshard {
  plan::Plan plan;
  Checkpointer from, to;
};
} // namespace

static Status moveRank(Reshard &job, Communicator &comm) {
  LMC_ASSIGN_OR_RETURN(std::unique_ptr<CpuDevice> device,
                       CpuDevice::create({}));
  LMC_ASSIGN_OR_RETURN(
      std::unique_ptr<Executor> executor,
      Executor::create(job.plan, *device, &comm, comm.rank(), {}));
  LMC_ASSIGN_OR_RETURN(std::optional<CheckpointState> state,
                       job.from.restore(*executor, /*resume=*/true));
  if (!state)
    return wrongInput("there is no checkpoint");
  LMC_ASSIGN_OR_RETURN(std::optional<CheckpointState> none,
                       job.to.restore(*executor, /*resume=*/false));
  LMC_RETURN_IF_ERROR(job.to.save(*executor, *state));
  return job.to.finish(*executor);
}

static Status run(const char *planPath, const char *from, const char *to) {
  LMC_ASSIGN_OR_RETURN(plan::Plan plan, readPlanFile(planPath));
  LMC_RETURN_IF_ERROR(checkPlan(plan));
  TrainOptions fromOptions, toOptions;
  fromOptions.checkpointFolder = from;
  toOptions.checkpointFolder = to;
  Reshard job{plan, Checkpointer(fromOptions), Checkpointer(toOptions)};
  int ranks = int(worldSize(plan));
  auto world = makeLocalWorld(ranks);
  std::vector<Status> statuses(static_cast<size_t>(ranks));
  std::vector<std::thread> threads;
  for (int rank = 0; rank < ranks; ++rank)
    threads.emplace_back([&, rank] {
      auto comm = makeLocalCommunicator(world, rank);
      statuses[size_t(rank)] = moveRank(job, *comm);
      if (!statuses[size_t(rank)].ok())
        comm->abort(statuses[size_t(rank)]);
    });
  for (std::thread &thread : threads)
    thread.join();
  for (const Status &status : statuses)
    LMC_RETURN_IF_ERROR(status);
  return Status();
}

int main(int argc, char **argv) {
  if (argc != 4)
    return report(wrongInput("reshard-checkpoint PLAN FROM TO"));
  return report(run(argv[1], argv[2], argv[3]));
}
