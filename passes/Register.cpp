#include "passes/Register.h"

#include "dialects/dist/Dist.h"
#include "dialects/lm/ExternalModels.h"
#include "dialects/lm/Lm.h"
#include "dialects/plan/Plan.h"
#include "passes/dist/Passes.h"
#include "passes/lm/Passes.h"
#include "passes/plan/Passes.h"
#include "passes/verify/Passes.h"

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/Func/IR/FuncOps.h"
#include "mlir/Dialect/Math/IR/Math.h"
#include "mlir/Transforms/Passes.h"

void lmc::registerDialects(mlir::DialectRegistry &registry) {
  registry.insert<dist::DistDialect, lm::LmDialect, plan::PlanDialect,
                  mlir::arith::ArithDialect, mlir::func::FuncDialect,
                  mlir::math::MathDialect>();
  lm::registerExternalModels(registry);
}

void lmc::registerPasses() {
  dist::registerDistPasses();
  lm::registerLmPasses();
  plan::registerPlanPasses();
  verify::registerVerifyPasses();
  mlir::registerCanonicalizerPass();
  mlir::registerCSEPass();
}
