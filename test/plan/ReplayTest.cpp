// The witness itself: plans of a few instructions, right and wrong.
#include "test/plan/Replay.h"

#include <gtest/gtest.h>

using namespace lmc;
using test::replay;

namespace {

// A plan of one scratch allocation, one input and one output of 256 bytes
// each; instructions are copies and fills.
struct Builder {
  plan::Plan plan;

  Builder() {
    for (auto contents : {plan::Allocation::SCRATCH, plan::Allocation::INPUT,
                          plan::Allocation::OUTPUT}) {
      plan::Allocation *allocation = plan.add_allocations();
      allocation->set_name(plan::Allocation::Contents_Name(contents));
      allocation->set_bytes(256);
      allocation->set_contents(contents);
    }
    plan.add_programs()->set_name("step");
    plan.add_schedules()->add_calls();
  }

  static void set(plan::Slice *slice, int allocation, int64_t offset,
                  int64_t bytes) {
    slice->set_allocation(uint32_t(allocation));
    slice->mutable_offset()->set_constant(offset);
    slice->set_bytes(bytes);
  }
  void copy(int from, int64_t fromOffset, int to, int64_t toOffset,
            int64_t bytes) {
    plan::Copy *copy =
        plan.mutable_programs(0)->add_instructions()->mutable_copy();
    set(copy->mutable_source(), from, fromOffset, bytes);
    set(copy->mutable_target(), to, toOffset, bytes);
  }
  test::ReplayResult run() const { return replay(plan, plan.schedules(0)); }
};

constexpr int scratch = 0, input = 1, output = 2;

TEST(Replay, CountsWhatIsAlive) {
  Builder b;
  b.copy(input, 0, scratch, 0, 64);
  b.copy(input, 64, scratch, 64, 128);
  b.copy(scratch, 64, output, 0, 128); // 64 + 128 alive up to here
  b.copy(input, 0, scratch, 64, 64);   // takes dead bytes
  b.copy(scratch, 0, output, 128, 128);
  test::ReplayResult result = b.run();
  EXPECT_TRUE(result.findings.empty()) << result.findings.front();
  EXPECT_TRUE(result.lostWrites.empty()) << result.lostWrites.front();
  EXPECT_EQ(result.liveBytes, 192);
  EXPECT_EQ(result.arenaBytes, 256);
  EXPECT_EQ(result.fixedBytes, 512);
}

TEST(Replay, FindsReadsOfNothing) {
  Builder b;
  b.copy(input, 0, scratch, 0, 64);
  b.copy(scratch, 0, output, 0, 128);
  ASSERT_EQ(b.run().findings.size(), 1u);
}

TEST(Replay, FindsTornReads) {
  Builder b;
  b.copy(input, 0, scratch, 0, 128);
  b.copy(input, 0, scratch, 64, 128); // laid upon a value that is read later
  b.copy(scratch, 0, output, 0, 128);
  b.copy(scratch, 64, output, 0, 128);
  ASSERT_EQ(b.run().findings.size(), 1u);
}

TEST(Replay, FindsLostWrites) {
  Builder b;
  b.copy(input, 0, scratch, 0, 128);
  b.copy(input, 0, scratch, 0, 128); // the same bytes: the first is lost
  b.copy(scratch, 0, output, 0, 128);
  ASSERT_EQ(b.run().lostWrites.size(), 1u);
}

TEST(Replay, ScratchDoesNotOutliveACall) {
  Builder b;
  b.copy(input, 0, scratch, 0, 64);
  b.plan.add_programs()->set_name("second");
  plan::Copy *copy =
      b.plan.mutable_programs(1)->add_instructions()->mutable_copy();
  Builder::set(copy->mutable_source(), scratch, 0, 64);
  Builder::set(copy->mutable_target(), output, 0, 64);
  b.plan.mutable_schedules(0)->add_calls()->set_program(1);
  ASSERT_EQ(b.run().findings.size(), 1u);
}

TEST(Replay, FindsOverlappingOperands) {
  Builder b;
  b.copy(input, 0, scratch, 0, 128);
  b.copy(scratch, 0, scratch, 64, 128);
  b.copy(scratch, 64, output, 0, 128);
  ASSERT_FALSE(b.run().findings.empty());
}

} // namespace
