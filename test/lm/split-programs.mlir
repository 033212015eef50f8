// RUN: lmc-opt %s --split-input-file --verify-diagnostics --lm-split-programs | FileCheck %s

// What the backward uses of the forward is saved once under one name; a
// constant is made again; an argument is given to both.
// CHECK-LABEL: module @cut
// CHECK: func.func @forward(%[[X:.*]]: tensor<4xf32> {lm.input = "x"}) -> (tensor<4xf32> {lm.saved = "saved0"}) attributes {plan.program = "forward"}
// CHECK: %[[Y:.*]] = math.exp
// CHECK: return %[[Y]]
// CHECK: func.func @backward(
// CHECK-SAME: tensor<4xf32> {lm.saved = "saved0"}
// CHECK-SAME: tensor<4xf32> {lm.input = "x"}
// CHECK-SAME: attributes {plan.program = "backward"}
// CHECK: arith.constant dense<2.000000e+00>
// CHECK-NOT: math.exp
// CHECK-NOT: func.func @step
// CHECK: func.func @evaluate
module @cut {
  func.func @step(%x: tensor<4xf32> {lm.input = "x"}) -> (tensor<4xf32> {lm.state = @s}) attributes {plan.program = "step"} {
    %c = arith.constant dense<2.0> : tensor<4xf32>
    %cx = arith.mulf %c, %x : tensor<4xf32>
    %y = math.exp %cx : tensor<4xf32>
    lm.begin_backward
    %a = arith.mulf %y, %y : tensor<4xf32>
    %b = arith.mulf %a, %x : tensor<4xf32>
    %z = arith.mulf %b, %c : tensor<4xf32>
    return %z : tensor<4xf32>
  }
  func.func @evaluate() attributes {plan.program = "evaluate"} {
    return
  }
}

// -----

// expected-error @+1 {{no program "step" to split}}
module @no_step {
}

// -----

module @no_cut {
  // expected-error @+1 {{no lm.begin_backward in @step}}
  func.func @step(%x: tensor<4xf32>) -> (tensor<4xf32> {lm.state = @s}) attributes {plan.program = "step"} {
    return %x : tensor<4xf32>
  }
}
