// One conformance suite for every communicator: N ranks, each on its thread.
#include "runtime/comm/Traffic.h"
#include "runtime/comm/host/HostCommunicator.h"
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

/// Processes stand for threads here: the memory between them is the same.
static void runHost(int ranks, const Body &body, bool tcpOnly,
                    int ranksPerHost = 100) {
  auto listener = listenAt("127.0.0.1", 0);
  ASSERT_TRUE(listener.ok()) << listener.status().toString();
  int port = portOf(*listener), descriptor = listener->release();
  std::vector<std::thread> threads;
  for (int rank = 0; rank < ranks; ++rank)
    threads.emplace_back([&, rank] {
      Place place;
      place.rank = rank;
      place.ranks = ranks;
      place.port = port;
      place.token = "conformance";
      if (rank == 0)
        place.listener = descriptor;
      Job::Options options;
      options.timeoutMs = 20000;
      auto job = Job::connect(place, options);
      ASSERT_TRUE(job.ok()) << job.status().toString();
      auto comm = HostCommunicator::create(
          **job, {tcpOnly, std::to_string(rank / ranksPerHost)});
      ASSERT_TRUE(comm.ok()) << comm.status().toString();
      Status status = (*job)->meet(Status(), {}, (*comm)->endpoint());
      ASSERT_TRUE(status.ok()) << status.toString();
      status = (*comm)->connect();
      ASSERT_TRUE(status.ok()) << status.toString();
      EXPECT_LE(int((*comm)->ranksOnHost().size()), ranksPerHost);
      body(**comm);
      (void)(*job)->leave();
    });
  for (std::thread &thread : threads)
    thread.join();
}
static void runShared(int ranks, const Body &body) {
  runHost(ranks, body, /*tcpOnly=*/false);
}
static void runTcp(int ranks, const Body &body) {
  runHost(ranks, body, /*tcpOnly=*/true);
}
static void runHostsOfTwo(int ranks, const Body &body) {
  runHost(ranks, body, /*tcpOnly=*/false, /*ranksPerHost=*/2);
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

// A sharded bucket is summed into, and gathered from, its own piece.
TEST_P(CommunicatorConformance, PiecesMayStayWhereTheyLie) {
  for (int64_t piece : {16, 300000}) {
    GetParam().run(3, [&](Communicator &comm) {
      int64_t all = 3 * piece;
      auto group = comm.openGroup(everyone(3), 4 * all);
      ASSERT_TRUE(group.ok());
      std::vector<float> bucket(size_t(all), 0), wanted(size_t(all), 0);
      for (int64_t i = 0; i < all; ++i) {
        bucket[size_t(i)] = value(comm.rank(), i);
        wanted[size_t(i)] = value(0, i) + value(1, i) + value(2, i);
      }
      std::byte *own = out(bucket) + comm.rank() * piece * 4;
      CollectiveCall call{CollectiveKind::ReduceScatter, Reduction::Sum,
                          DataType::F32, *group, all};
      ASSERT_TRUE(comm.collective(call, in(bucket), own).ok());
      call.kind = CollectiveKind::AllGather;
      ASSERT_TRUE(comm.collective(call, own, out(bucket)).ok());
      EXPECT_TRUE(bucket == wanted) << piece;
    });
  }
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
    std::vector<int> ends = {0, 3};
    auto group = comm.openGroup(
        comm.rank() % 3 ? std::vector<int>{comm.rank()} : ends, 4);
    ASSERT_TRUE(group.ok());
    std::vector<float> number = {1};
    Status status;
    if (comm.rank() == 3)
      std::this_thread::sleep_for(std::chrono::milliseconds(50));
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

/// The same calls on every communicator, all types, lengths around the limits
/// between algorithms and chunks; returns the bytes that each rank got.
static std::vector<std::string> manyCalls(const CommunicatorCase &which,
                                          int ranks) {
  std::vector<std::string> got(static_cast<size_t>(ranks));
  const int64_t lengths[] = {1,    ranks - 1,     7 * ranks, 1000,
                             9999, (1 << 18) + 1, 1500 * 501};
  which.run(ranks, [&](Communicator &comm) {
    auto group = comm.openGroup(everyone(ranks), 8 * 1500 * 501);
    ASSERT_TRUE(group.ok());
    std::string &all = got[size_t(comm.rank())];
    for (DataType dtype :
         {DataType::F32, DataType::F64, DataType::BF16, DataType::F16,
          DataType::I32, DataType::I64, DataType::U8})
      for (int64_t length : lengths)
        for (CollectiveKind kind :
             {CollectiveKind::AllReduce, CollectiveKind::ReduceScatter,
              CollectiveKind::AllGather, CollectiveKind::AllToAll,
              CollectiveKind::Broadcast}) {
          if (length > 10000 && dtype != DataType::F32 &&
              dtype != DataType::BF16)
            continue;
          bool whole = kind == CollectiveKind::AllReduce ||
                       kind == CollectiveKind::Broadcast;
          int64_t elements = whole ? length : length / ranks * ranks;
          int64_t size = lookUpDataType(int(dtype))->sizeBytes;
          double period[77]; // of what value() gives
          for (size_t i = 0; i < 77; ++i)
            period[i] = dtype == DataType::U8
                            ? double((size_t(comm.rank()) + i) % 50)
                            : double(value(comm.rank(), int64_t(i)));
          std::vector<std::byte> source(size_t(elements * size) + 1),
              target(size_t(elements * size) + 1);
          for (int64_t i = 0; i < elements; i += 77)
            convertElements(DataType::F64, period, dtype,
                            source.data() + 1 + i * size,
                            std::min<int64_t>(77, elements - i));
          Reduction reduction =
              length == 1000 ? Reduction::Max : Reduction::Sum;
          // Odd addresses: slices are aligned, but nothing relies on it.
          ASSERT_TRUE(
              comm.collective({kind, reduction, dtype, *group, elements},
                              source.data() + 1, target.data() + 1)
                  .ok());
          int64_t kept = kind == CollectiveKind::ReduceScatter
                             ? elements / ranks
                             : elements;
          all.append(reinterpret_cast<char *>(target.data() + 1),
                     size_t(kept * size));
        }
  });
  return got;
}

TEST_P(CommunicatorConformance, GivesTheBitsOfLocal) {
  for (int ranks : {2, 3, 5})
    EXPECT_TRUE(manyCalls(GetParam(), ranks) ==
                manyCalls({"local", runLocal}, ranks))
        << ranks << " ranks";
}

// An element's sum depends neither on where it lies nor on what is summed with
// it: buckets may be cut otherwise.
TEST_P(CommunicatorConformance, BucketsDoNotChangeBits) {
  const int64_t length = 700001, shift = 12345;
  GetParam().run(3, [&](Communicator &comm) {
    auto group = comm.openGroup(everyone(3), 4 * length);
    ASSERT_TRUE(group.ok());
    std::vector<float> whole(length);
    for (int64_t i = 0; i < length; ++i)
      whole[size_t(i)] = value(comm.rank(), i) * float(1 + i % 1001);
    std::vector<float> part(whole.begin() + shift, whole.end() - 17);
    auto sum = [&](std::vector<float> &bucket) {
      ASSERT_TRUE(
          comm.collective({CollectiveKind::AllReduce, Reduction::Sum,
                           DataType::F32, *group, int64_t(bucket.size())},
                          in(bucket), out(bucket))
              .ok());
    };
    sum(whole);
    sum(part);
    EXPECT_TRUE(std::equal(part.begin(), part.end(), whole.begin() + shift));
  });
}

// The order of 1F1B: a stage sends forward, then waits for what comes back;
// its neighbour does the same the other way round. Messages larger than any
// socket's buffer.
TEST_P(CommunicatorConformance, BothSidesMaySendLargeMessagesFirst) {
  GetParam().run(3, [&](Communicator &comm) {
    const size_t floats = 3 << 20;
    int me = comm.rank();
    std::vector<float> mine(floats), theirs(floats);
    for (int round = 0; round < 4; ++round) {
      for (size_t i = 0; i < floats; ++i)
        mine[i] = float(me * 1000 + round) + float(i % 977);
      for (int peer = 0; peer < 3; ++peer)
        if (peer != me)
          ASSERT_TRUE(comm.send(peer, 1, in(mine), int64_t(4 * floats)).ok());
      std::vector<float> sent = mine;
      std::fill(mine.begin(), mine.end(), -1.0f); // free to be written again
      for (int peer = 0; peer < 3; ++peer) {
        if (peer == me)
          continue;
        ASSERT_TRUE(
            comm.receive(peer, 1, out(theirs), int64_t(4 * floats)).ok());
        size_t wrong = 0;
        for (size_t i = 0; i < floats; ++i)
          wrong += theirs[i] != sent[i] + float((peer - me) * 1000);
        EXPECT_EQ(wrong, 0u);
      }
    }
    EXPECT_TRUE(comm.barrier().ok());
  });
}

INSTANTIATE_TEST_SUITE_P(Communicators, CommunicatorConformance,
                         testing::Values(CommunicatorCase{"local", runLocal},
                                         CommunicatorCase{"shared", runShared},
                                         CommunicatorCase{"tcp", runTcp},
                                         CommunicatorCase{"hosts",
                                                          runHostsOfTwo}),
                         [](const auto &info) { return info.param.name; });

TEST(Traffic, ReceivesWhatARingPasses) {
  int allReduce = int(CollectiveKind::AllReduce);
  int allGather = int(CollectiveKind::AllGather);
  EXPECT_EQ(ringBytesReceived(allReduce, 4096, 2), 4096);
  EXPECT_EQ(ringBytesReceived(allReduce, 4, 3), 5); // 16 / 3
  EXPECT_EQ(ringBytesReceived(allGather, 4096, 4), 3072);
  EXPECT_EQ(ringBytesReceived(receiveRow, 100, 2), 100);
  EXPECT_EQ(ringBytesReceived(sendRow, 100, 2), 0);
  // No product beyond 64 bits on the way.
  EXPECT_EQ(ringBytesReceived(allReduce, int64_t(1) << 50, 1 << 16),
            (int64_t(1) << 51) - (int64_t(1) << 35));
}

TEST(Traffic, CountsCallsOfEachKind) {
  runLocal(2, [](Communicator &inner) {
    CountingCommunicator comm(inner);
    int group = *comm.openGroup({0, 1}, 64);
    std::array<float, 16> values{};
    auto *bytes = reinterpret_cast<std::byte *>(values.data());
    CollectiveCall call{CollectiveKind::AllReduce, Reduction::Sum,
                        DataType::F32, group, 8};
    ASSERT_TRUE(comm.collective(call, bytes, bytes).ok());
    Traffic before = comm.traffic();
    ASSERT_TRUE(comm.collective(call, bytes, bytes).ok());
    ASSERT_TRUE(comm.send(1 - comm.rank(), 0, bytes, 12).ok());
    ASSERT_TRUE(comm.receive(1 - comm.rank(), 0, bytes, 12).ok());
    EXPECT_EQ(comm.traffic().rows[0].calls, 2);
    Traffic later = comm.traffic().since(before);
    EXPECT_EQ(later.rows[0].calls, 1);
    EXPECT_EQ(later.rows[0].bytes, 32);
    EXPECT_EQ(later.rows[0].received, 32);
    EXPECT_EQ(later.rows[sendRow].bytes, 12);
    EXPECT_EQ(later.rows[receiveRow].received, 12);
  });
}
