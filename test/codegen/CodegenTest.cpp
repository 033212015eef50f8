// Generated kernels against plain loops in double precision: every kind, odd
// sizes, both instruction sets; and promises that hold for all of them: any cut
// of the grid, any number of compiling threads and a cold or warm cache give
// the same bits.
#include "test/codegen/KernelRunner.h"

#include "mlir/IR/Diagnostics.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>

using namespace lmc;
using namespace lmc::test;

namespace {

// Replaces $N by the numbers given.
std::string fill(std::string text, std::vector<int64_t> numbers) {
  for (size_t i = numbers.size(); i-- > 0;) {
    std::string key = "$" + std::to_string(i);
    for (size_t at; (at = text.find(key)) != std::string::npos;)
      text.replace(at, key.size(), std::to_string(numbers[i]));
  }
  return text;
}

class CodegenTest : public testing::TestWithParam<std::string> {
protected:
  KernelRunner runner;
  RunOptions options() {
    RunOptions result;
    result.targetCpu = GetParam();
    return result;
  }
};

INSTANTIATE_TEST_SUITE_P(Levels, CodegenTest,
                         testing::Values("native", "x86-64-v3",
                                         kInterpretedGpu),
                         [](const auto &info) {
                           return levelName(info.param);
                         });

const char *const kFlat = R"(
plan.kernel @k(%x: tensor<$0x$1xf32>, %y: tensor<$0x$1xf32>, %s: tensor<f32>)
    -> (tensor<$0x$1xf32>, tensor<$0x$1xf32>)
    attributes {kind = "flat", tied = array<i64: -1, 1>} {
  %sb = lm.broadcast %s dims [] : tensor<f32> to tensor<$0x$1xf32>
  %half = arith.constant dense<0.5> : tensor<$0x$1xf32>
  %a = arith.mulf %x, %sb : tensor<$0x$1xf32>
  %b = arith.addf %a, %y : tensor<$0x$1xf32>
  %e = math.erf %b : tensor<$0x$1xf32>
  %t = math.tanh %e : tensor<$0x$1xf32>
  %c = arith.cmpf ogt, %t, %half : tensor<$0x$1xf32>
  %d = arith.select %c, %t, %b : tensor<$0x$1xi1>, tensor<$0x$1xf32>
  plan.yield %b, %d : tensor<$0x$1xf32>, tensor<$0x$1xf32>
})";

TEST_P(CodegenTest, Flat) {
  RunOptions run = options();
  run.tolerance = 1e-5;
  for (auto [a, b] : {std::pair{3, 5}, {1, 1}, {7, 64}, {300, 257}})
    runner.check(fill(kFlat, {a, b}), run);
}

TEST_P(CodegenTest, FlatOfScalars) {
  runner.check(R"(
plan.kernel @k(%x: tensor<f32>, %y: tensor<f32>) -> (tensor<f32>, tensor<f32>)
    attributes {kind = "flat", tied = array<i64: -1, -1>} {
  %s = arith.addf %x, %y : tensor<f32>
  %one = arith.constant dense<1.0> : tensor<f32>
  %q = math.sqrt %s : tensor<f32>
  %c = arith.cmpf olt, %q, %one : tensor<f32>
  %r = arith.select %c, %q, %one : tensor<i1>, tensor<f32>
  plan.yield %r, %s : tensor<f32>, tensor<f32>
})",
               [&] {
                 RunOptions run = options();
                 run.positive = 2;
                 return run;
               }());
}

const char *const kLayerNorm = R"(
plan.kernel @k(%x: tensor<$0x$1x$2xf32>, %r: tensor<$0x$1x$2xf32>,
               %w: tensor<$2xf32>, %b: tensor<$2xf32>, %seed: tensor<i32>)
    -> (tensor<$0x$1x$2xf32>, tensor<$0x$1x$2xf32>, tensor<$0x$1xf32>, tensor<$0x$1xf32>)
    attributes {kind = "row", tied = array<i64: -1, -1, -1, -1>} {
  %u = lm.random_uniform %seed, %seed, %seed {id = 123456789012 : i64}
      : (tensor<i32>, tensor<i32>, tensor<i32>) -> tensor<$0x$1x$2xf32>
  %rate = arith.constant dense<0.3> : tensor<$0x$1x$2xf32>
  %zero = arith.constant dense<0.0> : tensor<$0x$1x$2xf32>
  %keep = arith.cmpf oge, %u, %rate : tensor<$0x$1x$2xf32>
  %dropped = arith.select %keep, %r, %zero : tensor<$0x$1x$2xi1>, tensor<$0x$1x$2xf32>
  %y = arith.addf %x, %dropped : tensor<$0x$1x$2xf32>
  %scale = arith.constant dense<$3> : tensor<$0x$1xf32>
  %epsilon = arith.constant dense<1.0e-5> : tensor<$0x$1xf32>
  %sum = lm.reduce "sum" %y dims [2] : tensor<$0x$1x$2xf32> to tensor<$0x$1xf32>
  %mean = arith.divf %sum, %scale : tensor<$0x$1xf32>
  %meanb = lm.broadcast %mean dims [0, 1] : tensor<$0x$1xf32> to tensor<$0x$1x$2xf32>
  %c = arith.subf %y, %meanb : tensor<$0x$1x$2xf32>
  %sq = arith.mulf %c, %c : tensor<$0x$1x$2xf32>
  %ss = lm.reduce "sum" %sq dims [2] : tensor<$0x$1x$2xf32> to tensor<$0x$1xf32>
  %var = arith.divf %ss, %scale : tensor<$0x$1xf32>
  %ve = arith.addf %var, %epsilon : tensor<$0x$1xf32>
  %rstd = math.rsqrt %ve : tensor<$0x$1xf32>
  %rstdb = lm.broadcast %rstd dims [0, 1] : tensor<$0x$1xf32> to tensor<$0x$1x$2xf32>
  %n = arith.mulf %c, %rstdb : tensor<$0x$1x$2xf32>
  %wb = lm.broadcast %w dims [2] : tensor<$2xf32> to tensor<$0x$1x$2xf32>
  %bb = lm.broadcast %b dims [2] : tensor<$2xf32> to tensor<$0x$1x$2xf32>
  %nw = arith.mulf %n, %wb : tensor<$0x$1x$2xf32>
  %o = arith.addf %nw, %bb : tensor<$0x$1x$2xf32>
  plan.yield %y, %o, %mean, %rstd : tensor<$0x$1x$2xf32>, tensor<$0x$1x$2xf32>, tensor<$0x$1xf32>, tensor<$0x$1xf32>
})";

std::string layerNorm(int64_t a, int64_t b, int64_t c) {
  std::string text = kLayerNorm;
  for (size_t at; (at = text.find("$3")) != std::string::npos;)
    text.replace(at, 2, std::to_string(c) + ".0");
  return fill(text, {a, b, c});
}

// A part of a tensor draws the whole's numbers, in runs of 64s and in others.
TEST_P(CodegenTest, RandomOfAPart) {
  for (auto [a, b, c, wholeB, wholeC] : {std::tuple{2, 3, 64, 6, 64},
                                         {3, 4, 37, 8, 37},
                                         {2, 5, 7, 10, 21},
                                         {2, 2, 128, 6, 256},
                                         {1, 8, 16, 32, 16}})
    runner.check(fill(R"(
plan.kernel @k(%x: tensor<$0x$1x$2xf32>, %seed: tensor<i32>) -> tensor<$0x$1x$2xf32>
    attributes {kind = "flat", tied = array<i64: -1>} {
  %u = lm.random_uniform %seed, %seed, %seed {id = 123456789012 : i64, whole = array<i64: $0, $3, $4>, axes = [[], ["tp"], ["tp"]]}
      : (tensor<i32>, tensor<i32>, tensor<i32>) -> tensor<$0x$1x$2xf32>
  %y = arith.addf %x, %u : tensor<$0x$1x$2xf32>
  plan.yield %y : tensor<$0x$1x$2xf32>
})",
                      {a, b, c, wholeB, wholeC}),
                 options());
}

TEST_P(CodegenTest, RowNormWithDropout) {
  for (auto [a, b, c] :
       {std::tuple{2, 3, 64}, {4, 16, 768}, {2, 5, 37}, {1, 3, 7}, {3, 3, 200}})
    runner.check(layerNorm(a, b, c), options());
}

// Ids that are not in the kernel are integers of the launch.
TEST_P(CodegenTest, RandomIdGivenAtRunTime) {
  for (int64_t width : {37, 64})
    for (int64_t microBatch : {0, 3}) {
      std::string text = layerNorm(2, 5, width);
      std::string id = " {id = 123456789012 : i64}";
      text.erase(text.find(id), id.size());
      RunOptions run = options();
      run.microBatch = microBatch;
      runner.check(text, run);
    }
}

// The last reduction spans all dims: one row.
TEST_P(CodegenTest, RowSumOfEverything) {
  for (auto [a, b] : {std::pair{5, 7}, {100, 333}})
    runner.check(fill(R"(
plan.kernel @k(%x: tensor<$0x$1xf32>) -> tensor<f32>
    attributes {kind = "row", tied = array<i64: -1>} {
  %q = arith.mulf %x, %x : tensor<$0x$1xf32>
  %s = lm.reduce "sum" %q dims [0, 1] : tensor<$0x$1xf32> to tensor<f32>
  plan.yield %s : tensor<f32>
})",
                      {a, b}),
                 options());
}

const char *const kCrossEntropy = R"(
plan.kernel @k(%x: tensor<$0x$1xf32>, %t: tensor<$0xi32>, %w: tensor<$0xf32>)
    -> (tensor<$0xf32>, tensor<$0xf32>, tensor<$0x$1xf32>)
    attributes {kind = "row", tied = array<i64: -1, -1, -1>} {
  %m = lm.reduce "max" %x dims [1] : tensor<$0x$1xf32> to tensor<$0xf32>
  %mb = lm.broadcast %m dims [0] : tensor<$0xf32> to tensor<$0x$1xf32>
  %d = arith.subf %x, %mb : tensor<$0x$1xf32>
  %e = math.exp %d : tensor<$0x$1xf32>
  %s = lm.reduce "sum" %e dims [1] : tensor<$0x$1xf32> to tensor<$0xf32>
  %l = math.log %s : tensor<$0xf32>
  %lse = arith.addf %l, %m : tensor<$0xf32>
  %i = lm.iota 1 : tensor<$0x$1xi32>
  %tb = lm.broadcast %t dims [0] : tensor<$0xi32> to tensor<$0x$1xi32>
  %hit = arith.cmpi eq, %i, %tb : tensor<$0x$1xi32>
  %zero = arith.constant dense<0.0> : tensor<$0x$1xf32>
  %one = arith.constant dense<1.0> : tensor<$0x$1xf32>
  %p = arith.select %hit, %x, %zero : tensor<$0x$1xi1>, tensor<$0x$1xf32>
  %at = lm.reduce "sum" %p dims [1] : tensor<$0x$1xf32> to tensor<$0xf32>
  %nll = arith.subf %lse, %at : tensor<$0xf32>
  %loss = arith.mulf %w, %nll : tensor<$0xf32>
  %lb = lm.broadcast %lse dims [0] : tensor<$0xf32> to tensor<$0x$1xf32>
  %g0 = arith.subf %x, %lb : tensor<$0x$1xf32>
  %g1 = math.exp %g0 : tensor<$0x$1xf32>
  %oh = arith.select %hit, %one, %zero : tensor<$0x$1xi1>, tensor<$0x$1xf32>
  %g = arith.subf %g1, %oh : tensor<$0x$1xf32>
  plan.yield %loss, %lse, %g : tensor<$0xf32>, tensor<$0xf32>, tensor<$0x$1xf32>
})";

TEST_P(CodegenTest, RowCrossEntropy) {
  for (auto [a, b] : {std::pair{5, 257}, {3, 64}, {2, 16}, {9, 10001}}) {
    RunOptions run = options();
    run.indexBound = b;
    runner.check(fill(kCrossEntropy, {a, b}), run);
  }
}

const char *const kEmbedding = R"(
plan.kernel @k(%table: tensor<$2x$1xf32>, %pos: tensor<$3x$1xf32>, %i: tensor<$0x$3xi32>)
    -> (tensor<$0x$3x$1xf32>, tensor<$0x$3xf32>)
    attributes {kind = "row", tied = array<i64: -1, -1>} {
  %e = lm.embedding %table, %i : (tensor<$2x$1xf32>, tensor<$0x$3xi32>) -> tensor<$0x$3x$1xf32>
  %p = lm.broadcast %pos dims [1, 2] : tensor<$3x$1xf32> to tensor<$0x$3x$1xf32>
  %x = arith.addf %e, %p : tensor<$0x$3x$1xf32>
  %s = lm.reduce "sum" %x dims [2] : tensor<$0x$3x$1xf32> to tensor<$0x$3xf32>
  plan.yield %x, %s : tensor<$0x$3x$1xf32>, tensor<$0x$3xf32>
})";

TEST_P(CodegenTest, RowGather) {
  RunOptions run = options();
  run.indexLow = -2; // out of range: rows of zeros
  run.indexBound = 13;
  for (auto [a, b, c] : {std::tuple{2, 64, 3}, {3, 19, 5}})
    runner.check(fill(kEmbedding, {a, b, 11, c}), run);
}

TEST_P(CodegenTest, RowDynamic) {
  RunOptions run = options();
  std::string text = R"(
plan.kernel @k(%x: tensor<?x$0x$1xf32>, %w: tensor<$0x$1xf32>) -> (tensor<?x$0x$1xf32>, tensor<?x$0xf32>)
    attributes {kind = "row", tied = array<i64: 0, -1>} {
  %wb = lm.broadcast %w dims [1, 2] : tensor<$0x$1xf32> to tensor<?x$0x$1xf32>
  %y = arith.mulf %x, %wb : tensor<?x$0x$1xf32>
  %s = lm.reduce "sum" %y dims [2] : tensor<?x$0x$1xf32> to tensor<?x$0xf32>
  %sb = lm.broadcast %s dims [0, 1] : tensor<?x$0xf32> to tensor<?x$0x$1xf32>
  %z = arith.subf %x, %sb : tensor<?x$0x$1xf32>
  plan.yield %z, %s : tensor<?x$0x$1xf32>, tensor<?x$0xf32>
})";
  for (int64_t rows : {0, 1, 5, 300}) {
    run.rows = rows;
    runner.check(fill(text, {3, 40}), run);
  }
}

// A flat kernel with a bias needs rows after all.
TEST_P(CodegenTest, FlatWithBias) {
  for (auto [a, b] : {std::pair{5, 7}, {33, 300}, {9, 9}})
    runner.check(fill(R"(
plan.kernel @k(%x: tensor<$0x$1xf32>, %b: tensor<$1xf32>, %m: tensor<$0xf32>) -> tensor<$0x$1xf32>
    attributes {kind = "flat", tied = array<i64: -1>} {
  %bb = lm.broadcast %b dims [1] : tensor<$1xf32> to tensor<$0x$1xf32>
  %mb = lm.broadcast %m dims [0] : tensor<$0xf32> to tensor<$0x$1xf32>
  %s = arith.addf %x, %bb : tensor<$0x$1xf32>
  %y = arith.mulf %s, %mb : tensor<$0x$1xf32>
  plan.yield %y : tensor<$0x$1xf32>
})",
                      {a, b}),
                 options());
}

const char *const kColumnReduce = R"(
plan.kernel @k(%g: tensor<$0x$1x$2xf32>, %x: tensor<$0x$1x$2xf32>, %m: tensor<$0x$1xf32>, %aw: tensor<$2xf32>)
    -> (tensor<$2xf32>, tensor<$2xf32>)
    attributes {kind = "column_reduce", tied = array<i64: 3, -1>} {
  %mb = lm.broadcast %m dims [0, 1] : tensor<$0x$1xf32> to tensor<$0x$1x$2xf32>
  %c = arith.subf %x, %mb : tensor<$0x$1x$2xf32>
  %p = arith.mulf %c, %g : tensor<$0x$1x$2xf32>
  %dw = lm.reduce "sum" %p dims [0, 1] : tensor<$0x$1x$2xf32> to tensor<$2xf32>
  %db = lm.reduce "sum" %g dims [0, 1] : tensor<$0x$1x$2xf32> to tensor<$2xf32>
  %a = lm.accumulate %aw, %dw : tensor<$2xf32>
  plan.yield %a, %db : tensor<$2xf32>, tensor<$2xf32>
})";

TEST_P(CodegenTest, ColumnReduce) {
  for (int64_t microBatch : {0, 1})
    for (auto [a, b, c] :
         {std::tuple{2, 3, 64}, {4, 50, 768}, {3, 7, 37}, {1, 1, 5}}) {
      RunOptions run = options();
      run.microBatch = microBatch;
      runner.check(fill(kColumnReduce, {a, b, c}), run);
    }
}

// Columns of two dims, the row's number repeated along one of them.
TEST_P(CodegenTest, ColumnReduceOfGroups) {
  runner.check(fill(R"(
plan.kernel @k(%g: tensor<$0x$1x$2xf32>, %m: tensor<$0x$1xf32>) -> tensor<$1x$2xf32>
    attributes {kind = "column_reduce", tied = array<i64: -1>} {
  %mb = lm.broadcast %m dims [0, 1] : tensor<$0x$1xf32> to tensor<$0x$1x$2xf32>
  %p = arith.mulf %mb, %g : tensor<$0x$1x$2xf32>
  %s = lm.reduce "sum" %p dims [0] : tensor<$0x$1x$2xf32> to tensor<$1x$2xf32>
  plan.yield %s : tensor<$1x$2xf32>
})",
                    {70, 3, 40}),
               options());
}

// C = A B, with bias, a residual and a gelu kept beside its input.
const char *const kProduct = R"(
plan.kernel @k(%a: tensor<$0x$2xf32>, %b: tensor<$2x$1xf32>, %bias: tensor<$1xf32>, %r: tensor<$0x$1xf32>)
    -> (tensor<$0x$1xf32>, tensor<$0x$1xf32>)
    attributes {kind = "contraction", tied = array<i64: -1, 3>} {
  %c = lm.contract %a [1], %b [0] : (tensor<$0x$2xf32>, tensor<$2x$1xf32>) -> tensor<$0x$1xf32>
  %bb = lm.broadcast %bias dims [1] : tensor<$1xf32> to tensor<$0x$1xf32>
  %h = arith.addf %c, %bb : tensor<$0x$1xf32>
  %t = math.tanh %h : tensor<$0x$1xf32>
  %s = arith.addf %t, %r : tensor<$0x$1xf32>
  plan.yield %h, %s : tensor<$0x$1xf32>, tensor<$0x$1xf32>
})";

TEST_P(CodegenTest, ContractionNormal) {
  for (auto [m, n, k] : {std::tuple{8, 48, 16},
                         {64, 96, 768},
                         {5, 48, 32},
                         {13, 50, 33},
                         {100, 200, 401},
                         {1, 300, 800}})
    runner.check(fill(kProduct, {m, n, k}), options());
}

const char *const kProductTransposedRight = R"(
plan.kernel @k(%a: tensor<$0x$2xf32>, %b: tensor<$1x$2xf32>) -> tensor<$0x$1xf32>
    attributes {kind = "contraction", tied = array<i64: -1>} {
  %c = lm.contract %a [1], %b [1] : (tensor<$0x$2xf32>, tensor<$1x$2xf32>) -> tensor<$0x$1xf32>
  plan.yield %c : tensor<$0x$1xf32>
})";

TEST_P(CodegenTest, ContractionTransposedRight) {
  for (auto [m, n, k] : {std::tuple{8, 48, 16},
                         {64, 96, 768},
                         {5, 48, 32},
                         {13, 50, 33},
                         {100, 203, 401},
                         {1, 300, 800}})
    runner.check(fill(kProductTransposedRight, {m, n, k}), options());
}

const char *const kProductTransposedLeft = R"(
plan.kernel @k(%a: tensor<$2x$0xf32>, %b: tensor<$2x$1xf32>, %acc: tensor<$0x$1xf32>) -> tensor<$0x$1xf32>
    attributes {kind = "contraction", tied = array<i64: 2>} {
  %c = lm.contract %a [0], %b [0] : (tensor<$2x$0xf32>, tensor<$2x$1xf32>) -> tensor<$0x$1xf32>
  %s = lm.accumulate %acc, %c : tensor<$0x$1xf32>
  plan.yield %s : tensor<$0x$1xf32>
})";

TEST_P(CodegenTest, ContractionTransposedLeft) {
  for (int64_t microBatch : {0, 3})
    for (auto [m, n, k] : {std::tuple{8, 48, 16},
                           {64, 96, 768},
                           {5, 48, 32},
                           {13, 50, 33},
                           {100, 200, 401},
                           {700, 100, 20}}) {
      RunOptions run = options();
      run.microBatch = microBatch;
      runner.check(fill(kProductTransposedLeft, {m, n, k}), run);
    }
}

// Shapes of more dims, rows by a prefix.
TEST_P(CodegenTest, ContractionOfManyDims) {
  runner.check(R"(
plan.kernel @k(%a: tensor<2x5x3x4xf32>, %b: tensor<3x4x2x3x8xf32>, %bias: tensor<2x3x8xf32>, %s: tensor<2x5xf32>)
    -> tensor<2x5x2x3x8xf32>
    attributes {kind = "contraction", tied = array<i64: -1>} {
  %c = lm.contract %a [2, 3], %b [0, 1] : (tensor<2x5x3x4xf32>, tensor<3x4x2x3x8xf32>) -> tensor<2x5x2x3x8xf32>
  %bb = lm.broadcast %bias dims [2, 3, 4] : tensor<2x3x8xf32> to tensor<2x5x2x3x8xf32>
  %sb = lm.broadcast %s dims [0, 1] : tensor<2x5xf32> to tensor<2x5x2x3x8xf32>
  %h = arith.addf %c, %bb : tensor<2x5x2x3x8xf32>
  %y = arith.mulf %h, %sb : tensor<2x5x2x3x8xf32>
  plan.yield %y : tensor<2x5x2x3x8xf32>
})",
               options());
}

// One row alone has the bits that it has among many.
TEST_P(CodegenTest, ContractionRowsAreIndependent) {
  std::string normal = R"(
plan.kernel @k(%b: tensor<$1x$0xf32>, %bias: tensor<$0xf32>, %a: tensor<?x$1xf32>) -> tensor<?x$0xf32>
    attributes {kind = "contraction", tied = array<i64: -1>} {
  %c = lm.contract %a [1], %b [0] : (tensor<?x$1xf32>, tensor<$1x$0xf32>) -> tensor<?x$0xf32>
  %bb = lm.broadcast %bias dims [1] : tensor<$0xf32> to tensor<?x$0xf32>
  %h = arith.addf %c, %bb : tensor<?x$0xf32>
  %t = math.tanh %h : tensor<?x$0xf32>
  plan.yield %t : tensor<?x$0xf32>
})";
  std::string transposed = normal;
  auto replace = [&](const std::string &from, const std::string &to) {
    for (size_t at; (at = transposed.find(from)) != std::string::npos;)
      transposed.replace(at, from.size(), to);
  };
  replace("tensor<$1x$0xf32>", "tensor<$0x$1xf32>");
  replace("%b [0]", "%b [1]");
  // Widths that end a strip, a tile and a vector of either level, and do not.
  for (const std::string &text : {normal, transposed})
    for (auto [n, k] : {std::pair{100, 912},
                        {48, 64},
                        {50, 33},
                        {64, 40},
                        {1024, 17},
                        {8, 9}}) {
      RunOptions run = options();
      run.rows = 37;
      Bytes many = runner.check(fill(text, {n, k}), run);
      for (int64_t rows : {1, 2, 5, 9}) {
        run.rows = rows;
        Bytes few = runner.check(fill(text, {n, k}), run);
        ASSERT_FALSE(few.empty());
        many[0].resize(std::max(many[0].size(), few[0].size()));
        EXPECT_TRUE(std::equal(few[0].begin(), few[0].end(), many[0].begin()))
            << rows << " rows of " << n << " x " << k;
        if (rows != 1 && rows != 5)
          continue;
        // Known to the compiler.
        std::string known = fill(text, {n, k});
        for (size_t at; (at = known.find('?')) != std::string::npos;)
          known.replace(at, 1, std::to_string(rows));
        EXPECT_EQ(few, runner.check(known, run))
            << rows << " rows of " << n << " x " << k;
      }
    }
}

const char *const kScatter = R"(
plan.kernel @k(%i: tensor<$0xi32>, %g: tensor<$0x$1xf32>, %acc: tensor<$2x$1xf32>) -> tensor<$2x$1xf32>
    attributes {kind = "scatter", tied = array<i64: 2>} {
  %s = lm.embedding_grad %i, %g : (tensor<$0xi32>, tensor<$0x$1xf32>) -> tensor<$2x$1xf32>
  %a = lm.accumulate %acc, %s : tensor<$2x$1xf32>
  plan.yield %a : tensor<$2x$1xf32>
})";

// A tied embedding: the head's gradient, the rows, the sum so far.
const char *const kScatterTied = R"(
plan.kernel @k(%i: tensor<$0xi32>, %g: tensor<$0x$1xf32>, %h: tensor<$2x$1xf32>, %acc: tensor<$2x$1xf32>) -> tensor<$2x$1xf32>
    attributes {kind = "scatter", tied = array<i64: 3>} {
  %s = lm.embedding_grad %i, %g : (tensor<$0xi32>, tensor<$0x$1xf32>) -> tensor<$2x$1xf32>
  %t = arith.addf %h, %s : tensor<$2x$1xf32>
  %a = lm.accumulate %acc, %t : tensor<$2x$1xf32>
  plan.yield %a : tensor<$2x$1xf32>
})";

const char *const kScatterPlain = R"(
plan.kernel @k(%i: tensor<$0xi32>, %g: tensor<$0x$1xf32>) -> tensor<$2x$1xf32>
    attributes {kind = "scatter", tied = array<i64: -1>} {
  %s = lm.embedding_grad %i, %g : (tensor<$0xi32>, tensor<$0x$1xf32>) -> tensor<$2x$1xf32>
  plan.yield %s : tensor<$2x$1xf32>
})";

TEST_P(CodegenTest, Scatter) {
  for (int64_t microBatch : {0, 2})
    for (const char *text : {kScatter, kScatterTied, kScatterPlain})
      for (auto [rows, width] : {std::pair{40, 64}, {100, 300}, {7, 5}}) {
        RunOptions run = options();
        run.microBatch = microBatch;
        run.indexLow = -2; // added nowhere
        run.indexBound = 15;
        runner.check(fill(text, {rows, width, 13}), run);
      }
}

const char *const kRope = R"(
plan.kernel @k(%x: tensor<2x5x$0x$1x$2xf32>, %p: tensor<2x5xi32>, %t: tensor<16x$3xf32>) -> tensor<2x5x$0x$1x$2xf32>
    attributes {kind = "rope", tied = array<i64: $4>} {
  %y = lm.rope %x, %p, %t {layout = "@", num_rotated = 3 : i64, inverse = $5}
      : (tensor<2x5x$0x$1x$2xf32>, tensor<2x5xi32>, tensor<16x$3xf32>) -> tensor<2x5x$0x$1x$2xf32>
  plan.yield %y : tensor<2x5x$0x$1x$2xf32>
})";

TEST_P(CodegenTest, Rope) {
  for (const char *layout : {"half", "interleaved"})
    for (int64_t inverse : {0, 1})
      for (int64_t tied : {-1, 0})
        for (auto [width, rotated] : {std::pair{64, 64},
                                      {64, 32},
                                      {24, 20},
                                      {8, 8},
                                      {21, 10},
                                      {3, 2}}) {
          std::string text = kRope;
          text.replace(text.find("$5"), 2, inverse ? "true" : "false");
          text.replace(text.find("@\""), 1, layout);
          runner.check(fill(text, {2, 4, width, rotated, tied}), options());
        }
}

const char *const kAttention = R"(
plan.kernel @k(%x: tensor<1x130x2x3x32xf32>)
    -> (tensor<1x130x2x1x32xf32>, tensor<1x2x1x130xf32>)
    attributes {kind = "attention", tied = array<i64: -1, -1>} {
  %y, %l = lm.attention %x {scale = 0.3 : f32} : (tensor<1x130x2x3x32xf32>)
      -> (tensor<1x130x2x1x32xf32>, tensor<1x2x1x130xf32>)
  plan.yield %y, %l : tensor<1x130x2x1x32xf32>, tensor<1x2x1x130xf32>
})";

// Several kernels of different kinds in one module.
std::vector<plan::KernelOp> severalKernels(KernelRunner &runner) {
  std::string text = "module {\n";
  std::vector<std::string> parts = {
      fill(kFlat, {3, 50}),         layerNorm(2, 3, 64),
      fill(kCrossEntropy, {5, 64}), fill(kColumnReduce, {2, 3, 64}),
      fill(kProduct, {8, 48, 16}),  kAttention};
  for (size_t i = 0; i < parts.size(); ++i) {
    parts[i].replace(parts[i].find("@k("), 2, "@k" + std::to_string(i));
    text += parts[i];
  }
  std::vector<plan::KernelOp> kernels;
  auto module = runner.parse(text + "\n}");
  for (auto kernel : module.getOps<plan::KernelOp>())
    kernels.push_back(kernel);
  return kernels;
}

TEST(CodegenObject, DependsNeitherOnThreadsNorOnTheCache) {
  KernelRunner runner;
  auto kernels = severalKernels(runner);
  codegen::CodegenOptions options;
  options.threads = 1;
  auto one = codegen::compileKernels(kernels, options);
  options.threads = 3;
  auto three = codegen::compileKernels(kernels, options);
  ASSERT_TRUE(succeeded(one) && succeeded(three));
  EXPECT_TRUE(one->object == three->object);

  char folder[] = "lmc-cache-XXXXXX";
  ASSERT_TRUE(mkdtemp(folder));
  options.cacheDirectory = folder;
  auto cold = codegen::compileKernels(kernels, options);
  ASSERT_TRUE(succeeded(cold));
  EXPECT_TRUE(one->object == cold->object);
  size_t entries = 0;
  for (const auto &entry : std::filesystem::directory_iterator(folder)) {
    ++entries;
    // Flip a bit in the machine code of every entry.
    std::fstream file(entry.path(),
                      std::ios::in | std::ios::out | std::ios::binary);
    file.seekg(600);
    char byte = static_cast<char>(file.get() ^ 1);
    file.seekp(600);
    file.put(byte);
  }
  EXPECT_EQ(kernels.size(), entries);
  auto poisoned = codegen::compileKernels(kernels, options);
  ASSERT_TRUE(succeeded(poisoned));
  EXPECT_TRUE(one->object == poisoned->object);
  auto warm = codegen::compileKernels(kernels, options);
  ASSERT_TRUE(succeeded(warm));
  EXPECT_TRUE(one->object == warm->object);
  std::filesystem::remove_all(folder);
}

} // namespace
