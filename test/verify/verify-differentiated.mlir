// RUN: lmc-opt %s --split-input-file --verify-diagnostics --verify-differentiated

// D1
// expected-error @+1 {{has no program "evaluate" for stage 0}}
module @no_evaluate {
  func.func @step() attributes {plan.program = "step"} {
    lm.begin_backward
    return
  }
}

// -----

// D2
module @no_backward {
  // expected-error @+1 {{has 0 lm.begin_backward; a step has one}}
  func.func @step() attributes {plan.program = "step"} {
    return
  }
  func.func @evaluate() attributes {plan.program = "evaluate"} {
    return
  }
}

// -----

// D3
module @other_type {
  lm.parameter @w : tensor<8xf32> {initialization = {kind = "zeros"}}
  // expected-error @+1 {{ties argument 0 of type 'tensor<4xf32>' to @w of type 'tensor<8xf32>' (D3)}}
  func.func @step(%w: tensor<4xf32> {lm.state = @w}) attributes {plan.program = "step"} {
    lm.begin_backward
    return
  }
  func.func @evaluate() attributes {plan.program = "evaluate"} {
    return
  }
}

// -----

// D4: sent and not received.
module @lost {
  func.func @step(%x: tensor<4xf32> {lm.input = "x"}) attributes {plan.program = "step"} {
    // expected-error @+1 {{is received by nobody}}
    dist.send %x stage 1 channel 0 : tensor<4xf32>
    lm.begin_backward
    return
  }
  func.func @evaluate() attributes {plan.program = "evaluate"} {
    return
  }
}

// -----

// D4: received and not sent.
module @never {
  func.func @step() attributes {plan.program = "step"} {
    // expected-error @+1 {{receives what nobody sends}}
    %x = dist.receive stage -1 channel 0 : tensor<4xf32>
    lm.begin_backward
    return
  }
  func.func @evaluate() attributes {plan.program = "evaluate"} {
    return
  }
}

// -----

// D4: received as another type.
module @misfit {
  func.func @step(%x: tensor<4xf32> {lm.input = "x"}) attributes {plan.program = "step"} {
    dist.send %x stage 1 channel 0 : tensor<4xf32>
    // expected-error @+1 {{does not fit what is sent}}
    %y = dist.receive stage -1 channel 0 : tensor<8xf32>
    lm.begin_backward
    return
  }
  func.func @evaluate() attributes {plan.program = "evaluate"} {
    return
  }
}

// -----

// D5
module @uncut attributes {dist.chunks = 1 : i64} {
  func.func @step(%x: tensor<4xf32> {lm.input = "x"}) attributes {plan.program = "step"} {
    // expected-error @+1 {{belongs to a chunk, and its program is cut}}
    %y = math.exp %x {dist.chunk = 0 : i64} : tensor<4xf32>
    lm.begin_backward
    return
  }
  func.func @evaluate() attributes {plan.program = "evaluate"} {
    return
  }
}
