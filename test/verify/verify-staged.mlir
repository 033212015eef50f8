// RUN: lmc-opt %s --split-input-file --verify-diagnostics --verify-staged

// G1
module @none attributes {dist.chunks = 2 : i64, dist.stages = 2 : i64} {
  func.func @forward(%x: tensor<4xf32> {lm.input = "x"}) {
    // expected-error @+1 {{belongs to no chunk of 2}}
    %y = math.exp %x : tensor<4xf32>
    return
  }
}

// -----

// G2
module @order attributes {dist.chunks = 2 : i64, dist.stages = 2 : i64} {
  func.func @forward(%x: tensor<4xf32> {lm.input = "x"}) {
    %y = math.exp %x {dist.chunk = 1 : i64} : tensor<4xf32>
    // expected-error @+1 {{belongs to chunk 0, one before it to 1}}
    %z = math.exp %y {dist.chunk = 0 : i64} : tensor<4xf32>
    return
  }
}

// -----

// G3
// expected-error @+1 {{is cut into 1 chunks for 2 stages}}
module @few attributes {dist.chunks = 1 : i64, dist.stages = 2 : i64} {
}

// -----

// A model that is not cut has no chunks.
func.func @forward(%x: tensor<4xf32> {lm.input = "x"}) {
  %y = math.exp %x : tensor<4xf32>
  return
}
