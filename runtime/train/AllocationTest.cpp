// Threads that execute instructions allocate nothing once training runs: this
// binary replaces malloc and counts what they ask for between step 2 and 10.
#include "runtime/data/TokenData.h"
#include "runtime/exec/BigramPlanForTest.h"
#include "runtime/job/Frames.h"
#include "runtime/train/TrainJob.h"

#include <atomic>
#include <cerrno>
#include <cstdlib>
#include <filesystem>
#include <gtest/gtest.h>
#include <thread>

extern "C" {
void *__libc_malloc(size_t);
void *__libc_calloc(size_t, size_t);
void *__libc_realloc(void *, size_t);
void *__libc_memalign(size_t, size_t);
void __libc_free(void *);

static std::atomic<int> currentStep{0};
static std::atomic<int> allocations{0};
static std::atomic<int> kernelCalls{0};
static thread_local bool executes = false;

static void count() {
  int step = currentStep.load(std::memory_order_relaxed);
  if (executes && step >= 2 && step <= 9)
    allocations.fetch_add(1);
}
void *malloc(size_t size) {
  count();
  return __libc_malloc(size);
}
void *calloc(size_t n, size_t size) {
  count();
  return __libc_calloc(n, size);
}
void *realloc(void *old, size_t size) {
  count();
  return __libc_realloc(old, size);
}
void *aligned_alloc(size_t alignment, size_t size) {
  count();
  return __libc_memalign(alignment, size);
}
int posix_memalign(void **out, size_t alignment, size_t size) {
  count();
  *out = __libc_memalign(alignment, size);
  return *out ? 0 : ENOMEM;
}
void free(void *address) { __libc_free(address); }

// Called by the update kernel on every thread that takes a part of it.
void bigramStepForTest(int32_t step) {
  executes = true;
  currentStep.store(step);
  kernelCalls.fetch_add(1);
}
}

using namespace lmc::runtime;
namespace fs = std::filesystem;

/// The ranks of a job of processes, as threads.
static void runRanks(const lmc::plan::Plan &plan, const TrainOptions &options) {
  auto listener = listenAt("127.0.0.1", 0);
  ASSERT_TRUE(listener.ok());
  Place place;
  place.ranks = options.ranks;
  place.forked = true;
  place.port = portOf(*listener);
  std::vector<std::thread> threads;
  for (int rank = 0; rank < options.ranks; ++rank) {
    place.rank = rank;
    place.listener = rank == 0 ? listener->release() : -1;
    threads.emplace_back([&, place] {
      Status status = runTrainingRank(plan, options, place, {});
      EXPECT_TRUE(status.ok()) << status.toString();
    });
  }
  for (std::thread &thread : threads)
    thread.join();
}

TEST(Allocation, NoneBetweenStepTwoAndTen) {
  std::string pattern = (fs::temp_directory_path() / "lmcXXXXXX").string();
  fs::path folder = ::mkdtemp(pattern.data());
  TokenFileContents contents;
  contents.tokens.assign(5000, 7);
  TrainOptions options;
  options.dataPath = folder / "data";
  ASSERT_TRUE(writeWholeFile(options.dataPath, encodeTokenFile(contents)).ok());
  options.steps = 12;
  options.threads = 2;
  options.pinThreads = false;
  options.shuffle = true;
  options.metricsPath = folder / "metrics";
  options.checkpointFolder = folder / "ckpt";
  options.trace.path = folder / "trace";
  options.trace.firstStep = 4;
  options.trace.lastStep = 7;
  const char *ways[] = {"one rank", "threads", "shared memory", "tcp"};
  for (const std::string way : ways) {
    BigramPlan bigram;
    bigram.dp = options.ranks = way == "one rank" ? 1 : 2;
    options.tcpOnly = way == "tcp";
    currentStep = 0;
    if (way == "shared memory" || way == "tcp") {
      runRanks(bigram.build(), options);
    } else {
      Status status = runTraining(bigram.build(), options);
      EXPECT_TRUE(status.ok()) << status.toString();
    }
    EXPECT_GT(kernelCalls.load(), 12);
    EXPECT_EQ(allocations.load(), 0) << way;
    EXPECT_TRUE(fs::exists(traceFileOf(options.trace, 0, options.ranks)));
    fs::remove_all(options.checkpointFolder);
  }
  fs::remove_all(folder);
  // The counter counts.
  executes = true;
  currentStep = 5;
  std::free(std::malloc(1));
  executes = false;
  EXPECT_EQ(allocations.load(), 1);
}
