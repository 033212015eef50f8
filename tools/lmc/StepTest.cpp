// What is read from a plan's step, on plans written by hand.
#include "tools/lmc/StepMemory.h"
#include "tools/lmc/StepTimes.h"

#include <gtest/gtest.h>

using namespace lmc;

namespace {

// A pipeline of equal stages; a call's time is its only launch's bytes.
struct Pipeline {
  plan::Plan plan;
  int stages, microBatches;

  Pipeline(int stages, int microBatches, double forward, double backward)
      : stages(stages), microBatches(microBatches) {
    plan::Mesh::Axis *axis = plan.mutable_mesh()->add_axes();
    axis->set_name("pp");
    axis->set_size(stages);
    plan.set_micro_batches(microBatches);
    for (int stage = 0; stage < stages; ++stage) {
      addProgram("forward", stage, -1, +1, forward);
      addProgram("backward", stage, +1, -1, backward);
      plan.add_schedules()->set_name("train");
      plan.mutable_schedules(stage)->set_stage(stage);
    }
  }
  void addProgram(const char *name, int stage, int from, int to, double time) {
    plan::Program *program = plan.add_programs();
    program->set_name(std::string(name) + "." + std::to_string(stage));
    program->set_chunk(uint32_t(stage));
    bool isForward = to > 0;
    auto exists = [&](int peer) { return peer >= 0 && peer < stages; };
    if (exists(stage + from)) {
      plan::Transfer *receive = program->add_instructions()->mutable_receive();
      receive->set_stage_offset(from);
      receive->set_channel(!isForward);
    }
    plan::Instruction *work = program->add_instructions();
    work->mutable_launch();
    work->set_bytes_moved(int64_t(time * Rates().bytesPerSec));
    if (exists(stage + to)) {
      plan::Transfer *send = program->add_instructions()->mutable_send();
      send->set_stage_offset(to);
      send->set_channel(!isForward);
    }
  }
  void call(int stage, bool isForward, int microBatch) {
    plan::Call *call = plan.mutable_schedules(stage)->add_calls();
    call->set_program(uint32_t(2 * stage + !isForward));
    call->set_micro_batch(microBatch);
  }
  void schedule(bool isGpipe) {
    for (int stage = 0; stage < stages; ++stage) {
      int ahead =
          isGpipe ? microBatches : std::min(microBatches, stages - stage - 1);
      for (int i = 0; i < ahead; ++i)
        call(stage, true, i);
      for (int i = 0; i < microBatches; ++i) {
        if (ahead + i < microBatches)
          call(stage, true, ahead + i);
        call(stage, false, i);
      }
    }
    (*plan.mutable_settings())["pipeline_schedule"] =
        isGpipe ? "gpipe" : "1f1b";
  }
};

TEST(StepTimes, BubbleIsTheFormulasForEqualStages) {
  for (bool isGpipe : {false, true})
    for (int stages : {2, 3, 4, 8})
      for (int microBatches : {1, 2, 4, 8, 16}) {
        Pipeline p(stages, microBatches, 1, 2);
        p.schedule(isGpipe);
        StepTimes times = simulateStep(p.plan, "train");
        ASSERT_TRUE(times.formula.has_value());
        EXPECT_NEAR(*times.formula, double(stages - 1) / microBatches, 1e-12);
        EXPECT_NEAR(times.bubble, *times.formula, 1e-6)
            << stages << " stages, " << microBatches << " micro-batches";
      }
}

TEST(StepTimes, UnequalStagesWait) {
  Pipeline p(2, 1, 1, 1);
  p.schedule(false);
  // The second forward takes 3 instead of 1: 1 + 3 + 1 + 1 over (2 + 4) / 2.
  p.plan.mutable_programs(2)->mutable_instructions(1)->set_bytes_moved(
      int64_t(3 * Rates().bytesPerSec));
  StepTimes times = simulateStep(p.plan, "train");
  EXPECT_NEAR(times.span, 6, 1e-9);
  EXPECT_NEAR(times.bubble, 1, 1e-9);
  EXPECT_NEAR(times.step.stages[1].calls[0].begin, 1, 1e-9);
  EXPECT_NEAR(times.step.stages[1].calls[0].end, 4, 1e-9);
  EXPECT_NEAR(times.step.stages[0].calls[1].begin, 5, 1e-9);
}

TEST(StepTimes, CollectivesOverStagesMeet) {
  Pipeline p(2, 1, 1, 1);
  p.schedule(false);
  for (int stage = 0; stage < 2; ++stage) {
    plan::Program *program = p.plan.add_programs();
    program->set_name("update." + std::to_string(stage));
    plan::Instruction *norm = program->add_instructions();
    norm->mutable_collective()->add_axes(0);
    plan::Call *call = p.plan.mutable_schedules(stage)->add_calls();
    call->set_program(uint32_t(4 + stage));
  }
  StepTimes times = simulateStep(p.plan, "train");
  // Stage 1 is done at 3 and waits for stage 0; the bubble counts neither.
  EXPECT_NEAR(times.step.stages[1].calls[2].begin, 3, 1e-9);
  EXPECT_NEAR(times.step.stages[1].calls[2].end, 4, 1e-9);
  EXPECT_NEAR(times.span, 4, 1e-9);
}

TEST(StepMemory, CountsSavedValuesOfMicroBatchesUnderWay) {
  Pipeline p(1, 2, 1, 1);
  for (const char *name : {"saved", "scratch"}) {
    plan::Allocation *allocation = p.plan.add_allocations();
    allocation->set_name(name);
    allocation->set_memory(plan::DEVICE);
    allocation->set_bytes(256);
    allocation->set_contents(name == std::string("saved")
                                 ? plan::Allocation::SAVED
                                 : plan::Allocation::SCRATCH);
  }
  p.plan.add_symbols()->set_kind(plan::Symbol::SLOT);
  auto add = [&](int program, uint32_t allocation, bool reads, int64_t bytes) {
    plan::Operand *operand = p.plan.mutable_programs(program)
                                 ->mutable_instructions(0)
                                 ->mutable_launch()
                                 ->add_operands();
    operand->set_access(reads ? plan::Operand::READ : plan::Operand::WRITE);
    operand->mutable_slice()->set_allocation(allocation);
    operand->mutable_slice()->set_bytes(bytes);
    if (allocation == 0) {
      auto *term = operand->mutable_slice()->mutable_offset()->add_terms();
      term->set_coefficient(128);
    }
  };
  add(0, 0, false, 100);
  add(0, 1, false, 64);
  add(1, 0, true, 100);
  for (int i : {0, 1, 2, 3}) {
    p.call(0, i < 2, i % 2);
    p.plan.mutable_schedules(0)->mutable_calls(i)->add_slots(i % 2);
  }
  StageMemory memory = memoryOf(p.plan, p.plan.schedules(0));
  EXPECT_EQ(memory.allocated, 512);
  EXPECT_EQ(memory.fixed, 0);
  EXPECT_EQ(memory.slots, 2);
  std::vector<int64_t> saved, scratch;
  for (const CallMemory &call : memory.calls) {
    saved.push_back(call.saved);
    scratch.push_back(call.scratch);
  }
  EXPECT_EQ(saved, (std::vector<int64_t>{100, 200, 200, 100}));
  EXPECT_EQ(scratch, (std::vector<int64_t>{64, 64, 0, 0}));
  EXPECT_EQ(memory.chunks, (std::map<int64_t, int64_t>{{0, 200}}));
  ASSERT_TRUE(memory.peak);
  EXPECT_EQ(memory.peak->program, 0u); // the second forward
  EXPECT_EQ(memory.peak->instruction, 0);

  // Of two chunks each has what its own programs wrote.
  p.plan.mutable_programs(1)->set_chunk(1);
  auto *late = p.plan.mutable_programs(1)->mutable_instructions(0);
  *late->mutable_launch()->add_operands() =
      p.plan.programs(0).instructions(0).launch().operands(1);
  memory = memoryOf(p.plan, p.plan.schedules(0));
  EXPECT_EQ(memory.chunks, (std::map<int64_t, int64_t>{{0, 200}, {1, 64}}));
}

} // namespace
