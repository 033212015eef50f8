// RUN: lmc-opt %s --split-input-file --verify-diagnostics --verify-kernels

// K1
func.func @f(%x: tensor<4xf32> {lm.input = "x"}) attributes {plan.program = "f"} {
  // expected-error @+1 {{is no launch, view, collective or transfer}}
  %y = math.exp %x : tensor<4xf32>
  return
}

// -----

// K2
func.func @f(%x: tensor<4xf32> {lm.input = "x"}) attributes {plan.program = "f"} {
  // expected-error @+1 {{launches @k, which is no kernel}}
  %y = plan.launch @k(%x) : (tensor<4xf32>) -> tensor<4xf32>
  return
}

// -----

// K2
plan.kernel @k(%x: tensor<8xf32>) -> tensor<8xf32> attributes {kind = "flat", tied = array<i64: -1>} {
  plan.yield %x : tensor<8xf32>
}
func.func @f(%x: tensor<4xf32> {lm.input = "x"}) attributes {plan.program = "f"} {
  // expected-error @+1 {{has other types than its kernel}}
  %y = plan.launch @k(%x) : (tensor<4xf32>) -> tensor<4xf32>
  return
}

// -----

// K3
plan.kernel @k(%x: tensor<8xf32>) -> tensor<8xf32> attributes {kind = "flat", tied = array<i64: -1>} {
  // expected-error @+1 {{is no primitive, and part of a kernel}}
  %y = lm.silu %x : tensor<8xf32>
  plan.yield %y : tensor<8xf32>
}
