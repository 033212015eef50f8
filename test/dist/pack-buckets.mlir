// RUN: lmc-opt %s --split-input-file --dist-pack-buckets | FileCheck %s

// Whole buckets: members of a block share one, tensors begin at multiples of 64
// bytes, an odd one comes last; a program that adds to accumulators returns the
// bucket, what it leaves alone with it. A frozen parameter has a bucket without
// accumulators, one outside of blocks its own.
// CHECK-LABEL: module @block
// CHECK: lm.parameter @odd {{.*}}dist.bucket = @block0.decay.bucket, dist.bucket_offset = 16 : i64
// CHECK: lm.parameter @even {{.*}}dist.bucket = @block0.decay.bucket, dist.bucket_offset = 0 : i64
// CHECK: lm.parameter @frozen {{.*}}dist.bucket = @block0.frozen.bucket, dist.bucket_offset = 0 : i64
// CHECK: lm.parameter @alone {{.*}}dist.bucket = @alone.bucket, dist.bucket_offset = 0 : i64
// CHECK: lm.state @odd.gradient {{.*}}dist.bucket = @block0.decay.bucket.gradient, dist.bucket_offset = 16 : i64
// CHECK: lm.state @block0.decay.bucket "bucket" : tensor<64xf32> {dist.sharding = #dist.sharding<{{\[}}[]], []>, role = "parameter"}
// CHECK: lm.state @block0.decay.bucket.gradient "bucket" : tensor<64xf32> {dist.sharding = #dist.sharding<{{\[}}[]], ["dp"]>, parameter = @block0.decay.bucket, role = "gradient"}
// CHECK: func.func @backward(
// CHECK-SAME: %[[A:[a-z0-9]+]]: tensor<64xf32> {lm.state = @block0.decay.bucket.gradient}
// CHECK-SAME: %[[P:[a-z0-9]+]]: tensor<64xf32> {lm.state = @block0.decay.bucket}
// CHECK-SAME: -> (tensor<64xf32> {lm.state = @block0.decay.bucket.gradient})
// CHECK: %[[OLD:.*]] = lm.slice_rows %[[A]] at 0 : tensor<64xf32> to tensor<16xf32>
// CHECK: %[[W:.*]] = lm.slice_rows %[[P]] at 0 : tensor<64xf32> to tensor<16xf32>
// CHECK: %[[G:.*]] = math.exp %[[W]]
// CHECK: %[[NEW:.*]] = lm.accumulate %[[OLD]], %[[G]]
// CHECK: %[[REST:.*]] = lm.slice_rows %[[A]] at 16 : tensor<64xf32> to tensor<48xf32>
// CHECK: %[[ALL:.*]] = lm.concat_rows %{{.*}}, %[[REST]]
// CHECK: return %[[ALL]]

module @block attributes {dist.mesh = #dist.mesh<["dp"], [2]>} {
  lm.parameter @odd : tensor<3xf32> {block = 0 : i64, initialization = {kind = "zeros"}}
  lm.parameter @even : tensor<16xf32> {block = 0 : i64, initialization = {kind = "zeros"}}
  lm.parameter @frozen : tensor<16xf32> {block = 0 : i64, initialization = {kind = "zeros"}, trainable = false}
  lm.parameter @alone : tensor<16xf32> {initialization = {kind = "zeros"}}
  lm.state @odd.gradient "accumulator" : tensor<3xf32> {parameter = @odd, role = "gradient", dist.sharding = #dist.sharding<[[]], ["dp"]>}
  lm.state @even.gradient "accumulator" : tensor<16xf32> {parameter = @even, role = "gradient", dist.sharding = #dist.sharding<[[]], ["dp"]>}
  lm.state @alone.gradient "accumulator" : tensor<16xf32> {parameter = @alone, role = "gradient", dist.sharding = #dist.sharding<[[]], ["dp"]>}
  func.func @backward(%w: tensor<16xf32> {lm.state = @even}, %o: tensor<3xf32> {lm.state = @odd}, %f: tensor<16xf32> {lm.state = @frozen}, %a: tensor<16xf32> {lm.state = @even.gradient})
      -> (tensor<16xf32> {lm.state = @even.gradient}) attributes {plan.program = "backward"} {
    %g = math.exp %w : tensor<16xf32>
    %s = lm.accumulate %a, %g : tensor<16xf32>
    return %s : tensor<16xf32>
  }
}

// -----

// Parameters that different axes cut lie in different buckets; an axis that
// splits a parameter's dims does not cut its state again.
// CHECK-LABEL: module @cuts
// CHECK: lm.parameter @a {{.*}}dist.bucket = @block0.decay.bucket,
// CHECK-NOT: dist.pieces
// CHECK: lm.parameter @b {{.*}}dist.bucket = @block0.decay.bucket_0,
// CHECK: lm.parameter @split {{.*}}dist.bucket = @block0.decay.bucket_2,
// CHECK: lm.state @block0.decay.bucket "bucket" : tensor<256xf32> {dist.sharding = #dist.sharding<{{\[}}["fsdp"]], []>
// CHECK: lm.state @block0.decay.bucket.piece "piece" : tensor<256xf32> {{.*}}dist.sharding = #dist.sharding<{{\[}}["fsdp", "dp"]], []>
// CHECK: lm.state @block0.decay.bucket.gradient "bucket" : tensor<256xf32> {dist.sharding = #dist.sharding<{{\[}}["fsdp"]], ["dp"]>
// CHECK: lm.state @block0.decay.bucket_0 "bucket" : tensor<64xf32> {dist.sharding = #dist.sharding<{{\[}}[]], []>
// CHECK: lm.state @block0.decay.bucket.gradient_1 "bucket" : tensor<64xf32> {dist.sharding = #dist.sharding<{{\[}}[]], ["dp", "fsdp"]>
// CHECK: lm.state @block0.decay.bucket_2 "bucket" : tensor<128xf32> {dist.sharding = #dist.sharding<{{\[}}[]], []>
// CHECK: lm.state {{.*}} "piece" : tensor<128xf32> {{.*}}dist.sharding = #dist.sharding<{{\[}}["dp"]], []>
module @cuts attributes {dist.mesh = #dist.mesh<["dp", "fsdp"], [2, 2]>} {
  lm.parameter @a : tensor<16xf32> {block = 0 : i64, dist.pieces = #dist.pieces<parameters ["fsdp"] gradients ["fsdp"] moments ["fsdp", "dp"]>, initialization = {kind = "zeros"}}
  lm.parameter @b : tensor<16xf32> {block = 0 : i64, initialization = {kind = "zeros"}}
  lm.parameter @split : tensor<16xf32> {block = 0 : i64, dist.pieces = #dist.pieces<parameters ["fsdp"] gradients ["fsdp"] moments ["fsdp", "dp"]>, dist.sharding = #dist.sharding<[["fsdp"]], []>, initialization = {kind = "zeros"}}
  lm.state @a.gradient "accumulator" : tensor<16xf32> {parameter = @a, role = "gradient", dist.sharding = #dist.sharding<[[]], ["dp", "fsdp"]>}
  lm.state @b.gradient "accumulator" : tensor<16xf32> {parameter = @b, role = "gradient", dist.sharding = #dist.sharding<[[]], ["dp", "fsdp"]>}
  lm.state @split.gradient "accumulator" : tensor<16xf32> {parameter = @split, role = "gradient", dist.sharding = #dist.sharding<[["fsdp"]], ["dp"]>}
  func.func @backward() attributes {plan.program = "backward"} {
    return
  }
}
