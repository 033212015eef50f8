// What the checker asks of a matmul: sizes, slices and places.
#include "runtime/plan/PlanCheck.h"
#include "runtime/plan/PlanFacts.h"
#include "runtime/plan/SliceForTest.h"
#include "runtime/plan/StepTime.h"

#include <functional>
#include <gtest/gtest.h>

using namespace lmc;
using namespace lmc::runtime;

/// target [tokens, 4] = left [tokens, 8] * right [8, 4] + bias + addend, where
/// there are up to 16 tokens.
static plan::Plan matmulPlan() {
  plan::Plan p;
  p.set_target("cuda");
  auto *tokens = p.add_symbols();
  tokens->set_kind(plan::Symbol::SIZE);
  tokens->set_name("tokens");
  tokens->set_maximum(16);
  auto allocate = [&](const char *name, plan::Allocation::Contents contents) {
    auto *allocation = p.add_allocations();
    allocation->set_name(name);
    allocation->set_memory(plan::DEVICE);
    allocation->set_contents(contents);
    allocation->set_bytes(1024);
  };
  allocate("weights", plan::Allocation::STATE);
  allocate("scratch", plan::Allocation::SCRATCH);
  allocate("inputs", plan::Allocation::INPUT);
  auto *location = p.add_locations();
  location->set_file("model.textproto");
  location->set_line(7);
  location->set_column(3);
  location->set_layer("h.0.mlp (lm.linear)");
  auto *program = p.add_programs();
  program->set_name("step");
  plan::Matmul *matmul = program->add_instructions()->mutable_matmul();
  matmul->set_columns(4);
  matmul->set_depth(8);
  matmul->mutable_rows()->add_terms()->set_coefficient(1);
  matmul->mutable_adds()->set_constant(1);
  setSlice(matmul->mutable_left(), 2, 0, 16 * 8 * 4);
  setSlice(matmul->mutable_right(), 0, 0, 8 * 4 * 4);
  setSlice(matmul->mutable_bias(), 0, 128, 4 * 4);
  setSlice(matmul->mutable_target(), 1, 0, 16 * 4 * 4);
  setSlice(matmul->mutable_addend(), 2, 512, 16 * 4 * 4);
  setSlice(matmul->mutable_workspace(), 1, 256, 512);
  auto *schedule = p.add_schedules();
  schedule->set_name("step");
  schedule->add_calls()->set_program(0);
  return p;
}

static plan::Instruction *instruction(plan::Plan &p) {
  return p.mutable_programs(0)->mutable_instructions(0);
}

TEST(PlanCheck, TakesAMatmul) {
  plan::Plan p = matmulPlan();
  EXPECT_TRUE(checkPlan(p).ok()) << checkPlan(p).toString();
  EXPECT_TRUE(hasMatmuls(p));
  plan::Matmul *matmul = instruction(p)->mutable_matmul();
  EXPECT_EQ(matmulName(p, *matmul), "matmul 16x4x8");
  instruction(p)->set_flops(3000);
  EXPECT_EQ(plannedFlops(*instruction(p)), 3000);
  // In place, without a bias, and with as many rows as it likes.
  *matmul->mutable_addend() = matmul->target();
  auto *before = p.mutable_programs(0)->add_instructions()->mutable_fill();
  *before->mutable_slice() = matmul->target();
  p.mutable_programs(0)->mutable_instructions()->SwapElements(0, 1);
  matmul = p.mutable_programs(0)->mutable_instructions(1)->mutable_matmul();
  matmul->clear_bias();
  matmul->clear_rows();
  matmul->mutable_rows()->set_constant(16);
  EXPECT_TRUE(checkPlan(p).ok()) << checkPlan(p).toString();
}

TEST(PlanCheck, RefusesAMatmulThatDoesNotFit) {
  auto refused = [](const std::string &because,
                    const std::function<void(plan::Matmul &)> &change) {
    plan::Plan p = matmulPlan();
    change(*instruction(p)->mutable_matmul());
    Status status = checkPlan(p);
    EXPECT_EQ(status.exitStatus(), 4) << because;
    std::string text = status.toString();
    EXPECT_NE(text.find(because), std::string::npos) << text;
    EXPECT_NE(text.find("program step (chunk 0), instruction 0 (h.0.mlp "
                        "(lm.linear) at model.textproto:7:3)"),
              std::string::npos)
        << text;
  };
  refused("a matmul has 0 columns and depth 8; both are 1 to 2147483647",
          [](auto &m) { m.set_columns(0); });
  refused("a matmul has 4 columns and depth -8",
          [](auto &m) { m.set_depth(-8); });
  refused("a matmul has 4294967296 columns",
          [](auto &m) { m.set_columns(int64_t(1) << 32); });
  refused("the left factor of a matmul is 16 x 9 float32, its slice has 512 "
          "bytes",
          [](auto &m) { m.set_depth(9); });
  refused("the left factor of a matmul is 2147483647 x 2147483647 float32",
          [](auto &m) {
            m.mutable_rows()->set_constant(2147483647 - 16);
            m.set_depth(2147483647);
          });
  refused("the right factor of a matmul is 8 x 5 float32",
          [](auto &m) { m.set_columns(5); });
  refused("the rows of a matmul are negative, too many, or name an unknown",
          [](auto &m) { m.mutable_rows()->set_constant(-1); });
  refused("the rows of a matmul are negative, too many, or name an unknown",
          [](auto &m) {
            m.mutable_rows()->mutable_terms(0)->set_coefficient(INT64_MAX);
          });
  refused("the rows of a matmul are negative, too many, or name an unknown",
          [](auto &m) { m.mutable_rows()->mutable_terms(0)->set_symbol(9); });
  refused("whether a matmul adds overflows or names an unknown symbol",
          [](auto &m) { m.mutable_adds()->add_terms()->set_symbol(9); });
  refused("a matmul adds and has no addend", [](auto &m) { m.clear_addend(); });
  refused("a matmul adds nothing and has an addend",
          [](auto &m) { m.clear_adds(); });
  refused("with a transposed left factor has between 0 and 16 rows",
          [](auto &m) { m.set_left_transposed(true); });
  refused("right factor of a matmul: slice [1000, 1000+128) exceeds allocation "
          "0 (weights) of 1024 bytes",
          [](auto &m) { setSlice(m.mutable_right(), 0, 1000, 128); });
  refused("result of a matmul: an instruction writes allocation 2 (inputs)",
          [](auto &m) { m.mutable_target()->set_allocation(2); });
  refused("bias of a matmul: slice names allocation 7 of 3",
          [](auto &m) { m.mutable_bias()->set_allocation(7); });
  refused("the addend of a matmul is 16 x 4 float32, its slice has 252 bytes",
          [](auto &m) { m.mutable_addend()->set_bytes(252); });
  refused("the bias of a matmul does not always begin at a multiple of 4",
          [](auto &m) { m.mutable_bias()->mutable_offset()->set_constant(2); });
  refused("workspace of a matmul: slice [256, 256+-64) exceeds",
          [](auto &m) { m.mutable_workspace()->set_bytes(-64); });
  refused("the workspace of a matmul does not always begin at a multiple of 64",
          [](auto &m) {
            m.mutable_workspace()->mutable_offset()->set_constant(288);
          });
}

TEST(PlanCheck, HoldsAMatmulToItsTargetAndItsArena) {
  plan::Plan p = matmulPlan();
  p.set_target("cpu");
  Status status = checkPlan(p);
  EXPECT_NE(status.toString().find(
                "a matmul in a plan for cpu, whose products are kernels"),
            std::string::npos)
      << status.toString();
  // An addend that nothing has written in this call.
  p = matmulPlan();
  *instruction(p)->mutable_matmul()->mutable_addend() =
      instruction(p)->matmul().target();
  EXPECT_FALSE(checkPlan(p).ok());
}
