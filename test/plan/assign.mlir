// RUN: lmc-opt %s --split-input-file --plan-schedule --plan-assign | FileCheck %s

// Two micro-batches: inputs lie one behind the other, the saved value and
// scratch share one arena on one line of time, the accumulator is updated in
// place and told which micro-batch it is.
// CHECK-LABEL: plan.kernel @twice
// CHECK: lm.parameter @w {{.*}} plan.slice = #plan.slice<@parameters[0] 64>
// CHECK: lm.state @w.gradient {{.*}} plan.slice = #plan.slice<@gradients[0] 64>
// CHECK: plan.allocation @activations saved 128
// CHECK: plan.symbol "micro_batch" micro_batch 0 to 1
// CHECK: plan.input "x" : tensor<16xf32> in <@inputs[0] 128> {micro_batches = 2 : i64}
// CHECK: plan.program @forward
// CHECK-NEXT: plan.run @twice (read @inputs[64 * micro_batch] 64, write @activations{{\[}}[[T:[0-9]+]]{{\]}} 64)
// CHECK-NEXT: plan.run @twice (read @activations{{\[}}[[T]]{{\]}} 64, write @activations{{\[}}[[S:[0-9]+]]{{\]}} 64)
// CHECK: plan.program @backward
// CHECK-NEXT: plan.run @twice (read @activations{{\[}}[[S]]{{\]}} 64, write @activations{{\[}}[[T]]{{\]}} 64)
// CHECK-NEXT: plan.run @accumulate (read_write @gradients[0] 64, read @activations{{\[}}[[T]]{{\]}} 64) integers [#plan.linear<1 * micro_batch>]
module attributes {lm.micro_batches = 2 : i64} {
  plan.kernel @twice(%x: tensor<16xf32>) -> tensor<16xf32>
      attributes {kind = "flat", tied = array<i64: -1>} {
    %y = arith.addf %x, %x : tensor<16xf32>
    plan.yield %y : tensor<16xf32>
  }
  plan.kernel @accumulate(%a: tensor<16xf32>, %x: tensor<16xf32>) -> tensor<16xf32>
      attributes {kind = "flat", tied = array<i64: 0>} {
    %y = lm.accumulate %a, %x : tensor<16xf32>
    plan.yield %y : tensor<16xf32>
  }
  lm.parameter @w : tensor<16xf32> {initialization = {kind = "zeros"}}
  lm.state @w.gradient "accumulator" : tensor<16xf32> {parameter = @w, role = "gradient"}
  func.func @forward(%x: tensor<16xf32> {lm.input = "x"})
      -> (tensor<16xf32> {lm.saved = "s"}) attributes {plan.program = "forward"} {
    %t = plan.launch @twice(%x) : (tensor<16xf32>) -> tensor<16xf32>
    %s = plan.launch @twice(%t) : (tensor<16xf32>) -> tensor<16xf32>
    return %s : tensor<16xf32>
  }
  func.func @backward(%s: tensor<16xf32> {lm.saved = "s"},
                      %a: tensor<16xf32> {lm.state = @w.gradient})
      -> (tensor<16xf32> {lm.state = @w.gradient})
      attributes {plan.program = "backward"} {
    %t = plan.launch @twice(%s) : (tensor<16xf32>) -> tensor<16xf32>
    %n = plan.launch @accumulate(%a, %t)
        : (tensor<16xf32>, tensor<16xf32>) -> tensor<16xf32>
    return %n : tensor<16xf32>
  }
}

// -----

// Operands of a concatenation are written to their rows; a view of rows is
// read where it lies; an argument has to be copied.
// CHECK-LABEL: plan.program @step
// CHECK-NEXT: plan.run @twice (read @inputs[0] 32, write @outputs[0] 32)
// CHECK-NEXT: plan.copy <@inputs[0] 32> to <@outputs[32] 32>
// CHECK-NEXT: plan.run @twice (read @outputs[32] 32, write @outputs[64] 32)
plan.kernel @twice(%x: tensor<2x4xf32>) -> tensor<2x4xf32>
    attributes {kind = "flat", tied = array<i64: -1>} {
  %y = arith.addf %x, %x : tensor<2x4xf32>
  plan.yield %y : tensor<2x4xf32>
}
func.func @step(%x: tensor<2x4xf32> {lm.input = "x"})
    -> (tensor<4x4xf32> {lm.output = "y"}, tensor<2x4xf32> {lm.output = "z"})
    attributes {plan.program = "step"} {
  %a = plan.launch @twice(%x) : (tensor<2x4xf32>) -> tensor<2x4xf32>
  %y = lm.concat_rows %a, %x : (tensor<2x4xf32>, tensor<2x4xf32>) -> tensor<4x4xf32>
  %v = lm.slice_rows %y at 2 : tensor<4x4xf32> to tensor<2x4xf32>
  %z = plan.launch @twice(%v) : (tensor<2x4xf32>) -> tensor<2x4xf32>
  return %y, %z : tensor<4x4xf32>, tensor<2x4xf32>
}

// -----

// A tied result needs a copy of its operand where the operand is read later;
// a new state is written straight to the state's slice where nobody reads the
// old one after it, else it is copied at the end.
// CHECK-LABEL: plan.program @step
// CHECK-NEXT: plan.run @twice (read @inputs[0] 64, write @parameters[0] 64)
// CHECK-NEXT: plan.run @twice (read @inputs[0] 64, write @scratch{{\[}}[[A:[0-9]+]]{{\]}} 64)
// CHECK-NEXT: plan.copy <@scratch{{\[}}[[A]]{{\]}} 64> to <@scratch{{\[}}[[B:[0-9]+]]{{\]}} 64>
// CHECK-NEXT: plan.run @increase (read_write @scratch{{\[}}[[B]]{{\]}} 64)
// CHECK-NEXT: plan.run @sum (read @scratch{{\[}}[[A]]{{\]}} 64, read @scratch{{\[}}[[B]]{{\]}} 64, write @scratch{{\[}}[[N:[0-9]+]]{{\]}} 64)
// CHECK-NEXT: plan.run @sum (read @scratch{{\[}}[[N]]{{\]}} 64, read @parameters[64] 64, write @outputs[0] 64)
// CHECK-NEXT: plan.copy <@scratch{{\[}}[[N]]{{\]}} 64> to <@parameters[64] 64>
plan.kernel @twice(%x: tensor<16xf32>) -> tensor<16xf32>
    attributes {kind = "flat", tied = array<i64: -1>} {
  %y = arith.addf %x, %x : tensor<16xf32>
  plan.yield %y : tensor<16xf32>
}
plan.kernel @sum(%x: tensor<16xf32>, %z: tensor<16xf32>) -> tensor<16xf32>
    attributes {kind = "flat", tied = array<i64: -1>} {
  %y = arith.addf %x, %z : tensor<16xf32>
  plan.yield %y : tensor<16xf32>
}
plan.kernel @increase(%x: tensor<16xf32>) -> tensor<16xf32>
    attributes {kind = "flat", tied = array<i64: 0>} {
  %y = arith.addf %x, %x : tensor<16xf32>
  plan.yield %y : tensor<16xf32>
}
lm.parameter @v : tensor<16xf32> {initialization = {kind = "zeros"}}
lm.parameter @w : tensor<16xf32> {initialization = {kind = "zeros"}}
func.func @step(%x: tensor<16xf32> {lm.input = "x"},
                %v: tensor<16xf32> {lm.state = @v},
                %w: tensor<16xf32> {lm.state = @w})
    -> (tensor<16xf32> {lm.state = @v}, tensor<16xf32> {lm.state = @w},
        tensor<16xf32> {lm.output = "y"}) attributes {plan.program = "step"} {
  %v1 = plan.launch @twice(%x) : (tensor<16xf32>) -> tensor<16xf32>
  %a = plan.launch @twice(%x) : (tensor<16xf32>) -> tensor<16xf32>
  %b = plan.launch @increase(%a) : (tensor<16xf32>) -> tensor<16xf32>
  %w1 = plan.launch @sum(%a, %b)
      : (tensor<16xf32>, tensor<16xf32>) -> tensor<16xf32>
  %y = plan.launch @sum(%w1, %w)
      : (tensor<16xf32>, tensor<16xf32>) -> tensor<16xf32>
  return %v1, %w1, %y : tensor<16xf32>, tensor<16xf32>, tensor<16xf32>
}

// -----

// Stages are packed each for itself. What both hold comes first, at one offset;
// on the stage that has several micro-batches under way, saved values lie from
// the call's slot on, in 64 bytes.
// CHECK-LABEL: module @stages
// CHECK: lm.parameter @first {{.*}}plan.slice = #plan.slice<@parameters[64] 64>, plan.stages = array<i64: 0>
// CHECK: lm.parameter @shared {{.*}}plan.slice = #plan.slice<@parameters[0] 64>, plan.stages = array<i64: 0, 1>
// CHECK: plan.allocation @parameters state 128 {stage_bytes = array<i64: 128, 64>}
// CHECK: plan.allocation @activations saved 128 {stage_bytes = array<i64: 128, 64>}
// CHECK: plan.program @f0 chunk 0
// CHECK-NEXT: plan.run @twice (read @parameters[64] 64, write @activations[64 * slot.1] 64)
// CHECK-NEXT: plan.send <@activations[64 * slot.1] 64> stage 1 channel 2
// CHECK: plan.program @f1 chunk 1
// CHECK-NEXT: plan.receive <@activations[0] 64> stage -1 channel 2
// CHECK-NEXT: plan.run @twice (read @activations[0] 64, write @outputs[128 + 64 * micro_batch] 64)
// CHECK: plan.call @f0 micro_batch 0 slot 0 {slot_values = array<i64: [[A:0|1]]>}
// CHECK-NEXT: plan.call @f0 micro_batch 1 slot 1 {slot_values = array<i64: [[B:0|1]]>}
// CHECK-NEXT: plan.call @b0 micro_batch 0 slot 0 {slot_values = array<i64: [[A]]>}
// CHECK-NEXT: plan.call @b0 micro_batch 1 slot 1 {slot_values = array<i64: [[B]]>}
module @stages attributes {dist.stages = 2 : i64} {
  plan.kernel @twice(%x: tensor<16xf32>) -> tensor<16xf32>
      attributes {kind = "flat", tied = array<i64: -1>} {
    %y = arith.addf %x, %x : tensor<16xf32>
    plan.yield %y : tensor<16xf32>
  }
  plan.kernel @sum(%x: tensor<16xf32>, %z: tensor<16xf32>) -> tensor<16xf32>
      attributes {kind = "flat", tied = array<i64: -1>} {
    %y = arith.addf %x, %z : tensor<16xf32>
    plan.yield %y : tensor<16xf32>
  }
  lm.parameter @first : tensor<16xf32> {initialization = {kind = "zeros"}}
  lm.parameter @shared : tensor<16xf32> {initialization = {kind = "zeros"}}
  func.func @f0(%w: tensor<16xf32> {lm.state = @first}) -> (tensor<16xf32> {lm.saved = "a"}) attributes {plan.program = "forward"} {
    %a = plan.launch @twice(%w) : (tensor<16xf32>) -> tensor<16xf32>
    dist.send %a stage 1 channel 2 : tensor<16xf32>
    return %a : tensor<16xf32>
  }
  func.func @b0(%a: tensor<16xf32> {lm.saved = "a"}, %w: tensor<16xf32> {lm.state = @shared}) -> (tensor<16xf32> {lm.output = "z"}) attributes {plan.program = "backward"} {
    %y = plan.launch @sum(%a, %w) : (tensor<16xf32>, tensor<16xf32>) -> tensor<16xf32>
    return %y : tensor<16xf32>
  }
  func.func @f1(%w: tensor<16xf32> {lm.state = @shared}) -> (tensor<16xf32> {lm.output = "y"}) attributes {plan.chunk = 1 : i64, plan.program = "forward"} {
    %a = dist.receive stage -1 channel 2 : tensor<16xf32>
    %y = plan.launch @twice(%a) : (tensor<16xf32>) -> tensor<16xf32>
    return %y : tensor<16xf32>
  }
  plan.schedule "train" stage 0 {
    plan.call @f0 micro_batch 0 slot 0
    plan.call @f0 micro_batch 1 slot 1
    plan.call @b0 micro_batch 0 slot 0
    plan.call @b0 micro_batch 1 slot 1
  }
  plan.schedule "train" stage 1 {
    plan.call @f1 micro_batch 0 slot 0
    plan.call @f1 micro_batch 1 slot 0
  }
}

// -----

// Three programs of a micro-batch: what the input half saves takes the bytes of
// what had its last reader there (%b), not of what the weight half still reads
// (%a), and is not written over its operand. Two micro-batches are under way in
// the first schedule, one at a time in the one that plan-schedule adds: slots
// are each schedule's own.
// CHECK-LABEL: module @halves
// CHECK: plan.allocation @activations saved 320
// CHECK: plan.program @forward
// CHECK-NEXT: plan.run @twice (read @inputs[64 * micro_batch] 64, write @activations[[[A:64 \* slot.1]]] 64)
// CHECK-NEXT: plan.run @twice (read @activations[[[A]]] 64, write @activations[[[B:64 \+ 64 \* slot.1]]] 64)
// CHECK: plan.program @input
// CHECK-NEXT: plan.run @twice (read @activations[[[B]]] 64, write @activations[64 * slot.0] 64)
// CHECK-NEXT: plan.run @twice (read @activations[64 * slot.0] 64, write @activations[[[B]]] 64)
// CHECK: plan.program @weight
// CHECK-NEXT: plan.run @add (read @activations[[[A]]] 64, read @activations[[[B]]] 64, write @outputs
// CHECK: plan.call @forward micro_batch 0 slot 0 {slot_values = array<i64: 0, 0>}
// CHECK-NEXT: plan.call @forward micro_batch 1 slot 1 {slot_values = array<i64: 0, 2>}
// CHECK-NEXT: plan.call @input micro_batch 0 slot 0 {slot_values = array<i64: 4, 0>}
// CHECK: plan.call @weight micro_batch 1 slot 1 {slot_values = array<i64: 0, 2>}
// CHECK: plan.call @forward micro_batch 1 slot 0 {slot_values = array<i64: 0, 0>}
module @halves attributes {lm.micro_batches = 2 : i64} {
  plan.kernel @twice(%x: tensor<16xf32>) -> tensor<16xf32> attributes {kind = "flat", tied = array<i64: -1>} {
    %y = arith.addf %x, %x : tensor<16xf32>
    plan.yield %y : tensor<16xf32>
  }
  plan.kernel @add(%x: tensor<16xf32>, %y: tensor<16xf32>) -> tensor<16xf32> attributes {kind = "flat", tied = array<i64: -1>} {
    %z = arith.addf %x, %y : tensor<16xf32>
    plan.yield %z : tensor<16xf32>
  }
  func.func @forward(%x: tensor<16xf32> {lm.input = "x"}) -> (tensor<16xf32> {lm.saved = "a"}, tensor<16xf32> {lm.saved = "b"}) attributes {plan.program = "forward"} {
    %a = plan.launch @twice(%x) : (tensor<16xf32>) -> tensor<16xf32>
    %b = plan.launch @twice(%a) : (tensor<16xf32>) -> tensor<16xf32>
    return %a, %b : tensor<16xf32>, tensor<16xf32>
  }
  func.func @input(%b: tensor<16xf32> {lm.saved = "b"}) -> (tensor<16xf32> {lm.saved = "d"}) attributes {plan.program = "backward_input"} {
    %c = plan.launch @twice(%b) : (tensor<16xf32>) -> tensor<16xf32>
    %d = plan.launch @twice(%c) : (tensor<16xf32>) -> tensor<16xf32>
    return %d : tensor<16xf32>
  }
  func.func @weight(%a: tensor<16xf32> {lm.saved = "a"}, %d: tensor<16xf32> {lm.saved = "d"}) -> (tensor<16xf32> {lm.output = "z"}) attributes {plan.program = "backward_weight"} {
    %z = plan.launch @add(%a, %d) : (tensor<16xf32>, tensor<16xf32>) -> tensor<16xf32>
    return %z : tensor<16xf32>
  }
  plan.schedule "train" stage 0 {
    plan.call @forward micro_batch 0 slot 0
    plan.call @forward micro_batch 1 slot 1
    plan.call @input micro_batch 0 slot 0
    plan.call @input micro_batch 1 slot 1
    plan.call @weight micro_batch 0 slot 0
    plan.call @weight micro_batch 1 slot 1
  }
}

// -----

// A value that a later program reads is not overwritten in place, and one that
// a program hands on stays where its writer put it.
// CHECK-LABEL: module @later
// CHECK: plan.program @input
// CHECK-NEXT: plan.copy <@activations[[[A:.*]]] 64> to <@activations[[[T:.*]]] 64>
// CHECK-NEXT: plan.run @inplace (read_write @activations[[[T]]] 64)
// CHECK: plan.program @weight
// CHECK-NEXT: plan.run @add (read @activations[[[A]]] 64, read @activations[[[T]]] 64,
module @later {
  plan.kernel @twice(%x: tensor<16xf32>) -> tensor<16xf32> attributes {kind = "flat", tied = array<i64: -1>} {
    %y = arith.addf %x, %x : tensor<16xf32>
    plan.yield %y : tensor<16xf32>
  }
  plan.kernel @inplace(%x: tensor<16xf32>) -> tensor<16xf32> attributes {kind = "flat", tied = array<i64: 0>} {
    %y = arith.addf %x, %x : tensor<16xf32>
    plan.yield %y : tensor<16xf32>
  }
  plan.kernel @add(%x: tensor<4x4xf32>, %y: tensor<16xf32>) -> tensor<16xf32> attributes {kind = "flat", tied = array<i64: -1>} {
    plan.yield %y : tensor<16xf32>
  }
  func.func @forward(%x: tensor<16xf32> {lm.input = "x"}) -> (tensor<16xf32> {lm.saved = "a"}) attributes {plan.program = "forward"} {
    %a = plan.launch @twice(%x) : (tensor<16xf32>) -> tensor<16xf32>
    return %a : tensor<16xf32>
  }
  func.func @input(%a: tensor<16xf32> {lm.saved = "a"}) -> (tensor<4x4xf32> {lm.saved = "v"}, tensor<16xf32> {lm.saved = "d"}) attributes {plan.program = "backward_input"} {
    %v = lm.reshape %a : tensor<16xf32> to tensor<4x4xf32>
    %d = plan.launch @inplace(%a) : (tensor<16xf32>) -> tensor<16xf32>
    return %v, %d : tensor<4x4xf32>, tensor<16xf32>
  }
  func.func @weight(%v: tensor<4x4xf32> {lm.saved = "v"}, %d: tensor<16xf32> {lm.saved = "d"}) -> (tensor<16xf32> {lm.output = "z"}) attributes {plan.program = "backward_weight"} {
    %z = plan.launch @add(%v, %d) : (tensor<4x4xf32>, tensor<16xf32>) -> tensor<16xf32>
    return %z : tensor<16xf32>
  }
  plan.schedule "train" stage 0 {
    plan.call @forward micro_batch 0 slot 0
    plan.call @input micro_batch 0 slot 0
    plan.call @weight micro_batch 0 slot 0
  }
}
