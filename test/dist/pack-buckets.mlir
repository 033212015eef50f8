// RUN: lmc-opt %s --dist-pack-buckets | FileCheck %s

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
