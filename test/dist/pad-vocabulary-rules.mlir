// RUN: lmc-opt %s --split-input-file --verify-diagnostics --dist-pad-vocabulary="sizes=2,2,1,1,1,3 multiple=4" | FileCheck %s
// RUN: lmc-opt %s --split-input-file --dist-pad-vocabulary="sizes=1,1,1,1,1,1" 2>/dev/null | FileCheck %s --check-prefix=ONE
// RUN: not lmc-opt %s --split-input-file --dist-pad-vocabulary="multiple=0" 2>&1 | FileCheck %s --check-prefix=ZERO
// RUN: not lmc-opt %s --split-input-file --dist-pad-vocabulary="sizes=1,1,1,1,1,-3" 2>&1 | FileCheck %s --check-prefix=ZERO
// ZERO: error: a multiple or a size of an axis is less than 1

// Three ranks by one rule and two by another want parts of 4 each: 24 numbers.
// Samples over dp say nothing of the vocabulary. On one rank nothing changes.
// CHECK-LABEL: module @parts
// CHECK: lm.parameter @w : tensor<8x24xf32> {{.*}}unpadded = array<i64: 8, 10>
// ONE-LABEL: module @parts
// ONE: lm.parameter @w : tensor<8x10xf32>
// ONE-NOT: unpadded
module @parts attributes {lm.vocabulary = 10 : i64} {
  dist.rule "parameter" ["w"] dim "V" over ["tp"]
  dist.rule "activation" ["head"] dim "1" over ["dp"]
  dist.rule "input" ["x"] dim "0" over ["pp", "dp"]
  lm.parameter @w : tensor<8x10xf32> {initialization = {kind = "zeros"}, lm.dims = ["D", "V"]}
  func.func @forward(%x: tensor<4x8xf32> {lm.input = "x"}, %w: tensor<8x10xf32> {lm.state = @w},
      %t: tensor<4xi32> {lm.input = "targets"}, %s: tensor<4xf32> {lm.input = "s"})
      -> (tensor<4xf32> {lm.output = "loss"}) {
    %logits = lm.linear %x, %w : (tensor<4x8xf32>, tensor<8x10xf32>) -> tensor<4x10xf32>
    %loss, %lse = lm.cross_entropy %logits, %t, %s : (tensor<4x10xf32>, tensor<4xi32>, tensor<4xf32>) -> (tensor<4xf32>, tensor<4xf32>)
    return %loss : tensor<4xf32>
  }
}

// -----

// Where a sum would see padding, a split that wants it is told why it has none.
// CHECK-LABEL: module @seen
// CHECK: lm.parameter @w : tensor<8x10xf32>
module @seen {
  dist.rule "parameter" ["w"] dim "V" over ["tp"]
  lm.parameter @w : tensor<8x10xf32> {initialization = {kind = "zeros"}, lm.dims = ["D", "V"]}
  func.func @forward(%x: tensor<4x8xf32> {lm.input = "x"}, %w: tensor<8x10xf32> {lm.state = @w})
      -> (tensor<4xf32> {lm.output = "sum"}) {
    %logits = lm.linear %x, %w : (tensor<4x8xf32>, tensor<8x10xf32>) -> tensor<4x10xf32>
    // expected-warning @+1 {{the vocabulary is not padded to 3 equal parts: this would see the padding}}
    %sum = lm.reduce "sum" %logits dims [1] : tensor<4x10xf32> to tensor<4xf32>
    return %sum : tensor<4xf32>
  }
}
