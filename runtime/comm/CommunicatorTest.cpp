// One conformance suite for every communicator: N ranks, each on its thread.
#include "runtime/comm/host/HostCommunicator.h"
#include "runtime/comm/local/LocalCommunicator.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <gtest/gtest.h>
#include <map>
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

// The rank whose piece lies in place is the first to return; what it writes
// then must not reach the other. Nor what is written over a sum.
TEST_P(CommunicatorConformance, WhatWasExchangedMayBeWrittenAgain) {
  const size_t piece = 1 << 19;
  GetParam().run(2, [&](Communicator &comm) {
    auto group = comm.openGroup(everyone(2), int64_t(8 * piece));
    ASSERT_TRUE(group.ok());
    std::vector<float> apart(piece), all(2 * piece);
    CollectiveCall call{CollectiveKind::AllGather, Reduction::Sum,
                        DataType::F32, *group, int64_t(2 * piece)};
    for (int round = 0; round < 20; ++round) {
      std::vector<float> &source = comm.rank() == 0 ? all : apart;
      std::fill_n(source.data(), piece, float(round + comm.rank()));
      call.kind = CollectiveKind::AllGather;
      ASSERT_TRUE(comm.collective(call, in(source), out(all)).ok());
      std::fill_n(source.data(), piece, -1.0f);
      for (size_t i = comm.rank() == 0 ? piece : 0; i < 2 * piece; ++i)
        ASSERT_EQ(all[i], float(round + int(i / piece))) << i;
      std::fill(all.begin(), all.end(), float(round + comm.rank()));
      call.kind = CollectiveKind::AllReduce;
      ASSERT_TRUE(comm.collective(call, in(all), out(all)).ok());
      ASSERT_TRUE(all == std::vector<float>(2 * piece, float(2 * round + 1)));
      std::fill(all.begin(), all.end(), -1.0f);
    }
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

// Rows of a grid of ranks work at the same time, in different calls, of chunks
// and small ones, and not equally often; then columns; and messages pass
// between the rows all the while.
TEST_P(CommunicatorConformance, GroupsWorkAtTheSameTime) {
  GetParam().run(4, [&](Communicator &comm) {
    const int row = comm.rank() / 2, column = comm.rank() % 2;
    const int across = (1 - row) * 2 + column;
    const int64_t large = 700001;
    auto rowGroup = comm.openGroup({2 * row, 2 * row + 1}, 4 * large);
    auto columnGroup = comm.openGroup({column, column + 2}, 4 * large);
    ASSERT_TRUE(rowGroup.ok() && columnGroup.ok());
    auto sum = [&](int group, int64_t count, float mine, float wanted) {
      std::vector<float> numbers(static_cast<size_t>(count), mine);
      ASSERT_TRUE(comm.collective({CollectiveKind::AllReduce, Reduction::Sum,
                                   DataType::F32, group, count},
                                  in(numbers), out(numbers))
                      .ok());
      EXPECT_EQ(std::count(numbers.begin(), numbers.end(), wanted), count);
    };
    for (int round = 0; round < 8; ++round) {
      std::vector<float> message = {float(comm.rank() + 10 * round)};
      ASSERT_TRUE(comm.send(across, 3, in(message), 4).ok());
      if (row == 0) {
        sum(*rowGroup, large, float(comm.rank()), 1);
      } else {
        std::vector<float> piece(1000, float(column)), both(2000);
        for (int call = 0; call <= round; ++call) {
          ASSERT_TRUE(
              comm.collective({CollectiveKind::AllGather, Reduction::Sum,
                               DataType::F32, *rowGroup, 2000},
                              in(piece), out(both))
                  .ok());
          EXPECT_EQ(std::count(both.begin() + 1000, both.end(), 1.0f), 1000);
          sum(*rowGroup, 1, float(comm.rank()), 5);
        }
      }
      sum(*columnGroup, round % 2 ? large : 3, float(comm.rank()),
          float(2 * column + 2));
      ASSERT_TRUE(comm.receive(across, 3, out(message), 4).ok());
      EXPECT_EQ(message[0], float(across + 10 * round));
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

// --- the same calls on every communicator: one result, bit for bit ---

using Bytes = std::vector<std::byte>;

static const DataType allTypes[] = {
    DataType::F32, DataType::F64, DataType::BF16, DataType::F16,
    DataType::I32, DataType::I64, DataType::U8};
static const CollectiveKind allKinds[] = {
    CollectiveKind::AllReduce, CollectiveKind::ReduceScatter,
    CollectiveKind::AllGather, CollectiveKind::AllToAll,
    CollectiveKind::Broadcast};

/// A call and its name in a failure.
struct NamedCall {
  CollectiveCall call;
  int64_t sizeBytes;
  std::string name;
};

/// All kinds, types and reductions; odd counts, and counts around the limits
/// between algorithms and chunks.
static std::vector<NamedCall> manyCalls(int ranks) {
  std::vector<NamedCall> calls;
  for (DataType dtype : allTypes) {
    const DataTypeInfo &info = *lookUpDataType(int(dtype));
    const int64_t chunk = SharedMemory::bufferBytes / info.sizeBytes;
    for (int64_t length :
         {int64_t(1), int64_t(ranks - 1), int64_t(7 * ranks), int64_t(1000),
          int64_t(9999), chunk, chunk + 1, 4 * chunk + 12345})
      for (CollectiveKind kind : allKinds) {
        bool whole = kind == CollectiveKind::AllReduce ||
                     kind == CollectiveKind::Broadcast;
        int64_t elements = whole ? length : length / ranks * ranks;
        bool reduces = kind == CollectiveKind::AllReduce ||
                       kind == CollectiveKind::ReduceScatter;
        for (Reduction reduction : {Reduction::Sum, Reduction::Max})
          if (reduction == Reduction::Sum || (reduces && length < 10000))
            calls.push_back(
                {{kind, reduction, dtype, 0, elements},
                 info.sizeBytes,
                 fmt::format("kind {} of {} {}, reduction {}, {} ranks",
                             int(kind), elements, info.name, int(reduction),
                             ranks)});
      }
  }
  return calls;
}

/// What a rank has is one pattern again and again, of so many elements: no
/// piece or chunk begins where another did.
static constexpr int64_t patternElements = 77;

static Bytes repeated(const Bytes &pattern, size_t bytes) {
  Bytes all(bytes);
  for (size_t at = 0; at < bytes; at += pattern.size())
    std::memcpy(all.data() + at, pattern.data(),
                std::min(pattern.size(), bytes - at));
  return all;
}

/// Sums depend on their order in float types, and need all 64 bits in I64.
static Bytes patternOf(const NamedCall &one, int rank) {
  double numbers[patternElements];
  Bytes pattern(size_t(patternElements * one.sizeBytes));
  for (int64_t i = 0; i < patternElements; ++i) {
    numbers[i] = double(value(rank, i));
    int64_t integer = (int64_t(numbers[i]) << 48) - 13 * rank - i;
    std::memcpy(pattern.data() + i * one.sizeBytes, &integer,
                size_t(one.sizeBytes));
  }
  if (lookUpDataType(int(one.call.dtype))->isFloat)
    EXPECT_TRUE(convertElements(DataType::F64, numbers, one.call.dtype,
                                pattern.data(), patternElements));
  return pattern;
}
static Bytes sourceOf(const NamedCall &one, int rank) {
  return repeated(patternOf(one, rank),
                  size_t(one.call.elements * one.sizeBytes));
}

template <typename T>
static Bytes reducePlainly(Reduction reduction,
                           const std::vector<Bytes> &sources) {
  Bytes result = sources[0];
  for (size_t m = 1; m < sources.size(); ++m)
    for (size_t at = 0; at < result.size(); at += sizeof(T)) {
      T sum, next;
      std::memcpy(&sum, result.data() + at, sizeof(T));
      std::memcpy(&next, sources[m].data() + at, sizeof(T));
      sum = reduction == Reduction::Max ? std::max(sum, next) : T(sum + next);
      std::memcpy(result.data() + at, &sum, sizeof(T));
    }
  return result;
}

/// The ranks' patterns, reduced as Communicator.h promises.
static Bytes reducedPattern(const NamedCall &one, int ranks) {
  std::vector<Bytes> patterns;
  for (int rank = 0; rank < ranks; ++rank)
    patterns.push_back(patternOf(one, rank));
  const Reduction reduction = one.call.reduction;
  switch (one.call.dtype) {
  case DataType::F64:
    return reducePlainly<double>(reduction, patterns);
  case DataType::I32:
    return reducePlainly<int32_t>(reduction, patterns);
  case DataType::I64:
    return reducePlainly<int64_t>(reduction, patterns);
  case DataType::U8:
    return reducePlainly<uint8_t>(reduction, patterns);
  default: // in float32, rounded once
    std::vector<Bytes> wide;
    for (const Bytes &pattern : patterns)
      convertElements(one.call.dtype, pattern.data(), DataType::F32,
                      wide.emplace_back(patternElements * 4).data(),
                      patternElements);
    Bytes result(patterns[0].size());
    convertElements(DataType::F32, reducePlainly<float>(reduction, wide).data(),
                    one.call.dtype, result.data(), patternElements);
    return result;
  }
}

static Bytes expectedOf(const NamedCall &one, int ranks, int rank) {
  const size_t bytes = size_t(one.call.elements * one.sizeBytes);
  const size_t piece = bytes / size_t(ranks);
  auto pieceOf = [&](const Bytes &all, int i) {
    auto begin = all.begin() + long(size_t(i) * piece);
    return Bytes(begin, begin + long(piece));
  };
  switch (one.call.kind) {
  case CollectiveKind::AllReduce:
    return repeated(reducedPattern(one, ranks), bytes);
  case CollectiveKind::ReduceScatter:
    return pieceOf(repeated(reducedPattern(one, ranks), bytes), rank);
  case CollectiveKind::Broadcast:
    return sourceOf(one, 0);
  case CollectiveKind::AllGather:
  case CollectiveKind::AllToAll:
    Bytes all;
    for (int from = 0; from < ranks; ++from) {
      Bytes part =
          pieceOf(sourceOf(one, from),
                  one.call.kind == CollectiveKind::AllToAll ? rank : 0);
      all.insert(all.end(), part.begin(), part.end());
    }
    return all;
  }
  return {};
}

static size_t hashOf(const std::byte *bytes, size_t size) {
  return std::hash<std::string_view>()(
      {reinterpret_cast<const char *>(bytes), size});
}

/// By call and rank; made once.
static const std::vector<std::vector<size_t>> &
expectedHashes(const std::vector<NamedCall> &calls, int ranks) {
  static std::map<int, std::vector<std::vector<size_t>>> made;
  std::vector<std::vector<size_t>> &hashes = made[ranks];
  for (size_t i = hashes.size(); i < calls.size(); ++i) {
    hashes.emplace_back();
    for (int rank = 0; rank < ranks; ++rank) {
      Bytes wanted = expectedOf(calls[i], ranks, rank);
      hashes.back().push_back(hashOf(wanted.data(), wanted.size()));
    }
  }
  return hashes;
}

TEST_P(CommunicatorConformance, GivesTheSameBits) {
  for (int ranks : {2, 3, 5}) {
    const std::vector<NamedCall> calls = manyCalls(ranks);
    const auto &expected = expectedHashes(calls, ranks);
    GetParam().run(ranks, [&](Communicator &comm) {
      auto group = comm.openGroup(everyone(ranks), 5 << 20);
      ASSERT_TRUE(group.ok());
      for (size_t i = 0; i < calls.size(); ++i) {
        CollectiveCall call = calls[i].call;
        call.group = *group;
        // Odd addresses: slices are aligned, but nothing relies on it.
        Bytes source = sourceOf(calls[i], comm.rank());
        source.insert(source.begin(), std::byte(0));
        Bytes target(source.size());
        ASSERT_TRUE(
            comm.collective(call, source.data() + 1, target.data() + 1).ok());
        size_t kept = target.size() - 1;
        if (call.kind == CollectiveKind::ReduceScatter)
          kept /= size_t(ranks);
        EXPECT_EQ(hashOf(target.data() + 1, kept),
                  expected[i][size_t(comm.rank())])
            << calls[i].name << ", rank " << comm.rank();
      }
    });
  }
}

// An element's sum depends neither on where it lies nor on what is summed with
// it: buckets may be cut otherwise.
TEST_P(CommunicatorConformance, BucketsDoNotChangeBits) {
  const int64_t length = 700001, shift = 12345;
  for (int ranks : {2, 3})
    GetParam().run(ranks, [&](Communicator &comm) {
      auto group = comm.openGroup(everyone(ranks), 4 * length);
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
