// One conformance suite for every communicator: N ranks, each on its thread.
#include "runtime/comm/local/LocalCommunicator.h"

#include <cmath>
#include <cstring>
#include <functional>
#include <gtest/gtest.h>
#include <thread>

using namespace lmc::runtime;

using Body = std::function<void(Communicator &)>;
struct CommunicatorCase {
  const char *name;
  std::function<void(int ranks, const Body &body)> run;
};
class CommunicatorConformance
    : public testing::TestWithParam<CommunicatorCase> {};

static void runLocal(int ranks, const Body &body) {
  auto world = makeLocalWorld(ranks);
  std::vector<std::thread> threads;
  for (int rank = 0; rank < ranks; ++rank)
    threads.emplace_back([&, rank] {
      auto comm = makeLocalCommunicator(world, rank);
      body(*comm);
    });
  for (std::thread &thread : threads)
    thread.join();
}

static const std::byte *in(const std::vector<float> &values) {
  return reinterpret_cast<const std::byte *>(values.data());
}
static std::byte *out(std::vector<float> &values) {
  return reinterpret_cast<std::byte *>(values.data());
}
static std::vector<int> everyone(int ranks) {
  std::vector<int> all;
  for (int rank = 0; rank < ranks; ++rank)
    all.push_back(rank);
  return all;
}

/// Values whose float32 sum depends on the order of its terms.
static float value(int rank, int64_t i) {
  return std::ldexp(1.0f + float(i % 7) * 0.1f, (rank * 5 + int(i)) % 11);
}

TEST_P(CommunicatorConformance, SumsInRankOrder) {
  for (int ranks : {1, 2, 3, 5}) {
    GetParam().run(ranks, [&](Communicator &comm) {
      EXPECT_EQ(comm.numRanks(), ranks);
      auto group = comm.openGroup(everyone(ranks), 4 * 60);
      ASSERT_TRUE(group.ok());
      for (int round = 0; round < 50; ++round) {
        std::vector<float> mine(60), wanted(60);
        for (int64_t i = 0; i < 60; ++i) {
          mine[size_t(i)] = value(comm.rank(), i + round);
          wanted[size_t(i)] = value(0, i + round);
          for (int rank = 1; rank < ranks; ++rank)
            wanted[size_t(i)] += value(rank, i + round);
        }
        std::vector<float> scattered(size_t(60 / ranks));
        CollectiveCall call{CollectiveKind::ReduceScatter, Reduction::Sum,
                            DataType::F32, *group, 60};
        ASSERT_TRUE(comm.collective(call, in(mine), out(scattered)).ok());
        for (size_t i = 0; i < scattered.size(); ++i)
          EXPECT_EQ(scattered[i],
                    wanted[size_t(comm.rank()) * scattered.size() + i]);
        call.kind = CollectiveKind::AllReduce;
        ASSERT_TRUE(comm.collective(call, in(mine), out(mine)).ok());
        EXPECT_EQ(mine, wanted);
      }
    });
  }
}

TEST_P(CommunicatorConformance, MovesPieces) {
  GetParam().run(3, [&](Communicator &comm) {
    auto group = comm.openGroup(everyone(3), 36);
    ASSERT_TRUE(group.ok());
    float me = float(comm.rank());
    std::vector<float> piece = {me, me + 10}, all(6);
    CollectiveCall call{CollectiveKind::AllGather, Reduction::Sum,
                        DataType::F32, *group, 6};
    ASSERT_TRUE(comm.collective(call, in(piece), out(all)).ok());
    EXPECT_EQ(all, (std::vector<float>{0, 10, 1, 11, 2, 12}));
    std::vector<float> rows = {me, me + 10, me + 20}, columns(3);
    call.kind = CollectiveKind::AllToAll;
    call.elements = 3;
    ASSERT_TRUE(comm.collective(call, in(rows), out(columns)).ok());
    EXPECT_EQ(columns,
              (std::vector<float>{0 + 10 * me, 1 + 10 * me, 2 + 10 * me}));
    call.kind = CollectiveKind::Broadcast;
    ASSERT_TRUE(comm.collective(call, in(rows), out(columns)).ok());
    EXPECT_EQ(columns, (std::vector<float>{0, 10, 20}));
    call.kind = CollectiveKind::AllReduce;
    call.reduction = Reduction::Max;
    ASSERT_TRUE(comm.collective(call, in(rows), out(columns)).ok());
    EXPECT_EQ(columns, (std::vector<float>{2, 12, 22}));
  });
}

TEST_P(CommunicatorConformance, NarrowTypesAreRoundedOnce) {
  GetParam().run(3, [&](Communicator &comm) {
    auto group = comm.openGroup(everyone(3), 2);
    ASSERT_TRUE(group.ok());
    // 1 + 2^-8 + 2^-8 is 1 + 2^-7 in one rounding, 1 in two.
    uint16_t number = floatToBf16(comm.rank() == 0 ? 1.0f : 0x1p-8f);
    auto *bytes = reinterpret_cast<std::byte *>(&number);
    CollectiveCall call{CollectiveKind::AllReduce, Reduction::Sum,
                        DataType::BF16, *group, 1};
    ASSERT_TRUE(comm.collective(call, bytes, bytes).ok());
    EXPECT_EQ(bf16ToFloat(number), 1.0f + 0x1p-7f);
  });
}

TEST_P(CommunicatorConformance, GroupsAreIndependent) {
  GetParam().run(4, [&](Communicator &comm) {
    int row = comm.rank() / 2, column = comm.rank() % 2;
    auto rowGroup = comm.openGroup({2 * row, 2 * row + 1}, 4);
    auto columnGroup = comm.openGroup({column, column + 2}, 4);
    ASSERT_TRUE(rowGroup.ok() && columnGroup.ok());
    for (int round = 0; round < 100; ++round) {
      std::vector<float> number = {float(comm.rank())};
      CollectiveCall call{CollectiveKind::AllReduce, Reduction::Sum,
                          DataType::F32, *rowGroup, 1};
      ASSERT_TRUE(comm.collective(call, in(number), out(number)).ok());
      EXPECT_EQ(number[0], float(4 * row + 1));
      call.group = *columnGroup;
      ASSERT_TRUE(comm.collective(call, in(number), out(number)).ok());
      EXPECT_EQ(number[0], 6.0f);
    }
  });
}

TEST_P(CommunicatorConformance, MessagesArriveInOrderAndSendsDoNotWait) {
  GetParam().run(2, [&](Communicator &comm) {
    int peer = 1 - comm.rank();
    for (uint32_t channel : {0u, 5u})
      for (int i = 0; i < 20; ++i) { // both send first: no deadlock
        std::vector<float> message = {float(comm.rank() * 100 + i),
                                      float(channel)};
        ASSERT_TRUE(comm.send(peer, channel, in(message), 8).ok());
      }
    for (uint32_t channel : {5u, 0u})
      for (int i = 0; i < 20; ++i) {
        std::vector<float> message(2);
        ASSERT_TRUE(comm.receive(peer, channel, out(message), 8).ok());
        EXPECT_EQ(message[0], float(peer * 100 + i));
        EXPECT_EQ(message[1], float(channel));
      }
    EXPECT_TRUE(comm.barrier().ok());
  });
}

TEST_P(CommunicatorConformance, AbortReachesWhoeverWaits) {
  GetParam().run(4, [&](Communicator &comm) {
    auto group = comm.openGroup(everyone(4), 4);
    ASSERT_TRUE(group.ok());
    std::vector<float> number = {1};
    Status status;
    if (comm.rank() == 3)
      comm.abort(makeError(ErrorKind::PeerFailed, "rank 3 is gone"));
    else if (comm.rank() == 2)
      status = comm.receive(3, 0, out(number), 4);
    else if (comm.rank() == 1)
      status = comm.barrier();
    if (comm.rank() == 0 || comm.rank() == 3)
      status = comm.collective(
          {CollectiveKind::AllReduce, Reduction::Sum, DataType::F32, *group, 1},
          in(number), out(number));
    ASSERT_FALSE(status.ok());
    EXPECT_EQ(status.exitStatus(), 5);
    EXPECT_EQ(status.message(), "rank 3 is gone");
  });
}

INSTANTIATE_TEST_SUITE_P(Communicators, CommunicatorConformance,
                         testing::Values(CommunicatorCase{"local", runLocal}),
                         [](const auto &info) { return info.param.name; });
