// RUN: lmc-opt %s --split-input-file --verify-diagnostics --plan-assign

// expected-error @+1 {{is a program that no schedule calls}}
func.func @step() attributes {plan.program = "step"} {
  return
}

// -----

// expected-error @+1 {{has argument 0 with none of lm.state, lm.input, lm.scalar, lm.saved}}
func.func @step(%x: tensor<4xf32>) attributes {plan.program = "step"} {
  return
}
plan.schedule "step" stage 0 {
  plan.call @step micro_batch 0 slot 0
}

// -----

func.func @step(%x: tensor<4xf32> {lm.input = "x"})
    attributes {plan.program = "step"} {
  // expected-error @+1 {{is no launch, collective, transfer or view}}
  %y = arith.addf %x, %x : tensor<4xf32>
  return
}
plan.schedule "step" stage 0 {
  plan.call @step micro_batch 0 slot 0
}

// -----

// expected-error @+1 {{reads the saved value "s", which no program before it saves}}
func.func @backward(%s: tensor<4xf32> {lm.saved = "s"})
    attributes {plan.program = "backward"} {
  return
}
plan.schedule "train" stage 0 {
  plan.call @backward micro_batch 0 slot 0
}
