// What a compilation promises beyond values: kernels are called by their
// content, and errors say where and what to do.
#include "test/codegen/KernelRunner.h"

#include "mlir/IR/Diagnostics.h"
#include <gtest/gtest.h>

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
  EXPECT_NE(std::string::npos, message(power, "native").find("pow"));
}

} // namespace
