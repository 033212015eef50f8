// RUN: lmc-opt %s --split-input-file --verify-diagnostics --plan-form-kernels

// No kernel reduces a dim in the middle.
func.func @middle(%x: tensor<2x3x4xf32> {lm.input = "x"}) -> (tensor<2x4xf32> {lm.output = "y"})
    attributes {plan.program = "f"} {
  // expected-error @+1 {{reduces dims that are neither the first nor the last ones; no kernel does that}}
  %y = lm.reduce "sum" %x dims [1] : tensor<2x3x4xf32> to tensor<2x4xf32>
  return %y : tensor<2x4xf32>
}

// -----

// Nor does one repeat along a dim in the middle and along the rows at once.
func.func @mixed(%a: tensor<2x4xf32> {lm.input = "a"}, %x: tensor<2x3x4xf32> {lm.input = "x"})
    -> (tensor<2x3x4xf32> {lm.output = "y"}) attributes {plan.program = "f"} {
  %b = lm.broadcast %a dims [0, 2] : tensor<2x4xf32> to tensor<2x3x4xf32>
  // expected-error @+1 {{mixes rows of different lengths; no kernel does that}}
  %y = arith.addf %b, %x : tensor<2x3x4xf32>
  return %y : tensor<2x3x4xf32>
}

// -----

// Without an id two layers would drop the same elements.
func.func @id(%q: tensor<1x2x3x4x8xf32>, %r: tensor<f32>, %s: tensor<i32>) -> tensor<1x2x3x2x8xf32> attributes {plan.program = "f"} {
  // expected-error @+2 {{draws random numbers, but has no id}}
  // expected-note @+1 {{help: give it `id = N : i64`}}
  %o, %l = lm.attention %q dropout %r, %s, %s, %s {scale = 1.0 : f32}
      : (tensor<1x2x3x4x8xf32>, tensor<f32>, tensor<i32>, tensor<i32>, tensor<i32>) -> (tensor<1x2x3x2x8xf32>, tensor<1x3x2x2xf32>)
  return %o : tensor<1x2x3x2x8xf32>
}
