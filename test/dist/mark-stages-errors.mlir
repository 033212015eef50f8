// RUN: lmc-opt %s --split-input-file --verify-diagnostics --dist-mark-stages=stages=2

// One operation cannot be cut.
module @whole {
  // expected-error @+2 {{a model of 1 pieces cannot be cut into 2 pipeline chunks}}
  // expected-note @+1 {{help: use at most 1}}
  func.func @forward(%w: tensor<8xf32> {lm.state = @w}) -> (tensor<f32> {lm.output = "loss_sum"}) {
    %l = lm.reduce "sum" %w dims [0] : tensor<8xf32> to tensor<f32>
    return %l : tensor<f32>
  }
}

// -----

// There is something to cut.
// expected-error @+1 {{no function @forward to cut into stages}}
module @nothing {
}
