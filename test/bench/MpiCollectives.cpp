// The peer of HostCollectives.cpp: the same calls over MPI, each rank a process
// that mpirun starts. See CollectiveBench.h.
#include "test/bench/CollectiveBench.h"

#include <mpi.h>
#include <vector>

using namespace lmc::bench;

namespace {
class MpiExchange final : public Exchange {
public:
  explicit MpiExchange(int ranks) : ranks(ranks) {}

  void run(Collective kind, int64_t elements, const float *source,
           float *target) override {
    const int all = int(elements), piece = all / ranks;
    switch (kind) {
    case Collective::AllReduce:
      MPI_Allreduce(source, target, all, MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD);
      return;
    case Collective::ReduceScatter:
      // The faster of the two for its size.
      if (elements <= 1 << 20) {
        const std::vector<int> counts(size_t(ranks), piece);
        MPI_Reduce_scatter(source, target, counts.data(), MPI_FLOAT, MPI_SUM,
                           MPI_COMM_WORLD);
        return;
      }
      MPI_Reduce_scatter_block(source, target, piece, MPI_FLOAT, MPI_SUM,
                               MPI_COMM_WORLD);
      return;
    case Collective::AllGather:
      MPI_Allgather(source, piece, MPI_FLOAT, target, piece, MPI_FLOAT,
                    MPI_COMM_WORLD);
      return;
    }
  }
  void barrier() override { MPI_Barrier(MPI_COMM_WORLD); }
  double largest(double mine) override {
    MPI_Allreduce(MPI_IN_PLACE, &mine, 1, MPI_DOUBLE, MPI_MAX, MPI_COMM_WORLD);
    return mine;
  }

private:
  int ranks;
};
} // namespace

int main(int argc, char **argv) {
  MPI_Init(&argc, &argv);
  int rank, ranks;
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  MPI_Comm_size(MPI_COMM_WORLD, &ranks);
  MpiExchange exchange(ranks);
  measure(exchange, rank, ranks);
  MPI_Finalize();
  return 0;
}
