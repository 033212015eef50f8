// Collectives of ranks that all share memory. See HostCommunicator.h.
//
// AllReduce of a chunk by three members, each with a buffer [ p0 p1 p2 ]:
//
//   rank 0   a0 a1 a2  -offer->  S0 = a0+b0+c0 into its p0  -offer->  copy out
//   rank 1   b0 b1 b2            S1 = a1+b1+c1 into its p1            S0 S1 S2
//   rank 2   c0 c1 c2            S2 = a2+b2+c2 into its p2
//
// Nobody reads piece r of rank r's buffer before its second offer, so the sum
// may take its place. Own pieces are read where the caller has them.
#include "runtime/comm/Reduce.h"
#include "runtime/comm/host/HostCommunicator.h"

#include <algorithm>
#include <cstring>

namespace lmc::runtime {

// Below this, in bytes read by each member, a second round costs more than
// everyone's doing all of the sums.
static constexpr int64_t onePhaseBytes = 32 << 10;

/// Waits for every other member's next offer.
Status HostCommunicator::takeAll(Group &group, uint32_t signature) {
  for (size_t m = 0; m < group.ranks.size(); ++m) {
    if (m == group.me)
      continue;
    LMC_ASSIGN_OR_RETURN(group.taken[m],
                         memory->take(group.ranks[m], signature));
  }
  return Status();
}

void HostCommunicator::releaseAll(Group &group) {
  for (size_t m = 0; m < group.ranks.size(); ++m)
    if (m != group.me)
      memory->release(group.ranks[m], group.taken[m]);
}

Status HostCommunicator::allReduceShared(Group &group,
                                         const CollectiveCall &call,
                                         const std::byte *source,
                                         std::byte *target) {
  const int64_t size = elementBytes(call);
  const int64_t members = int64_t(group.ranks.size());
  const int64_t me = int64_t(group.me);
  const uint32_t signature = signatureOf(call, group.ranks.size());
  const uint32_t readers = uint32_t(members - 1);
  const int64_t perChunk = SharedMemory::bufferBytes / size;
  for (int64_t done = 0; done < call.elements; done += perChunk) {
    const int64_t count = std::min(perChunk, call.elements - done);
    const std::byte *mine = source + done * size;
    std::byte *out = target + done * size;
    LMC_ASSIGN_OR_RETURN(int own, memory->acquire());
    std::byte *buffer = memory->buffer(rank(), own);
    if (count * size * members <= onePhaseBytes) {
      std::memcpy(buffer, mine, size_t(count * size));
      memory->offer(group.ranks, own, signature, readers);
      LMC_RETURN_IF_ERROR(takeAll(group, signature));
      for (size_t m = 0; m < group.ranks.size(); ++m)
        group.sources[m] = m == group.me
                               ? mine
                               : memory->buffer(group.ranks[m], group.taken[m]);
      reduceInOrder(call.dtype, call.reduction, group.sources.data(),
                    group.sources.size(), count, out);
      releaseAll(group);
      continue;
    }
    auto first = [&](int64_t m) { return count * m / members; };
    const int64_t begin = first(me), end = first(me + 1);
    std::memcpy(buffer, mine, size_t(begin * size));
    std::memcpy(buffer + end * size, mine + end * size,
                size_t((count - end) * size));
    memory->offer(group.ranks, own, signature, readers);
    LMC_RETURN_IF_ERROR(takeAll(group, signature));
    for (size_t m = 0; m < group.ranks.size(); ++m)
      group.sources[m] =
          (m == group.me ? mine
                         : memory->buffer(group.ranks[m], group.taken[m])) +
          begin * size;
    reduceInOrder(call.dtype, call.reduction, group.sources.data(),
                  group.sources.size(), end - begin, buffer + begin * size);
    memory->offer(group.ranks, own, signature, 0);
    std::memcpy(out + begin * size, buffer + begin * size,
                size_t((end - begin) * size));
    for (int64_t step = 1; step < members; ++step) {
      // Not all from the same one at the same time.
      int64_t m = (me + step) % members;
      int peer = group.ranks[size_t(m)];
      LMC_ASSIGN_OR_RETURN(int theirs, memory->take(peer, signature));
      std::memcpy(out + first(m) * size,
                  memory->buffer(peer, theirs) + first(m) * size,
                  size_t((first(m + 1) - first(m)) * size));
      memory->release(peer, theirs);
    }
  }
  return Status();
}

/// ReduceScatter, AllGather and AllToAll.
Status HostCommunicator::exchangeShared(Group &group,
                                        const CollectiveCall &call,
                                        const std::byte *source,
                                        std::byte *target) {
  const int64_t size = elementBytes(call);
  const int64_t members = int64_t(group.ranks.size());
  const int64_t me = int64_t(group.me);
  const int64_t piece = call.elements / members;
  const uint32_t signature = signatureOf(call, group.ranks.size());
  const bool gathers = call.kind == CollectiveKind::AllGather;
  const int64_t perChunk =
      SharedMemory::bufferBytes / size / (gathers ? 1 : members);
  for (int64_t done = 0; done < piece; done += perChunk) {
    const int64_t count = std::min(perChunk, piece - done);
    const size_t bytes = size_t(count * size);
    LMC_ASSIGN_OR_RETURN(int own, memory->acquire());
    std::byte *buffer = memory->buffer(rank(), own);
    if (gathers)
      std::memcpy(buffer, source + done * size, bytes);
    for (int64_t m = 0; m < members && !gathers; ++m)
      if (m != me)
        std::memcpy(buffer + m * count * size,
                    source + (m * piece + done) * size, bytes);
    memory->offer(group.ranks, own, signature, uint32_t(members - 1));
    LMC_RETURN_IF_ERROR(takeAll(group, signature));
    for (int64_t m = 0; m < members; ++m) {
      const std::byte *theirs =
          m == me
              ? source + (gathers ? done : me * piece + done) * size
              : memory->buffer(group.ranks[size_t(m)], group.taken[size_t(m)]) +
                    (gathers ? 0 : me * count * size);
      group.sources[size_t(m)] = theirs;
      if (call.kind != CollectiveKind::ReduceScatter)
        std::memmove(target + (m * piece + done) * size, theirs, bytes);
    }
    if (call.kind == CollectiveKind::ReduceScatter)
      reduceInOrder(call.dtype, call.reduction, group.sources.data(),
                    group.sources.size(), count, target + done * size);
    releaseAll(group);
  }
  return Status();
}

Status HostCommunicator::broadcastShared(Group &group,
                                         const CollectiveCall &call,
                                         const std::byte *source,
                                         std::byte *target) {
  const int64_t size = elementBytes(call);
  const uint32_t signature = signatureOf(call, group.ranks.size());
  const int64_t perChunk = SharedMemory::bufferBytes / size;
  for (int64_t done = 0; done < call.elements; done += perChunk) {
    const size_t bytes =
        size_t(std::min(perChunk, call.elements - done) * size);
    std::byte *out = target + done * size;
    if (group.me == 0) {
      LMC_ASSIGN_OR_RETURN(int own, memory->acquire());
      std::memcpy(memory->buffer(rank(), own), source + done * size, bytes);
      memory->offer(group.ranks, own, signature,
                    uint32_t(group.ranks.size() - 1));
      if (out != source + done * size)
        std::memcpy(out, source + done * size, bytes);
      continue;
    }
    LMC_ASSIGN_OR_RETURN(int root, memory->take(group.ranks[0], signature));
    std::memcpy(out, memory->buffer(group.ranks[0], root), bytes);
    memory->release(group.ranks[0], root);
  }
  return Status();
}

} // namespace lmc::runtime
