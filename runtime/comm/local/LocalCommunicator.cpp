// See LocalCommunicator.h for how a collective goes.
#include "runtime/comm/local/LocalCommunicator.h"
#include "runtime/base/Futex.h"
#include "runtime/comm/Reduce.h"

#include <algorithm>
#include <cstring>
#include <deque>
#include <map>
#include <mutex>

namespace lmc::runtime {

namespace {

/// A counting barrier that an abort opens for good.
class AbortableBarrier {
public:
  explicit AbortableBarrier(int members) : members(uint32_t(members)) {}

  /// False when the job was aborted.
  bool wait(const std::atomic<bool> &aborted) {
    uint32_t round = generation.load(std::memory_order_acquire);
    if (arrived.fetch_add(1, std::memory_order_acq_rel) + 1 == members) {
      arrived.store(0, std::memory_order_relaxed);
      generation.fetch_add(1);
      futexWake(generation);
      return !aborted.load();
    }
    for (int i = 0; i < 100; ++i)
      if (generation.load(std::memory_order_acquire) != round)
        return !aborted.load();
    // The bounded sleep also notices an abort that came just before it.
    while (generation.load(std::memory_order_acquire) == round) {
      if (aborted.load())
        return false;
      futexWait(generation, round, 20'000'000);
    }
    return !aborted.load();
  }

private:
  const uint32_t members;
  std::atomic<uint32_t> arrived{0};
  std::atomic<uint32_t> generation{0};
};

struct Group {
  Group(std::vector<int> ranks, int64_t maxBytes)
      : ranks(std::move(ranks)), barrier(int(this->ranks.size())),
        sources(this->ranks.size()), targets(this->ranks.size()),
        calls(this->ranks.size()), staging(new std::byte[size_t(maxBytes)]) {}
  std::vector<int> ranks;
  AbortableBarrier barrier;
  std::vector<const std::byte *> sources;
  std::vector<std::byte *> targets;
  std::vector<CollectiveCall> calls;
  std::unique_ptr<std::byte[]> staging; // touched only when used
};

/// Messages of one channel between two ranks; spent buffers are used again, so
/// a steady exchange allocates nothing.
struct Mailbox {
  std::mutex mutex;
  std::atomic<uint32_t> arrivals{0};
  std::deque<std::vector<std::byte>> waiting;
  std::vector<std::vector<std::byte>> spent;
};

} // namespace

class LocalWorld {
public:
  explicit LocalWorld(int numRanks) : numRanks(numRanks), all(numRanks) {}

  std::shared_ptr<Group> group(const std::vector<int> &ranks, int index,
                               int64_t maxBytes) {
    std::lock_guard<std::mutex> lock(mutex);
    std::shared_ptr<Group> &found = groups[{ranks, index}];
    if (!found)
      found = std::make_shared<Group>(ranks, maxBytes);
    return found;
  }

  Mailbox &mailbox(int from, int to, uint32_t channel) {
    std::lock_guard<std::mutex> lock(mutex);
    std::unique_ptr<Mailbox> &found = mailboxes[{from, to, channel}];
    if (!found)
      found = std::make_unique<Mailbox>();
    return *found;
  }

  void abort(const Status &reason) {
    std::lock_guard<std::mutex> lock(mutex);
    if (!aborted.load()) {
      verdict = reason;
      aborted.store(true);
    }
  }
  Status theVerdict() {
    std::lock_guard<std::mutex> lock(mutex);
    return verdict;
  }

  const int numRanks;
  AbortableBarrier all;
  std::atomic<bool> aborted{false};

private:
  std::mutex mutex;
  Status verdict;
  std::map<std::pair<std::vector<int>, int>, std::shared_ptr<Group>> groups;
  std::map<std::tuple<int, int, uint32_t>, std::unique_ptr<Mailbox>> mailboxes;
};

namespace {

class LocalCommunicator final : public Communicator {
public:
  LocalCommunicator(std::shared_ptr<LocalWorld> world, int rank)
      : world(std::move(world)), myRank(rank) {}

  int rank() const override { return myRank; }
  int numRanks() const override { return world->numRanks; }

  StatusOr<int> openGroup(const std::vector<int> &ranks,
                          int64_t maxBytes) override {
    auto me = std::find(ranks.begin(), ranks.end(), myRank);
    if (me == ranks.end())
      return makeError(ErrorKind::Bug, "rank {} opens a group without itself",
                       myRank);
    // The n-th group of equal ranks on one member is the n-th on all.
    int index = 0;
    for (const Membership &one : memberships)
      index += one.group->ranks == ranks;
    memberships.push_back({world->group(ranks, index, maxBytes),
                           int(me - ranks.begin()),
                           std::vector<const std::byte *>(ranks.size())});
    return int(memberships.size() - 1);
  }

  Status collective(const CollectiveCall &call, const std::byte *source,
                    std::byte *target) override {
    if (size_t(call.group) >= memberships.size())
      return makeError(ErrorKind::Bug, "collective in group {} of {}",
                       call.group, memberships.size());
    Membership &mine = memberships[size_t(call.group)];
    Group &group = *mine.group;
    size_t me = size_t(mine.member);
    group.sources[me] = source;
    group.targets[me] = target;
    group.calls[me] = call;
    if (!group.barrier.wait(world->aborted))
      return world->theVerdict();
    const CollectiveCall &first = group.calls[0];
    bool alike = first.kind == call.kind && first.dtype == call.dtype &&
                 first.elements == call.elements &&
                 first.reduction == call.reduction;
    if (alike)
      exchange(call, mine);
    else
      abort(makeError(ErrorKind::Bug,
                      "rank {} and rank {} meet in different collectives",
                      group.ranks[0], myRank));
    if (!group.barrier.wait(world->aborted))
      return world->theVerdict();
    if (call.kind == CollectiveKind::AllReduce) {
      std::memcpy(target, group.staging.get(),
                  size_t(call.elements * elementBytes(call)));
      // Nobody may write staging again before all have read it.
      if (!group.barrier.wait(world->aborted))
        return world->theVerdict();
    }
    return Status();
  }

  Status send(int peer, uint32_t channel, const std::byte *source,
              int64_t bytes) override {
    if (world->aborted.load())
      return world->theVerdict();
    Mailbox &box = world->mailbox(myRank, peer, channel);
    std::lock_guard<std::mutex> lock(box.mutex);
    std::vector<std::byte> message;
    if (!box.spent.empty()) {
      message = std::move(box.spent.back());
      box.spent.pop_back();
    }
    message.assign(source, source + bytes);
    box.waiting.push_back(std::move(message));
    box.arrivals.fetch_add(1);
    futexWake(box.arrivals);
    return Status();
  }

  Status receive(int peer, uint32_t channel, std::byte *target,
                 int64_t bytes) override {
    Mailbox &box = world->mailbox(peer, myRank, channel);
    while (true) {
      if (world->aborted.load())
        return world->theVerdict();
      uint32_t seen = box.arrivals.load();
      {
        std::lock_guard<std::mutex> lock(box.mutex);
        if (!box.waiting.empty()) {
          std::vector<std::byte> message = std::move(box.waiting.front());
          box.waiting.pop_front();
          if (int64_t(message.size()) != bytes)
            return makeError(ErrorKind::Bug,
                             "rank {} expects {} bytes from rank {} on channel "
                             "{}, got {}",
                             myRank, bytes, peer, channel, message.size());
          std::memcpy(target, message.data(), message.size());
          box.spent.push_back(std::move(message));
          return Status();
        }
      }
      futexWait(box.arrivals, seen, 20'000'000);
    }
  }

  Status barrier() override {
    return world->all.wait(world->aborted) ? Status() : world->theVerdict();
  }

  void abort(const Status &reason) override { world->abort(reason); }

private:
  struct Membership {
    std::shared_ptr<Group> group;
    int member;
    std::vector<const std::byte *> pieces; ///< one per member
  };

  /// Phase 2: what this member computes or fetches.
  void exchange(const CollectiveCall &call, Membership &mine) {
    Group &group = *mine.group;
    size_t me = size_t(mine.member);
    int64_t members = int64_t(group.ranks.size());
    int64_t size = elementBytes(call);
    int64_t piece = call.elements / members;
    std::byte *target = group.targets[me];
    switch (call.kind) {
    case CollectiveKind::AllReduce: {
      int64_t begin = call.elements * int64_t(me) / members;
      int64_t end = call.elements * int64_t(me + 1) / members;
      reduceFrom(call, mine, begin, end - begin,
                 group.staging.get() + begin * size);
      return;
    }
    case CollectiveKind::ReduceScatter:
      reduceFrom(call, mine, piece * int64_t(me), piece, target);
      return;
    case CollectiveKind::AllGather:
      for (int64_t m = 0; m < members; ++m)
        if (target + m * piece * size != group.sources[size_t(m)])
          std::memcpy(target + m * piece * size, group.sources[size_t(m)],
                      size_t(piece * size));
      return;
    case CollectiveKind::AllToAll:
      for (int64_t m = 0; m < members; ++m)
        std::memcpy(target + m * piece * size,
                    group.sources[size_t(m)] + int64_t(me) * piece * size,
                    size_t(piece * size));
      return;
    case CollectiveKind::Broadcast:
      if (target != group.sources[0])
        std::memcpy(target, group.sources[0], size_t(call.elements * size));
      return;
    }
  }

  static void reduceFrom(const CollectiveCall &call, Membership &mine,
                         int64_t begin, int64_t elements, std::byte *target) {
    for (size_t m = 0; m < mine.pieces.size(); ++m)
      mine.pieces[m] = mine.group->sources[m] + begin * elementBytes(call);
    reduceInOrder(call.dtype, call.reduction, mine.pieces.data(),
                  mine.pieces.size(), elements, target);
  }

  std::shared_ptr<LocalWorld> world;
  int myRank;
  std::vector<Membership> memberships;
};

} // namespace

std::shared_ptr<LocalWorld> makeLocalWorld(int numRanks) {
  return std::make_shared<LocalWorld>(numRanks);
}

std::unique_ptr<Communicator>
makeLocalCommunicator(std::shared_ptr<LocalWorld> world, int rank) {
  return std::make_unique<LocalCommunicator>(std::move(world), rank);
}

} // namespace lmc::runtime
