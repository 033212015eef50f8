// Generated products against oneDNN, on one pinned core, in alternation: the
// shapes of GPT-2 124M with 1024 tokens and of a 4096-wide model with 256,
// forward and both gradients. Packing counts on both sides. Beside it the
// share of what a loop of fused multiply-adds in registers reaches.
//
// matmul-bench [pairs] [filter]
#include "test/bench/OneDnn.h"
#include "test/codegen/KernelRunner.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <immintrin.h>
#include <sched.h>
#include <unistd.h>

using namespace lmc;
using namespace lmc::test;

namespace {

// Processor time of this thread: what others do on the machine counts only
// through caches and clocks.
double now() {
  timespec time;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
  return time.tv_sec + 1e-9 * time.tv_nsec;
}

// Flops per second of independent fused multiply-adds in registers.
__attribute__((target("avx512f"))) double probePeak() {
  __m512 sums[16];
  for (auto &sum : sums)
    sum = _mm512_set1_ps(1.0f);
  __m512 x = _mm512_set1_ps(0.999f), y = _mm512_set1_ps(1e-3f);
  constexpr int64_t kSteps = 1000000;
  double start = now();
  for (int64_t i = 0; i < kSteps; ++i)
    for (auto &sum : sums) {
      sum = _mm512_fmadd_ps(sum, x, y);
      asm volatile("" : "+v"(sum));
    }
  double seconds = now() - start;
  return kSteps * 16 * 32.0 / seconds;
}

struct Shape {
  const char *name;
  int64_t m, n, k;
  bool transposedA, transposedB;
};

// A linear layer [in, out] over `rows`: forward, by input, by weight.
void addLinear(std::vector<Shape> &shapes, const char *names[3], int64_t rows,
               int64_t in, int64_t out) {
  shapes.push_back({names[0], rows, out, in, false, false});
  shapes.push_back({names[1], rows, in, out, false, true});
  shapes.push_back({names[2], in, out, rows, true, false});
}

std::string kernelText(const Shape &s) {
  auto type = [](int64_t a, int64_t b) {
    return "tensor<" + std::to_string(a) + "x" + std::to_string(b) + "xf32>";
  };
  std::string a = s.transposedA ? type(s.k, s.m) : type(s.m, s.k);
  std::string b = s.transposedB ? type(s.n, s.k) : type(s.k, s.n);
  std::string c = type(s.m, s.n);
  return "plan.kernel @k(%a: " + a + ", %b: " + b + ") -> " + c +
         " attributes {kind = \"contraction\", tied = array<i64: -1>} {\n"
         "%c = lm.contract %a " +
         (s.transposedA ? "[0]" : "[1]") + ", %b " +
         (s.transposedB ? "[1]" : "[0]") + " : (" + a + ", " + b + ") -> " + c +
         "\nplan.yield %c : " + c + "}";
}

struct Row {
  double ours, theirs, peak; // flops per second
};

Row measure(KernelRunner &runner, const Shape &s, int pairs) {
  auto module = runner.parse(kernelText(s));
  auto kernel = *module.getOps<plan::KernelOp>().begin();
  codegen::CodegenOptions options;
  options.threads = 1;
  auto compiled = codegen::compileKernels({kernel}, options);
  if (failed(compiled))
    std::exit(1);
  const codegen::KernelFacts &facts = compiled->kernels[0];
  LoadedObject object(compiled->object);
  auto *run = object.find(facts.symbol);
  int64_t units =
      (facts.rows + facts.rowsPerUnit - 1) / facts.rowsPerUnit * facts.columns;

  // Two sets of operands in turn, so that neither side finds its own in cache.
  constexpr int kSets = 2;
  std::vector<float> a[kSets], b[kSets], c[kSets], d;
  for (int set = 0; set < kSets; ++set) {
    a[set].resize(s.m * s.k);
    b[set].resize(s.k * s.n);
    c[set].resize(s.m * s.n);
    for (size_t i = 0; i < a[set].size(); ++i)
      a[set][i] = float((i * 2654435761u >> 16) % 255) / 255 - 0.5f;
    for (size_t i = 0; i < b[set].size(); ++i)
      b[set][i] = float((i * 2246822519u >> 16) % 255) / 255 - 0.5f;
  }
  d.resize(s.m * s.n);
  bench::OneDnnProduct plain(s.m, s.n, s.k, s.transposedA, s.transposedB,
                             false);
  bench::OneDnnProduct packed(s.m, s.n, s.k, s.transposedA, s.transposedB,
                              true);
  auto ours = [&](int set) {
    void *pointers[] = {a[set].data(), b[set].data(), c[set].data()};
    run(pointers, nullptr, 0, units);
  };
  ours(0);
  plain.run(a[0].data(), b[0].data(), d.data());
  double worst = 0;
  for (size_t i = 0; i < d.size(); ++i)
    worst = std::max<double>(worst, std::fabs(d[i] - c[0][i]));
  if (worst > 1e-2)
    std::printf("  differs from oneDNN by %g\n", worst);

  double best[3] = {1e30, 1e30, 1e30}, peak = 0;
  std::vector<double> ratios;
  for (int pair = 0; pair < pairs; ++pair) {
    int set = pair % kSets;
    double t0 = now();
    ours(set);
    double t1 = now();
    plain.run(a[set].data(), b[set].data(), c[set].data());
    double t2 = now();
    packed.run(a[set].data(), b[set].data(), c[set].data());
    double t3 = now();
    best[0] = std::min(best[0], t1 - t0);
    best[1] = std::min(best[1], t2 - t1);
    best[2] = std::min(best[2], t3 - t2);
    peak = std::max(peak, probePeak());
  }
  double flops = 2.0 * s.m * s.n * s.k;
  return {flops / best[0], flops / std::min(best[1], best[2]), peak};
}

} // namespace

int main(int argc, char **argv) {
  int pairs = argc > 1 ? std::atoi(argv[1]) : 10;
  const char *filter = argc > 2 ? argv[2] : "";
  // OpenMP reads the number of threads when it is loaded.
  if (!std::getenv("OMP_NUM_THREADS")) {
    setenv("OMP_NUM_THREADS", "1", 1);
    execv("/proc/self/exe", argv);
  }
  cpu_set_t cores;
  CPU_ZERO(&cores);
  CPU_SET(sched_getcpu(), &cores);
  sched_setaffinity(0, sizeof cores, &cores);
  _mm_setcsr(_mm_getcsr() | 0x8040);

  std::vector<Shape> shapes;
  const char *qkv[] = {"qkv", "qkv.dx", "qkv.dw"};
  const char *proj[] = {"proj", "proj.dx", "proj.dw"};
  const char *fc[] = {"fc", "fc.dx", "fc.dw"};
  const char *fc2[] = {"fc2", "fc2.dx", "fc2.dw"};
  addLinear(shapes, qkv, 1024, 768, 2304);
  addLinear(shapes, proj, 1024, 768, 768);
  addLinear(shapes, fc, 1024, 768, 3072);
  addLinear(shapes, fc2, 1024, 3072, 768);
  // The head is the embedding turned: [50257, 768].
  shapes.push_back({"head", 512, 50257, 768, false, true});
  shapes.push_back({"head.dx", 512, 768, 50257, false, false});
  shapes.push_back({"head.dw", 50257, 768, 512, true, false});
  const char *wide[] = {"4096", "4096.dx", "4096.dw"};
  const char *up[] = {"4096up", "4096up.dx", "4096up.dw"};
  addLinear(shapes, wide, 256, 4096, 4096);
  addLinear(shapes, up, 256, 4096, 11008);

  KernelRunner runner;
  double logSum = 0, lowest = 1e30;
  int count = 0;
  std::printf("%-10s %6s %6s %6s  %8s %8s  %6s  %6s\n", "shape", "M", "N", "K",
              "ours", "oneDNN", "ratio", "peak");
  for (const Shape &s : shapes) {
    if (!std::strstr(s.name, filter))
      continue;
    Row row = measure(runner, s, pairs);
    double ratio = row.ours / row.theirs;
    std::printf("%-10s %6ld %6ld %6ld  %8.1f %8.1f  %6.3f  %5.1f%%\n", s.name,
                s.m, s.n, s.k, row.ours * 1e-9, row.theirs * 1e-9, ratio,
                100 * row.ours / row.peak);
    std::fflush(stdout);
    logSum += std::log(ratio);
    lowest = std::min(lowest, ratio);
    ++count;
  }
  if (count)
    std::printf("geometric mean %.3f, lowest %.3f\n", std::exp(logSum / count),
                lowest);
  return 0;
}
