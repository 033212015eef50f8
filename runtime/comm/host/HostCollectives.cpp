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
//
// Where pieces are lent, a member reads the others' where they have them, sums
// into its target, and lends that. It takes a wait more, but what a core that
// is far away has written comes several times as fast by the kernel's copy as
// by loads (RATIONALE.md).
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

// What is lent is walked through in blocks and chunks of this size: what one
// member has read or summed is in the cache that cores share when others read.
static constexpr int64_t lentBlockBytes = 1 << 20;
static constexpr int64_t lentChunkBytes = 4 << 20;

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

/// The first element of a member's piece of `count`.
static int64_t firstOf(int64_t count, int64_t member, size_t members) {
  return count * member / int64_t(members);
}

Status HostCommunicator::allReduceShared(Group &group,
                                         const CollectiveCall &call,
                                         const std::byte *source,
                                         std::byte *target) {
  const int64_t size = elementBytes(call);
  const size_t members = group.ranks.size();
  const uint32_t signature = signatureOf(call, members);
  const uint32_t readers = uint32_t(members - 1);
  if (lends && call.elements * size / int64_t(members) >= lentBytes)
    return allReduceLent(group, call, source, target);
  const int64_t perChunk = SharedMemory::bufferBytes / size;
  for (int64_t done = 0; done < call.elements; done += perChunk) {
    const int64_t count = std::min(perChunk, call.elements - done);
    const std::byte *mine = source + done * size;
    std::byte *out = target + done * size;
    LMC_ASSIGN_OR_RETURN(int own, memory->acquire());
    std::byte *buffer = memory->buffer(rank(), own);
    auto sumInto = [&](int64_t begin, int64_t end, std::byte *sums) {
      for (size_t m = 0; m < members; ++m)
        group.sources[m] =
            (m == group.me ? mine
                           : memory->buffer(group.ranks[m], group.taken[m])) +
            begin * size;
      reduceInOrder(call.dtype, call.reduction, group.sources.data(), members,
                    end - begin, sums);
    };
    if (count * size * int64_t(members) <= onePhaseBytes) {
      std::memcpy(buffer, mine, size_t(count * size));
      memory->offer(group.ranks, own, signature, readers);
      LMC_RETURN_IF_ERROR(takeAll(group, signature));
      sumInto(0, count, out);
      releaseAll(group);
      continue;
    }
    const int64_t begin = firstOf(count, int64_t(group.me), members);
    const int64_t end = firstOf(count, int64_t(group.me) + 1, members);
    std::memcpy(buffer, mine, size_t(begin * size));
    std::memcpy(buffer + end * size, mine + end * size,
                size_t((count - end) * size));
    memory->offer(group.ranks, own, signature, readers);
    LMC_RETURN_IF_ERROR(takeAll(group, signature));
    sumInto(begin, end, buffer + begin * size);
    memory->offer(group.ranks, own, signature, 0);
    std::memcpy(out + begin * size, buffer + begin * size,
                size_t((end - begin) * size));
    for (size_t step = 1; step < members; ++step) {
      // Not all from the same one at the same time.
      const size_t m = (group.me + step) % members;
      const int peer = group.ranks[m];
      LMC_ASSIGN_OR_RETURN(int theirs, memory->take(peer, signature));
      const int64_t from = firstOf(count, int64_t(m), members);
      const int64_t to = firstOf(count, int64_t(m) + 1, members);
      std::memcpy(out + from * size, memory->buffer(peer, theirs) + from * size,
                  size_t((to - from) * size));
      memory->release(peer, theirs);
    }
  }
  return Status();
}

/// Lends `source`, and learns where the others lend theirs.
Status HostCommunicator::swapLoans(Group &group, uint32_t signature,
                                   const std::byte *source) {
  memory->lend(group.ranks, source, signature);
  for (size_t m = 0; m < group.ranks.size(); ++m) {
    if (m == group.me)
      continue;
    LMC_ASSIGN_OR_RETURN(group.lent[m],
                         memory->borrow(group.ranks[m], signature));
  }
  return Status();
}

void HostCommunicator::giveBackAll(Group &group) {
  for (size_t m = 0; m < group.ranks.size(); ++m)
    if (m != group.me)
      memory->giveBack(group.ranks[m]);
}

/// Sums elements [begin, end) of what all members lend.
Status HostCommunicator::sumLent(Group &group, const CollectiveCall &call,
                                 const std::byte *source, int64_t begin,
                                 int64_t end, std::byte *target) {
  const int64_t size = elementBytes(call);
  const size_t members = group.ranks.size();
  LMC_ASSIGN_OR_RETURN(int scratch, memory->acquire());
  const int64_t perBlock =
      SharedMemory::bufferBytes / int64_t(members - 1) / size;
  for (int64_t done = begin; done < end; done += perBlock) {
    const int64_t count = std::min(perBlock, end - done);
    std::byte *free = memory->buffer(rank(), scratch);
    for (size_t m = 0; m < members; ++m) {
      group.sources[m] = m == group.me ? source + done * size : free;
      if (m == group.me)
        continue;
      LMC_RETURN_IF_ERROR(memory->read(group.ranks[m],
                                       group.lent[m] + uint64_t(done * size),
                                       free, count * size));
      free += count * size;
    }
    reduceInOrder(call.dtype, call.reduction, group.sources.data(), members,
                  count, target + (done - begin) * size);
  }
  return Status();
}

/// In place, too: a sum that is lent was formed from what all members had.
Status HostCommunicator::allReduceLent(Group &group, const CollectiveCall &call,
                                       const std::byte *source,
                                       std::byte *target) {
  const int64_t size = elementBytes(call);
  const size_t members = group.ranks.size();
  const uint32_t signature = signatureOf(call, members);
  LMC_RETURN_IF_ERROR(swapLoans(group, signature, source));
  const int64_t perChunk = lentChunkBytes / size;
  for (int64_t done = 0; done < call.elements; done += perChunk) {
    const int64_t count = std::min(perChunk, call.elements - done);
    auto first = [&](size_t m) {
      return done + firstOf(count, int64_t(m), members);
    };
    LMC_RETURN_IF_ERROR(sumLent(group, call, source, first(group.me),
                                first(group.me + 1),
                                target + first(group.me) * size));
    memory->lend(group.ranks, target, signature);
    for (size_t step = 1; step < members; ++step) {
      const size_t m = (group.me + step) % members;
      const int peer = group.ranks[m];
      const int64_t begin = first(m) * size, end = first(m + 1) * size;
      LMC_ASSIGN_OR_RETURN(uint64_t theirs, memory->borrow(peer, signature));
      LMC_RETURN_IF_ERROR(memory->read(peer, theirs + uint64_t(begin),
                                       target + begin, end - begin));
      memory->giveBack(peer);
    }
  }
  giveBackAll(group);
  return memory->awaitBorrowers();
}

Status HostCommunicator::reduceScatterLent(Group &group,
                                           const CollectiveCall &call,
                                           const std::byte *source,
                                           std::byte *target) {
  const size_t members = group.ranks.size();
  const int64_t piece = call.elements / int64_t(members);
  const int64_t begin = int64_t(group.me) * piece;
  LMC_RETURN_IF_ERROR(swapLoans(group, signatureOf(call, members), source));
  LMC_RETURN_IF_ERROR(
      sumLent(group, call, source, begin, begin + piece, target));
  giveBackAll(group);
  return memory->awaitBorrowers();
}

Status HostCommunicator::gatherLent(Group &group, const CollectiveCall &call,
                                    const std::byte *source,
                                    std::byte *target) {
  const size_t members = group.ranks.size();
  const int64_t bytes = call.elements * elementBytes(call);
  const int64_t piece = bytes / int64_t(members);
  const uint32_t signature = signatureOf(call, members);
  std::byte *mine = target + int64_t(group.me) * piece;
  LMC_RETURN_IF_ERROR(swapLoans(group, signature, source));
  for (int64_t done = 0; done < piece; done += lentBlockBytes) {
    const int64_t count = std::min(lentBlockBytes, piece - done);
    if (mine != source)
      copyBytes(mine + done, source + done, size_t(count),
                bytes > streamedBytes);
    for (size_t step = 1; step < members; ++step) {
      const size_t m = (group.me + step) % members;
      LMC_RETURN_IF_ERROR(
          memory->read(group.ranks[m], group.lent[m] + uint64_t(done),
                       target + int64_t(m) * piece + done, count));
    }
  }
  giveBackAll(group);
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
  if (lends && piece * size >= lentBytes && gathers)
    return gatherLent(group, call, source, target);
  if (lends && piece * size >= lentBytes &&
      call.kind == CollectiveKind::ReduceScatter)
    return reduceScatterLent(group, call, source, target);
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
