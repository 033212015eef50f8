// Passes that work on the plan dialect or lead to it.
#ifndef LMC_PASSES_PLAN_PASSES_TD
#define LMC_PASSES_PLAN_PASSES_TD

include "mlir/Pass/PassBase.td"

def FormKernels : Pass<"plan-form-kernels", "::mlir::ModuleOp"> {
  let summary = "group operations into kernels and launch them";
  let description = [{
    Rewrites layers as primitives, groups primitives into kernels (see
    FormKernels.cpp for how), outlines each as a `plan.kernel` and puts a
    `plan.launch` in its place. Kernels that are equal become one, so that a
    deep model has the kernels of one layer.

    Requires: programs (functions with `plan.program`) of lm, arith and math
    operations on tensors of one rank's shape.
    Ensures: programs hold launches and views only.
    Leaves alone: functions that are no program.

    **Before**
    ```mlir
    func.func @f(%x: tensor<8x4xf32> {lm.input = "x"}, %w: tensor<4x6xf32> {lm.state = @w})
        -> (tensor<8x6xf32> {lm.output = "y"}) attributes {plan.program = "f"} {
      %h = lm.linear %x, %w : (tensor<8x4xf32>, tensor<4x6xf32>) -> tensor<8x6xf32>
      %y = lm.silu %h : tensor<8x6xf32>
      return %y : tensor<8x6xf32>
    }
    ```
    **After**
    ```mlir
    plan.kernel @contraction_0(%x: tensor<8x4xf32>, %w: tensor<4x6xf32>) -> tensor<8x6xf32>
        attributes {kind = "contraction", tied = array<i64: -1>} { ... }
    func.func @f(%x: tensor<8x4xf32> {lm.input = "x"}, %w: tensor<4x6xf32> {lm.state = @w})
        -> (tensor<8x6xf32> {lm.output = "y"}) attributes {plan.program = "f"} {
      %y = plan.launch @contraction_0(%x, %w) : ...
      return %y : tensor<8x6xf32>
    }
    ```
  }];
  let statistics = [
    Statistic<"numLaunches", "launches", "launches in all programs">,
    Statistic<"numKernels", "kernels", "different kernels">
  ];
  let dependentDialects = ["::lmc::plan::PlanDialect", "::lmc::lm::LmDialect",
    "::mlir::arith::ArithDialect", "::mlir::math::MathDialect"];
}

#endif // LMC_PASSES_PLAN_PASSES_TD
