// The variants of a product for few rows on a GPU, emulated: against plain
// loops in double precision at odd sizes, and against the tiles for many rows:
// a row has the same bits whatever the number of rows.
#include "passes/codegen/Emitter.h"
#include "test/codegen/KernelRunner.h"

#include <gtest/gtest.h>

using namespace lmc;
using namespace lmc::test;

namespace {

// The rows come last, so that those that are few are the first of many.
std::string product(int64_t n, int64_t k, bool turned) {
  std::string right = turned ? std::to_string(n) + "x" + std::to_string(k)
                             : std::to_string(k) + "x" + std::to_string(n);
  std::string left = "tensor<?x" + std::to_string(k) + "xf32>";
  std::string out = "tensor<?x" + std::to_string(n) + "xf32>";
  std::string bias = "tensor<" + std::to_string(n) + "xf32>";
  right = "tensor<" + right + "xf32>";
  return "plan.kernel @k(%b: " + right + ", %bias: " + bias + ", %a: " + left +
         ") -> " + out + R"(
    attributes {kind = "contraction", tied = array<i64: -1>} {
  %c = lm.contract %a [1], %b [)" +
         (turned ? "1" : "0") + "] : (" + left + ", " + right + ") -> " + out +
         "\n  %bb = lm.broadcast %bias dims [1] : " + bias + " to " + out +
         "\n  %h = arith.addf %c, %bb : " + out +
         "\n  %t = math.tanh %h : " + out + "\n  plan.yield %t : " + out +
         "\n}";
}

class FewRowsTest : public testing::Test {
protected:
  KernelRunner runner;

  // Checks 1 to 17 rows, each with the kernel that a plan would run.
  void checkRows(int64_t n, int64_t k, bool turned) {
    SCOPED_TRACE(std::to_string(n) + " columns of " + std::to_string(k) +
                 (turned ? ", turned" : ""));
    auto module = runner.parse(product(n, k, turned));
    ASSERT_TRUE(module);
    std::vector<mlir::OwningOpRef<plan::KernelOp>> made;
    plan::KernelOp tiles = *module.getOps<plan::KernelOp>().begin();
    auto kernels = codegen::withVariants({tiles}, made);
    ASSERT_GT(kernels.size(), 1u);
    RunOptions run;
    run.targetCpu = kInterpretedGpu;
    run.rows = 67;
    Bytes many = runner.check(tiles, run);
    ASSERT_FALSE(many.empty());
    for (run.rows = 1; run.rows <= 17; ++run.rows) {
      SCOPED_TRACE(std::to_string(run.rows) + " rows");
      plan::KernelOp chosen = tiles;
      for (size_t i = kernels.size(); --i > 0;)
        if (int64_t(*kernels[i].getMostRows()) >= run.rows)
          chosen = kernels[i];
      Bytes few = runner.check(chosen, run);
      ASSERT_FALSE(few.empty());
      ASSERT_EQ(few[0].size(), size_t(run.rows * n * 4));
      EXPECT_TRUE(std::equal(few[0].begin(), few[0].end(), many[0].begin()));
    }
  }
};

// Widths that 16 bytes divide and do not, strips and blocks of K that are cut
// short; many blocks of K, one, and less than one.
TEST_F(FewRowsTest, InPlace) {
  for (auto [n, k] : {std::pair{100, 912},
                      {48, 64},
                      {50, 33},
                      {37, 401},
                      {203, 7},
                      {20, 2100}})
    checkRows(n, k, false);
}
TEST_F(FewRowsTest, Turned) {
  for (auto [n, k] : {std::pair{100, 912},
                      {48, 64},
                      {50, 33},
                      {37, 401},
                      {203, 7},
                      {33, 256}})
    checkRows(n, k, true);
}

// So many columns that a strip is 32 wide.
TEST_F(FewRowsTest, WideStrips) { checkRows(4100, 70, false); }

// A product of a known number of rows has no variants; it is one itself.
TEST_F(FewRowsTest, KnownRowsHaveNoVariants) {
  std::string text = product(48, 64, false);
  for (size_t at; (at = text.find('?')) != std::string::npos;)
    text[at] = '5';
  auto module = runner.parse(text);
  ASSERT_TRUE(module);
  plan::KernelOp kernel = *module.getOps<plan::KernelOp>().begin();
  codegen::Machine machine;
  machine.gpu = true;
  std::vector<mlir::OwningOpRef<plan::KernelOp>> made;
  EXPECT_EQ(codegen::withVariants({kernel}, made).size(), 1u);
  auto facts = codegen::getKernelFacts(kernel, machine);
  ASSERT_TRUE(mlir::succeeded(facts));
  EXPECT_EQ(facts->columns, 3);
  RunOptions run;
  run.targetCpu = kInterpretedGpu;
  runner.check(kernel, run);
}

} // namespace
