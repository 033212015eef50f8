// Collectives of ranks on several hosts: every member exchanges pieces with
// every other, by message. See HostCommunicator.h.
#include "runtime/comm/Reduce.h"
#include "runtime/comm/host/HostCommunicator.h"

#include <algorithm>
#include <cstring>

namespace lmc::runtime {

// As in HostCollectives.cpp.
static constexpr int64_t onePhaseBytes = 32 << 10;
/// The channel of pieces between ranks of one host, beyond the plan's 32 bits.
static constexpr uint64_t pieceChannel = uint64_t(1) << 32;

/// Sends outPieces[m] of `out` to every other member m and receives inPieces[m]
/// of `in` from it, in elements; empty ones are left out.
Status HostCommunicator::swapPieces(Group &group, uint32_t signature,
                                    int64_t elementBytes, const std::byte *out,
                                    const std::vector<Piece> &outPieces,
                                    std::byte *in,
                                    const std::vector<Piece> &inPieces) {
  size_t members = group.ranks.size();
  auto bytesOf = [&](const Piece &piece) {
    return (piece.second - piece.first) * elementBytes;
  };
  auto each = [&](const std::vector<Piece> &pieces, auto body) {
    for (size_t step = 1; step < members; ++step) {
      size_t m = (group.me + step) % members;
      if (bytesOf(pieces[m]) > 0)
        if (Status status = body(group.ranks[m], pieces[m].first * elementBytes,
                                 bytesOf(pieces[m]));
            !status.ok())
          return status;
    }
    return Status();
  };
  LMC_RETURN_IF_ERROR(each(inPieces, [&](int peer, int64_t at, int64_t bytes) {
    if (links->isLinked(peer))
      links->expect(peer, TcpLinks::Collective, signature, in + at, bytes);
    return Status();
  }));
  LMC_RETURN_IF_ERROR(each(outPieces, [&](int peer, int64_t at, int64_t bytes) {
    return links->isLinked(peer)
               ? links->sendInPlace(peer, TcpLinks::Collective, signature,
                                    out + at, bytes)
               : memory->send(peer, pieceChannel, out + at, bytes);
  }));
  LMC_RETURN_IF_ERROR(each(inPieces, [&](int peer, int64_t at, int64_t bytes) {
    return links->isLinked(peer)
               ? links->await(peer)
               : memory->receive(peer, pieceChannel, in + at, bytes);
  }));
  return each(outPieces, [&](int peer, int64_t, int64_t) {
    return links->isLinked(peer) ? links->flush(peer) : Status();
  });
}

Status HostCommunicator::linked(Group &group, const CollectiveCall &call,
                                const std::byte *source, std::byte *target) {
  const int64_t size = elementBytes(call);
  const int64_t members = int64_t(group.ranks.size());
  const int64_t me = int64_t(group.me);
  const int64_t all = call.elements, piece = all / members;
  const uint32_t signature = signatureOf(call, group.ranks.size());
  // Pieces as (first element, last) by member.
  std::vector<Piece> none(size_t(members), Piece{0, 0}), whole, equal, uneven,
      mine, myUneven, staged;
  for (int64_t m = 0; m < members; ++m) {
    whole.push_back({0, all});
    equal.push_back({m * piece, (m + 1) * piece});
    uneven.push_back({all * m / members, all * (m + 1) / members});
    mine.push_back({0, piece});
  }
  const Piece part = uneven[size_t(me)];
  const bool small = all * size * members <= onePhaseBytes;
  // What one member gets from each of the others to sum.
  int64_t summed = call.kind == CollectiveKind::ReduceScatter ? piece
                   : small                                    ? all
                           : part.second - part.first;
  for (int64_t m = 0; m < members; ++m) {
    staged.push_back({m * summed, (m + 1) * summed});
    myUneven.push_back(part);
  }
  bool reduces = call.kind == CollectiveKind::AllReduce ||
                 call.kind == CollectiveKind::ReduceScatter;
  if (reduces && group.staging.size() < size_t(members * summed * size))
    group.staging.resize(size_t(members * summed * size));
  std::byte *staging = group.staging.data();
  // Sums what is staged with this member's own part, at `own`.
  auto reduce = [&](const std::byte *own, std::byte *result) {
    for (int64_t m = 0; m < members; ++m)
      group.sources[size_t(m)] = m == me ? own : staging + m * summed * size;
    reduceInOrder(call.dtype, call.reduction, group.sources.data(),
                  group.sources.size(), summed, result);
  };
  switch (call.kind) {
  case CollectiveKind::AllReduce:
    if (small) {
      LMC_RETURN_IF_ERROR(
          swapPieces(group, signature, size, source, whole, staging, staged));
      reduce(source, target);
      return Status();
    }
    LMC_RETURN_IF_ERROR(
        swapPieces(group, signature, size, source, uneven, staging, staged));
    reduce(source + part.first * size, target + part.first * size);
    return swapPieces(group, signature, size, target, myUneven, target, uneven);
  case CollectiveKind::ReduceScatter:
    LMC_RETURN_IF_ERROR(
        swapPieces(group, signature, size, source, equal, staging, staged));
    reduce(source + me * piece * size, target);
    return Status();
  case CollectiveKind::AllGather:
    std::memmove(target + me * piece * size, source, size_t(piece * size));
    return swapPieces(group, signature, size, source, mine, target, equal);
  case CollectiveKind::AllToAll:
    std::memcpy(target + me * piece * size, source + me * piece * size,
                size_t(piece * size));
    return swapPieces(group, signature, size, source, equal, target, equal);
  case CollectiveKind::Broadcast: {
    if (me == 0 && target != source)
      std::memcpy(target, source, size_t(all * size));
    std::vector<Piece> fromRoot = none;
    fromRoot[0] = {0, all};
    return me == 0
               ? swapPieces(group, signature, size, source, whole, target, none)
               : swapPieces(group, signature, size, source, none, target,
                            fromRoot);
  }
  }
  return Status();
}

} // namespace lmc::runtime
