// Collectives of ranks that all share memory. See HostCommunicator.h.
//
// AllReduce of a chunk by three members, each with a buffer [ p0 p1 p2 ]:
//
//   rank 0   a0 a1 a2  -offer->  S0 = a0+b0+c0 into its p0  -offer->  copy out
//   rank 1   b0 b1 b2            S1 = a1+b1+c1 into its p1            S0 S1 S2
//   rank 2   c0 c1 c2            S2 = a2+b2+c2 into its p2
//
// Nobody reads piece r of rank r's buffer before its second offer, so the sum
// may take its place. Own pieces are read where the caller has them. Sums that
// pay for a loan are formed in the caller's target, and lent from there.
#include "runtime/comm/Reduce.h"
#include "runtime/comm/host/HostCommunicator.h"

#include <algorithm>
#include <cstring>
#include <emmintrin.h>

namespace lmc::runtime {

// Below this, in bytes read by each member, a second round costs more than
// everyone's doing all of the sums.
static constexpr int64_t onePhaseBytes = 32 << 10;

// A gather offers pieces of this size: the next is copied in while others read
// the last, and both buffers stay in the second cache.
static constexpr int64_t gatherBytes = 256 << 10;

// What a gather fills beyond this, in bytes, is no longer in a core's caches
// when it is read: stored past them, its lines are not read first.
static constexpr int64_t streamedBytes = 4 << 20;

// Pieces of this size and more, in bytes, are worth a call of the kernel and
// the wait for their readers.
static constexpr int64_t lentBytes = 64 << 10;

/// A copy whose stores go past the caches, if it `streams`.
static void copyBytes(std::byte *to, const std::byte *from, size_t bytes,
                      bool streams) {
  if (!streams) {
    std::memcpy(to, from, bytes);
    return;
  }
  const size_t head = std::min(bytes, size_t(-uintptr_t(to) % 16));
  std::memcpy(to, from, head);
  size_t at = head;
  for (; at + 64 <= bytes; at += 64) {
    const auto *line = reinterpret_cast<const __m128i *>(from + at);
    auto *out = reinterpret_cast<__m128i *>(to + at);
    __m128i a = _mm_loadu_si128(line), b = _mm_loadu_si128(line + 1),
            c = _mm_loadu_si128(line + 2), d = _mm_loadu_si128(line + 3);
    _mm_stream_si128(out, a);
    _mm_stream_si128(out + 1, b);
    _mm_stream_si128(out + 2, c);
    _mm_stream_si128(out + 3, d);
  }
  std::memcpy(to + at, from + at, bytes - at);
  _mm_sfence(); // before the buffer that was read is released
}

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
    const bool lendsSums = lends && count * size / members >= lentBytes;
    std::byte *sums = (lendsSums ? out : buffer) + begin * size;
    reduceInOrder(call.dtype, call.reduction, group.sources.data(),
                  group.sources.size(), end - begin, sums);
    if (lendsSums) {
      releaseAll(group);
      memory->lend(group.ranks, sums, signature);
      LMC_RETURN_IF_ERROR(borrowPieces(group, signature, out, count, size));
      continue;
    }
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
  return memory->awaitBorrowers();
}

/// Reads every other member's piece of `elements` where it lends it.
Status HostCommunicator::borrowPieces(Group &group, uint32_t signature,
                                      std::byte *target, int64_t elements,
                                      int64_t elementBytes) {
  const size_t members = group.ranks.size();
  auto first = [&](size_t m) {
    return elements * int64_t(m) / int64_t(members) * elementBytes;
  };
  for (size_t step = 1; step < members; ++step) {
    // Not all from the same one at the same time.
    const size_t m = (group.me + step) % members;
    LMC_RETURN_IF_ERROR(memory->borrow(
        group.ranks[m], signature, target + first(m), first(m + 1) - first(m)));
  }
  return Status();
}

/// An AllGather whose pieces are read where the callers have them.
Status HostCommunicator::gatherLent(Group &group, const CollectiveCall &call,
                                    const std::byte *source,
                                    std::byte *target) {
  const int64_t size = elementBytes(call);
  const int64_t bytes = call.elements * size;
  const int64_t piece = bytes / int64_t(group.ranks.size());
  const uint32_t signature = signatureOf(call, group.ranks.size());
  memory->lend(group.ranks, source, signature);
  std::byte *mine = target + int64_t(group.me) * piece;
  // Before others read it: now it is in this core's caches alone.
  if (mine != source)
    copyBytes(mine, source, size_t(piece), bytes > streamedBytes);
  LMC_RETURN_IF_ERROR(
      borrowPieces(group, signature, target, call.elements, size));
  return memory->awaitBorrowers();
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
  const bool streams = call.elements * size > streamedBytes;
  if (lends && gathers && piece * size >= lentBytes)
    return gatherLent(group, call, source, target);
  const int64_t perChunk =
      gathers ? gatherBytes / size : SharedMemory::bufferBytes / size / members;
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
    const std::byte *mine =
        source + (gathers ? done : me * piece + done) * size;
    auto fill = [&](int64_t m, const std::byte *from) {
      std::byte *to = target + (m * piece + done) * size;
      if (to != from)
        copyBytes(to, from, bytes, streams);
    };
    // Others may still be on their way.
    if (call.kind != CollectiveKind::ReduceScatter)
      fill(me, mine);
    LMC_RETURN_IF_ERROR(takeAll(group, signature));
    for (int64_t m = 0; m < members; ++m) {
      group.sources[size_t(m)] =
          m == me
              ? mine
              : memory->buffer(group.ranks[size_t(m)], group.taken[size_t(m)]) +
                    (gathers ? 0 : me * count * size);
      if (m != me && call.kind != CollectiveKind::ReduceScatter)
        fill(m, group.sources[size_t(m)]);
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
