// Setting up, groups and messages. See HostCommunicator.h.
#include "runtime/comm/host/HostCommunicator.h"
#include "runtime/comm/Reduce.h"

#include <algorithm>
#include <cstring>
#include <sched.h>

namespace lmc::runtime {

StatusOr<std::unique_ptr<HostCommunicator>>
HostCommunicator::create(Job &job, Options options) {
  std::unique_ptr<HostCommunicator> comm(
      new HostCommunicator(job, std::move(options)));
  LMC_ASSIGN_OR_RETURN(comm->memory, SharedMemory::create(job));
  LMC_ASSIGN_OR_RETURN(comm->links, TcpLinks::create(job, comm->memory->bell(),
                                                     comm->memory->waiter()));
  return comm;
}

HostCommunicator::~HostCommunicator() { job.onVerdict(nullptr); }

std::string HostCommunicator::endpoint() const {
  return memory->endpoint(options.hostName) + "\n" + links->endpoint();
}

Status HostCommunicator::connect() {
  std::vector<std::string> memories, ports;
  for (const std::string &endpoint : job.endpoints()) {
    size_t line = endpoint.find('\n');
    memories.push_back(endpoint.substr(0, line));
    ports.push_back(line == std::string::npos ? "" : endpoint.substr(line + 1));
  }
  std::string here = SharedMemory::hostOf(memories[size_t(rank())]);
  std::vector<bool> wanted(memories.size());
  for (int peer = 0; peer < numRanks(); ++peer) {
    bool isHere = SharedMemory::hostOf(memories[size_t(peer)]) == here;
    if (isHere)
      neighbours.push_back(peer);
    bool shares = isHere && !options.tcpOnly;
    wanted[size_t(peer)] = peer != rank() && !shares;
    if (shares)
      LMC_RETURN_IF_ERROR(memory->attach(peer, memories[size_t(peer)]));
  }
  cpu_set_t cores;
  CPU_ZERO(&cores);
  const bool hasOwnCore = ::sched_getaffinity(0, sizeof cores, &cores) == 0 &&
                          int(neighbours.size()) <= CPU_COUNT(&cores);
  memory->waiter().setOwnCore(hasOwnCore);
  job.onVerdict([bell = &memory->bell()] { bell->ring(); });
  LMC_RETURN_IF_ERROR(links->connect(ports, wanted));
  std::vector<int> everyone;
  for (int peer = 0; peer < numRanks(); ++peer)
    everyone.push_back(peer);
  LMC_RETURN_IF_ERROR(openGroup(everyone, 64).status());
  // Both ends of a loan must want it: one rank that cannot, and nobody does.
  int32_t withheld = !(hasOwnCore && memory->readsPeers());
  auto *bytes = reinterpret_cast<std::byte *>(&withheld);
  LMC_RETURN_IF_ERROR(collective(
      {CollectiveKind::AllReduce, Reduction::Max, DataType::I32, 0, 1}, bytes,
      bytes));
  lends = !withheld;
  return Status();
}

StatusOr<int> HostCommunicator::openGroup(const std::vector<int> &ranks,
                                          int64_t maxBytes) {
  auto mine = std::find(ranks.begin(), ranks.end(), rank());
  if (mine == ranks.end())
    return makeError(ErrorKind::Bug, "rank {} opens a group without itself",
                     rank());
  Group group;
  group.ranks = ranks;
  group.me = size_t(mine - ranks.begin());
  group.shared = true;
  for (int peer : ranks)
    if (peer != rank() && links->isLinked(peer))
      group.shared = false;
  group.sources.resize(ranks.size());
  group.taken.resize(ranks.size());
  group.lent.resize(ranks.size());
  for (Pieces *pieces : {&group.out, &group.in, &group.back})
    pieces->resize(ranks.size());
  if (!group.shared)
    group.staging.resize(size_t(maxBytes) + 16 * ranks.size());
  groups.push_back(std::move(group));
  return int(groups.size()) - 1;
}

Status HostCommunicator::collective(const CollectiveCall &call,
                                    const std::byte *source,
                                    std::byte *target) {
  if (call.group < 0 || size_t(call.group) >= groups.size())
    return makeError(ErrorKind::Bug, "collective in group {} of {}", call.group,
                     groups.size());
  if (job.over())
    return job.verdict();
  Group &group = groups[size_t(call.group)];
  if (group.ranks.size() == 1) {
    if (target != source)
      std::memcpy(target, source, size_t(call.elements * elementBytes(call)));
    return Status();
  }
  Status status;
  if (!group.shared)
    status = linked(group, call, source, target);
  else if (call.kind == CollectiveKind::AllReduce)
    status = allReduceShared(group, call, source, target);
  else if (call.kind == CollectiveKind::Broadcast)
    status = broadcastShared(group, call, source, target);
  else
    status = exchangeShared(group, call, source, target);
  // What went wrong here ends the job: others would wait for ever.
  if (!status.ok() && !job.over()) {
    job.fail(status);
    return job.verdict();
  }
  return status;
}

Status HostCommunicator::send(int peer, uint32_t channel,
                              const std::byte *source, int64_t bytes) {
  if (job.over())
    return job.verdict();
  if (links->isLinked(peer))
    return links->send(peer, TcpLinks::Message, channel, source, bytes);
  return memory->send(peer, channel, source, bytes);
}

Status HostCommunicator::receive(int peer, uint32_t channel, std::byte *target,
                                 int64_t bytes) {
  if (job.over())
    return job.verdict();
  if (!links->isLinked(peer))
    return memory->receive(peer, channel, target, bytes);
  links->expect(peer, TcpLinks::Message, channel, target, bytes);
  return links->await(peer);
}

Status HostCommunicator::barrier() {
  int32_t nothing = 0;
  return collective({CollectiveKind::AllReduce, Reduction::Max, DataType::I32,
                     /*group=*/0, 1},
                    reinterpret_cast<std::byte *>(&nothing),
                    reinterpret_cast<std::byte *>(&nothing));
}

} // namespace lmc::runtime
