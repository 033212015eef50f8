// The control plane: who am I, meeting, disagreeing, failing, and whoever else
// comes to the port.
#include "runtime/job/Job.h"

#include <gtest/gtest.h>
#include <random>
#include <sys/socket.h>

using namespace lmc::runtime;

static StatusOr<std::optional<Place>>
placeIn(const std::map<std::string, std::string> &variables) {
  return placeFromEnvironment([&](const char *name) -> const char * {
    auto found = variables.find(name);
    return found == variables.end() ? nullptr : found->second.c_str();
  });
}

TEST(Place, NoLauncherIsNoPlace) {
  auto place = placeIn({{"HOME", "/"}, {"RANK", "3"}});
  ASSERT_TRUE(place.ok());
  EXPECT_FALSE(place->has_value());
}

TEST(Place, Torchrun) {
  std::map<std::string, std::string> variables = {{"RANK", "3"},
                                                  {"WORLD_SIZE", "8"},
                                                  {"LOCAL_RANK", "1"},
                                                  {"MASTER_ADDR", "node7"},
                                                  {"MASTER_PORT", "29500"}};
  auto place = placeIn(variables);
  ASSERT_TRUE(place.ok()) << place.status().toString();
  EXPECT_EQ((*place)->rank, 3);
  EXPECT_EQ((*place)->ranks, 8);
  EXPECT_EQ((*place)->host, "node7");
  EXPECT_EQ((*place)->port, 29500);
  EXPECT_EQ((*place)->source, "torchrun (RANK=3, WORLD_SIZE=8)");
  variables["TORCHELASTIC_USE_AGENT_STORE"] = "True"; // sits at 29500 itself
  int port = (*placeIn(variables))->port;
  EXPECT_TRUE(port >= 15000 && port < 30000) << port; // nobody's by chance
  variables["MASTER_PORT"] = "29501";                 // another job
  EXPECT_NE((*placeIn(variables))->port, port);
}

TEST(Place, Slurm) {
  auto place = placeIn({{"SLURM_PROCID", "5"},
                        {"SLURM_STEP_NUM_TASKS", "6"},
                        {"SLURM_NTASKS", "12"},
                        {"SLURM_JOB_ID", "77"},
                        {"SLURM_STEP_ID", "0"},
                        {"SLURM_STEP_NODELIST", "gpu[03-05,9]-ib,login"}});
  ASSERT_TRUE(place.ok()) << place.status().toString();
  EXPECT_EQ((*place)->rank, 5);
  EXPECT_EQ((*place)->ranks, 6);
  EXPECT_EQ((*place)->host, "gpu03-ib");
  EXPECT_GE((*place)->port, 15000);
  // The script of sbatch is no step: it is one process.
  EXPECT_FALSE(
      (*placeIn({{"SLURM_PROCID", "0"}, {"SLURM_NTASKS", "6"}})).has_value());
}

TEST(Place, OpenMpi) {
  std::map<std::string, std::string> variables = {
      {"OMPI_COMM_WORLD_RANK", "1"},
      {"OMPI_COMM_WORLD_SIZE", "4"},
      {"OMPI_COMM_WORLD_LOCAL_SIZE", "4"},
      {"SLURM_PROCID", "0"},
      {"SLURM_STEP_ID", "0"}};
  auto place = placeIn(variables);
  ASSERT_TRUE(place.ok()) << place.status().toString();
  EXPECT_EQ((*place)->rank, 1);
  EXPECT_EQ((*place)->host, "127.0.0.1");
  variables["OMPI_COMM_WORLD_LOCAL_SIZE"] = "2";
  EXPECT_NE(placeIn(variables).status().message().find("MASTER_ADDR"),
            std::string::npos);
  variables["LMC_RENDEZVOUS"] = "node1:4000";
  EXPECT_EQ((*placeIn(variables))->host, "node1");
  EXPECT_EQ((*placeIn(variables))->port, 4000);
}

TEST(Place, AWrongEnvironmentNamesTheVariable) {
  using Variables = std::map<std::string, std::string>;
  for (const auto &[variables, name] :
       std::vector<std::pair<Variables, std::string>>{
           {{{"RANK", "8"}, {"WORLD_SIZE", "8"}}, "RANK=8"},
           {{{"RANK", "x"}, {"WORLD_SIZE", "8"}}, "RANK=x"},
           {{{"RANK", "1"}, {"MASTER_ADDR", "a"}}, "WORLD_SIZE"},
           {{{"RANK", "1"}, {"WORLD_SIZE", "8"}}, "MASTER_ADDR"},
           {{{"RANK", "1"}, {"WORLD_SIZE", "8"}, {"MASTER_ADDR", "a"}},
            "MASTER_PORT"},
           {{{"OMPI_COMM_WORLD_SIZE", "2"}}, "OMPI_COMM_WORLD_RANK"},
           {{{"SLURM_PROCID", "1"}, {"SLURM_STEP_ID", "0"}}, "SLURM_NTASKS"},
           {{{"SLURM_PROCID", "1"},
             {"SLURM_STEP_ID", "0"},
             {"SLURM_NTASKS", "2"},
             {"SLURM_STEP_NODELIST", "n[1-"}},
            "SLURM_STEP_NODELIST"},
       }) {
    auto place = placeIn(variables);
    ASSERT_FALSE(place.ok()) << name;
    EXPECT_EQ(place.status().exitStatus(), 2);
    EXPECT_NE(place.status().message().find(name), std::string::npos)
        << place.status().message();
  }
}

TEST(ControlPlane, RanksAreListedShortly) {
  EXPECT_EQ(listRanks({2}), "2");
  EXPECT_EQ(listRanks({2, 3}), "2 and 3");
  EXPECT_EQ(listRanks({0, 2, 5, 6, 7}), "0, 2 and 5-7");
}

using Body = std::function<void(Job &job)>;

/// N ranks, each on its thread; what `connect` or `meet` said goes to body.
static void runJob(int ranks, int64_t timeoutMs, const Body &body,
                   const std::function<void(int port)> &meanwhile = {},
                   const char *refusal = "none is expected") {
  auto listener = listenAt("127.0.0.1", 0);
  ASSERT_TRUE(listener.ok()) << listener.status().toString();
  int port = portOf(*listener), descriptor = listener->release();
  std::thread stranger;
  if (meanwhile)
    stranger = std::thread([&] { meanwhile(port); });
  std::vector<std::thread> threads;
  for (int rank = 0; rank < ranks; ++rank)
    threads.emplace_back([&, rank] {
      Place place;
      place.rank = rank;
      place.ranks = ranks;
      place.port = port;
      place.token = "test";
      if (rank == 0)
        place.listener = descriptor;
      Job::Options options;
      options.timeoutMs = timeoutMs;
      auto job = Job::connect(place, options);
      if (!job.ok()) // it came after the end
        EXPECT_EQ(job.status().message(), refusal);
      else
        body(**job);
    });
  for (std::thread &thread : threads)
    thread.join();
  if (stranger.joinable())
    stranger.join();
}

TEST(ControlPlane, MeetsAndLeaves) {
  for (int ranks : {1, 2, 7})
    runJob(ranks, 5000, [&](Job &job) {
      Status status = job.meet(Status(), {{"plan", "a"}},
                               "rank " + std::to_string(job.rank()));
      ASSERT_TRUE(status.ok()) << status.toString();
      ASSERT_EQ(job.endpoints().size(), size_t(ranks));
      EXPECT_EQ(job.endpoints().back(), "rank " + std::to_string(ranks - 1));
      EXPECT_EQ(job.address(), "127.0.0.1");
      // An early leaver is not taken for a dead one.
      if (job.rank() == 0)
        std::this_thread::sleep_for(std::chrono::milliseconds(150));
      EXPECT_TRUE(job.leave().ok());
    });
}

TEST(ControlPlane, DisagreementIsTold) {
  runJob(4, 5000, [](Job &job) {
    JobFacts facts = {{"plan checksum", job.rank() == 2 ? "b" : "a"},
                      {"steps", "5"}};
    Status status = job.meet(Status(), facts, "");
    ASSERT_FALSE(status.ok());
    EXPECT_EQ(status.exitStatus(), 2);
    EXPECT_EQ(status.message(),
              "the ranks do not agree about the job: plan checksum");
    EXPECT_NE(status.toString().find("plan checksum: a on ranks 0, 1 and 3"),
              std::string::npos)
        << status.toString();
    EXPECT_NE(status.toString().find("plan checksum: b on rank 2"),
              std::string::npos);
  });
}

TEST(ControlPlane, ARankThatCannotStartTellsWhy) {
  auto body = [](Job &job) {
    Status ready = job.rank() == 1
                       ? makeError(ErrorKind::Corrupt, "no such plan")
                       : Status();
    Status status = job.meet(ready, {}, "");
    ASSERT_FALSE(status.ok());
    EXPECT_EQ(status.exitStatus(), 4);
    EXPECT_EQ(status.message(), "rank 1: no such plan");
  };
  runJob(3, 5000, body, {}, "rank 1: no such plan");
}

TEST(ControlPlane, AMissingRankIsNamed) {
  auto listener = listenAt("127.0.0.1", 0);
  Place place;
  place.ranks = 3;
  place.port = portOf(*listener);
  place.listener = listener->release();
  Job::Options options;
  options.timeoutMs = 50;
  auto job = Job::connect(place, options);
  ASSERT_TRUE(job.ok());
  Status status = (*job)->meet(Status(), {}, "");
  EXPECT_EQ(status.exitStatus(), 5);
  EXPECT_NE(status.message().find("ranks 1 and 2 are missing"),
            std::string::npos)
      << status.message();
}

TEST(ControlPlane, ARankOfAnotherNumberOfRanksEndsTheJob) {
  auto listener = listenAt("127.0.0.1", 0);
  int port = portOf(*listener), descriptor = listener->release();
  std::vector<std::thread> threads;
  for (int rank : {0, 1})
    threads.emplace_back([=] {
      Place place;
      place.rank = rank;
      place.ranks = 2 + rank;
      place.port = port;
      place.token = "test";
      if (rank == 0)
        place.listener = descriptor;
      auto job = Job::connect(place, {});
      Status status = job.ok() ? (*job)->meet(Status(), {}, "") : job.status();
      EXPECT_EQ(status.exitStatus(), 2);
      EXPECT_EQ(status.message(), "rank 1 of 3 comes to a job of 2 ranks");
    });
  for (std::thread &thread : threads)
    thread.join();
}

TEST(ControlPlane, ARankThatGoesIsNamedByAllWithinASecond) {
  for (int victim : {0, 2})
    runJob(4, 5000, [&](Job &job) {
      ASSERT_TRUE(job.meet(Status(), {}, "").ok());
      if (job.rank() == victim)
        return; // without goodbye
      int64_t begin = nowMs();
      Status status = job.leave();
      EXPECT_LT(nowMs() - begin, 1500);
      EXPECT_EQ(status.exitStatus(), 5);
      EXPECT_EQ(status.message().find(fmt::format("rank {} is gone", victim)),
                0u)
          << status.message();
    });
}

TEST(ControlPlane, TheFirstReasonIsEveryones) {
  runJob(4, 5000, [](Job &job) {
    ASSERT_TRUE(job.meet(Status(), {}, "").ok());
    bool woken = false;
    job.onVerdict([&] { woken = true; });
    if (job.rank() == 1)
      job.fail(makeError(ErrorKind::BadNumbers, "step 7: the loss is nan")
                   .note("lr 3"));
    EXPECT_TRUE(job.awaitVerdict(2000));
    EXPECT_TRUE(job.over());
    EXPECT_TRUE(woken);
    job.fail(makeError(ErrorKind::Bug, "later"));
    EXPECT_EQ(job.verdict().toString(),
              makeError(ErrorKind::BadNumbers, "step 7: the loss is nan")
                  .note("lr 3")
                  .toString());
  });
}

// One rank executes for ever while the others wait for it.
TEST(ControlPlane, AHungInstructionIsNamedAndSlowComputeIsNot) {
  runJob(3, 400, [](Job &job) {
    ASSERT_TRUE(job.meet(Status(), {}, "").ok());
    job.setDescription([](uint64_t at) { return fmt::format("place {}", at); });
    Progress &progress = job.progress();
    bool slow = job.rank() == 1;
    progress.activity = slow ? Progress::Instruction : Progress::Waiting;
    if (!slow)
      progress.begin(10);
    // Longer than the timeout in all, but a little further now and then.
    for (int i = 1; i <= 8; ++i) {
      if (slow) {
        progress.begin(uint64_t(i));
        progress.instructions = uint64_t(i);
        progress.begin(uint64_t(i) + 1);
      }
      std::this_thread::sleep_for(std::chrono::milliseconds(100));
    }
    EXPECT_FALSE(job.over());
    int64_t begin = nowMs();
    ASSERT_TRUE(job.awaitVerdict(2000));
    EXPECT_LT(nowMs() - begin, 1400);
    EXPECT_EQ(job.verdict().exitStatus(), 5);
    EXPECT_EQ(job.verdict().message().find("rank 1 is hanging"), 0u)
        << job.verdict().message();
    EXPECT_NE(job.verdict().toString().find(
                  "rank 1: 8 instructions done, in place 9"),
              std::string::npos)
        << job.verdict().toString();
    EXPECT_NE(job.verdict().toString().find(
                  "rank 1: before it, place 8; place 7; place 6"),
              std::string::npos)
        << job.verdict().toString();
  });
}

// Between the programs of its steps a rank may hang, too; one that loads or
// saves is waited for.
TEST(ControlPlane, AHungStepIsNamedAndSavingIsNot) {
  runJob(2, 300, [](Job &job) {
    ASSERT_TRUE(job.meet(Status(), {}, "").ok());
    Progress::Scope stepping(job.progress(), Progress::Step);
    if (job.rank() == 0) {
      Progress::Scope waiting(job.progress(), Progress::Waiting);
      ASSERT_TRUE(job.awaitVerdict(4000));
    } else {
      {
        Progress::Scope saving(job.progress(), Progress::Host);
        EXPECT_FALSE(job.awaitVerdict(1000));
      }
      ASSERT_TRUE(job.awaitVerdict(3000));
    }
    EXPECT_EQ(job.verdict().message().find("rank 1 is hanging in a step"), 0u)
        << job.verdict().message();
  });
}

// Nobody of ours: silent, talkative, or with a frame of the right look.
TEST(ControlPlane, StrangersDoNoHarm) {
  auto strangers = [](int port) {
    std::mt19937 random(1);
    std::vector<Socket> open;
    for (int i = 0; i < 200; ++i) {
      auto socket = connectTo("127.0.0.1", port, nowMs() + 50);
      if (!socket.ok())
        return; // the listener is closed: all have met
      std::string bytes(size_t(random() % 300), '\0');
      for (char &byte : bytes)
        byte = char(random());
      if (i % 3 == 0)
        bytes.clear();
      if (i % 3 == 1 && bytes.size() >= 12)
        bytes.replace(0, 12, std::string("LMCJ\1\0\0\0\377\377\377\377", 12));
      (void)!::send(socket->get(), bytes.data(), bytes.size(), MSG_NOSIGNAL);
      if (i % 2)
        open.push_back(*std::move(socket));
    }
  };
  runJob(
      4, 5000,
      [](Job &job) {
        std::this_thread::sleep_for(std::chrono::milliseconds(50 * job.rank()));
        Status status = job.meet(Status(), {}, "");
        ASSERT_TRUE(status.ok()) << status.toString();
        EXPECT_TRUE(job.leave().ok());
      },
      strangers);
}

TEST(ControlPlane, AnotherJobsRankIsSentAway) {
  runJob(
      2, 5000,
      [](Job &job) {
        std::this_thread::sleep_for(
            std::chrono::milliseconds(300 * job.rank()));
        EXPECT_TRUE(job.meet(Status(), {}, "").ok());
        EXPECT_TRUE(job.leave().ok());
      },
      [](int port) {
        std::this_thread::sleep_for(std::chrono::milliseconds(100));
        for (const char *token : {"other", "test"}) {
          Place place;
          place.rank = 1;
          place.ranks = 2;
          place.port = port;
          place.token = token;
          auto job = Job::connect(place, {});
          ASSERT_FALSE(job.ok());
          EXPECT_EQ(job.status().exitStatus(), 2) << job.status().toString();
        }
      });
}
