// RUN: lmc-opt %s --split-input-file --verify-diagnostics --verify-sharded

// S1
module @no_argument attributes {dist.mesh = #dist.mesh<["dp"], [2]>} {
  // expected-error @+1 {{gives argument 0 of type 'tensor<4xf32>' no sharding of as many dims}}
  func.func @f(%x: tensor<4xf32> {lm.input = "x"}) attributes {plan.program = "f"} {
    return
  }
}

// -----

// S1
module @no_result attributes {dist.mesh = #dist.mesh<["dp"], [2]>} {
  func.func @f(%x: tensor<4xf32> {lm.input = "x", dist.sharding = #dist.sharding<[[]], []>}) attributes {plan.program = "f"} {
    // expected-error @+1 {{has no sharding for each of its results}}
    %y = math.exp %x : tensor<4xf32>
    return
  }
}

// -----

// S2
module @axis attributes {dist.mesh = #dist.mesh<["dp"], [2]>} {
  // expected-error @+1 {{splits dim 0 of itself over "tp", which is no axis of the mesh}}
  lm.parameter @w : tensor<8xf32> {initialization = {kind = "zeros"}, dist.sharding = #dist.sharding<[["tp"]], []>}
}

// -----

// S3
module @state attributes {dist.mesh = #dist.mesh<["dp"], [2]>} {
  lm.parameter @w : tensor<8xf32> {initialization = {kind = "zeros"}, dist.sharding = #dist.sharding<[["dp"]], []>}
  // expected-error @+1 {{has argument 0 sharded as}}
  func.func @f(%w: tensor<8xf32> {lm.state = @w, dist.sharding = #dist.sharding<[[]], []>}) attributes {plan.program = "f"} {
    return
  }
}

// -----

// Without a mesh nothing has a sharding.
func.func @f(%x: tensor<4xf32> {lm.input = "x"}) attributes {plan.program = "f"} {
  return
}
