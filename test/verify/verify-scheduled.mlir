// RUN: lmc-opt %s --split-input-file --verify-diagnostics --verify-scheduled

// C1
// expected-error @+1 {{is called by no schedule}}
func.func @f() attributes {plan.program = "f"} {
  return
}

// -----

// C2
module @stage {
  func.func @forward() attributes {plan.program = "forward", plan.stage = 1 : i64} {
    return
  }
  func.func @backward() attributes {plan.program = "backward"} {
    return
  }
  plan.schedule "train" stage 0 {
    // expected-error @+1 {{calls @forward of stage 1}}
    plan.call @forward micro_batch 0 slot 0
  }
}

// -----

// C3: the backward comes first.
module @early {
  func.func @forward() attributes {plan.program = "forward"} {
    return
  }
  func.func @backward() attributes {plan.program = "backward"} {
    return
  }
  plan.schedule "train" stage 0 {
    // expected-error @+1 {{has no forward before it in its slot}}
    plan.call @backward micro_batch 0 slot 0
    plan.call @forward micro_batch 0 slot 0
  }
}

// -----

// C3: another slot.
module @slot {
  func.func @forward() attributes {plan.program = "forward"} {
    return
  }
  func.func @backward() attributes {plan.program = "backward"} {
    return
  }
  plan.schedule "train" stage 0 {
    plan.call @forward micro_batch 0 slot 0
    // expected-error @+1 {{has no forward before it in its slot}}
    plan.call @backward micro_batch 0 slot 1
  }
}

// -----

// C4
module @taken {
  func.func @forward() attributes {plan.program = "forward"} {
    return
  }
  func.func @backward() attributes {plan.program = "backward"} {
    return
  }
  plan.schedule "train" stage 0 {
    plan.call @forward micro_batch 0 slot 0
    // expected-error @+1 {{takes the slot of micro-batch 0, whose backward is still to come}}
    plan.call @forward micro_batch 1 slot 0
  }
}

// -----

// C5: the halves of a backward are exchanged.
module @halves {
  func.func @forward() attributes {plan.program = "forward", plan.chunk = 0 : i64, plan.stage = 0 : i64} {
    return
  }
  func.func @input() attributes {plan.program = "backward_input", plan.chunk = 0 : i64, plan.stage = 0 : i64} {
    return
  }
  func.func @weight() attributes {plan.program = "backward_weight", plan.chunk = 0 : i64, plan.stage = 0 : i64} {
    return
  }
  plan.schedule "train" stage 0 {
    plan.call @forward micro_batch 0 slot 0
    // expected-error @+1 {{has no input half before it in its slot}}
    plan.call @weight micro_batch 0 slot 0
    plan.call @input micro_batch 0 slot 0
  }
}

// -----

// C4: an input half does not free the slot.
module @input_half {
  func.func @forward() attributes {plan.program = "forward", plan.chunk = 0 : i64, plan.stage = 0 : i64} {
    return
  }
  func.func @input() attributes {plan.program = "backward_input", plan.chunk = 0 : i64, plan.stage = 0 : i64} {
    return
  }
  func.func @weight() attributes {plan.program = "backward_weight", plan.chunk = 0 : i64, plan.stage = 0 : i64} {
    return
  }
  plan.schedule "train" stage 0 {
    plan.call @forward micro_batch 0 slot 0
    plan.call @input micro_batch 0 slot 0
    // expected-error @+1 {{takes the slot of micro-batch 0, whose backward is still to come}}
    plan.call @forward micro_batch 1 slot 0
    plan.call @weight micro_batch 0 slot 0
  }
}

// -----

// C6
module @twice {
  func.func @evaluate() attributes {plan.program = "evaluate", plan.chunk = 0 : i64, plan.stage = 0 : i64} {
    return
  }
  plan.schedule "evaluate" stage 0 {
    plan.call @evaluate micro_batch 0 slot 0
    // expected-error @+1 {{calls @evaluate a second time for micro-batch 0}}
    plan.call @evaluate micro_batch 0 slot 0
  }
}

// -----

// C7: stage 0 wants its gradient back before it goes on, stage 1 wants the next
// micro-batch before it gives the gradient.
module @deadlock {
  func.func @f0() attributes {plan.program = "forward", plan.chunk = 0 : i64, plan.stage = 0 : i64} {
    %c0 = arith.constant dense<0.0> : tensor<4xf32>
    dist.send %c0 stage 1 channel 0 : tensor<4xf32>
    return
  }
  func.func @b0() attributes {plan.program = "backward", plan.chunk = 0 : i64, plan.stage = 0 : i64} {
    %r1 = dist.receive stage 1 channel 1 : tensor<4xf32>
    return
  }
  func.func @f1() attributes {plan.program = "forward", plan.chunk = 1 : i64, plan.stage = 1 : i64} {
    %r0 = dist.receive stage -1 channel 0 : tensor<4xf32>
    return
  }
  func.func @b1() attributes {plan.program = "backward", plan.chunk = 1 : i64, plan.stage = 1 : i64} {
    %c1 = arith.constant dense<0.0> : tensor<4xf32>
    dist.send %c1 stage -1 channel 1 : tensor<4xf32>
    return
  }
  plan.schedule "train" stage 0 {
    plan.call @f0 micro_batch 0 slot 0
    // expected-error @+1 {{waits for ever for another stage}}
    plan.call @b0 micro_batch 0 slot 0
    plan.call @f0 micro_batch 1 slot 0
    plan.call @b0 micro_batch 1 slot 0
  }
  plan.schedule "train" stage 1 {
    plan.call @f1 micro_batch 0 slot 0
    // expected-note @+1 {{stage 1 waits here}}
    plan.call @f1 micro_batch 1 slot 1
    plan.call @b1 micro_batch 0 slot 0
    plan.call @b1 micro_batch 1 slot 1
  }
}

// -----

// C8: the second stage takes the micro-batches in another order.
module @order {
  func.func @f0() attributes {plan.program = "forward", plan.chunk = 0 : i64, plan.stage = 0 : i64} {
    %c0 = arith.constant dense<0.0> : tensor<4xf32>
    dist.send %c0 stage 1 channel 0 : tensor<4xf32>
    return
  }
  func.func @b0() attributes {plan.program = "backward", plan.chunk = 0 : i64, plan.stage = 0 : i64} {
    %r1 = dist.receive stage 1 channel 1 : tensor<4xf32>
    return
  }
  func.func @f1() attributes {plan.program = "forward", plan.chunk = 1 : i64, plan.stage = 1 : i64} {
    %r0 = dist.receive stage -1 channel 0 : tensor<4xf32>
    return
  }
  func.func @b1() attributes {plan.program = "backward", plan.chunk = 1 : i64, plan.stage = 1 : i64} {
    %c1 = arith.constant dense<0.0> : tensor<4xf32>
    dist.send %c1 stage -1 channel 1 : tensor<4xf32>
    return
  }
  plan.schedule "train" stage 0 {
    plan.call @f0 micro_batch 0 slot 0
    plan.call @f0 micro_batch 1 slot 1
    plan.call @b0 micro_batch 0 slot 0
    plan.call @b0 micro_batch 1 slot 1
  }
  plan.schedule "train" stage 1 {
    // expected-error @+1 {{receives what stage 0 sends for micro-batch 0}}
    plan.call @f1 micro_batch 1 slot 0
    plan.call @b1 micro_batch 1 slot 0
    plan.call @f1 micro_batch 0 slot 0
    plan.call @b1 micro_batch 0 slot 0
  }
}

// -----

// C9: the second stage stops too early.
module @unread {
  func.func @f0() attributes {plan.program = "forward", plan.chunk = 0 : i64, plan.stage = 0 : i64} {
    %c0 = arith.constant dense<0.0> : tensor<4xf32>
    dist.send %c0 stage 1 channel 0 : tensor<4xf32>
    return
  }
  func.func @b0() attributes {plan.program = "backward", plan.chunk = 0 : i64, plan.stage = 0 : i64} {
    %r1 = dist.receive stage 1 channel 1 : tensor<4xf32>
    return
  }
  func.func @f1() attributes {plan.program = "forward", plan.chunk = 1 : i64, plan.stage = 1 : i64} {
    %r0 = dist.receive stage -1 channel 0 : tensor<4xf32>
    return
  }
  func.func @b1() attributes {plan.program = "backward", plan.chunk = 1 : i64, plan.stage = 1 : i64} {
    %c1 = arith.constant dense<0.0> : tensor<4xf32>
    dist.send %c1 stage -1 channel 1 : tensor<4xf32>
    return
  }
  plan.schedule "train" stage 0 {
    plan.call @f0 micro_batch 0 slot 0
    plan.call @b0 micro_batch 0 slot 0
    // expected-error @+1 {{leaves a value of stage 0 for stage 1 that is never received}}
    plan.call @f0 micro_batch 1 slot 0
  }
  plan.schedule "train" stage 1 {
    plan.call @f1 micro_batch 0 slot 0
    plan.call @b1 micro_batch 0 slot 0
  }
}

// -----

// Two micro-batches under way in two slots.
module @good {
  func.func @forward() attributes {plan.program = "forward"} {
    return
  }
  func.func @backward() attributes {plan.program = "backward"} {
    return
  }
  plan.schedule "train" stage 0 {
    plan.call @forward micro_batch 0 slot 0
    plan.call @forward micro_batch 1 slot 1
    plan.call @backward micro_batch 0 slot 0
    plan.call @backward micro_batch 1 slot 1
  }
}
