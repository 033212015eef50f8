// What a compilation promises beyond values: kernels are called by their
// content, and errors say where and what to do.
#include "test/codegen/KernelRunner.h"

#include "mlir/IR/Diagnostics.h"
#include <gtest/gtest.h>

#include <regex>

using namespace lmc;
using namespace lmc::test;

namespace {

// Equal kernels share code, whatever names their module gives them.
TEST(CodegenObject, EqualKernelsAreOne) {
  KernelRunner runner;
  std::string one = R"(
plan.kernel @a(%x: tensor<8xf32>) -> tensor<8xf32>
    attributes {kind = "flat", tied = array<i64: -1>} {
  %y = arith.negf %x : tensor<8xf32>
  plan.yield %y : tensor<8xf32>
})";
  std::string other = one;
  other.replace(other.find("@a"), 2, "@b");
  auto module = runner.parse("module {" + one + other + "}");
  std::vector<plan::KernelOp> kernels;
  for (auto kernel : module.getOps<plan::KernelOp>())
    kernels.push_back(kernel);
  ASSERT_EQ(2u, kernels.size());
  auto both = codegen::compileKernels(kernels, {});
  auto alone = codegen::compileKernels({kernels[1]}, {});
  ASSERT_TRUE(succeeded(both) && succeeded(alone));
  EXPECT_EQ(both->kernels[0].symbol, both->kernels[1].symbol);
  EXPECT_TRUE(both->object == alone->object);
}

// Several kernels make one PTX module, whatever the threads and the cache.
TEST(CodegenObject, PtxIsOneModule) {
  KernelRunner runner;
  std::string text = "module {";
  for (const char *op : {"negf", "addf"})
    text += std::string("plan.kernel @") + op + R"((%x: tensor<64xf32>) ->
 tensor<64xf32> attributes {kind = "flat", tied = array<i64: -1>} {
  %y = arith.)" +
            op + (op[0] == 'n' ? " %x" : " %x, %x") +
            R"( : tensor<64xf32>
  plan.yield %y : tensor<64xf32>
})";
  auto module = runner.parse(text + "}");
  std::vector<plan::KernelOp> kernels;
  for (auto kernel : module.getOps<plan::KernelOp>())
    kernels.push_back(kernel);
  codegen::CodegenOptions options;
  options.targetCpu = "sm_90";
  options.assemble = false;
  options.threads = 1;
  auto one = codegen::compileKernels(kernels, options);
  options.threads = 2;
  auto two = codegen::compileKernels(kernels, options);
  ASSERT_TRUE(succeeded(one) && succeeded(two));
  EXPECT_TRUE(one->object == two->object);
  EXPECT_EQ('\0', one->object.back());
  auto count = [&](const std::string &what) {
    size_t found = 0;
    for (size_t at = one->object.find(what); at != std::string::npos;
         at = one->object.find(what, at + 1))
      ++found;
    return found;
  };
  EXPECT_EQ(1u, count(".target sm_90"));
  EXPECT_EQ(2u, count(".entry "));
  for (const auto &kernel : one->kernels)
    EXPECT_EQ(1u, count(".entry " + kernel.symbol + "("));
}

// What cannot be compiled is said at the kernel, with a way out.
TEST(CodegenErrors, AreSentences) {
  KernelRunner runner;
  auto message = [&](const std::string &text, const std::string &cpu) {
    std::string said;
    mlir::ScopedDiagnosticHandler handler(&runner.context(),
                                          [&](mlir::Diagnostic &diagnostic) {
                                            said += diagnostic.str();
                                            return mlir::success();
                                          });
    auto module = runner.parse(text);
    codegen::CodegenOptions options;
    options.targetCpu = cpu;
    auto kernel = *module.getOps<plan::KernelOp>().begin();
    EXPECT_TRUE(failed(codegen::compileKernels({kernel}, options)));
    return said;
  };
  std::string power = R"(
plan.kernel @k(%x: tensor<8xf32>) -> tensor<8xf32>
    attributes {kind = "flat", tied = array<i64: -1>} {
  %y = math.powf %x, %x : tensor<8xf32>
  plan.yield %y : tensor<8xf32>
})";
  EXPECT_NE(std::string::npos,
            message(power, "nehalem").find("x86-64-v3 at least"));
  EXPECT_NE(std::string::npos, message(power, "zx81").find("is unknown"));
  for (const char *cpu : {"native", "sm_80"})
    EXPECT_NE(std::string::npos,
              message(power, cpu).find("math.powf has no expansion"));
  EXPECT_NE(std::string::npos,
            message(power, "sm_70").find("no code for 'sm_70'"));
  std::string woven = std::regex_replace(power, std::regex("flat"), "woven");
  for (const char *cpu : {"native", "sm_80"})
    EXPECT_NE(std::string::npos, message(woven, cpu)
                                     .find("has kind 'woven', but there are "
                                           "emitters for flat, row, column_"));
  std::string tied = R"(
plan.kernel @k(%x: tensor<9000xf32>, %s: tensor<f32>) -> (tensor<9000xf32>, tensor<f32>)
    attributes {kind = "flat", tied = array<i64: -1, 1>} {
  %b = lm.broadcast %s dims [] : tensor<f32> to tensor<9000xf32>
  %y = arith.mulf %x, %b : tensor<9000xf32>
  %t = arith.addf %s, %s : tensor<f32>
  plan.yield %y, %t : tensor<9000xf32>, tensor<f32>
})";
  EXPECT_NE(std::string::npos,
            message(tied, "sm_80").find("other blocks of a GPU"));
  std::string head = R"(
plan.kernel @k(%x: tensor<1x8x1x3x1024xf32>) -> tensor<1x8x1x1x1024xf32>
    attributes {kind = "attention", tied = array<i64: -1>} {
  %y, %l = lm.attention %x {scale = 1.0 : f32} : (tensor<1x8x1x3x1024xf32>)
      -> (tensor<1x8x1x1x1024xf32>, tensor<1x1x1x8xf32>)
  plan.yield %y : tensor<1x8x1x1x1024xf32>
})";
  EXPECT_NE(std::string::npos,
            message(head, "sm_80").find("heads of 1024 elements"));
}

} // namespace
