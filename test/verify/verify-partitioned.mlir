// RUN: lmc-opt %s --split-input-file --verify-diagnostics --verify-partitioned

// P1
func.func @f(%x: tensor<4xf32> {lm.input = "x"}) attributes {plan.program = "f"} {
  // expected-error @+1 {{still has shardings}}
  %y = math.exp %x {dist.shardings = [#dist.sharding<[[]], []>]} : tensor<4xf32>
  return
}

// -----

// P1
// expected-error @+1 {{is still a whole step}}
func.func @step() attributes {plan.program = "step"} {
  lm.begin_backward
  return
}

// -----

// P2: half of it on each rank.
module @local attributes {dist.mesh = #dist.mesh<["dp"], [2]>} {
  lm.parameter @w : tensor<8xf32> {initialization = {kind = "zeros"}, dist.sharding = #dist.sharding<[["dp"]], []>}
  // expected-error @+1 {{ties argument 0 of type 'tensor<8xf32>' to @w of type 'tensor<4xf32>' (P2)}}
  func.func @f(%w: tensor<8xf32> {lm.state = @w}) attributes {plan.program = "f"} {
    return
  }
}

// -----

// P3
// expected-error @+1 {{takes the saved value "a" of type 'tensor<4xf32>', which no program saves}}
func.func @backward(%x: tensor<4xf32> {lm.saved = "a"}) attributes {plan.program = "backward"} {
  return
}

// -----

// P4
func.func @f(%x: tensor<4xf32> {lm.input = "x"}) attributes {plan.program = "f"} {
  // expected-error @+1 {{goes over "tp", which is no axis of the mesh}}
  %y = dist.all_reduce "sum" %x over ["tp"] : tensor<4xf32>
  return
}

// -----

// P5
// expected-error @+1 {{has no program "update" for stage 0}}
module @no_update attributes {lm.mode = "train"} {
  func.func @forward() attributes {plan.program = "forward"} {
    return
  }
}

// -----

// P6
module @lost attributes {lm.mode = "train"} {
  func.func @forward() attributes {plan.program = "forward"} {
    return
  }
  func.func @update(%x: tensor<4xf32> {lm.input = "x"}) attributes {plan.program = "update"} {
    // expected-error @+1 {{is received by nobody}}
    dist.send %x stage 1 channel 0 : tensor<4xf32>
    return
  }
  func.func @evaluate_finish() attributes {plan.program = "evaluate_finish"} {
    return
  }
}
