// How the ranks of a job exchange bytes: collectives over groups, transfers
// between pipeline stages, and the end of all of it when one fails.
//
// What it stands for: this rank's membership in one job.
// Who owns it, how long: the rank; it outlives the rank's Executor. Leaving
//   (destruction) is orderly only after the last barrier.
// Which thread may call: the rank's thread; abort and aborted may be called
//   from any thread at any time.
// What "returned" promises: the call is done: `target` holds the result,
//   `source` may be written again. Sums are formed in rank order of the group
//   with float32 accumulation (float64 for F64) and rounded once, so the bits
//   depend neither on where an element lies in the slice nor on timing.
// What a failure leaves behind: targets are undefined and the job is over:
//   every later call on every rank fails with the same verdict. Nothing is
//   retried here.
#ifndef LMC_RUNTIME_COMM_COMMUNICATOR_H
#define LMC_RUNTIME_COMM_COMMUNICATOR_H

#include "runtime/base/DataType.h"
#include "runtime/base/Status.h"

#include <cstddef>

namespace lmc::runtime {

enum class CollectiveKind {
  AllReduce,
  ReduceScatter,
  AllGather,
  AllToAll,
  Broadcast,
};
enum class Reduction { Sum, Max };

/// Elements are counted over the larger of source and target: AllReduce,
/// AllToAll and Broadcast have equal sides, ReduceScatter's source and
/// AllGather's target hold one equal piece per member, in group order.
struct CollectiveCall {
  CollectiveKind kind = CollectiveKind::AllReduce;
  Reduction reduction = Reduction::Sum;
  DataType dtype = DataType::F32;
  int group = 0;
  int64_t elements = 0;
};

class Communicator {
public:
  virtual ~Communicator() = default;

  virtual int rank() const = 0;
  virtual int numRanks() const = 0;

  /// Announces a group, before the first instruction; `maxBytes` is the
  /// largest slice that it will ever exchange. All members announce the same
  /// groups in the same order. This rank is a member.
  virtual StatusOr<int> openGroup(const std::vector<int> &ranks,
                                  int64_t maxBytes) = 0;

  /// AllReduce may have target == source, ReduceScatter's target may be this
  /// rank's piece of the source, AllGather's source this rank's piece of the
  /// target; no other overlap is allowed.
  virtual Status collective(const CollectiveCall &call, const std::byte *source,
                            std::byte *target) = 0;

  /// Messages from one rank to another on one channel arrive in order. A send
  /// does not wait for its receive.
  virtual Status send(int peer, uint32_t channel, const std::byte *source,
                      int64_t bytes) = 0;
  virtual Status receive(int peer, uint32_t channel, std::byte *target,
                         int64_t bytes) = 0;

  virtual Status barrier() = 0;

  /// Ends the job for every rank: whoever waits, or calls later, gets
  /// `reason`. The first reason stays.
  virtual void abort(const Status &reason) = 0;
};

} // namespace lmc::runtime

#endif // LMC_RUNTIME_COMM_COMMUNICATOR_H
