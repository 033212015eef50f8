// Ranks as processes: shared memory between ranks of one host, TCP between
// hosts. See Communicator.h for what the calls promise, SharedMemory.h and
// TcpLinks.h for how bytes go, RATIONALE.md for why this is our own.
//
// A collective of n members, of which all share memory, goes in chunks:
//   AllReduce      everyone offers its chunk; member r sums piece r of all
//                  chunks into its own buffer and offers that; everyone copies
//                  the pieces. A small one: everyone sums everything.
//   ReduceScatter  everyone offers one piece per member; member r sums.
//   AllGather, AllToAll, Broadcast   offered, copied out.
// What of AllReduce, ReduceScatter and AllGather pays for it is lent instead,
// and read where it lies.
// Where members are on several hosts the same pieces go as messages.
//
// Sums are formed on the rank's thread by reduceInOrder, so the bits are those
// of local/.
#ifndef LMC_RUNTIME_COMM_HOST_HOSTCOMMUNICATOR_H
#define LMC_RUNTIME_COMM_HOST_HOSTCOMMUNICATOR_H

#include "runtime/comm/Communicator.h"
#include "runtime/comm/host/SharedMemory.h"
#include "runtime/comm/host/TcpLinks.h"

namespace lmc::runtime {

class HostCommunicator final : public Communicator {
public:
  struct Options {
    bool tcpOnly = false; ///< also between ranks of one host
    /// Ranks of different names share no memory, even on one machine.
    std::string hostName;
  };
  /// Before the job meets. The job outlives the communicator.
  static StatusOr<std::unique_ptr<HostCommunicator>> create(Job &job,
                                                            Options options);
  ~HostCommunicator() override;
  /// What Job::meet tells the others.
  std::string endpoint() const;
  /// After the job has met: reaches the other ranks.
  Status connect();

  /// The ranks of this host, this one among them.
  const std::vector<int> &ranksOnHost() const { return neighbours; }

  int rank() const override { return job.rank(); }
  int numRanks() const override { return job.numRanks(); }
  StatusOr<int> openGroup(const std::vector<int> &ranks,
                          int64_t maxBytes) override;
  Status collective(const CollectiveCall &call, const std::byte *source,
                    std::byte *target) override;
  Status send(int peer, uint32_t channel, const std::byte *source,
              int64_t bytes) override;
  Status receive(int peer, uint32_t channel, std::byte *target,
                 int64_t bytes) override;
  Status barrier() override;
  void abort(const Status &reason) override { job.fail(reason); }

private:
  /// [first, last) element, by member.
  using Pieces = std::vector<std::pair<int64_t, int64_t>>;
  struct Group {
    std::vector<int> ranks;
    size_t me;
    bool shared;                    ///< all members share memory
    std::vector<std::byte> staging; ///< one piece per member; not shared
    std::vector<const std::byte *> sources;
    std::vector<int> taken;     ///< the buffer that each member offered
    std::vector<uint64_t> lent; ///< the address that each member lent
    Pieces out, in, back;       ///< of a call; kept, so that none allocates
  };
  HostCommunicator(Job &job, Options options)
      : job(job), options(std::move(options)) {}

  // HostCollectives.cpp
  Status allReduceShared(Group &group, const CollectiveCall &call,
                         const std::byte *source, std::byte *target);
  Status allReduceLent(Group &group, const CollectiveCall &call,
                       const std::byte *source, std::byte *target);
  Status swapLoans(Group &group, uint32_t signature, const std::byte *source);
  void giveBackAll(Group &group);
  Status sumLent(Group &group, const CollectiveCall &call,
                 const std::byte *source, int64_t begin, int64_t end,
                 std::byte *target);
  Status exchangeShared(Group &group, const CollectiveCall &call,
                        const std::byte *source, std::byte *target);
  Status reduceScatterLent(Group &group, const CollectiveCall &call,
                           const std::byte *source, std::byte *target);
  Status gatherLent(Group &group, const CollectiveCall &call,
                    const std::byte *source, std::byte *target);
  Status broadcastShared(Group &group, const CollectiveCall &call,
                         const std::byte *source, std::byte *target);
  Status takeAll(Group &group, uint32_t signature);
  void releaseAll(Group &group);
  // LinkedCollectives.cpp
  Status linked(Group &group, const CollectiveCall &call,
                const std::byte *source, std::byte *target);
  Status swapPieces(Group &group, uint32_t signature, int64_t elementBytes,
                    const std::byte *out, const Pieces &outPieces,
                    std::byte *in, const Pieces &inPieces);

  Job &job;
  Options options;
  std::unique_ptr<SharedMemory> memory;
  std::unique_ptr<TcpLinks> links;
  std::vector<int> neighbours;
  std::vector<Group> groups;
  bool lends = false; ///< every rank has a core, and reads its peers' memory
};

} // namespace lmc::runtime

#endif // LMC_RUNTIME_COMM_HOST_HOSTCOMMUNICATOR_H
