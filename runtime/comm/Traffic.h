// What a rank exchanges, counted where it passes: a communicator around
// another one that adds up the calls, bytes and time of each kind. The time is
// what the rank's thread spends in the calls: waiting for others, copying and
// summing.
//
// Bytes are counted as `lmc inspect` counts them in the plan: a collective's
// are those of the larger of its source and target, and what a member receives
// is what a ring passes to it, whatever road the bytes really take:
//
//   all-reduce                                2 (n-1)/n of the bytes
//   reduce-scatter, all-gather, all-to-all      (n-1)/n of the bytes
//   broadcast, receive                                 all of them
#ifndef LMC_RUNTIME_COMM_TRAFFIC_H
#define LMC_RUNTIME_COMM_TRAFFIC_H

#include "runtime/comm/Reduce.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <vector>

namespace lmc::runtime {

/// Rows of a Traffic: the kinds of collectives in their order, then these.
inline constexpr int sendRow = 5, receiveRow = 6, trafficRows = 7;
inline constexpr const char *trafficRowNames[trafficRows] = {
    "all_reduce", "reduce_scatter", "all_gather", "all_to_all",
    "broadcast",  "send",           "receive"};

/// What one member of a ring of `members` receives of one call; rounded down.
inline int64_t ringBytesReceived(int row, int64_t bytes, int64_t members) {
  auto share = [&](int64_t passes) { // of passes (members - 1) / members
    return bytes / members * passes * (members - 1) +
           bytes % members * passes * (members - 1) / members;
  };
  switch (row) {
  case int(CollectiveKind::AllReduce):
    return share(2);
  case int(CollectiveKind::ReduceScatter):
  case int(CollectiveKind::AllGather):
  case int(CollectiveKind::AllToAll):
    return share(1);
  case sendRow:
    return 0;
  default:
    return bytes;
  }
}

struct Traffic {
  struct Row {
    int64_t calls = 0, bytes = 0, received = 0, timeNs = 0;
  };
  std::array<Row, trafficRows> rows{};

  void add(int row, int64_t calls, int64_t bytes, int64_t members) {
    rows[size_t(row)].calls += calls;
    rows[size_t(row)].bytes += calls * bytes;
    rows[size_t(row)].received +=
        calls * ringBytesReceived(row, bytes, members);
  }
  Traffic since(const Traffic &before) const {
    Traffic difference = *this;
    for (size_t i = 0; i < rows.size(); ++i) {
      difference.rows[i].calls -= before.rows[i].calls;
      difference.rows[i].bytes -= before.rows[i].bytes;
      difference.rows[i].received -= before.rows[i].received;
      difference.rows[i].timeNs -= before.rows[i].timeNs;
    }
    return difference;
  }
};

/// `inner` outlives it. Counts what the rank's thread calls.
class CountingCommunicator final : public Communicator {
public:
  explicit CountingCommunicator(Communicator &inner) : inner(inner) {}

  const Traffic &traffic() const { return counted; }

  int rank() const override { return inner.rank(); }
  int numRanks() const override { return inner.numRanks(); }
  StatusOr<int> openGroup(const std::vector<int> &ranks,
                          int64_t maxBytes) override {
    LMC_ASSIGN_OR_RETURN(int group, inner.openGroup(ranks, maxBytes));
    members.resize(std::max(members.size(), size_t(group) + 1));
    members[size_t(group)] = int64_t(ranks.size());
    return group;
  }
  Status collective(const CollectiveCall &call, const std::byte *source,
                    std::byte *target) override {
    if (size_t(call.group) < members.size())
      counted.add(int(call.kind), 1, call.elements * elementBytes(call),
                  members[size_t(call.group)]);
    Stopwatch watch(counted.rows[size_t(call.kind)]);
    return inner.collective(call, source, target);
  }
  Status send(int peer, uint32_t channel, const std::byte *source,
              int64_t bytes) override {
    counted.add(sendRow, 1, bytes, 2);
    Stopwatch watch(counted.rows[sendRow]);
    return inner.send(peer, channel, source, bytes);
  }
  Status receive(int peer, uint32_t channel, std::byte *target,
                 int64_t bytes) override {
    counted.add(receiveRow, 1, bytes, 2);
    Stopwatch watch(counted.rows[receiveRow]);
    return inner.receive(peer, channel, target, bytes);
  }
  Status barrier() override { return inner.barrier(); }
  void abort(const Status &reason) override { inner.abort(reason); }

private:
  /// Adds its life to a row.
  class Stopwatch {
  public:
    explicit Stopwatch(Traffic::Row &row) : row(row) {}
    ~Stopwatch() {
      row.timeNs += std::chrono::nanoseconds(Clock::now() - start).count();
    }

  private:
    using Clock = std::chrono::steady_clock;
    Traffic::Row &row;
    const Clock::time_point start = Clock::now();
  };

  Communicator &inner;
  std::vector<int64_t> members; ///< of each group
  Traffic counted;
};

} // namespace lmc::runtime

#endif // LMC_RUNTIME_COMM_TRAFFIC_H
