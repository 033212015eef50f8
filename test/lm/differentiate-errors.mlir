// RUN: lmc-opt %s --split-input-file --verify-diagnostics --lm-differentiate

// expected-error @+1 {{no function @forward to differentiate}}
module {
}

// -----

module {
  // expected-error @+1 {{no result lm.output = "loss_sum"}}
  func.func @forward(%x: tensor<f32>) -> (tensor<f32> {lm.output = "loss"}) {
    return %x : tensor<f32>
  }
}

// -----

// What no interface differentiates must not lie between a parameter and the
// loss.
module {
  lm.parameter @w : tensor<f32> {initialization = {kind = "zeros"}}
  func.func @forward(%w: tensor<f32> {lm.state = @w}) -> (tensor<f32> {lm.output = "loss_sum"}) {
    // expected-error @+1 {{has no backward, and a trainable parameter reaches the loss through it}}
    %l = math.atan %w : tensor<f32>
    return %l : tensor<f32>
  }
}

// -----

module {
  // expected-warning @+1 {{the loss does not depend on this parameter; it is not updated}}
  lm.parameter @w : tensor<f32> {initialization = {kind = "zeros"}}
  func.func @forward(%w: tensor<f32> {lm.state = @w}, %x: tensor<f32>) -> (tensor<f32> {lm.output = "loss_sum"}) {
    return %x : tensor<f32>
  }
}
