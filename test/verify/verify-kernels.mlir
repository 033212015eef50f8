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

// -----

// K4
// expected-error @+1 {{is of kind matmul, but no product that a library computes}}
plan.kernel @k(%x: tensor<4x8xf32>, %w: tensor<8x6xf32>) -> tensor<4x6xf32> attributes {kind = "matmul", tied = array<i64: -1>} {
  %h = lm.contract %x [1], %w [0] : (tensor<4x8xf32>, tensor<8x6xf32>) -> tensor<4x6xf32>
  %y = math.exp %h : tensor<4x6xf32>
  plan.yield %y : tensor<4x6xf32>
}
