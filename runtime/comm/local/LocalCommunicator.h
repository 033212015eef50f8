// Ranks as threads of one process: collectives through shared memory, for
// tests and for trying a mesh on one machine. See Communicator.h.
//
// A collective of n members goes in three phases with a barrier of the group
// after each:
//   1. everyone publishes where its source and target lie;
//   2. member r computes piece r of the result, reading all sources in group
//      order (float32 sums), into its own target or, where targets may still
//      be read as sources (AllReduce in place), into the group's staging;
//   3. staging is copied out.
// So no member writes what another still reads.
#ifndef LMC_RUNTIME_COMM_LOCAL_LOCALCOMMUNICATOR_H
#define LMC_RUNTIME_COMM_LOCAL_LOCALCOMMUNICATOR_H

#include "runtime/comm/Communicator.h"

namespace lmc::runtime {

class LocalWorld;

/// What the ranks share; make one, then one communicator per rank, each used
/// by its own thread. The world lives as long as any of its communicators.
std::shared_ptr<LocalWorld> makeLocalWorld(int numRanks);
std::unique_ptr<Communicator>
makeLocalCommunicator(std::shared_ptr<LocalWorld> world, int rank);

} // namespace lmc::runtime

#endif // LMC_RUNTIME_COMM_LOCAL_LOCALCOMMUNICATOR_H
