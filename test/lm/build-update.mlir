// RUN: lmc-opt %s --split-input-file --verify-diagnostics --dist-pack-buckets --lm-build-update=seed=0.25 | FileCheck %s

// Each bucket gets two moments, as do its parameters, and one update; its group
// names the decay.
// CHECK-LABEL: module @groups
// CHECK-DAG: lm.state @a.m "moment" : tensor<2x3xf32> {dist.bucket = @a.bucket.m, dist.bucket_offset = 0 : i64, parameter = @a, role = "m"}
// CHECK-DAG: lm.state @a.bucket.m "bucket" : tensor<64xf32> {parameter = @a.bucket, role = "m"}
// CHECK-DAG: lm.state @a.bucket.v "bucket" : tensor<64xf32> {parameter = @a.bucket, role = "v"}
// CHECK: func.func @update(
// CHECK-SAME: %[[L:[a-z0-9]+]]: tensor<f32> {lm.state = @loss_sum}, %[[W:[a-z0-9]+]]: tensor<f32> {lm.state = @weight_sum}
// CHECK-SAME: %[[GA:[a-z0-9]+]]: tensor<64xf32> {lm.state = @a.bucket.gradient}
// CHECK-SAME: %[[D:[a-z0-9]+]]: tensor<f32> {lm.scalar = "weight_decay"}
// CHECK-SAME: %[[DX:[a-z0-9]+]]: tensor<f32> {lm.scalar = "weight_decay.slow"}
// CHECK: %[[ONE:.*]] = arith.constant dense<1.000000e+00> : tensor<f32>
// CHECK: %[[ZERO:.*]] = arith.constant dense<0.000000e+00> : tensor<f32>
// A step without any weight has a loss of 0, not 0/0.
// CHECK: %[[NONE:.*]] = arith.cmpf oeq, %[[W]], %[[ZERO]]
// CHECK: %[[SUM:.*]] = arith.select %[[NONE]], %[[ONE]], %[[W]]
// CHECK: %[[LOSS:.*]] = arith.divf %[[L]], %[[SUM]]
// The true gradient is accumulator * (1/seed) / weights.
// CHECK: %[[INVERSE:.*]] = arith.constant dense<4.000000e+00> : tensor<f32>
// CHECK: %[[SCALE:.*]] = arith.divf %[[INVERSE]], %[[SUM]]
// Squares are summed by rows first, so that the order never changes.
// CHECK: %[[ROWS:.*]] = lm.reshape %[[GA]] : tensor<64xf32> to tensor<1x64xf32>
// CHECK: %[[SQUARES:.*]] = arith.mulf %[[ROWS]], %[[ROWS]]
// CHECK: %[[SUMS:.*]] = lm.reduce "sum" %[[SQUARES]] dims [1]
// CHECK: lm.reduce "sum" %[[SUMS]] dims [0]
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
  func.func @backward() attributes {plan.program = "backward"} {
    return
  }
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
  func.func @backward() attributes {plan.program = "backward"} {
    return
  }
}

// -----

// ZeRO's level 1: the sum over dp is a reduce-scatter into the rank's piece,
// which is updated and gathered; a tensor that tp splits counts its squares on
// all of tp. Losses are summed over dp.
// CHECK-LABEL: module @pieces
// CHECK: func.func @update(%[[L:[a-z0-9]+]]: tensor<f32> {lm.state = @loss_sum}
// CHECK-SAME: %[[G:[a-z0-9]+]]: tensor<128xf32> {lm.state = @w.bucket.gradient}
// CHECK-SAME: %[[P:[a-z0-9]+]]: tensor<64xf32> {lm.state = @w.bucket.piece}
// CHECK-SAME: -> (tensor<64xf32> {lm.state = @w.bucket.gradient.piece},
// CHECK-SAME: tensor<128xf32> {lm.state = @w.bucket}
// CHECK: dist.all_reduce "sum" %[[L]] over ["dp"]
// CHECK: %[[S:.*]] = dist.reduce_scatter %[[G]] dim 0 over ["dp"]
// CHECK: %[[SQUARES:.*]] = dist.all_reduce "sum" %{{.*}} over ["tp"]
// CHECK: %[[ALL:.*]] = arith.addf %{{.*}}, %[[SQUARES]]
// CHECK: dist.all_reduce "sum" %[[ALL]] over ["dp"]
// CHECK: %[[NEW:.*]], %{{.*}}, %{{.*}} = lm.adamw_update %[[P]], {{.*}}%[[S]]
// CHECK: %[[WHOLE:.*]] = dist.all_gather %[[NEW]] dim 0 over ["dp"]
// CHECK: return %[[S]], %[[NEW]], {{.*}}%[[WHOLE]]
module @pieces attributes {dist.mesh = #dist.mesh<["dp", "tp"], [2, 2]>} {
  lm.parameter @w : tensor<16x16xf32> {dist.pieces = #dist.pieces<parameters [] gradients [] moments ["dp"]>, dist.sharding = #dist.sharding<[[], ["tp"]], []>, initialization = {kind = "zeros"}}
  lm.state @w.gradient "accumulator" : tensor<16x16xf32> {dist.sharding = #dist.sharding<[[], ["tp"]], ["dp"]>, parameter = @w, role = "gradient"}
  lm.state @loss_sum "accumulator" : tensor<f32> {dist.sharding = #dist.sharding<[], ["dp"]>, role = "loss_sum"}
  lm.state @weight_sum "accumulator" : tensor<f32> {dist.sharding = #dist.sharding<[], ["dp"]>, role = "weight_sum"}
  func.func @backward(%g: tensor<16x8xf32> {lm.state = @w.gradient}) -> (tensor<16x8xf32> {lm.state = @w.gradient}) attributes {plan.program = "backward"} {
    return %g : tensor<16x8xf32>
  }
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
// CHECK: func.func @update.0(%[[G:[a-z0-9]+]]: tensor<64xf32> {lm.state = @t.bucket.gradient}
// CHECK-SAME: plan.stage = 0 : i64
// CHECK-COUNT-2: dist.all_reduce "sum" %{{cst.*}} over ["pp"]
// CHECK: %[[OTHER:.*]] = dist.receive stage 1 channel 7
// CHECK: %[[SUM:.*]] = arith.addf %[[G]], %[[OTHER]]
// CHECK: dist.send %[[SUM]] stage 1 channel 8
// CHECK: lm.reshape %[[SUM]]
// CHECK: dist.all_reduce "sum" %{{.*}} over ["pp"]
// CHECK: lm.adamw_update
// CHECK: return %[[SUM]]
// CHECK: func.func @evaluate_finish.0() ->
// CHECK: func.func @update.1(%[[L:[a-z0-9]+]]: tensor<f32> {lm.state = @loss_sum}, %[[W:[a-z0-9]+]]: tensor<f32> {lm.state = @weight_sum}, %[[G:[a-z0-9]+]]: tensor<64xf32> {lm.state = @t.bucket.gradient}
// CHECK: dist.all_reduce "sum" %[[L]] over ["pp"]
// CHECK: dist.all_reduce "sum" %[[W]] over ["pp"]
// CHECK: dist.send %[[G]] stage -1 channel 7
// CHECK: %[[SUM:.*]] = dist.receive stage -1 channel 8
// CHECK-NOT: lm.reshape %[[SUM]]
// CHECK: lm.adamw_update {{.*}}%[[SUM]]
module @stages attributes {dist.chunks = 2 : i64, dist.stages = 2 : i64, dist.mesh = #dist.mesh<["pp"], [2]>} {
  lm.parameter @t : tensor<8x8xf32> {initialization = {kind = "zeros"}}
  lm.state @t.gradient "accumulator" : tensor<8x8xf32> {parameter = @t, role = "gradient"}
  lm.state @loss_sum "accumulator" : tensor<f32> {role = "loss_sum"}
  lm.state @weight_sum "accumulator" : tensor<f32> {role = "weight_sum"}
  func.func @backward.0(%g: tensor<8x8xf32> {lm.state = @t.gradient}) -> (tensor<8x8xf32> {lm.state = @t.gradient}) attributes {plan.program = "backward", plan.stage = 0 : i64} {
    dist.send %g stage 1 channel 6 : tensor<8x8xf32>
    return %g : tensor<8x8xf32>
  }
  func.func @backward.1(%g: tensor<8x8xf32> {lm.state = @t.gradient}, %l: tensor<f32> {lm.state = @loss_sum}) -> (tensor<8x8xf32> {lm.state = @t.gradient}) attributes {plan.program = "backward", plan.stage = 1 : i64} {
    return %g : tensor<8x8xf32>
  }
}
