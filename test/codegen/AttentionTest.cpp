// The attention kernels against plain loops in double precision: shapes, masks,
// dropout of probabilities; and the loops' own gradient against differences.
#include "test/codegen/KernelRunner.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <random>

using namespace lmc;
using namespace lmc::test;

namespace {

struct AttentionCase {
  int64_t b, t, g, r, k;
  bool causal, segments;
  int64_t window;
  double rate = 0;    // of dropout
  int64_t wholeG = 0; // key/value heads of all ranks, where g is a part
};

const AttentionCase kAttentionCases[] = {
    {2, 64, 2, 1, 64, true, false, 0},     {1, 130, 2, 1, 32, true, false, 0},
    {1, 67, 1, 3, 24, true, true, 0},      {1, 150, 1, 2, 80, true, false, 40},
    {2, 9, 2, 2, 8, false, false, 0},      {1, 131, 1, 1, 16, false, true, 0},
    {1, 200, 1, 1, 128, false, false, 70}, {1, 1, 1, 1, 64, true, false, 0},
    {1, 300, 1, 4, 64, true, false, 0},    {1, 37, 2, 1, 6, true, false, 0},
    {1, 70, 1, 1, 200, true, false, 0},    {1, 35, 1, 1, 260, false, false, 9},
    {3, 68, 1, 1, 16, true, true, 0},      {1, 72, 2, 1, 16, false, true, 0},
};

const AttentionCase kDropoutCases[] = {
    {2, 64, 2, 1, 64, true, false, 0, 0.1},
    {1, 130, 2, 1, 32, true, false, 0, 0.5},
    {2, 67, 1, 3, 24, true, true, 0, 0.1},
    {1, 150, 1, 2, 80, true, false, 40, 0.5},
    {2, 9, 2, 2, 8, false, false, 0, 0.5},
    {1, 131, 2, 1, 16, false, true, 0, 0.1},
    {1, 200, 1, 1, 128, false, false, 70, 0.1},
    {2, 33, 2, 2, 16, true, false, 0, 0.5, 6},
};

void replaceAll(std::string &text, const std::string &key,
                const std::string &value) {
  for (size_t at; (at = text.find(key)) != std::string::npos;)
    text.replace(at, key.size(), value);
}

std::string tensorType(std::initializer_list<int64_t> shape,
                       const char *element = "f32") {
  std::string text = "tensor<";
  for (int64_t size : shape)
    text += std::to_string(size) + "x";
  return text + element + ">";
}

std::string attentionText(const AttentionCase &c, bool gradient) {
  std::string text = gradient ? R"(
plan.kernel @k(%x: QKV, %o: OUT, %l: LSE, %g: OUT OPTIONALS) -> QKV
    attributes {kind = "attention_grad", tied = array<i64: -1>} {
  %y = lm.attention_grad %x, %o, %l, %g USES {scale = 0.3 : f32, causal = CAUSAL, window = WINDOW : i64 PART}
      : (QKV, OUT, LSE, OUT TYPES) -> QKV
  plan.yield %y : QKV
})"
                              : R"(
plan.kernel @k(%x: QKV OPTIONALS) -> (OUT, LSE)
    attributes {kind = "attention", tied = array<i64: -1, -1>} {
  %y, %l = lm.attention %x USES {scale = 0.3 : f32, causal = CAUSAL, window = WINDOW : i64 PART}
      : (QKV TYPES) -> (OUT, LSE)
  plan.yield %y, %l : OUT, LSE
})";
  std::string optionals, uses, types, part;
  if (c.segments) {
    optionals += ", %s: " + tensorType({c.b, c.t}, "i32");
    uses += "segments %s ";
    types += ", " + tensorType({c.b, c.t}, "i32");
  }
  if (c.rate > 0) {
    optionals += ", %r: tensor<f32>, %low: tensor<i32>, %high: tensor<i32>, "
                 "%step: tensor<i32>";
    uses += "dropout %r, %low, %high, %step ";
    types += ", tensor<f32>, tensor<i32>, tensor<i32>, tensor<i32>";
  }
  if (c.wholeG)
    part = ", whole = array<i64: " + std::to_string(c.b) + ", " +
           std::to_string(c.wholeG) + ", " + std::to_string(c.r) + ", " +
           std::to_string(c.t) + ">";
  replaceAll(text, "OPTIONALS", optionals);
  replaceAll(text, "USES", uses);
  replaceAll(text, "TYPES", types);
  replaceAll(text, "PART", part);
  replaceAll(text, "QKV", tensorType({c.b, c.t, c.g, c.r + 2, c.k}));
  replaceAll(text, "OUT", tensorType({c.b, c.t, c.g, c.r, c.k}));
  replaceAll(text, "LSE", tensorType({c.b, c.g, c.r, c.t}));
  replaceAll(text, "CAUSAL", c.causal ? "true" : "false");
  replaceAll(text, "WINDOW", std::to_string(c.window));
  return text;
}

class AttentionTest : public testing::TestWithParam<std::string> {
protected:
  KernelRunner runner;

  Bytes check(const AttentionCase &c, bool gradient,
              std::map<unsigned, double> given = {}) {
    std::string text = attentionText(c, gradient);
    SCOPED_TRACE(text);
    RunOptions run;
    run.targetCpu = GetParam();
    run.indexBound = 3;
    run.microBatch = 5;
    run.given = given;
    if (c.rate > 0)
      run.given[(gradient ? 4 : 1) + c.segments] = c.rate;
    return runner.check(text, run);
  }
};

INSTANTIATE_TEST_SUITE_P(Levels, AttentionTest,
                         testing::Values("native", "x86-64-v3",
                                         kInterpretedGpu),
                         [](const auto &info) {
                           return levelName(info.param);
                         });

TEST_P(AttentionTest, Forward) {
  for (const AttentionCase &c : kAttentionCases)
    check(c, false);
}

// The logsumexp is random here, as if far from what the scores give: raised by
// a constant so that weights stay of one order.
TEST_P(AttentionTest, Gradient) {
  for (const AttentionCase &c : kAttentionCases)
    check(c, true);
}

TEST_P(AttentionTest, ForwardWithDropout) {
  for (const AttentionCase &c : kDropoutCases)
    check(c, false);
}

TEST_P(AttentionTest, GradientWithDropout) {
  for (const AttentionCase &c : kDropoutCases)
    check(c, true);
}

const char *const kCacheWrite = R"(
plan.kernel @k(%c: tensor<40x3x2xHxf32>, %x: tensor<?x3x4xHxf32>, %s: tensor<?xi32>) -> tensor<40x3x2xHxf32>
    attributes {kind = "cache_write", tied = array<i64: 0>} {
  %y = lm.cache_write %c, %x, %s : (tensor<40x3x2xHxf32>, tensor<?x3x4xHxf32>, tensor<?xi32>) -> tensor<40x3x2xHxf32>
  plan.yield %y : tensor<40x3x2xHxf32>
})";

// Slots before and past the cache write nothing.
TEST_P(AttentionTest, CacheWrite) {
  for (const char *head : {"16", "24", "6", "3"})
    for (int64_t rows : {0, 1, 45}) {
      std::string text = kCacheWrite;
      replaceAll(text, "H", head);
      RunOptions run;
      run.targetCpu = GetParam();
      run.rows = rows;
      run.indexLow = -2;
      run.ascending = true;
      runner.check(text, run);
    }
}

const char *const kPagedAttention = R"(
plan.kernel @k(%x: tensor<?x2xSxHxf32>, %c: tensor<64x2x2xHxf32>, %p: tensor<?xi32>, %s: tensor<?xi32>, %t: tensor<3x27xi32>) -> tensor<?x2xRxHxf32>
    attributes {kind = "paged_attention", tied = array<i64: -1>} {
  %y = lm.paged_attention %x, %c, %p, %s, %t {page_size = P : i64, scale = 0.3 : f32, window = W : i64}
      : (tensor<?x2xSxHxf32>, tensor<64x2x2xHxf32>, tensor<?xi32>, tensor<?xi32>, tensor<3x27xi32>) -> tensor<?x2xRxHxf32>
  plan.yield %y : tensor<?x2xRxHxf32>
})";

TEST_P(AttentionTest, Paged) {
  for (auto [queries, head, window, page] : {std::tuple{1, 64, 0, 8},
                                             {2, 16, 0, 8},
                                             {3, 24, 40, 8},
                                             {5, 6, 0, 8},
                                             {5, 64, 30, 2},
                                             {2, 16, 1, 1},
                                             {2, 160, 70, 8}})
    for (int64_t rows : {1, 7}) {
      std::string text = kPagedAttention;
      replaceAll(text, "S", std::to_string(queries + 2));
      replaceAll(text, "R", std::to_string(queries));
      replaceAll(text, "H", std::to_string(head));
      replaceAll(text, "W", std::to_string(window));
      replaceAll(text, "P", std::to_string(page));
      RunOptions run;
      run.targetCpu = GetParam();
      run.rows = rows;
      run.bounds = {{2, 160}, {3, 3}, {4, 8}};
      runner.check(text, run);
    }
}

// With equal scores and values of one, an output is the share of keys that are
// kept over 1 - rate. The bound is five standard deviations.
TEST_P(AttentionTest, KeepsAsManyAsTheRateSays) {
  for (double rate : {0.1, 0.5}) {
    AttentionCase c{4, 192, 2, 2, 8, false, false, 0, rate};
    Bytes results = check(c, false, {{0, 1.0}});
    std::vector<float> output(results.at(0).size() / 4);
    std::memcpy(output.data(), results[0].data(), results[0].size());
    double sum = 0;
    for (float value : output)
      sum += value;
    double numbers = double(c.b * c.g * c.r * c.t * c.t);
    EXPECT_NEAR(sum / double(output.size()), 1,
                5 * std::sqrt(rate / (1 - rate) / numbers));
  }
}

// A rate of 0, given at run time, changes no bit.
TEST_P(AttentionTest, DropsNothingAtRateZero) {
  AttentionCase with{1, 130, 2, 2, 32, true, false, 0, 0.5}, without = with;
  without.rate = 0;
  for (bool gradient : {false, true}) {
    RunOptions run;
    run.targetCpu = GetParam();
    Bytes expected = runner.check(attentionText(without, gradient), run);
    run.given[gradient ? 4 : 1] = 0;
    EXPECT_TRUE(expected == runner.check(attentionText(with, gradient), run));
  }
}

plan::KernelOp kernelOf(KernelRunner &runner, const std::string &text) {
  mlir::ModuleOp module = runner.parse(text);
  return *module.getOps<plan::KernelOp>().begin();
}

// The plain loops' gradient is that of the plain loops' output.
TEST(AttentionReference, GradientIsThatOfDifferences) {
  KernelRunner runner;
  std::mt19937 random(1);
  for (double rate : {0.0, 0.5}) {
    AttentionCase c{2, 7, 2, 2, 3, true, false, 0, rate};
    auto forward = kernelOf(runner, attentionText(c, false));
    auto backward = kernelOf(runner, attentionText(c, true));
    auto draw = [&](std::vector<int64_t> shape) {
      Tensor tensor{shape, {}};
      tensor.data.resize(mlir::ShapedType::getNumElements(shape));
      for (double &value : tensor.data)
        value = std::uniform_real_distribution<double>(-1, 1)(random);
      return tensor;
    };
    Tensor qkv = draw({c.b, c.t, c.g, c.r + 2, c.k});
    Tensor gradient = draw({c.b, c.t, c.g, c.r, c.k});
    std::vector<Tensor> optionals;
    if (rate > 0)
      optionals = {{{}, {rate}}, {{}, {3}}, {{}, {4}}, {{}, {5}}};
    auto run = [&](plan::KernelOp kernel, std::vector<Tensor> arguments) {
      arguments.insert(arguments.end(), optionals.begin(), optionals.end());
      return interpret(kernel, arguments, 0);
    };
    auto loss = [&] {
      Tensor output = run(forward, {qkv})[0];
      double sum = 0;
      for (int64_t i = 0; i < output.size(); ++i)
        sum += output.data[i] * gradient.data[i];
      return sum;
    };
    std::vector<Tensor> results = run(forward, {qkv});
    Tensor found = run(backward, {qkv, results[0], results[1], gradient})[0];
    for (int64_t i = 0; i < qkv.size(); ++i) {
      double old = qkv.data[i];
      qkv.data[i] = old + 1e-5;
      double above = loss();
      qkv.data[i] = old - 1e-5;
      double difference = (above - loss()) / 2e-5;
      qkv.data[i] = old;
      // Differences are right to the square of the step; rounding adds 1e-11.
      EXPECT_NEAR(found.data[i], difference, 1e-8) << "element " << i;
    }
  }
}

} // namespace
