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
