// The border behind kernels. Each check carries the label of the law in
// Passes.td that it enforces.
#include "passes/verify/Passes.h"

#include "dialects/dist/Dist.h"
#include "dialects/lm/Lm.h"
#include "dialects/plan/Matmul.h"

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/Func/IR/FuncOps.h"
#include "mlir/Dialect/Math/IR/Math.h"

namespace lmc::verify {
#define GEN_PASS_DEF_VERIFYKERNELS
#include "passes/verify/Passes.h.inc"
} // namespace lmc::verify

using namespace mlir;
using namespace lmc;

namespace {

LogicalResult checkProgram(func::FuncOp function, SymbolTable &symbols) {
  for (Operation &op : function.getBody().front()) {
    auto launch = dyn_cast<plan::LaunchOp>(op);
    if (!launch && !dist::isCollective(&op) &&
        !isa<lm::ReshapeOp, lm::SliceRowsOp, lm::ConcatRowsOp, dist::SendOp,
             dist::ReceiveOp, func::ReturnOp>(op))
      return op.emitOpError( // K1
          "is no launch, view, collective or transfer");
    if (!launch)
      continue;
    auto kernel = symbols.lookup<plan::KernelOp>(launch.getKernel());
    if (!kernel)
      return op.emitOpError() << "launches @" << launch.getKernel() // K2
                              << ", which is no kernel";
    if (TypeRange(kernel.getArgumentTypes()) != op.getOperandTypes() ||
        TypeRange(kernel.getResultTypes()) != op.getResultTypes())
      return op.emitOpError() // K2
             << "has other types than its kernel, " << kernel.getFunctionType();
  }
  return success();
}

LogicalResult check(ModuleOp module) {
  SymbolTable symbols(module);
  for (auto function : module.getOps<func::FuncOp>())
    if (function->hasAttr(plan::kProgramAttr) &&
        failed(checkProgram(function, symbols)))
      return failure();
  for (auto kernel : module.getOps<plan::KernelOp>()) {
    if (kernel.getKind() == plan::kMatmulKind && !plan::describeMatmul(kernel))
      return kernel.emitOpError( // K4
          "is of kind matmul, but no product that a library computes");
    for (Operation &op : kernel.getBody().front())
      if (isa<lm::Lowerable>(op) ||
          !isa<arith::ArithDialect, math::MathDialect, lm::LmDialect,
               plan::PlanDialect>(op.getDialect()))
        return op.emitOpError("is no primitive, and part of a kernel"); // K3
  }
  return success();
}

struct VerifyKernelsPass
    : lmc::verify::impl::VerifyKernelsBase<VerifyKernelsPass> {
  using VerifyKernelsBase::VerifyKernelsBase;

  void runOnOperation() override {
    if (failed(check(getOperation())))
      return signalPassFailure();
    markAllAnalysesPreserved();
  }
};

} // namespace
