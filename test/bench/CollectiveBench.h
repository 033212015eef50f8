// What the two programs of `tools/dev bench collectives` measure: all-reduce,
// reduce-scatter and all-gather of float32 sums, the same calls on the same
// kind of memory, over our host communicator (HostCollectives.cpp) and over
// MPI (MpiCollectives.cpp). Bytes are those of the whole tensor: what a rank
// has before a reduction, or after a gather.
//
// Rank 0 prints a line for each: the name, bytes, and seconds of a call behind
// a barrier, the mean of several, of the rank that is longest in them.
#ifndef LMC_TEST_BENCH_COLLECTIVEBENCH_H
#define LMC_TEST_BENCH_COLLECTIVEBENCH_H

#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <initializer_list>
#include <sys/mman.h>

namespace lmc::bench {

enum class Collective { AllReduce, ReduceScatter, AllGather };

/// One rank's end of what is measured; a failure ends the process.
class Exchange {
public:
  virtual ~Exchange() = default;
  virtual void run(Collective kind, int64_t elements, const float *source,
                   float *target) = 0;
  virtual void barrier() = 0;
  /// Over all ranks.
  virtual double largest(double mine) = 0;
};

/// As lmrun allocates.
inline float *allocateFloats(int64_t count) {
  size_t bytes = (size_t(count) * 4 + (2 << 20)) & ~size_t((2 << 20) - 1);
  void *data = std::aligned_alloc(2 << 20, bytes); // fresh pages of a mapping
  if (!data)
    std::abort();
  ::madvise(data, bytes, MADV_HUGEPAGE);
  return static_cast<float *>(data);
}

inline float valueAt(int rank, int64_t i) {
  return float((i * 7 + rank * 3) % 64);
}

/// What rank `rank` must find in its target.
inline bool isRight(Collective kind, int64_t elements, int rank, int ranks,
                    const float *target) {
  const int64_t piece = elements / ranks;
  const int64_t count = kind == Collective::ReduceScatter ? piece : elements;
  for (int64_t i = 0; i < count; ++i) {
    float wanted = 0;
    if (kind == Collective::AllGather)
      wanted = valueAt(int(i / piece), i % piece);
    else
      for (int r = 0; r < ranks; ++r)
        wanted += valueAt(
            r, kind == Collective::ReduceScatter ? rank * piece + i : i);
    if (target[i] != wanted)
      return false;
  }
  return true;
}

inline void measure(Exchange &exchange, int rank, int ranks) {
  static const struct {
    int64_t bytes;
    int calls;
  } sizes[] = {{4 << 10, 1000}, {1 << 20, 100}, {64 << 20, 4}};
  static const char *const names[] = {"all_reduce", "reduce_scatter",
                                      "all_gather"};
  const int64_t most = sizes[2].bytes / 4;
  float *source = allocateFloats(most), *target = allocateFloats(most);
  for (int64_t i = 0; i < most; ++i)
    source[i] = valueAt(rank, i);
  for (auto [bytes, calls] : sizes)
    for (Collective kind : {Collective::AllReduce, Collective::ReduceScatter,
                            Collective::AllGather}) {
      const int64_t elements = bytes / 4;
      for (int warm = 0; warm < 2; ++warm)
        exchange.run(kind, elements, source, target);
      if (!isRight(kind, elements, rank, ranks, target)) {
        std::fprintf(stderr, "rank %d: a wrong result of %s\n", rank,
                     names[int(kind)]);
        std::abort();
      }
      std::chrono::duration<double> took(0);
      for (int call = 0; call < calls; ++call) {
        // As in training: what is exchanged has just been computed.
        for (int64_t i = 0; i < elements; ++i)
          source[i] += 1;
        exchange.barrier();
        auto start = std::chrono::steady_clock::now();
        exchange.run(kind, elements, source, target);
        took += std::chrono::steady_clock::now() - start;
      }
      double slowest = exchange.largest(took.count() / calls);
      for (int64_t i = 0; i < elements; ++i)
        source[i] = valueAt(rank, i);
      if (rank == 0)
        std::printf("%s %lld %.9f\n", names[int(kind)], (long long)(bytes),
                    slowest);
    }
}

} // namespace lmc::bench

#endif // LMC_TEST_BENCH_COLLECTIVEBENCH_H
