// RUN: lmc-opt %s --split-input-file --lm-differentiate=seed=0.5 | FileCheck %s

// The seed goes through the sum to both operands of the product; the frozen
// one gets neither gradient nor accumulator. Inputs get no gradient.
// CHECK-LABEL: module @chain
// CHECK: lm.state @w.gradient "accumulator" : tensor<3x2xf32> {parameter = @w, role = "gradient"}
// CHECK-NOT: @frozen.gradient
// CHECK: func.func @step(%[[X:.*]]: tensor<4x3xf32> {lm.input = "x"}, %[[W:.*]]: tensor<3x2xf32> {lm.state = @w}, %[[B:.*]]: tensor<2xf32> {lm.state = @frozen}, %[[A:.*]]: tensor<3x2xf32> {lm.state = @w.gradient}, %[[S:.*]]: tensor<f32> {lm.state = @loss_sum})
// CHECK: lm.begin_backward
// CHECK: %[[SEED:.*]] = arith.constant dense<5.000000e-01> : tensor<f32>
// CHECK: %[[G:.*]] = lm.broadcast %[[SEED]] dims []
// CHECK: %[[D:.*]] = lm.contract %[[X]] [0], %[[G]] [0]
// CHECK: %[[A1:.*]] = lm.accumulate %[[A]], %[[D]]
// CHECK: return %[[A1]],
module @chain {
  lm.parameter @w : tensor<3x2xf32> {initialization = {kind = "zeros"}}
  lm.parameter @frozen : tensor<2xf32> {initialization = {kind = "zeros"}, trainable = false}
  func.func @forward(%x: tensor<4x3xf32> {lm.input = "x"}, %w: tensor<3x2xf32> {lm.state = @w}, %b: tensor<2xf32> {lm.state = @frozen})
      -> (tensor<f32> {lm.output = "loss_sum"}) {
    %y = lm.linear %x, %w bias %b : (tensor<4x3xf32>, tensor<3x2xf32>, tensor<2xf32>) -> tensor<4x2xf32>
    %l = lm.reduce "sum" %y dims [0, 1] : tensor<4x2xf32> to tensor<f32>
    return %l : tensor<f32>
  }
}

// -----

// A value with two uses gets the sum of both gradients, each added
// right behind its producer.
// CHECK-LABEL: module @sum
// CHECK: func.func @step({{.*}}%[[W:[a-z0-9]+]]: tensor<2xf32> {lm.state = @w}
// CHECK: lm.begin_backward
// CHECK: %[[G:.*]] = lm.broadcast
// CHECK: %[[P0:.*]] = arith.mulf
// CHECK: %[[A:.*]] = lm.accumulate %{{.*}}, %[[P0]]
// CHECK: %[[P1:.*]] = arith.mulf
// CHECK: arith.addf %[[A]], %[[P1]]
module @sum {
  lm.parameter @w : tensor<2xf32> {initialization = {kind = "zeros"}}
  func.func @forward(%w: tensor<2xf32> {lm.state = @w}) -> (tensor<f32> {lm.output = "loss_sum"}) {
    %y = arith.mulf %w, %w : tensor<2xf32>
    %l = lm.reduce "sum" %y dims [0] : tensor<2xf32> to tensor<f32>
    return %l : tensor<f32>
  }
}

// -----

// An evaluation draws no random numbers.
// CHECK-LABEL: module @dropout
// CHECK: func.func @step
// CHECK: lm.dropout
// CHECK: func.func @evaluate
// CHECK-NOT: lm.dropout
// CHECK: return
module @dropout {
  lm.parameter @w : tensor<2xf32> {initialization = {kind = "zeros"}}
  func.func @forward(%w: tensor<2xf32> {lm.state = @w}, %r: tensor<f32> {lm.scalar = "dropout"},
      %a: tensor<i32> {lm.scalar = "seed_low"}, %b: tensor<i32> {lm.scalar = "seed_high"}, %s: tensor<i32> {lm.scalar = "step"})
      -> (tensor<f32> {lm.output = "loss_sum"}) {
    %y = lm.dropout %w, %r, %a, %b, %s {id = 7 : i64} : (tensor<2xf32>, tensor<f32>, tensor<i32>, tensor<i32>, tensor<i32>) -> tensor<2xf32>
    %l = lm.reduce "sum" %y dims [0] : tensor<2xf32> to tensor<f32>
    return %l : tensor<f32>
  }
}

// -----

// The backward of attention draws the forward's numbers; an evaluation draws
// none.
// CHECK-LABEL: module @attention_dropout
// CHECK: func.func @step
// CHECK: lm.attention %{{.*}} dropout %[[R:.*]], %[[A:.*]], %[[B:.*]], %[[S:.*]] {id = 7
// CHECK: lm.attention_grad {{.*}} dropout %[[R]], %[[A]], %[[B]], %[[S]] {id = 7
// CHECK: func.func @evaluate
// CHECK-NOT: dropout %
// CHECK: lm.attention %{{[a-z0-9]+}} {scale
// CHECK: return
module @attention_dropout {
  lm.parameter @w : tensor<1x8x2x3x4xf32> {initialization = {kind = "zeros"}}
  func.func @forward(%w: tensor<1x8x2x3x4xf32> {lm.state = @w}, %r: tensor<f32> {lm.scalar = "dropout"},
      %a: tensor<i32> {lm.scalar = "seed_low"}, %b: tensor<i32> {lm.scalar = "seed_high"}, %s: tensor<i32> {lm.scalar = "step"})
      -> (tensor<f32> {lm.output = "loss_sum"}) {
    %y, %lse = lm.attention %w dropout %r, %a, %b, %s {id = 7 : i64, scale = 0.5 : f32}
        : (tensor<1x8x2x3x4xf32>, tensor<f32>, tensor<i32>, tensor<i32>, tensor<i32>) -> (tensor<1x8x2x1x4xf32>, tensor<1x2x1x8xf32>)
    %l = lm.reduce "sum" %y dims [0, 1, 2, 3, 4] : tensor<1x8x2x1x4xf32> to tensor<f32>
    return %l : tensor<f32>
  }
}
