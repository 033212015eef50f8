// One conformance suite for every device, and what is particular to the CPU:
// the thread pool, the choice of code, and guard pages.
#include "runtime/device/cpu/CpuDevice.h"
#include "runtime/device/cuda/CudaDevice.h"
#include "runtime/device/null/NullDevice.h"

#include <cstring>
#include <functional>
#include <gtest/gtest.h>
#include <numeric>

using namespace lmc::runtime;

struct DeviceCase {
  const char *name;
  bool computes; ///< null/ runs nothing, by design
  std::function<std::unique_ptr<Device>()> make;
};
class DeviceConformance : public testing::TestWithParam<DeviceCase> {
protected:
  void SetUp() override {
    if (std::string(GetParam().name) != "cuda")
      return;
    if (auto gpus = CudaDevice::list(); !gpus.ok())
      GTEST_SKIP() << gpus.status().message();
  }
};

TEST_P(DeviceConformance, AllocatesZeroedAlignedBlocks) {
  std::unique_ptr<Device> device = GetParam().make();
  ASSERT_TRUE(
      device->allocate({{"a", 64}, {"b", 1 << 20}, {"c", 128, true}, {"d", 0}})
          .ok());
  for (uint32_t block = 0; block < 3; ++block) {
    EXPECT_EQ(uintptr_t(device->base(block)) % 64, 0u);
    char bytes[64];
    std::memset(bytes, 1, sizeof bytes);
    device->read(device->base(block), bytes, 64);
    for (char byte : bytes)
      EXPECT_EQ(byte, 0);
  }
}

TEST_P(DeviceConformance, WritesCopiesAndFillsInOrder) {
  std::unique_ptr<Device> device = GetParam().make();
  const int64_t bytes = 1 << 20;
  ASSERT_TRUE(device->allocate({{"a", bytes}, {"b", bytes}}).ok());
  std::vector<char> data(bytes);
  std::iota(data.begin(), data.end(), char(0));
  device->write(device->base(0), data.data(), bytes);
  device->copy(device->base(0), device->base(1), bytes);
  device->fillZero(device->base(0), bytes);
  ASSERT_TRUE(device->synchronize().ok());
  if (!GetParam().computes)
    return;
  std::vector<char> back(bytes, 1);
  device->read(device->base(1), back.data(), bytes);
  EXPECT_EQ(back, data);
  device->read(device->base(0), back.data(), bytes);
  EXPECT_EQ(back, std::vector<char>(bytes, 0));
}

TEST_P(DeviceConformance, ReplaysWhatItRecorded) {
  std::unique_ptr<Device> device = GetParam().make();
  const int64_t bytes = 4096;
  ASSERT_TRUE(device->allocate({{"a", bytes}, {"b", bytes}}).ok());
  ASSERT_TRUE(device->synchronize().ok());
  if (!device->canRecord()) {
    EXPECT_FALSE(device->beginRecording().ok());
    EXPECT_FALSE(device->endRecording().ok());
    return;
  }
  std::vector<char> back(bytes);
  ASSERT_TRUE(device->beginRecording().ok());
  device->copy(device->base(0), device->base(1), bytes);
  device->fillZero(device->base(0), bytes / 2);
  auto recording = device->endRecording();
  ASSERT_TRUE(recording.ok()) << recording.status().toString();
  for (char value : {1, 2}) {
    std::vector<char> data(bytes, value);
    device->write(device->base(0), data.data(), bytes);
    device->replay(**recording);
    device->read(device->base(1), back.data(), bytes);
    EXPECT_EQ(back, data);
    device->read(device->base(0), back.data(), bytes);
    std::fill_n(data.begin(), bytes / 2, char(0));
    EXPECT_EQ(back, data);
  }
}

/// What a product of `rows` rows has to be, in double.
static std::vector<double>
plainProduct(const MatmulRequest &request, const std::vector<float> &left,
             const std::vector<float> &right, const std::vector<float> &bias,
             const std::vector<float> &addend, int64_t rows) {
  std::vector<double> target(size_t(rows * request.columns));
  for (int64_t m = 0; m < rows; ++m)
    for (int64_t n = 0; n < request.columns; ++n) {
      double sum = bias.empty() ? 0 : bias[size_t(n)];
      sum += addend.empty() ? 0 : addend[size_t(m * request.columns + n)];
      for (int64_t k = 0; k < request.depth; ++k)
        sum +=
            double(
                left[size_t(request.leftTransposed ? k * request.rows + m
                                                   : m * request.depth + k)]) *
            double(right[size_t(request.rightTransposed
                                    ? n * request.depth + k
                                    : k * request.columns + n)]);
      target[size_t(m * request.columns + n)] = sum;
    }
  return target;
}

TEST_P(DeviceConformance, MultipliesMatrices) {
  std::unique_ptr<Device> device = GetParam().make();
  // Blocks: left, right, target, workspace, bias, addend.
  const int64_t blockBytes = 64 << 10;
  ASSERT_TRUE(
      device->allocate(std::vector<AllocationRequest>(6, {"m", blockBytes}))
          .ok());
  EXPECT_TRUE(device->prepareMatmuls({}, false).ok());
  std::vector<MatmulRequest> requests;
  for (int form = 0; form < 16; ++form) {
    MatmulRequest request;
    request.rows = 33;
    request.columns = 20;
    request.depth = 46;
    request.leftTransposed = form & 1;
    request.rightTransposed = form & 2;
    request.hasBias = form & 4;
    request.rowsVary = (form & 8) && !request.leftTransposed;
    request.workspaceBytes = blockBytes;
    request.alignments.fill(form % 3 == 0 ? 4 : 64);
    requests.push_back(request);
  }
  if (std::string(GetParam().name).rfind("cpu", 0) == 0) {
    Status status = device->prepareMatmuls(requests, false);
    EXPECT_EQ(status.exitStatus(), 2);
    return;
  }
  ASSERT_TRUE(device->prepareMatmuls(requests, false).ok());
  std::vector<float> values[6];
  void *pointers[6];
  for (size_t block = 0; block < 6; ++block) {
    values[block].resize(blockBytes / 4);
    for (size_t i = 0; i < values[block].size(); ++i)
      values[block][i] = float((i * 37 + block * 11) % 101) / 50 - 1;
    device->write(device->base(uint32_t(block)), values[block].data(),
                  blockBytes);
    pointers[block] = device->base(uint32_t(block));
  }
  for (size_t form = 0; form < requests.size(); ++form)
    for (bool adds : {false, true}) {
      const MatmulRequest &request = requests[form];
      std::vector<float> firstRow;
      for (int64_t rows : {request.rows, int64_t(1), int64_t(0)}) {
        if (rows != request.rows && !request.rowsVary)
          continue;
        device->write(device->base(MatmulTarget), values[MatmulTarget].data(),
                      blockBytes);
        device->matmul(uint32_t(form), pointers, rows, adds);
        Status status = device->synchronize();
        ASSERT_TRUE(status.ok()) << status.toString();
        if (!GetParam().computes)
          continue;
        std::vector<float> got(blockBytes / 4), none;
        device->read(device->base(MatmulTarget), got.data(), blockBytes);
        // A row has the same bits whatever the others.
        if (rows == request.rows)
          firstRow.assign(got.begin(), got.begin() + request.columns);
        else if (rows == 1)
          EXPECT_TRUE(std::equal(firstRow.begin(), firstRow.end(), got.begin()))
              << form;
        std::vector<double> expected =
            plainProduct(request, values[MatmulLeft], values[MatmulRight],
                         request.hasBias ? values[MatmulBias] : none,
                         adds ? values[MatmulAddend] : none, rows);
        // Sums of 46 products below 1 in float32, in any order.
        for (size_t i = 0; i < expected.size(); ++i)
          ASSERT_NEAR(got[i], expected[i], 1e-5)
              << "form " << form << ", element " << i;
        // And nothing behind them.
        for (size_t i = expected.size(); i < got.size(); ++i)
          ASSERT_EQ(got[i], values[MatmulTarget][i]) << form << " " << i;
      }
    }
}

TEST_P(DeviceConformance, TellsTheTimeBetweenMarks) {
  std::unique_ptr<Device> device = GetParam().make();
  ASSERT_TRUE(device->allocate({{"a", 64 << 20}}).ok());
  ASSERT_TRUE(device->reserveMarks(3).ok());
  device->mark(0);
  device->fillZero(device->base(0), 64 << 20);
  device->mark(1);
  device->mark(2);
  ASSERT_TRUE(device->synchronize().ok());
  EXPECT_GE(device->nanoseconds(1, 2), 0);
  if (GetParam().computes) // no machine writes 64 TB/s
    EXPECT_GT(device->nanoseconds(0, 1), 1000);
}

static std::unique_ptr<Device> makeCpu(int threads, bool guards) {
  CpuDevice::Options options;
  options.threads = threads;
  options.cores = availableCores();
  options.guardPages = guards;
  auto device = CpuDevice::create(options);
  return device.ok() ? *std::move(device) : nullptr;
}

static std::unique_ptr<Device> makeCuda() {
  auto device = CudaDevice::create(ThreadPool::Options());
  EXPECT_TRUE(device.ok()) << device.status().toString();
  return device.ok() ? *std::move(device) : nullptr;
}

INSTANTIATE_TEST_SUITE_P(
    Devices, DeviceConformance,
    testing::Values(DeviceCase{"null", false,
                               [] { return std::make_unique<NullDevice>(); }},
                    DeviceCase{"cpu", true, [] { return makeCpu(2, false); }},
                    DeviceCase{"cpu_guarded", true,
                               [] { return makeCpu(3, true); }},
                    DeviceCase{"cuda", true, makeCuda}),
    [](const auto &info) { return info.param.name; });

TEST(ThreadPool, RunsEveryUnitOnceWhateverTheThreads) {
  for (int threads : {1, 2, 3, 7}) {
    for (std::vector<int> cores : {std::vector<int>(), availableCores()}) {
      auto pool = ThreadPool::create({threads, cores, 8 << 20});
      ASSERT_TRUE(pool.ok());
      std::vector<std::atomic<int>> counts(1000);
      for (int job = 0; job < 2000; ++job) {
        int64_t units = job % 50 == 0 ? 1000 : job % 17;
        void *pointers[] = {counts.data()};
        for (auto &count : counts)
          count.store(0, std::memory_order_relaxed);
        (*pool)->run(
            [](void *const *pointers, const int64_t *, int64_t begin,
               int64_t end) {
              auto *counts = static_cast<std::atomic<int> *>(pointers[0]);
              for (int64_t i = begin; i < end; ++i)
                counts[i].fetch_add(1);
            },
            pointers, nullptr, units);
        for (int64_t i = 0; i < 1000; ++i)
          ASSERT_EQ(counts[size_t(i)].load(), i < units ? 1 : 0);
      }
    }
  }
}

TEST(ThreadPool, FlushesDenormalsOnEveryThread) {
  auto pool = ThreadPool::create({4, {}, 8 << 20});
  ASSERT_TRUE(pool.ok());
  std::vector<float> results(64, 1.0f);
  volatile float tiny = 1e-39f;
  void *pointers[] = {results.data(), const_cast<float *>(&tiny)};
  (*pool)->run(
      [](void *const *pointers, const int64_t *, int64_t begin, int64_t end) {
        volatile float *tiny = static_cast<volatile float *>(pointers[1]);
        for (int64_t i = begin; i < end; ++i)
          static_cast<float *>(pointers[0])[i] = *tiny * 0.5f;
      },
      pointers, nullptr, 64);
  EXPECT_EQ(results, std::vector<float>(64, 0.0f));
}

TEST(KernelLoader, ChoosesTheBestCodeThatRuns) {
  std::vector<CodeObject> code = {{"x86-64-v3", {"avx2", "fma"}, "a"},
                                  {"x86-64-v4", {"avx2", "fma", "avx512f"}, ""},
                                  {"x86-64", {}, "c"}};
  EXPECT_EQ(*chooseCode(code, {"avx2", "fma", "avx512f", "sse2"}), 1u);
  EXPECT_EQ(*chooseCode(code, {"avx2", "fma"}), 0u);
  EXPECT_EQ(*chooseCode(code, {"sse2"}), 2u);
  code.pop_back();
  auto none = chooseCode(code, {"fma"});
  ASSERT_FALSE(none.ok());
  EXPECT_EQ(none.status().exitStatus(), 2);
  EXPECT_NE(none.status().toString().find("x86-64-v4 needs avx2, avx512f"),
            std::string::npos)
      << none.status().toString();
}

TEST(KernelLoader, RefusesWhatIsNoSharedObject) {
  auto device = makeCpu(1, false);
  auto handles =
      device->loadKernels({{"x86-64", {}, "not ELF"}}, {KernelRequest{"f"}});
  ASSERT_FALSE(handles.ok());
  EXPECT_EQ(handles.status().exitStatus(), 4);
}

TEST(CpuDevice, RefusesMoreThanTheMachineHas) {
  auto device = makeCpu(1, false);
  Status status = device->allocate({{"weights", int64_t(1) << 46}});
  ASSERT_FALSE(status.ok());
  EXPECT_EQ(status.exitStatus(), 3);
  EXPECT_NE(status.toString().find("weights takes 64.0 TiB"),
            std::string::npos);
}

TEST(CpuDeviceDeathTest, GuardPagesStopAKernelThatLeavesItsBlock) {
  testing::GTEST_FLAG(death_test_style) = "threadsafe";
  auto device = makeCpu(1, true);
  ASSERT_TRUE(device->allocate({{"a", 64}}).ok());
  EXPECT_DEATH(*(volatile char *)(device->base(0) + 64) = 1, "");
}
