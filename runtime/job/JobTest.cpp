// The control plane: meeting, disagreeing, failing, and whoever else comes to
// the port.
#include "runtime/job/Job.h"
#include "runtime/job/Launch.h"

#include <csignal>
#include <future>
#include <gtest/gtest.h>
#include <random>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

using namespace lmc::runtime;

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
      job.setDescription(
          [](uint64_t at) { return fmt::format("place {}", at); });
      job.progress().begin(uint64_t(job.rank()) + 6);
      job.progress().instructions = 1;
      job.progress().begin(uint64_t(job.rank()) + 7);
      job.progress().activity = Progress::Waiting;
      // Until others have heard of it.
      std::this_thread::sleep_for(std::chrono::milliseconds(5 * heartbeatMs));
      if (job.rank() == victim)
        return; // without goodbye
      int64_t begin = nowMs();
      Status status = job.leave();
      EXPECT_LT(nowMs() - begin, 1500);
      EXPECT_EQ(status.exitStatus(), 5);
      EXPECT_EQ(status.message().find(fmt::format("rank {} is gone", victim)),
                0u)
          << status.message();
      for (int rank = 0; rank < 4; ++rank)
        EXPECT_NE(status.toString().find(
                      fmt::format("rank {0}: 1 instructions done, waiting in "
                                  "place {1}\n  note: rank {0}: before it, "
                                  "place {2}\n",
                                  rank, rank + 7, rank + 6)),
                  std::string::npos)
            << status.toString();
    });
}

// The process of rank 0 is gone, and the server with it.
TEST(ControlPlane, WithoutRankZeroARankSaysWhatItKnows) {
  auto listener = listenAt("127.0.0.1", 0);
  Place place;
  place.rank = 1;
  place.ranks = 2;
  place.port = portOf(*listener);
  std::thread rankZero([&] {
    Socket socket;
    while (!(socket = acceptFrom(*listener)))
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    FrameStream stream(std::move(socket));
    auto next = [&] {
      Frame frame;
      while (stream.receive(frame) == FrameStream::Got::Nothing)
        std::this_thread::sleep_for(std::chrono::milliseconds(5));
      return frame;
    };
    EXPECT_EQ(next().kind, IntroduceFrame);
    stream.send(AckFrame, "");
    EXPECT_EQ(next().kind, HelloFrame);
    stream.send(WelcomeFrame, Writer().text("").text("").take());
    Heartbeat last;
    last.instructions = 1;
    last.position = 7;
    last.before[0] = 6;
    last.activity = Progress::Waiting;
    stream.send(AckFrame, encode(last));
    Heartbeat heard;
    while (heard.instructions == 0)
      ASSERT_TRUE(decode(next().payload, heard));
  });
  auto job = Job::connect(place, {});
  ASSERT_TRUE(job.ok()) << job.status().toString();
  ASSERT_TRUE((*job)->meet(Status(), {}, "").ok());
  (*job)->progress().begin(8);
  (*job)->progress().instructions = 1;
  (*job)->progress().begin(9);
  (*job)->progress().activity = Progress::Instruction;
  EXPECT_TRUE((*job)->awaitVerdict(5000));
  rankZero.join();
  EXPECT_EQ((*job)->verdict().toString(),
            "error: rank 0 is gone: the process ended, or its host did\n"
            "  note: rank 0 (as it said last): 1 instructions done, waiting "
            "in instruction 7\n"
            "  note: rank 0 (as it said last): before it, instruction 6\n"
            "  note: rank 1: 1 instructions done, in instruction 9\n"
            "  note: rank 1: before it, instruction 8\n");
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
  runJob(2, 700, [](Job &job) {
    ASSERT_TRUE(job.meet(Status(), {}, "").ok());
    Progress::Scope stepping(job.progress(), Progress::Step);
    if (job.rank() == 0) {
      Progress::Scope waiting(job.progress(), Progress::Waiting);
      ASSERT_TRUE(job.awaitVerdict(6000));
    } else {
      {
        Progress::Scope saving(job.progress(), Progress::Host);
        EXPECT_FALSE(job.awaitVerdict(2000));
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

// Whenever it comes; the job goes on.
TEST(ControlPlane, ASecondProcessOfARankIsRefusedAtOnce) {
  for (int late : {0, 1}) {
    std::promise<void> welcomed, refused;
    runJob(
        2, 5000,
        [&](Job &job) {
          if (job.rank() == 1 && !late)
            refused.get_future().wait();
          ASSERT_TRUE(job.meet(Status(), {}, "").ok());
          if (job.rank() == 1 && late) {
            welcomed.set_value();
            refused.get_future().wait();
          }
          EXPECT_TRUE(job.leave().ok());
        },
        [&](int port) {
          if (late)
            welcomed.get_future().wait();
          else // both are there
            std::this_thread::sleep_for(std::chrono::milliseconds(200));
          for (int rank : {0, 1}) {
            Place place;
            place.rank = rank;
            place.ranks = 2;
            place.port = port;
            place.token = "test";
            int64_t begin = nowMs();
            Job::Options options;
            options.timeoutMs = 300;
            auto job = Job::connect(place, options);
            EXPECT_LT(nowMs() - begin, 900);
            EXPECT_FALSE(job.ok());
            if (job.ok())
              continue; // the job waits for what comes below
            EXPECT_EQ(job.status().exitStatus(), 2);
            EXPECT_EQ(
                job.status().message(),
                fmt::format("rank {} is taken: another process of this job "
                            "has it",
                            rank));
          }
          refused.set_value();
        });
  }
}

// A port that somebody else has: at once, and without an answer after a second.
TEST(ControlPlane, ATakenPortIsTold) {
  auto silent = listenAt("127.0.0.1", 0);
  Place place;
  place.ranks = 2;
  place.port = portOf(*silent);
  int64_t begin = nowMs();
  auto job = Job::connect(place, {});
  EXPECT_LT(nowMs() - begin, 3000);
  ASSERT_FALSE(job.ok());
  EXPECT_EQ(job.status().message(),
            fmt::format("cannot listen at 127.0.0.1:{}: Address already in use",
                        place.port));
  // By name, too, where that has several addresses.
  auto named = listenAt("localhost", 0);
  ASSERT_TRUE(named.ok());
  EXPECT_FALSE(listenAt("localhost", portOf(*named)).ok());
}

// Nobody there, somebody who says nothing, somebody who hangs up.
TEST(ControlPlane, ALongSearchIsTold) {
  for (const std::string reason :
       {"cannot reach {}", "rank 0 does not answer at {}",
        "{} closes every connection"}) {
    auto listener = listenAt("127.0.0.1", 0);
    Place place;
    place.rank = 1;
    place.ranks = 2;
    place.port = portOf(*listener);
    std::atomic<bool> done{false};
    std::thread other([&] {
      while (reason[0] == '{' && !done)
        (void)acceptFrom(*listener); // and close
    });
    if (reason[0] == 'c')
      listener->reset();
    Job::Options options;
    options.timeoutMs = 60;
    testing::internal::CaptureStderr();
    auto job = Job::connect(place, options);
    std::string said = testing::internal::GetCapturedStderr();
    done = true;
    other.join();
    EXPECT_EQ(job.status().exitStatus(), 5);
    EXPECT_NE(said.find("rank 1 is looking for rank 0 still: " +
                        fmt::format(fmt::runtime(reason),
                                    fmt::format("127.0.0.1:{}", place.port))),
              std::string::npos)
        << said;
  }
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

// Killed before it could say who it is; the starter says it to the others.
TEST(Launch, ARankThatDiesAtOnceIsNamed) {
  for (int victim : {0, 2}) {
    int64_t begin = nowMs();
    Status status = launch(4, [&](const Place &place, const auto &) {
      if (place.rank == victim)
        ::raise(SIGKILL);
      LMC_ASSIGN_OR_RETURN(std::unique_ptr<Job> job, Job::connect(place, {}));
      return job->meet(Status(), {}, "");
    });
    EXPECT_LT(nowMs() - begin, 1500);
    EXPECT_EQ(status.exitStatus(), 5);
    std::string death =
        fmt::format("rank {} was ended by signal 9 (Killed)", victim);
    if (victim == 0)
      EXPECT_EQ(status.message(), "rank 0 is gone: the process ended before "
                                  "all ranks had met");
    else
      EXPECT_EQ(status.message(), death);
    EXPECT_NE(status.toString().find(death), std::string::npos)
        << status.toString();
    EXPECT_NE(status.toString().find(victim == 0 ? "said by ranks 1-3"
                                                 : "said by ranks 0, 1 and 3"),
              std::string::npos)
        << status.toString();
    EXPECT_EQ(status.toString().find("did not end"), std::string::npos)
        << status.toString();
  }
}

// The starter ends those that hear nothing. They are not the reason.
TEST(Launch, RanksThatHadToBeKilledAreNotBlamed) {
  Status status = launch(3, [](const Place &place, const auto &) {
    if (place.rank == 1)
      ::raise(SIGKILL);
    ::pause();
    return Status();
  });
  EXPECT_EQ(status.toString(),
            "error: rank 1 was ended by signal 9 (Killed)\n"
            "  note: ranks 0 and 2 did not end by themselves\n");
}

/// So many more files or connections than now can be opened, or fewer.
static void allowMoreFiles(int count) {
  int next = ::dup(0);
  ::close(next);
  rlimit limit = {rlim_t(next + count), rlim_t(next + count)};
  ::setrlimit(RLIMIT_NOFILE, &limit);
}

// In processes of their own, for there is no way back from a lower limit.
TEST(Launch, TooFewOpenFilesAreToldAtOnce) {
  // Before it starts, with the number that is needed.
  Status status = launch(1, [](const Place &, const auto &) {
    allowMoreFiles(0);
    return launch(4, [](const Place &, const auto &) { return Status(); });
  });
  EXPECT_EQ(status.exitStatus(), 3);
  EXPECT_NE(status.message().find("open files and connections are needed, "),
            std::string::npos)
      << status.toString();
  EXPECT_NE(status.toString().find("help: ulimit -n "), std::string::npos);
  // When rank 0 listens already, and when another looks for it.
  for (int poor : {0, 1}) {
    int64_t begin = nowMs();
    status = launch(2, [&](const Place &place, const auto &) {
      if (place.rank == 1)
        ::usleep(200000);
      if (place.rank == 1 && poor == 1)
        allowMoreFiles(0);
      Job::Options options;
      options.timeoutMs = 1000;
      LMC_ASSIGN_OR_RETURN(std::unique_ptr<Job> job,
                           Job::connect(place, options));
      ::usleep(100000); // the starter's trial of the port is over
      if (place.rank == 0 && poor == 0)
        allowMoreFiles(0);
      return job->meet(Status(), {}, "");
    });
    EXPECT_LT(nowMs() - begin, 5000);
    EXPECT_EQ(status.exitStatus(), 3) << status.toString();
    EXPECT_EQ(status.message().find(fmt::format("rank {}", poor)), 0u)
        << status.toString();
  }
}

// Somebody who has to wait outside does not keep the server's thread busy.
TEST(Launch, NoRoomForAConnectionIsNoBusyLoop) {
  Status status = launch(1, [](const Place &place, const auto &) {
    LMC_ASSIGN_OR_RETURN(std::unique_ptr<Job> job, Job::connect(place, {}));
    LMC_RETURN_IF_ERROR(job->meet(Status(), {}, ""));
    allowMoreFiles(1); // for this side
    StatusOr<Socket> outside = connectTo(place.host, place.port, nowMs());
    LMC_RETURN_IF_ERROR(outside.status());
    ::usleep(500000);
    rusage used;
    ::getrusage(RUSAGE_SELF, &used);
    int64_t ms = used.ru_utime.tv_usec / 1000 + used.ru_stime.tv_usec / 1000;
    return ms < 200 ? job->leave() : jobFailed("busy for {} ms", ms);
  });
  EXPECT_TRUE(status.ok()) << status.toString();
}
