// Who am I: the rank of this process in its job, and where the job's ranks
// meet. A launcher says so in the environment; `lmrun --nproc N` needs none.
//
//   launcher   rank, ranks                        where rank 0 is
//   torchrun   RANK, WORLD_SIZE                   MASTER_ADDR, MASTER_PORT
//   Open MPI   OMPI_COMM_WORLD_RANK, _SIZE        this host; MASTER_ADDR where
//                                                 there are several
//   Slurm      SLURM_PROCID, SLURM_STEP_NUM_TASKS first of SLURM_STEP_NODELIST
//
// What they say of the ranks of this host (LOCAL_RANK, LOCAL_WORLD_SIZE and the
// like) has to fit. The innermost launcher counts: torchrun or mpirun started
// by srun are torchrun and Open MPI. LMC_RENDEZVOUS=HOST:PORT overrides where
// they meet, LMC_JOB_TOKEN adds to what tells this job from others at the same
// port, and LMC_HOST_NAME keeps hosts apart that look like one (network
// namespaces).
#ifndef LMC_RUNTIME_JOB_PLACE_H
#define LMC_RUNTIME_JOB_PLACE_H

#include "runtime/base/Status.h"

#include <functional>

namespace lmc::runtime {

struct Place {
  int rank = 0;
  int ranks = 1;
  int ranksHere = 0; ///< on this host; 0: the launcher does not say
  std::string host = "127.0.0.1"; ///< of rank 0
  int port = 0;
  std::string token;    ///< the same for all ranks of a job and no other
  std::string hostName; ///< empty: as the machine says
  std::string launcher; ///< torchrun, mpirun or srun; else empty
  std::string source;   ///< for people: where this was read
  bool forked = false;  ///< by launch(), not by another launcher
  int listener = -1;    ///< rank 0: an open socket at the port, if there is one
};

/// What starts so many ranks, for people, by the launcher that started
/// `place`: "mpirun -n 4"; "--nproc 4" without one.
std::string howToStart(const std::optional<Place> &place, int64_t ranks);

/// The value of an environment variable, or null.
using Environment = std::function<const char *(const char *name)>;

/// Nothing when no launcher started this process; WrongInput, naming the
/// variable, when what it says does not make sense.
StatusOr<std::optional<Place>> placeFromEnvironment(const Environment &get);

/// Where there is no place: which variables of launchers are set all the same,
/// and which are missing, in a sentence for each launcher.
std::vector<std::string> strayVariables(const Environment &get);

/// The first host of a Slurm node list: node[03-07,9],other is node03.
StatusOr<std::string> firstHost(std::string_view nodeList);

} // namespace lmc::runtime

#endif // LMC_RUNTIME_JOB_PLACE_H
