// RUN: lmc-opt %s --split-input-file --verify-diagnostics --lm-build-update=seed=0.25 | FileCheck %s

// Each parameter gets two moments and one update; its group names the decay.
// CHECK-LABEL: module @groups
// CHECK-DAG: lm.state @a.m "moment" : tensor<2x3xf32> {parameter = @a, role = "m"}
// CHECK-DAG: lm.state @a.v "moment" : tensor<2x3xf32> {parameter = @a, role = "v"}
// CHECK: func.func @update(
// CHECK-SAME: %[[L:[a-z0-9]+]]: tensor<f32> {lm.state = @loss_sum}, %[[W:[a-z0-9]+]]: tensor<f32> {lm.state = @weight_sum}
// CHECK-SAME: %[[GA:[a-z0-9]+]]: tensor<2x3xf32> {lm.state = @a.gradient}
// CHECK-SAME: %[[D:[a-z0-9]+]]: tensor<f32> {lm.scalar = "weight_decay"}
// CHECK-SAME: %[[DX:[a-z0-9]+]]: tensor<f32> {lm.scalar = "weight_decay.slow"}
// CHECK: %[[ZERO:.*]] = arith.constant dense<0.000000e+00> : tensor<f32>
// CHECK: %[[LOSS:.*]] = arith.divf %[[L]], %[[W]]
// The true gradient is accumulator * (1/seed) / weights.
// CHECK: %[[INVERSE:.*]] = arith.constant dense<4.000000e+00> : tensor<f32>
// CHECK: %[[SCALE:.*]] = arith.divf %[[INVERSE]], %[[W]]
// Squares are summed by rows first, so that the order never changes.
// CHECK: %[[SQUARES:.*]] = arith.mulf %[[GA]], %[[GA]]
// CHECK: %[[ROWS:.*]] = lm.reduce "sum" %[[SQUARES]] dims [1]
// CHECK: lm.reduce "sum" %[[ROWS]] dims [0]
// CHECK: lm.adamw_update {{.*}}%[[GA]], {{.*}}, %[[D]],
// CHECK: lm.adamw_update {{.*}}, %[[ZERO]],
// CHECK: lm.adamw_update {{.*}}, %[[DX]],
// CHECK: return {{.*}}%[[LOSS]]
// CHECK: func.func @evaluate_finish
module @groups {
  lm.parameter @a : tensor<2x3xf32> {group = "decay", initialization = {kind = "zeros"}}
  lm.parameter @b : tensor<3xf32> {group = "no_decay", initialization = {kind = "zeros"}}
  lm.parameter @c : tensor<3xf32> {group = "slow", initialization = {kind = "zeros"}}
  lm.state @a.gradient "accumulator" : tensor<2x3xf32> {parameter = @a, role = "gradient"}
  lm.state @b.gradient "accumulator" : tensor<3xf32> {parameter = @b, role = "gradient"}
  lm.state @c.gradient "accumulator" : tensor<3xf32> {parameter = @c, role = "gradient"}
  lm.state @loss_sum "accumulator" : tensor<f32> {role = "loss_sum"}
  lm.state @weight_sum "accumulator" : tensor<f32> {role = "weight_sum"}
}

// -----

// A parameter without accumulator is frozen: it gets no moment.
// CHECK-LABEL: module @frozen
// CHECK-NOT: @a.m
// CHECK-NOT: lm.adamw_update
// CHECK: func.func @evaluate_finish
module @frozen {
  lm.parameter @a : tensor<3xf32> {initialization = {kind = "zeros"}, trainable = false}
  lm.state @loss_sum "accumulator" : tensor<f32> {role = "loss_sum"}
  lm.state @weight_sum "accumulator" : tensor<f32> {role = "weight_sum"}
}

// -----

// expected-error @+1 {{no state @weight_sum; lm-differentiate makes it of the output with that name of @forward}}
module @refused {
  lm.state @loss_sum "accumulator" : tensor<f32> {role = "loss_sum"}
}

// -----

// Two stages hold @t. The first one, its owner, adds up and sends the sum back,
// and it alone counts the parameter in the norm. Losses are the last stage's.
// CHECK-LABEL: module @stages
// CHECK: func.func @update.0(%[[G:[a-z0-9]+]]: tensor<4xf32> {lm.state = @t.gradient}
// CHECK-SAME: plan.stage = 0 : i64
// CHECK-COUNT-2: dist.all_reduce "sum" %{{cst.*}} over ["pp"]
// CHECK: %[[OTHER:.*]] = dist.receive stage 1 channel 7
// CHECK: %[[SUM:.*]] = arith.addf %[[G]], %[[OTHER]]
// CHECK: dist.send %[[SUM]] stage 1 channel 8
// CHECK: arith.mulf %[[SUM]], %[[SUM]]
// CHECK: dist.all_reduce "sum" %{{.*}} over ["pp"]
// CHECK: lm.adamw_update
// CHECK: return %[[SUM]]
// CHECK: func.func @evaluate_finish.0() ->
// CHECK: func.func @update.1(%[[L:[a-z0-9]+]]: tensor<f32> {lm.state = @loss_sum}, %[[W:[a-z0-9]+]]: tensor<f32> {lm.state = @weight_sum}, %[[G:[a-z0-9]+]]: tensor<4xf32> {lm.state = @t.gradient}
// CHECK: dist.all_reduce "sum" %[[L]] over ["pp"]
// CHECK: dist.all_reduce "sum" %[[W]] over ["pp"]
// CHECK: dist.send %[[G]] stage -1 channel 7
// CHECK: %[[SUM:.*]] = dist.receive stage -1 channel 8
// CHECK-NOT: arith.mulf %[[SUM]], %[[SUM]]
// CHECK: lm.adamw_update {{.*}}%[[SUM]]
module @stages attributes {dist.chunks = 2 : i64, dist.stages = 2 : i64} {
  lm.parameter @t : tensor<4xf32> {initialization = {kind = "zeros"}}
  lm.state @t.gradient "accumulator" : tensor<4xf32> {parameter = @t, role = "gradient"}
  lm.state @loss_sum "accumulator" : tensor<f32> {role = "loss_sum"}
  lm.state @weight_sum "accumulator" : tensor<f32> {role = "weight_sum"}
  func.func @step.0(%g: tensor<4xf32> {lm.state = @t.gradient}) attributes {plan.program = "step", plan.stage = 0 : i64} {
    dist.send %g stage 1 channel 6 : tensor<4xf32>
    return
  }
  func.func @step.1(%g: tensor<4xf32> {lm.state = @t.gradient}, %l: tensor<f32> {lm.state = @loss_sum}) attributes {plan.program = "step", plan.stage = 1 : i64} {
    return
  }
}
