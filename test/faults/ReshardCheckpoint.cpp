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

static Status moveRank(const plan::Plan &plan, Communicator &comm,
                       const char *from, const char *to) {
  LMC_ASSIGN_OR_RETURN(std::unique_ptr<CpuDevice> device,
                       CpuDevice::create({}));
  LMC_ASSIGN_OR_RETURN(std::unique_ptr<Executor> executor,
                       Executor::create(plan, *device, &comm, comm.rank(), {}));
  TrainOptions options;
  options.checkpointFolder = from;
  LMC_ASSIGN_OR_RETURN(
      std::optional<CheckpointState> state,
      Checkpointer(options).restore(*executor, /*resume=*/true));
  if (!state)
    return wrongInput("there is no checkpoint in {}", from);
  options.checkpointFolder = to;
  Checkpointer target(options);
  LMC_RETURN_IF_ERROR(target.restore(*executor, /*resume=*/false).status());
  LMC_RETURN_IF_ERROR(target.save(*executor, *state));
  return target.finish(*executor);
}

static Status run(const char *planPath, const char *from, const char *to) {
  LMC_ASSIGN_OR_RETURN(plan::Plan plan, readPlanFile(planPath));
  LMC_RETURN_IF_ERROR(checkPlan(plan));
  int ranks = int(worldSize(plan));
  auto world = makeLocalWorld(ranks);
  std::vector<Status> statuses(static_cast<size_t>(ranks));
  std::vector<std::thread> threads;
  for (int rank = 0; rank < ranks; ++rank)
    threads.emplace_back([&, rank] {
      auto comm = makeLocalCommunicator(world, rank);
      statuses[size_t(rank)] = moveRank(plan, *comm, from, to);
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
