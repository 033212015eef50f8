// RUN: lmc-opt %s --split-input-file --dist-mark-shardings=sizes=1,2,1,1,1,2 | FileCheck %s
// RUN: lmc-opt %s --split-input-file --dist-mark-shardings=sizes=1,1,1,1,1,1 | FileCheck %s --check-prefix=ONE

// Rules give axes to dims, by name or by number; an axis of one rank is left
// out. A rule for activations marks the forward's results, whose dims are named
// after their factors. An input is closed.
// CHECK-LABEL: module @rules
// CHECK-SAME: dist.mesh = #dist.mesh<["pp", "dp", "fsdp", "cp", "ep", "tp"], [1, 2, 1, 1, 1, 2]>
// CHECK-NOT: dist.rule
// CHECK: @wte.weight : tensor<10x8xf32> {dist.marks = [#dist.mark<result 0 dim 0 over ["tp"] priority 0 from
// CHECK: @h.0.mlp.up.weight : {{.*}}dist.mark<result 0 dim 1 over ["tp"]
// CHECK: @h.0.plain : {{.*}}dist.mark<result 0 dim 1 over ["tp"]
// CHECK: @h.0.norm1.weight : tensor<8xf32> {initialization
// CHECK: @forward(%{{.*}}: tensor<4x8xi32> {dist.closed, dist.marks = [#dist.mark<result 0 dim 0 over ["dp"] priority 0
// CHECK-SAME: tensor<i32> {dist.closed, lm.input = "step"}
// CHECK: lm.rms_norm {{.*}}dist.marks = [#dist.mark<result 0 dim 1 over ["tp"] priority 1 from {{.*}}, #dist.mark<result 1 dim 1 over
// CHECK: lm.begin_backward
// CHECK-NOT: dist.mark

// A mesh of one rank leaves nothing but the model.
// ONE-NOT: dist.
module @rules {
  dist.rule "input" ["*"] dim "B" over ["dp", "fsdp"]
  dist.rule "parameter" ["wte.weight", "head.weight"] dim "V" over ["tp"]
  dist.rule "parameter" ["*.mlp*.up.weight"] dim "F" over ["tp"]
  dist.rule "parameter" ["*.plain"] dim "1" over ["tp"]
  dist.rule "activation" ["*"] dim "T" over ["tp"] {producer = "lm.*_norm", priority = 1 : i64}
  lm.parameter @wte.weight : tensor<10x8xf32> {initialization = {kind = "zeros"}, lm.dims = ["V", "D"]}
  lm.parameter @h.0.mlp.up.weight : tensor<8x32xf32> {initialization = {kind = "zeros"}, lm.dims = ["D", "F"]}
  lm.parameter @h.0.plain : tensor<8x32xf32> {initialization = {kind = "zeros"}}
  lm.parameter @h.0.norm1.weight : tensor<8xf32> {initialization = {kind = "zeros"}, lm.dims = ["D"]}
  func.func @forward(%x: tensor<4x8xi32> {lm.input = "tokens", lm.dims = ["B", "T"]}, %s: tensor<i32> {lm.input = "step"},
                     %w: tensor<10x8xf32> {lm.state = @wte.weight, lm.dims = ["V", "D"]}, %n: tensor<8xf32> {lm.state = @h.0.norm1.weight}) {
    %e = lm.embedding %w, %x : (tensor<10x8xf32>, tensor<4x8xi32>) -> tensor<4x8x8xf32>
    %a, %r = lm.rms_norm %e, %n {epsilon = 1.0e-5 : f32} : (tensor<4x8x8xf32>, tensor<8xf32>) -> (tensor<4x8x8xf32>, tensor<4x8xf32>)
    lm.begin_backward
    %b, %q = lm.rms_norm %e, %n {epsilon = 1.0e-5 : f32} : (tensor<4x8x8xf32>, tensor<8xf32>) -> (tensor<4x8x8xf32>, tensor<4x8xf32>)
    return
  }
}

// -----

// The first bucket rule that matches a parameter holds; axes of one rank are
// left out, and with them pieces that would be whole.
// CHECK-LABEL: module @buckets
// CHECK-NOT: dist.bucket_rule
// CHECK: @wte.weight : tensor<10x8xf32> {initialization
// CHECK: @h.0.up : tensor<8x8xf32> {dist.pieces = #dist.pieces<parameters [] gradients ["dp"] moments ["dp"]>, initialization
// CHECK: @h.1.up : tensor<8x8xf32> {dist.pieces = #dist.pieces<parameters ["dp"] gradients ["dp"] moments ["dp"]>, initialization
module @buckets {
  dist.bucket_rule ["h.0.*", "none"] #dist.pieces<parameters ["fsdp"] gradients ["fsdp", "dp"] moments ["fsdp", "dp"]>
  dist.bucket_rule ["h.*"] #dist.pieces<parameters ["dp"] gradients ["dp"] moments ["dp"]>
  dist.bucket_rule ["*"] #dist.pieces<parameters ["fsdp"] gradients ["fsdp"] moments ["fsdp"]>
  lm.parameter @wte.weight : tensor<10x8xf32> {initialization = {kind = "zeros"}}
  lm.parameter @h.0.up : tensor<8x8xf32> {initialization = {kind = "zeros"}}
  lm.parameter @h.1.up : tensor<8x8xf32> {initialization = {kind = "zeros"}}
}
