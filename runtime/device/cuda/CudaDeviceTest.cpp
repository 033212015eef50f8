// The CUDA device without a GPU: which code it takes, and, on a double of the
// driver that this binary's rpath finds, what it calls, with which arguments
// and in which order. The double computes nothing.
#include "runtime/device/cuda/CudaDevice.h"
#include "runtime/device/cpu/CpuDevice.h"
#include "runtime/device/cuda/CodeChoice.h"
#include "runtime/exec/BigramPlanForTest.h"
#include "runtime/plan/Linear.h"
#include "runtime/trace/Perfetto.pb.h"
#include "runtime/train/Snapshot.h"

#include <cstdlib>
#include <gtest/gtest.h>

using namespace lmc::runtime;
namespace plan = lmc::plan;

static const char *ptx = ".version 8.0\n.target sm_80\n";
static const char *cubin = "\x7f"
                           "ELF...";

TEST(CodeChoice, TakesTheCubinOfTheVeryGpuThenTheNewestPtx) {
  std::vector<CodeObject> code = {{"sm_80", {}, ptx},  {"sm_80", {}, cubin},
                                  {"sm_90", {}, ptx},  {"sm_90", {}, cubin},
                                  {"sm_90a", {}, ptx}, {"sm_100", {}, ptx}};
  EXPECT_EQ(*cuda::chooseCode(code, 80), 1u);
  EXPECT_EQ(*cuda::chooseCode(code, 86), 0u);
  EXPECT_EQ(*cuda::chooseCode(code, 89), 0u);
  EXPECT_EQ(*cuda::chooseCode(code, 90), 3u);
  EXPECT_EQ(*cuda::chooseCode(code, 100), 5u);
  EXPECT_EQ(*cuda::chooseCode(code, 120), 5u);
  code.pop_back();
  EXPECT_EQ(*cuda::chooseCode(code, 100), 2u); // not sm_90a's
}

TEST(CodeChoice, RefusesWhatTheGpuCannotRun) {
  auto none = cuda::chooseCode({{"sm_90", {}, ptx}, {"sm_80", {}, cubin}}, 86);
  ASSERT_FALSE(none.ok());
  EXPECT_EQ(none.status().exitStatus(), 2);
  std::string text = none.status().toString();
  EXPECT_NE(text.find("the PTX for sm_90 needs a GPU of sm_90 or later"),
            std::string::npos)
      << text;
  EXPECT_NE(text.find("the cubin for sm_80 needs a GPU of sm_80\n"),
            std::string::npos)
      << text;
}

/// The lines that the double wrote since the last call.
static std::vector<std::string> takeLog() {
  std::vector<std::string> lines;
  std::ifstream file(std::getenv("LMC_STUB_CUDA_LOG"));
  for (std::string line; std::getline(file, line);)
    lines.push_back(line);
  std::ofstream(std::getenv("LMC_STUB_CUDA_LOG")); // empties it
  return lines;
}

class CudaDeviceTest : public testing::Test {
protected:
  void SetUp() override {
    path = testing::TempDir() + "cuda-stub.log";
    ::setenv("LMC_STUB_CUDA_LOG", path.c_str(), 1);
    auto gpus = CudaDevice::list();
    ASSERT_TRUE(gpus.ok()) << gpus.status().toString();
    ASSERT_EQ((*gpus)[0].name, "no GPU (a test double)");
    auto made = CudaDevice::create(ThreadPool::Options());
    ASSERT_TRUE(made.ok()) << made.status().toString();
    device = *std::move(made);
    takeLog();
  }
  void TearDown() override {
    device = nullptr;
    ::unsetenv("LMC_STUB_CUDA_FAIL");
    std::remove(path.c_str());
  }
  static void fail(const char *call) {
    ::setenv("LMC_STUB_CUDA_FAIL", call, 1);
  }

  std::string path;
  std::unique_ptr<CudaDevice> device;
};

/// The bigram plan as if it were compiled for a GPU; the kernels are empty.
static plan::Plan cudaPlan(BigramPlan bigram = {}) {
  plan::Plan plan = bigram.build();
  plan.set_target("cuda");
  std::string text = ptx;
  uint32_t threads = 0;
  for (plan::Kernel &kernel : *plan.mutable_kernels()) {
    kernel.set_threads(threads += 64);
    kernel.set_shared_bytes(threads == 64 ? 100 << 10 : 0);
    text += ".visible .entry " + kernel.symbol() + "(\n";
    for (uint32_t i = 0; i <= kernel.operands() + kernel.integers(); ++i)
      text += ".param .u64 p" + std::to_string(i) + "\n";
    text += ")\n{\nret;\n}\n";
  }
  plan.mutable_code(0)->set_target_cpu("sm_80");
  plan.mutable_code(0)->set_object(text + '\0');
  return plan;
}

/// What a schedule has to launch, worked out from the plan alone.
static std::vector<std::string> plannedLaunches(const plan::Plan &plan,
                                                const Device &device) {
  std::vector<std::string> lines;
  for (const plan::Call &call : plan.schedules(0).calls())
    for (const plan::Instruction &instruction :
         plan.programs(int(call.program())).instructions()) {
      if (!instruction.has_launch())
        continue;
      std::vector<int64_t> values = {call.micro_batch()}; // the one symbol
      const plan::Launch &launch = instruction.launch();
      const plan::Kernel &kernel = plan.kernels(int(launch.kernel()));
      int64_t rows = evaluateLinear(launch.rows(), values);
      int64_t units = (rows + kernel.rows_per_unit() - 1) /
                      kernel.rows_per_unit() * kernel.columns();
      std::string line =
          fmt::format("launch {} {} {} {}", kernel.symbol(), units,
                      kernel.threads(), kernel.shared_bytes());
      for (const plan::Operand &operand : launch.operands())
        line += fmt::format(
            " {:x}",
            uint64_t(uintptr_t(device.base(operand.slice().allocation()))) +
                uint64_t(evaluateLinear(operand.slice().offset(), values)));
      for (const plan::Linear &integer : launch.integers())
        line += fmt::format(" {:x}", evaluateLinear(integer, values));
      lines.push_back(line + fmt::format(" {:x}", units));
    }
  return lines;
}

TEST_F(CudaDeviceTest, LaunchesWhatThePlanSaysAndNothingElseInAStep) {
  plan::Plan plan = cudaPlan();
  auto executor = Executor::create(plan, *device, nullptr, 0, {});
  ASSERT_TRUE(executor.ok()) << executor.status().toString();
  std::vector<std::string> before = takeLog();
  for (const plan::Kernel &kernel : plan.kernels())
    EXPECT_EQ(std::count(before.begin(), before.end(),
                         "function_load " + kernel.symbol()),
              1);
  EXPECT_EQ(
      std::count(before.begin(), before.end(), "shared bigram_forward 102400"),
      1);
  for (const std::string &line : before) {
    EXPECT_NE(line.compare(0, 6, "launch"), 0) << line;
    EXPECT_NE(line.compare(0, 15, "shared bigram_a"), 0) << line;
  }
  int64_t bytes = 0;
  for (const std::string &line : before)
    if (line.compare(0, 6, "alloc ") == 0)
      bytes += std::stoll(line.substr(6));
  int64_t planned = 0;
  for (const plan::Allocation &allocation : plan.allocations())
    planned += allocation.bytes();
  EXPECT_EQ(bytes, planned);

  ASSERT_TRUE((*executor)->run((*executor)->findSchedule("train")).ok());
  std::vector<std::string> launches, step = takeLog();
  ASSERT_FALSE(step.empty());
  EXPECT_EQ(step.back(), "sync");
  step.pop_back();
  for (const std::string &line : step)
    if (line.compare(0, 6, "launch") == 0)
      launches.push_back(line);
    else // fills, and copies of collectives of one rank
      EXPECT_EQ(line.compare(0, 6, "memset"), 0) << line;
  EXPECT_EQ(launches, plannedLaunches(plan, *device));
  EXPECT_EQ(launches.size(), 4u); // two micro-batches, finish, update
}

/// Of lines, those that begin with `word`.
static std::vector<std::string> linesOf(const std::vector<std::string> &lines,
                                        std::string_view word) {
  std::vector<std::string> found;
  for (const std::string &line : lines)
    if (line.compare(0, word.size(), word) == 0)
      found.push_back(line);
  return found;
}

TEST_F(CudaDeviceTest, ReplaysAStepAsOneGraph) {
  plan::Plan plan = cudaPlan();
  auto executor = Executor::create(plan, *device, nullptr, 0, {});
  ASSERT_TRUE(executor.ok()) << executor.status().toString();
  takeLog();
  // What changes is written without a wait, and no launch has other arguments.
  std::vector<std::vector<std::string>> steps;
  for (int step = 1; step <= 4; ++step) {
    ASSERT_TRUE((*executor)->setScalar("step", step));
    ASSERT_TRUE((*executor)->run(0).ok());
    steps.push_back(takeLog());
    EXPECT_EQ(linesOf(steps.back(), "copy").size(), 1u);
    EXPECT_EQ(linesOf(steps.back(), "launch"), plannedLaunches(plan, *device));
    EXPECT_EQ(linesOf(steps.back(), "sync").size(), 1u);
    EXPECT_EQ(steps.back().back(), "sync");
    EXPECT_TRUE(linesOf(steps.back(), "alloc").empty());
  }
  size_t nodes = steps[0].size() - 2; // without the copy and the wait
  EXPECT_TRUE(linesOf(steps[0], "graph").empty());
  std::string graph = fmt::format("graph {}", nodes);
  for (size_t step : {1u, 2u, 3u})
    EXPECT_EQ(linesOf(steps[step], "graph"), std::vector{graph}) << step;
  EXPECT_EQ(linesOf(steps[1], "instantiate").size(), 1u);
  EXPECT_EQ(linesOf(steps[2], "instantiate").size(), 0u);
  EXPECT_EQ(steps[2].size(), nodes + 3);
  EXPECT_EQ(steps[2][1], graph); // behind the copy
}

TEST_F(CudaDeviceTest, MeasuresByTheClockOfTheGpu) {
  plan::Plan plan = cudaPlan();
  auto executor = Executor::create(plan, *device, nullptr, 0, {true});
  ASSERT_TRUE(executor.ok()) << executor.status().toString();
  size_t instructions = 0;
  for (const plan::Call &call : plan.schedules(0).calls())
    instructions +=
        size_t(plan.programs(int(call.program())).instructions_size());
  takeLog();
  for (int step = 1; step <= 3; ++step) {
    ASSERT_TRUE((*executor)->run(0).ok());
    std::vector<std::string> lines = takeLog();
    EXPECT_EQ(linesOf(lines, "sync").size(), 1u);
    EXPECT_EQ(linesOf(lines, "graph").size(), step > 1 ? 1u : 0u);
    EXPECT_EQ(linesOf(lines, "event").size(), instructions + 1);
  }
  // A millisecond each; two micro-batches.
  std::string report = (*executor)->profileReport();
  EXPECT_NE(report.find(" 6.00        6 "), std::string::npos) << report;
  // Without marks a step is another graph.
  ASSERT_TRUE((*executor)->setProfile(false).ok());
  for (int step = 1; step <= 3; ++step)
    ASSERT_TRUE((*executor)->run(0).ok());
  EXPECT_TRUE(linesOf(takeLog(), "event").empty());
  EXPECT_EQ((*executor)->profileReport(), report);
}

// A trace has the GPU's times, of single steps and of replayed ones, and the
// other steps have no marks.
TEST_F(CudaDeviceTest, TracesByTheClockOfTheGpu) {
  BigramPlan bigram;
  bigram.dpCollectives = false; // which take no time
  plan::Plan plan = cudaPlan(bigram);
  TraceOptions options;
  options.path = testing::TempDir() + "cuda-trace";
  options.firstStep = 2;
  options.lastStep = 4;
  auto trace = Trace::create(plan, options, 0);
  ASSERT_TRUE(trace.ok()) << trace.status().toString();
  auto executor = Executor::create(plan, *device, nullptr, 0, {});
  ASSERT_TRUE(executor.ok()) << executor.status().toString();
  ASSERT_TRUE((*executor)->setTrace(trace->get()).ok());
  takeLog();
  for (int step = 1; step <= 6; ++step) {
    ASSERT_TRUE((*executor)->run(0).ok());
    std::vector<std::string> lines = takeLog();
    EXPECT_EQ(linesOf(lines, "event").empty(), step == 1 || step > 4) << step;
    EXPECT_EQ(linesOf(lines, "graph").size(),
              step == 3 || step == 4 || step == 6 ? 1u : 0u)
        << step;
  }
  ASSERT_TRUE(closeTrace(trace->get(), Status()).ok());
  std::ifstream file(options.path, std::ios::binary);
  lmc::trace::Trace written;
  ASSERT_TRUE(written.ParseFromIstream(&file));
  std::remove(options.path.c_str());
  std::vector<uint64_t> begun;
  size_t instructions = 0;
  for (const lmc::trace::TracePacket &packet : written.packet()) {
    const lmc::trace::TrackEvent &event = packet.track_event();
    if (event.type() == lmc::trace::TrackEvent::TYPE_SLICE_BEGIN) {
      begun.push_back(packet.timestamp());
    } else if (event.type() == lmc::trace::TrackEvent::TYPE_SLICE_END) {
      if (begun.size() == 3) { // step, program, instruction
        // The double's, for whatever it is asked.
        EXPECT_EQ(packet.timestamp() - begun.back(), 1000000u);
        ++instructions;
      }
      begun.pop_back();
    }
  }
  EXPECT_EQ(instructions, 3u * 6u);
}

TEST_F(CudaDeviceTest, AFailedRecordingIsTold) {
  plan::Plan plan = cudaPlan();
  auto executor = Executor::create(plan, *device, nullptr, 0, {});
  ASSERT_TRUE(executor.ok());
  ASSERT_TRUE((*executor)->run(0).ok());
  fail("cuStreamBeginCapture");
  Status status = (*executor)->run(0);
  EXPECT_NE(status.toString().find("recording a CUDA graph: "),
            std::string::npos)
      << status.toString();
  fail("cuGraphInstantiateWithFlags");
  status = (*executor)->run(0);
  EXPECT_NE(status.toString().find("preparing a CUDA graph: "),
            std::string::npos)
      << status.toString();
  EXPECT_EQ(status.exitStatus(), 3); // no room
  fail("cuGraphLaunch");
  status = (*executor)->run(0);
  EXPECT_NE(status.toString().find("a CUDA graph: "), std::string::npos)
      << status.toString();
}

TEST_F(CudaDeviceTest, AFailedLaunchIsToldFromARecordingToo) {
  plan::Plan plan = cudaPlan();
  auto executor = Executor::create(plan, *device, nullptr, 0, {});
  ASSERT_TRUE(executor.ok());
  ASSERT_TRUE((*executor)->run(0).ok());
  fail("cuLaunchKernel");
  Status status = (*executor)->run(0);
  EXPECT_NE(status.toString().find("bigram_forward: the stub fails"),
            std::string::npos)
      << status.toString();
}

TEST_F(CudaDeviceTest, WaitsForWritesOnlyWhereTheyAreMany) {
  const int64_t all = 4 << 20;
  ASSERT_TRUE(device->allocate({{"a", all}}).ok());
  takeLog();
  std::vector<char> data(all), back(all);
  for (size_t i = 0; i < data.size(); ++i)
    data[i] = char(i * 7 + i / 256);
  // Pieces that fit, in more than their room, and all at once.
  const int64_t piece = 300 << 10;
  for (int64_t at = 0; at + piece <= all; at += piece) {
    std::vector<char> gone(data.begin() + at, data.begin() + at + piece);
    device->write(device->base(0) + at, gone.data(), piece);
    std::fill(gone.begin(), gone.end(), char(1));
  }
  std::vector<std::string> lines = takeLog();
  EXPECT_EQ(linesOf(lines, "copy").size(), 13u);
  EXPECT_EQ(linesOf(lines, "sync").size(), 4u); // three fit
  device->read(device->base(0), back.data(), 13 * piece);
  EXPECT_EQ(std::memcmp(back.data(), data.data(), 13 * piece), 0);
  takeLog();
  device->write(device->base(0), data.data(), all);
  EXPECT_EQ(linesOf(takeLog(), "sync").size(), 1u);
  device->read(device->base(0), back.data(), all);
  EXPECT_EQ(back, data);
}

TEST(Recordings, KeepWhatWasUsedLast) {
  Recordings recordings;
  std::vector<int64_t> values = {7, 0};
  for (int64_t size = 0; size <= int64_t(Recordings::most); ++size) {
    values[1] = 0;
    recordings.find(0, values, {1}).runs += 1;
    values[1] = size;
    recordings.find(0, values, {1}).runs += 100;
  }
  values = {8, 0}; // symbols that are no sizes do not matter
  EXPECT_EQ(recordings.find(0, values, {1}).runs,
            int(Recordings::most) + 1 + 100);
  EXPECT_EQ(recordings.find(1, values, {1}).runs, 0); // another schedule
  values[1] = 1;
  EXPECT_EQ(recordings.find(0, values, {1}).runs, 0); // made room
  values[1] = int64_t(Recordings::most);
  EXPECT_EQ(recordings.find(0, values, {1}).runs, 100);
}

// The double's addresses crash whoever touches them: weights go through read
// and write, in more than one piece.
TEST_F(CudaDeviceTest, WeightsAreThoseOfTheCpu) {
  BigramPlan bigram;
  bigram.vocabulary = 4200;
  plan::Plan plan = cudaPlan(bigram), cpuPlan = bigram.build();
  auto cpu = CpuDevice::create({});
  ASSERT_TRUE(cpu.ok());
  auto expected = Executor::create(cpuPlan, **cpu, nullptr, 0, {});
  auto executor = Executor::create(plan, *device, nullptr, 0, {});
  ASSERT_TRUE(expected.ok() && executor.ok());
  const plan::State &table = plan.states(0);
  initializeState(**expected, cpuPlan.states(0), 42);
  initializeState(**executor, table, 42);
  LocalTensor all = LocalTensor::of(**expected, cpuPlan.states(0));
  ASSERT_GT(all.bytes(), hostPieceBytes);
  int pieces = 0;
  readOnHost(*device, LocalTensor::of(**executor, table),
             [&](const LocalTensor &piece) {
               ++pieces;
               EXPECT_EQ(std::memcmp(piece.data, all.at(piece.first),
                                     size_t(piece.bytes())),
                         0);
             });
  EXPECT_EQ(pieces, 2);

  // As a checkpoint takes them, transposed.
  std::vector<Selection> parameters = {
      {[](const plan::State &state) {
         return state.kind() == plan::State::PARAMETER;
       },
       [](const plan::State &) { return std::string(); }, DataType::Invalid,
       1}};
  auto onCpu = createFileOf(cpuPlan, parameters, path + ".cpu");
  auto onCuda = createFileOf(plan, parameters, path + ".cuda");
  ASSERT_TRUE(onCpu.ok() && onCuda.ok());
  ASSERT_TRUE(gather(**expected, parameters, &*onCpu).ok());
  ASSERT_TRUE(gather(**executor, parameters, &*onCuda).ok());
  ASSERT_EQ(onCuda->tensors().size(), 1u);
  const std::string &name = onCuda->tensors()[0].name;
  EXPECT_EQ(
      std::memcmp(onCuda->find(name), onCpu->find(name), size_t(all.bytes())),
      0);
}

TEST_F(CudaDeviceTest, TellsWhatTheDriverSays) {
  fail("cuModuleLoadDataEx");
  auto handles =
      device->loadKernels({{"sm_80", {}, ptx}}, {KernelRequest{"f"}});
  ASSERT_FALSE(handles.ok());
  EXPECT_NE(handles.status().toString().find("ptxas: line 1: the stub's words"),
            std::string::npos)
      << handles.status().toString();
  fail("nothing");
  handles = device->loadKernels({{"sm_80", {}, ptx}}, {KernelRequest{"f"}});
  ASSERT_FALSE(handles.ok());
  EXPECT_EQ(handles.status().exitStatus(), 4);

  // The double takes no cubin, as a driver that is older than its assembler;
  // the PTX is there, too.
  fail("nothing");
  takeLog();
  handles = device->loadKernels({{"sm_90", {}, cubin}},
                                {KernelRequest{"f", 0, 0, 32}});
  ASSERT_FALSE(handles.ok());
  EXPECT_NE(handles.status().toString().find("the stub takes no cubin"),
            std::string::npos)
      << handles.status().toString();
  handles = device->loadKernels(
      {{"sm_90", {}, cubin}, {"sm_80", {}, ".entry f(.param .s64 units)"}},
      {KernelRequest{"f", 0, 0, 32}});
  EXPECT_TRUE(handles.ok()) << handles.status().toString();
  EXPECT_EQ(linesOf(takeLog(), "load").size(), 3u);

  fail("cuMemGetInfo");
  Status status = device->allocate({{"weights", 1 << 20}});
  EXPECT_EQ(status.exitStatus(), 3);
  EXPECT_NE(status.toString().find("1.0 MiB needed, 64 bytes free"),
            std::string::npos)
      << status.toString();
}

TEST_F(CudaDeviceTest, AFailedLaunchIsToldBySynchronize) {
  plan::Plan plan = cudaPlan();
  auto executor = Executor::create(plan, *device, nullptr, 0, {});
  ASSERT_TRUE(executor.ok());
  fail("cuLaunchKernel");
  Status status = (*executor)->run(0);
  ASSERT_FALSE(status.ok());
  EXPECT_NE(status.toString().find("bigram_forward: the stub fails"),
            std::string::npos)
      << status.toString();
  fail("nothing"); // and stays
  EXPECT_FALSE(device->synchronize().ok());
}

TEST_F(CudaDeviceTest, RefusesMoreBlocksThanAGridHas) {
  auto handles =
      device->loadKernels({{"sm_80", {}, ".entry f(.param .s64 units)"}},
                          {KernelRequest{"f", 0, 0, 32}});
  ASSERT_TRUE(handles.ok());
  device->launch((*handles)[0], nullptr, nullptr, 0, Parts::Many);
  EXPECT_TRUE(device->synchronize().ok());
  device->launch((*handles)[0], nullptr, nullptr, int64_t(1) << 31,
                 Parts::Many);
  EXPECT_FALSE(device->synchronize().ok());
  for (const std::string &line : takeLog())
    EXPECT_NE(line.compare(0, 6, "launch"), 0) << line;
}

/// One product of 64 x 48 by 48 x 32 on `device`, whose rows may vary.
static MatmulRequest oneMatmul(bool rowsVary) {
  MatmulRequest request;
  request.rows = 64;
  request.depth = 48;
  request.columns = 32;
  request.rowsVary = rowsVary;
  request.workspaceBytes = 64 << 10;
  request.alignments.fill(64);
  return request;
}

class CudaMatmulTest : public CudaDeviceTest {
protected:
  void SetUp() override {
    CudaDeviceTest::SetUp();
    ASSERT_TRUE(
        device->allocate(std::vector<AllocationRequest>(6, {"m", 64 << 10}))
            .ok());
    for (uint32_t i = 0; i < 6; ++i)
      pointers[i] = device->base(i);
    takeLog();
  }
  void TearDown() override {
    ::unsetenv("LMC_STUB_CUBLASLT");
    CudaDeviceTest::TearDown();
  }
  void *pointers[6];
};

// Parts of a sum that are added in the workspace have one order; in place they
// may not. With another number of rows the sums would be others.
TEST_F(CudaMatmulTest, TakesAlgorithmsWithOneOrderOfSums) {
  ASSERT_TRUE(
      device->prepareMatmuls({oneMatmul(false), oneMatmul(true)}, false).ok());
  EXPECT_EQ(takeLog(),
            (std::vector<std::string>{"lt_create", "lt_heuristic 68 2",
                                      "lt_heuristic 68 0"}));
  device->matmul(0, pointers, 64, false);
  device->matmul(1, pointers, 64, true);
  device->matmul(1, pointers, 3, false);
  device->matmul(1, pointers, 0, false);
  ASSERT_TRUE(device->synchronize().ok());
  EXPECT_EQ(takeLog(), (std::vector<std::string>{
                           "matmul 32 64 48 0 0 0 0 68 2 2",
                           "matmul 32 64 48 0 0 0 1 68 1 0",
                           "matmul 32 3 48 0 0 0 0 68 1 0", "sync"}));
  // Where all that is offered splits K and may not be taken, what does not
  // split it is asked for.
  ::setenv("LMC_STUB_CUBLASLT", "splits", 1);
  ASSERT_TRUE(device->prepareMatmuls({oneMatmul(false)}, false).ok());
  EXPECT_EQ(takeLog(), (std::vector<std::string>{"lt_heuristic 68 2",
                                                 "lt_heuristic 68 0"}));
  device->matmul(0, pointers, 64, false);
  ASSERT_TRUE(device->synchronize().ok());
  EXPECT_EQ(takeLog(), (std::vector<std::string>{
                           "matmul 32 64 48 0 0 0 0 68 1 0", "sync"}));
  ::setenv("LMC_STUB_CUBLASLT", "inplace", 1);
  Status status = device->prepareMatmuls({oneMatmul(false)}, false);
  EXPECT_NE(status.toString().find(
                "a matmul of 64 x 48 by 48 x 32: none of cuBLASLt's 1 "
                "algorithms adds in one order within 63.8 KiB of workspace"),
            std::string::npos)
      << status.toString();
}

TEST_F(CudaMatmulTest, RoundsFactorsWhereTf32IsAllowed) {
  std::vector<float> ones(64 * 48, 1), target(1);
  ones[0] = 1 + 0x1p-12f; // float32's, not TF32's
  device->write(device->base(MatmulLeft), ones.data(), 64 * 48 * 4);
  ones[0] = 1;
  device->write(device->base(MatmulRight), ones.data(), 48 * 32 * 4);
  for (bool tf32 : {false, true, false}) {
    ASSERT_TRUE(device->prepareMatmuls({oneMatmul(true)}, tf32).ok());
    device->matmul(0, pointers, 64, false);
    device->read(device->base(MatmulTarget), target.data(), 4);
    EXPECT_EQ(target[0], tf32 ? 48.0f : 48 + 0x1p-12f);
  }
  std::vector<std::string> made = linesOf(takeLog(), "lt_");
  EXPECT_EQ(made, (std::vector<std::string>{"lt_create", "lt_heuristic 68 0",
                                            "lt_heuristic 77 0",
                                            "lt_heuristic 68 0"}));
}

// The double refuses what may not be asked in a capture.
TEST_F(CudaMatmulTest, IsPartOfARecording) {
  std::vector<float> left(64 * 48, 1), target(1);
  device->write(device->base(MatmulRight), left.data(), 48 * 32 * 4);
  ASSERT_TRUE(device->prepareMatmuls({oneMatmul(false)}, false).ok());
  ASSERT_TRUE(device->beginRecording().ok());
  device->matmul(0, pointers, 64, false);
  auto recording = device->endRecording();
  ASSERT_TRUE(recording.ok()) << recording.status().toString();
  EXPECT_TRUE(linesOf(takeLog(), "matmul").empty());
  for (float value : {1.0f, 2.0f}) {
    std::fill(left.begin(), left.end(), value);
    device->write(device->base(MatmulLeft), left.data(), 64 * 48 * 4);
    device->replay(**recording);
    device->read(device->base(MatmulTarget), target.data(), 4);
    EXPECT_EQ(target[0], 48 * value);
  }
  EXPECT_EQ(linesOf(takeLog(), "matmul").size(), 2u);
}

TEST_F(CudaMatmulTest, TellsWhatTheLibrarySays) {
  fail("cublasLtCreate");
  Status status = device->prepareMatmuls({oneMatmul(false)}, false);
  EXPECT_NE(status.toString().find(
                "cuBLASLt cannot start: cuBLASLt says the stub fails (1)"),
            std::string::npos)
      << status.toString();
  fail("cublasLtMatmulAlgoGetHeuristic");
  status = device->prepareMatmuls({oneMatmul(false)}, false);
  EXPECT_NE(status.toString().find("a matmul of 64 x 48 by 48 x 32: cuBLASLt "
                                   "says the stub fails (15)"),
            std::string::npos)
      << status.toString();
  fail("cublasLtMatmul");
  ASSERT_TRUE(device->prepareMatmuls({oneMatmul(false)}, false).ok());
  device->matmul(0, pointers, 64, false);
  status = device->synchronize();
  EXPECT_NE(status.toString().find("cuBLASLt says the stub fails (13)"),
            std::string::npos)
      << status.toString();
}
