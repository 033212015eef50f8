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
                                    const Pieces &outPieces, std::byte *in,
                                    const Pieces &inPieces) {
  size_t members = group.ranks.size();
  auto bytesOf = [&](const std::pair<int64_t, int64_t> &piece) {
    return (piece.second - piece.first) * elementBytes;
  };
  auto each = [&](const Pieces &pieces, auto body) {
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
  const bool reduces = call.kind == CollectiveKind::AllReduce ||
                       call.kind == CollectiveKind::ReduceScatter;
  const bool isSmall = all * size * members <= onePhaseBytes;
  const int64_t first = all * me / members, last = all * (me + 1) / members;
  // What one member gets from each of the others to sum.
  const int64_t summed = call.kind == CollectiveKind::ReduceScatter ? piece
                         : isSmall                                  ? all
                                   : last - first;
  for (int64_t m = 0; m < members; ++m) {
    auto &out = group.out[size_t(m)], &in = group.in[size_t(m)];
    out = in = {m * piece, (m + 1) * piece};
    switch (call.kind) {
    case CollectiveKind::AllReduce:
      out = {isSmall ? 0 : all * m / members,
             isSmall ? all : all * (m + 1) / members};
      group.back[size_t(m)] = {first, last};
      break;
    case CollectiveKind::AllGather:
      out = {0, piece};
      break;
    case CollectiveKind::Broadcast:
      out = {0, me == 0 ? all : 0};
      in = {0, m == 0 ? all : 0};
      break;
    case CollectiveKind::ReduceScatter:
    case CollectiveKind::AllToAll:
      break;
    }
    if (reduces)
      in = {m * summed, (m + 1) * summed};
  }
  // This member's own part, which nobody sends.
  const std::byte *own = source;
  if (call.kind == CollectiveKind::AllReduce && !isSmall)
    own += first * size;
  else if (call.kind == CollectiveKind::ReduceScatter ||
           call.kind == CollectiveKind::AllToAll)
    own += me * piece * size;
  if (!reduces) {
    std::byte *at = target;
    int64_t count = all;
    if (call.kind != CollectiveKind::Broadcast) {
      at += me * piece * size;
      count = piece;
    } else if (me != 0) {
      count = 0;
    }
    if (at != own)
      std::memmove(at, own, size_t(count * size));
    return swapPieces(group, signature, size, source, group.out, target,
                      group.in);
  }
  if (group.staging.size() < size_t(members * summed * size))
    group.staging.resize(size_t(members * summed * size));
  LMC_RETURN_IF_ERROR(swapPieces(group, signature, size, source, group.out,
                                 group.staging.data(), group.in));
  for (int64_t m = 0; m < members; ++m)
    group.sources[size_t(m)] =
        m == me ? own : group.staging.data() + m * summed * size;
  bool isWhole = call.kind == CollectiveKind::ReduceScatter || isSmall;
  reduceInOrder(call.dtype, call.reduction, group.sources.data(),
                group.sources.size(), summed,
                isWhole ? target : target + first * size);
  // Everyone's sums to everyone.
  return isWhole ? Status()
                 : swapPieces(group, signature, size, target, group.back,
                              target, group.out);
}

} // namespace lmc::runtime
