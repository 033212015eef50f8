// RUN: lmc-opt %s --split-input-file --verify-diagnostics --verify-imported

// I1
// expected-error @+1 {{has neither of @forward, to be trained, and @step, to be run}}
module @nothing {
}

// -----

// I2
// expected-error @+1 {{has argument 0 with none of lm.state, lm.input, lm.scalar}}
func.func @step(%x: tensor<4xf32>) {
  return
}

// -----

// I3
// expected-error @+1 {{ties argument 0 to @w, which is no parameter or state (I3)}}
func.func @step(%x: tensor<4xf32> {lm.state = @w}) {
  return
}

// -----

// I3
lm.parameter @w : tensor<8xf32> {initialization = {kind = "zeros"}}
// expected-error @+1 {{ties argument 0 of type 'tensor<4xf32>' to @w of type 'tensor<8xf32>' (I3)}}
func.func @step(%x: tensor<4xf32> {lm.state = @w}) {
  return
}

// -----

// I4
// expected-error @+1 {{has no result tensor<f32> with lm.output = "weight_sum"}}
func.func @forward(%x: tensor<f32> {lm.input = "x"}) -> (tensor<f32> {lm.output = "loss_sum"}) {
  return %x : tensor<f32>
}

// -----

// A model to be trained.
func.func @forward(%x: tensor<f32> {lm.input = "x"}) -> (tensor<f32> {lm.output = "loss_sum"}, tensor<f32> {lm.output = "weight_sum"}) {
  return %x, %x : tensor<f32>, tensor<f32>
}
