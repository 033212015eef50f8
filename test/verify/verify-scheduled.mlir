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
