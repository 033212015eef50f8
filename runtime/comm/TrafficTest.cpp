// What a rank counts of its collectives and messages.
#include "runtime/comm/Traffic.h"
#include "runtime/comm/local/LocalCommunicator.h"

#include <array>
#include <gtest/gtest.h>
#include <thread>

using namespace lmc::runtime;

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
  auto world = makeLocalWorld(2);
  auto countCalls = [&](int rank) {
    auto inner = makeLocalCommunicator(world, rank);
    CountingCommunicator comm(*inner);
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
    EXPECT_GT(later.rows[0].timeNs, 0);
    EXPECT_LT(later.rows[0].timeNs, comm.traffic().rows[0].timeNs);
  };
  std::thread other(countCalls, 1);
  countCalls(0);
  other.join();
}
