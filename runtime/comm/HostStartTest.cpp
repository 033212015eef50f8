// What keeps processes of one host from connecting.
#include "runtime/comm/host/HostCommunicator.h"
#include "runtime/job/Launch.h"

#include <csignal>
#include <cstdio>
#include <gtest/gtest.h>
#include <unistd.h>

using namespace lmc::runtime;

/// One rank; `pause` is called when all have met.
static Status connectRank(const Place &place,
                          const std::function<void(Job &)> &pause) {
  LMC_ASSIGN_OR_RETURN(std::unique_ptr<Job> job, Job::connect(place, {}));
  LMC_ASSIGN_OR_RETURN(std::unique_ptr<HostCommunicator> comm,
                       HostCommunicator::create(*job, {}));
  LMC_RETURN_IF_ERROR(job->meet(Status(), {}, comm->endpoint()));
  pause(*job);
  Status status = comm->connect();
  if (status.ok())
    return job->leave();
  job->fail(status);
  return job->verdict();
}

// Its files are gone before the control plane knows why.
TEST(HostStart, ARankThatDiesBeforeItsMemoryIsOpenedIsNamed) {
  Status status = launch(3, [](const Place &place, const auto &) {
    return connectRank(place, [](Job &job) {
      if (job.rank() == 1)
        ::raise(SIGKILL);
      int pid = 0;
      ASSERT_EQ(std::sscanf(job.endpoints()[1].c_str(), "%*s %d", &pid), 1);
      std::string files = fmt::format("/proc/{}/fd/0", pid);
      while (::access(files.c_str(), F_OK) == 0) {
      }
    });
  });
  EXPECT_EQ(status.exitStatus(), 5);
  EXPECT_EQ(status.message(), "rank 1 is gone: the process ended, or its host "
                              "did")
      << status.toString();
}
