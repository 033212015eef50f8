// Our host communicator over processes, as `lmrun train --nproc N` has it.
// See CollectiveBench.h.
//
// host-collectives RANKS
#include "runtime/base/Log.h"
#include "runtime/comm/host/HostCommunicator.h"
#include "runtime/job/Launch.h"
#include "test/bench/CollectiveBench.h"

#include <numeric>
#include <sched.h>

using namespace lmc;
using namespace lmc::runtime;

namespace {

void check(const Status &status) {
  if (status.ok())
    return;
  std::fprintf(stderr, "%s\n", status.toString().c_str());
  std::abort();
}

class HostExchange final : public bench::Exchange {
public:
  explicit HostExchange(HostCommunicator &comm) : comm(comm) {
    std::vector<int> all(size_t(comm.numRanks()));
    std::iota(all.begin(), all.end(), 0);
    StatusOr<int> opened = comm.openGroup(all, 64 << 20);
    check(opened.status());
    group = *opened;
  }

  void run(bench::Collective kind, int64_t elements, const float *source,
           float *target) override {
    static const CollectiveKind kinds[] = {CollectiveKind::AllReduce,
                                           CollectiveKind::ReduceScatter,
                                           CollectiveKind::AllGather};
    check(comm.collective(
        {kinds[int(kind)], Reduction::Sum, DataType::F32, group, elements},
        reinterpret_cast<const std::byte *>(source),
        reinterpret_cast<std::byte *>(target)));
  }
  void barrier() override { check(comm.barrier()); }
  double largest(double mine) override {
    auto *bytes = reinterpret_cast<std::byte *>(&mine);
    check(comm.collective(
        {CollectiveKind::AllReduce, Reduction::Max, DataType::F64, group, 1},
        bytes, bytes));
    return mine;
  }

private:
  HostCommunicator &comm;
  int group;
};

/// As lmrun: to a core each, where there are so many.
void pin(const Place &place) {
  cpu_set_t cores, mine;
  CPU_ZERO(&mine);
  if (::sched_getaffinity(0, sizeof cores, &cores) != 0 ||
      CPU_COUNT(&cores) < place.ranks)
    return;
  int left = place.rank;
  for (int core = 0; core < CPU_SETSIZE; ++core)
    if (CPU_ISSET(core, &cores) && left-- == 0)
      CPU_SET(core, &mine);
  (void)::sched_setaffinity(0, sizeof mine, &mine);
}

Status runRank(const Place &place,
               const std::function<void(const Status &)> &giveUp) {
  Job::Options options;
  options.giveUp = giveUp;
  LMC_ASSIGN_OR_RETURN(std::unique_ptr<Job> job, Job::connect(place, options));
  LMC_ASSIGN_OR_RETURN(std::unique_ptr<HostCommunicator> comm,
                       HostCommunicator::create(*job, {}));
  LMC_RETURN_IF_ERROR(job->meet(Status(), {}, comm->endpoint()));
  LMC_RETURN_IF_ERROR(comm->connect());
  pin(place);
  HostExchange exchange(*comm);
  bench::measure(exchange, comm->rank(), comm->numRanks());
  return job->leave();
}

} // namespace

int main(int argc, char **argv) {
  Status status = launch(argc > 1 ? std::atoi(argv[1]) : 2, runRank);
  check(status);
  return 0;
}
