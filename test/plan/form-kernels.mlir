// RUN: lmc-opt %s --split-input-file --verify-diagnostics --plan-form-kernels | FileCheck %s

// A product takes in what is computed from its result alone, once for two
// equal layers.
// CHECK-LABEL: @layers
// CHECK: plan.kernel @contraction_0
// CHECK: lm.contract
// CHECK: arith.addf
// CHECK: math.exp
// CHECK: plan.yield
// CHECK-NOT: plan.kernel
// CHECK: func.func @f(%[[X:.*]]: tensor<8x8xf32> {{.*}}, %[[W:.*]]: tensor<8x8xf32> {{.*}}, %[[B:.*]]: tensor<8xf32>
// CHECK: %[[H:.*]] = plan.launch @contraction_0(%[[X]], %[[W]], %[[B]])
// CHECK: %[[Y:.*]] = plan.launch @contraction_0(%[[H]], %[[W]], %[[B]])
// CHECK: return %[[Y]]
module @layers {
  func.func @f(%x: tensor<8x8xf32> {lm.input = "x"}, %w: tensor<8x8xf32> {lm.state = @w}, %b: tensor<8xf32> {lm.state = @b})
      -> (tensor<8x8xf32> {lm.output = "y"}) attributes {plan.program = "f"} {
    %h = lm.linear %x, %w bias %b : (tensor<8x8xf32>, tensor<8x8xf32>, tensor<8xf32>) -> tensor<8x8xf32>
    %s = lm.silu %h : tensor<8x8xf32>
    %g = lm.linear %s, %w bias %b : (tensor<8x8xf32>, tensor<8x8xf32>, tensor<8xf32>) -> tensor<8x8xf32>
    %y = lm.silu %g : tensor<8x8xf32>
    return %y : tensor<8x8xf32>
  }
}

// -----

// Layers that differ in the ids of their random numbers run one kernel: the id
// is the launch's.
// CHECK-LABEL: @random_ids
// CHECK: plan.kernel @flat_0
// CHECK: lm.random_uniform %{{[^{]*}} : (
// CHECK-NOT: plan.kernel
// CHECK: plan.launch @flat_0({{.*}}) {random_ids = array<i64: 8>}
module @random_ids {
  func.func @f(%x: tensor<8xf32> {lm.input = "x"}, %y: tensor<8xf32> {lm.input = "y"}, %r: tensor<f32> {lm.scalar = "dropout"}, %s: tensor<i32> {lm.scalar = "step"})
      -> (tensor<8xf32> {lm.output = "a"}, tensor<8xf32> {lm.output = "b"}) attributes {plan.program = "f"} {
    %a = lm.dropout %x, %r, %s, %s, %s {id = 7 : i64} : (tensor<8xf32>, tensor<f32>, tensor<i32>, tensor<i32>, tensor<i32>) -> tensor<8xf32>
    %b = lm.dropout %y, %r, %s, %s, %s {id = 8 : i64} : (tensor<8xf32>, tensor<f32>, tensor<i32>, tensor<i32>, tensor<i32>) -> tensor<8xf32>
    return %a, %b : tensor<8xf32>, tensor<8xf32>
  }
}

// -----

// A residual that exists before the product joins; one that is computed from
// the product by rows does not, and becomes a kernel of its own.
// CHECK-LABEL: @residual
// CHECK: plan.kernel @row_
// CHECK-NOT: arith.addf
// CHECK: lm.reduce "max"
// CHECK: plan.yield
// CHECK: plan.kernel @contraction_{{[0-9]+}}(%{{.*}}: tensor<8x4xf32>, %{{.*}}: tensor<4x6xf32>, %{{.*}}: tensor<8x6xf32>)
// CHECK: lm.contract
// CHECK-NEXT: arith.addf
// CHECK-NEXT: plan.yield
module @residual {
  func.func @f(%x: tensor<8x4xf32> {lm.input = "x"}, %w: tensor<4x6xf32> {lm.state = @w}, %r: tensor<8x6xf32> {lm.input = "r"})
      -> (tensor<8xf32> {lm.output = "y"}) attributes {plan.program = "f"} {
    %h = lm.linear %x, %w : (tensor<8x4xf32>, tensor<4x6xf32>) -> tensor<8x6xf32>
    %s = arith.addf %h, %r : tensor<8x6xf32>
    %y = lm.reduce "max" %s dims [1] : tensor<8x6xf32> to tensor<8xf32>
    return %y : tensor<8xf32>
  }
}

// -----

// A new value of a state takes the bytes of the old one: result 0 is tied to
// the argument that holds it.
// CHECK-LABEL: @tied
// CHECK: plan.kernel @flat_0(%[[A:.*]]: tensor<8xf32>, %[[X:.*]]: tensor<8xf32>) -> tensor<8xf32> attributes {kind = "flat", tied = array<i64: 0>}
// CHECK: lm.accumulate %[[A]], %[[X]]
module @tied {
  func.func @f(%a: tensor<8xf32> {lm.state = @a}, %x: tensor<8xf32> {lm.input = "x"})
      -> (tensor<8xf32> {lm.state = @a}) attributes {plan.program = "f"} {
    %y = lm.accumulate %a, %x : tensor<8xf32>
    return %y : tensor<8xf32>
  }
}

// -----

// Views and collectives stay in the program; so does a function that is none.
// CHECK-LABEL: @alone
// CHECK: func.func @f
// CHECK: %[[S:.*]] = dist.all_reduce
// CHECK: lm.reshape %[[S]]
// CHECK: func.func @helper
// CHECK: math.exp
module @alone {
  func.func @f(%x: tensor<8xf32> {lm.input = "x"}) -> (tensor<2x4xf32> {lm.output = "y"}) attributes {plan.program = "f"} {
    %e = math.exp %x : tensor<8xf32>
    %s = dist.all_reduce "sum" %e over ["tp"] : tensor<8xf32>
    %y = lm.reshape %s : tensor<8xf32> to tensor<2x4xf32>
    return %y : tensor<2x4xf32>
  }
  func.func @helper(%x: tensor<8xf32>) -> tensor<8xf32> {
    %e = math.exp %x : tensor<8xf32>
    return %e : tensor<8xf32>
  }
}
