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

// S4
module @factors attributes {dist.mesh = #dist.mesh<["tp"], [2]>} {
  func.func @f(%x: tensor<4xf32> {lm.input = "x", dist.sharding = #dist.sharding<[[]], []>}) attributes {plan.program = "f"} {
    // expected-error @+1 {{is computed with dim 0 of operand 0 split by tp, but it is split by no axis}}
    %y = math.exp %x {dist.factors = [["tp"]], dist.shardings = [#dist.sharding<[["tp"]], []>]} : tensor<4xf32>
    return
  }
}

// -----

// S4, of a dim that has no factor
module @whole attributes {dist.mesh = #dist.mesh<["tp"], [2]>} {
  func.func @f(%x: tensor<1x4x2x4x8xf32> {lm.input = "x", dist.sharding = #dist.sharding<[[], [], [], [], []], []>}) attributes {plan.program = "f"} {
    // expected-error @+1 {{is computed with dim 3 of result 0 split by no axis, but it is split by tp}}
    %y, %l = lm.attention %x {scale = 1.0 : f32, dist.factors = [[], [], [], [], []], dist.shardings = [#dist.sharding<[[], [], [], ["tp"], []], []>, #dist.sharding<[[], [], [], []], []>]} : (tensor<1x4x2x4x8xf32>) -> (tensor<1x4x2x2x8xf32>, tensor<1x2x2x4xf32>)
    return
  }
}

// -----

// S5
module @missing attributes {dist.mesh = #dist.mesh<["tp"], [2]>} {
  func.func @f(%x: tensor<4x8xf32> {lm.input = "x", dist.sharding = #dist.sharding<[[], ["tp"]], []>}) attributes {plan.program = "f"} {
    %y = lm.reduce "sum" %x dims [1] {dist.factors = [[], ["tp"]], dist.shardings = [#dist.sharding<[[]], ["tp"]>]} : tensor<4x8xf32> to tensor<4xf32>
    // expected-error @+1 {{uses operand 0, which is partial on tp: a reduction is missing}}
    %z = math.exp %y {dist.factors = [[]], dist.shardings = [#dist.sharding<[[]], []>]} : tensor<4xf32>
    return
  }
}

// -----

// S6
module @unsaid attributes {dist.mesh = #dist.mesh<["tp"], [2]>} {
  func.func @f(%x: tensor<4x8xf32> {lm.input = "x", dist.sharding = #dist.sharding<[[], ["tp"]], []>}) attributes {plan.program = "f"} {
    // expected-error @+1 {{makes result 0 partial on tp, but its sharding says no axis}}
    %y = lm.reduce "sum" %x dims [1] {dist.factors = [[], ["tp"]], dist.shardings = [#dist.sharding<[[]], []>]} : tensor<4x8xf32> to tensor<4xf32>
    return
  }
}

// -----

// S7: summed already.
module @twice attributes {dist.mesh = #dist.mesh<["tp"], [2]>} {
  func.func @f(%x: tensor<4x8xf32> {lm.input = "x", dist.sharding = #dist.sharding<[[], ["tp"]], []>}) attributes {plan.program = "f"} {
    %y = lm.reduce "sum" %x dims [1] {dist.factors = [[], ["tp"]], dist.shardings = [#dist.sharding<[[]], ["tp"]>]} : tensor<4x8xf32> to tensor<4xf32>
    %a = dist.reshard %y from <[[]], ["tp"]> to <[[]], []> bytes 16 {dist.shardings = [#dist.sharding<[[]], []>]} : tensor<4xf32>
    // expected-error @+1 {{takes its operand from #dist.sharding<[[]], ["tp"]>, but it lies as #dist.sharding<[[]], []>}}
    %b = dist.reshard %a from <[[]], ["tp"]> to <[[]], []> bytes 16 {dist.shardings = [#dist.sharding<[[]], []>]} : tensor<4xf32>
    return
  }
}

// -----

// Without a mesh nothing has a sharding.
func.func @f(%x: tensor<4xf32> {lm.input = "x"}) attributes {plan.program = "f"} {
  return
}
