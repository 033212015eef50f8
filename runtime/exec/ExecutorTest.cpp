// A whole plan on the CPU device: it trains, and neither threads nor
// micro-batches change what it computes.
#include "runtime/exec/Executor.h"
#include "runtime/device/cpu/CpuDevice.h"
#include "runtime/device/null/NullDevice.h"
#include "runtime/exec/BigramPlanForTest.h"
#include "runtime/plan/PlanCheck.h"
#include "runtime/plan/PlanFacts.h"
#include "runtime/plan/StepTime.h"

#include <cmath>
#include <gtest/gtest.h>

using namespace lmc;
using namespace lmc::runtime;

static const plan::Port &port(const plan::Plan &plan, std::string_view name) {
  for (const auto *ports : {&plan.inputs(), &plan.outputs()})
    for (const plan::Port &port : *ports)
      if (port.name() == name)
        return port;
  ADD_FAILURE() << name;
  return plan.inputs(0);
}

static std::vector<float> losses(plan::Plan plan, int threads, int steps,
                                 bool guards = false) {
  Status status = checkPlan(plan);
  EXPECT_TRUE(status.ok()) << status.toString();
  CpuDevice::Options options;
  options.threads = threads;
  options.guardPages = guards;
  auto device = CpuDevice::create(options);
  EXPECT_TRUE(device.ok());
  Progress progress;
  auto executor =
      Executor::create(plan, **device, nullptr, 0, {false, &progress});
  EXPECT_TRUE(executor.ok()) << executor.status().toString();
  int schedule = (*executor)->findSchedule("train");
  EXPECT_GE(schedule, 0);
  std::vector<float> out;
  for (int step = 1; step <= steps; ++step) {
    EXPECT_TRUE((*executor)->setScalar("step", step));
    EXPECT_FALSE((*executor)->setScalar("stepp", step));
    int64_t n = plan.sequence_length() * plan.global_batch();
    for (const char *name : {"tokens", "targets"}) {
      auto *ids = reinterpret_cast<int32_t *>(
          (*executor)->address(port(plan, name).slice()));
      for (int64_t i = 0; i < n; ++i)
        ids[i] = int32_t((i + (name[1] == 'a')) * 7 % 256);
    }
    auto *weights = reinterpret_cast<float *>(
        (*executor)->address(port(plan, "token_weights").slice()));
    for (int64_t i = 0; i < n; ++i)
      weights[i] = 1;
    EXPECT_TRUE((*executor)->run(schedule).ok());
    out.push_back(*reinterpret_cast<float *>(
        (*executor)->address(port(plan, "loss").slice())));
  }
  EXPECT_EQ(progress.instructions,
            uint64_t(steps) * uint64_t(2 + plan.micro_batches() + 4));
  return out;
}

TEST(Executor, TrainsAndDoesNotDependOnThreads) {
  std::vector<float> one = losses(BigramPlan().build(), 1, 50);
  EXPECT_NEAR(one[0], std::log(256.0), 1e-3); // the table begins at zero
  EXPECT_LT(one.back(), 0.5 * one[0]);
  EXPECT_EQ(losses(BigramPlan().build(), 2, 50), one);
  EXPECT_EQ(losses(BigramPlan().build(), 5, 50, true), one);
}

// The kernel adds tokens in order, so two micro-batches are bitwise one.
TEST(Executor, MicroBatchesArePatchedIn) {
  BigramPlan whole;
  whole.batch = 4;
  whole.microBatches = 1;
  std::vector<float> one = losses(whole.build(), 2, 10);
  EXPECT_EQ(losses(BigramPlan().build(), 2, 10), one);
}

TEST(Executor, DryRunOnTheNullDevice) {
  plan::Plan plan = BigramPlan().build();
  NullDevice device;
  auto executor = Executor::create(plan, device, nullptr, 0, {});
  ASSERT_TRUE(executor.ok());
  EXPECT_TRUE((*executor)->run((*executor)->findSchedule("train")).ok());
}

TEST(Executor, KeepsPaceOnTheNullDevice) {
  plan::Plan plan = BigramPlan().build();
  for (plan::Program &program : *plan.mutable_programs())
    for (plan::Instruction &instruction : *program.mutable_instructions())
      instruction.set_flops(1);
  StepTime planned = timeStep(plan, "train");
  NullDevice device(NullDevice::Memory::Zeros);
  Executor::Options options;
  options.secondsPerFlop = 0.05 / planned.work;
  auto executor = Executor::create(plan, device, nullptr, 0, options);
  ASSERT_TRUE(executor.ok());
  auto start = std::chrono::steady_clock::now();
  EXPECT_TRUE((*executor)->run((*executor)->findSchedule("train")).ok());
  EXPECT_GE(std::chrono::steady_clock::now() - start,
            std::chrono::milliseconds(50));
}

// What a rank allocates is what the plan says of its stage, to the byte.
TEST(Executor, AllocatesWhatThePlanSays) {
  plan::Plan plan;
  plan.mutable_mesh()->add_axes()->set_name("pp");
  plan.mutable_mesh()->mutable_axes(0)->set_size(2);
  for (auto [name, memory] :
       {std::pair("scratch", plan::DEVICE), {"staging", plan::HOST}}) {
    plan::Allocation *allocation = plan.add_allocations();
    allocation->set_name(name);
    allocation->set_memory(memory);
    allocation->set_bytes(1 << 20);
  }
  plan::Allocation &last = *plan.mutable_allocations(1);
  last.add_stage_bytes(1 << 20);
  last.add_stage_bytes(1 << 12);
  int64_t whole = 0;
  for (const plan::Allocation &allocation : plan.allocations())
    whole += allocation.bytes();
  for (int rank : {0, 1}) {
    NullDevice device;
    auto executor = Executor::create(plan, device, nullptr, rank, {});
    ASSERT_TRUE(executor.ok()) << executor.status().toString();
    EXPECT_EQ(device.allocatedBytes(),
              whole - last.bytes() + last.stage_bytes(rank));
  }
  EXPECT_EQ(allocatedBytes(plan, plan::DEVICE) +
                allocatedBytes(plan, plan::HOST),
            whole);
}

TEST(Executor, GroupsFollowTheMesh) {
  plan::Mesh mesh;
  for (auto [name, size] : {std::pair("pp", 2), {"dp", 3}, {"tp", 2}}) {
    mesh.add_axes()->set_name(name);
    mesh.mutable_axes(mesh.axes_size() - 1)->set_size(size);
  }
  std::vector<int64_t> coordinates = rankCoordinates(mesh, 9);
  EXPECT_EQ(coordinates, (std::vector<int64_t>{1, 1, 1}));
  EXPECT_EQ(groupRanks(mesh, coordinates, {1}), (std::vector<int>{7, 9, 11}));
  EXPECT_EQ(groupRanks(mesh, coordinates, {2}), (std::vector<int>{8, 9}));
  EXPECT_EQ(groupRanks(mesh, coordinates, {0, 2}),
            (std::vector<int>{2, 3, 8, 9}));
}
