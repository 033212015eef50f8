// RUN: lmc-opt %s --split-input-file --verify-diagnostics --dist-cut-stages | FileCheck %s

// A value is sent behind its producer and received where the side of its reader
// begins: the activation in the forward, its gradient in the backward. What no
// state reaches is computed by each chunk that needs it.
// CHECK-LABEL: module @step
// CHECK: func.func @step.0(
// CHECK-SAME: plan.chunk = 0 : i64, plan.program = "step", plan.stage = 0 : i64
// CHECK: %[[E:.*]] = math.exp
// CHECK: %[[A:.*]] = arith.mulf %[[E]],
// CHECK-NEXT: dist.send %[[A]] stage 1 channel 0
// CHECK-NEXT: lm.begin_backward
// CHECK-NEXT: %[[G:.*]] = dist.receive stage 1 channel 1
// CHECK-NEXT: %[[D:.*]] = arith.mulf %[[G]], %[[E]]
// CHECK: return %{{.*}} : tensor<4xf32>
// CHECK: func.func @step.1(
// CHECK-SAME: plan.chunk = 1 : i64, plan.program = "step", plan.stage = 1 : i64
// CHECK-NEXT: %[[A:.*]] = dist.receive stage -1 channel 0
// CHECK-NEXT: %[[E:.*]] = math.exp
// CHECK-NEXT: arith.addf %[[A]], %[[E]]
// CHECK-NEXT: lm.begin_backward
// CHECK-NEXT: %[[G:.*]] = arith.mulf %[[A]],
// CHECK-NEXT: dist.send %[[G]] stage -1 channel 1
// CHECK-NEXT: return
module @step attributes {dist.chunks = 2 : i64, dist.stages = 2 : i64} {
  func.func @step(%x: tensor<4xf32> {lm.input = "x"}, %w: tensor<4xf32> {lm.state = @w}, %v: tensor<4xf32> {lm.state = @v}, %g: tensor<4xf32> {lm.state = @g})
      -> (tensor<4xf32> {lm.state = @g}) attributes {plan.program = "step"} {
    %e = math.exp %x {dist.chunk = 0} : tensor<4xf32>
    %a = arith.mulf %e, %w {dist.chunk = 0} : tensor<4xf32>
    %b = arith.addf %a, %e {dist.chunk = 1} : tensor<4xf32>
    lm.begin_backward
    %c = arith.mulf %a, %v {dist.chunk = 1} : tensor<4xf32>
    %d = arith.mulf %c, %e {dist.chunk = 0} : tensor<4xf32>
    %n = lm.accumulate %g, %d {dist.chunk = 0} : tensor<4xf32>
    return %n : tensor<4xf32>
  }
}

// -----

// What the uses of a value add to its gradient is summed where they are: one
// value crosses the border. What has an operand of its own chunk stays there.
// CHECK-LABEL: module @sum
// CHECK: func.func @step.0(
// CHECK: lm.begin_backward
// CHECK-NEXT: %[[S:.*]] = dist.receive stage 1 channel 1
// CHECK-NOT: dist.receive
// CHECK: arith.mulf %[[S]], %
// CHECK: func.func @step.1(
// CHECK: lm.begin_backward
// CHECK: %[[C:.*]] = arith.mulf
// CHECK: %[[D:.*]] = arith.mulf
// CHECK: %[[S:.*]] = arith.addf %[[C]], %[[D]]
// CHECK-NEXT: dist.send %[[S]] stage -1 channel 1
// CHECK-NOT: dist.send
module @sum attributes {dist.chunks = 2 : i64, dist.stages = 2 : i64} {
  func.func @step(%w: tensor<4xf32> {lm.state = @w}, %v: tensor<4xf32> {lm.state = @v}, %g: tensor<4xf32> {lm.state = @g})
      -> (tensor<4xf32> {lm.state = @g}) attributes {plan.program = "step"} {
    %a = math.exp %w {dist.chunk = 0} : tensor<4xf32>
    %b = arith.addf %a, %v {dist.chunk = 1} : tensor<4xf32>
    lm.begin_backward
    %c = arith.mulf %a, %v {dist.chunk = 1} : tensor<4xf32>
    %d = arith.mulf %b, %v {dist.chunk = 1} : tensor<4xf32>
    %s = arith.addf %c, %d {dist.chunk = 0} : tensor<4xf32>
    %m = arith.mulf %s, %a {dist.chunk = 0} : tensor<4xf32>
    %n = lm.accumulate %g, %m {dist.chunk = 0} : tensor<4xf32>
    return %n : tensor<4xf32>
  }
}

// -----

// A residual around the whole of chunk 1: its gradient comes from chunk 2, is
// used in chunk 1, and is summed there on its way to chunk 0. One value crosses
// each border, and none passes a chunk.
// CHECK-LABEL: module @around
// CHECK: func.func @step.0(
// CHECK: lm.begin_backward
// CHECK-NEXT: %[[S:.*]] = dist.receive stage 1 channel 3
// CHECK-NOT: dist.receive
// CHECK: arith.mulf %[[S]], %
// CHECK: func.func @step.1(
// CHECK: lm.begin_backward
// CHECK-NEXT: %[[D:.*]] = dist.receive stage 1 channel 2
// CHECK-NEXT: %[[C:.*]] = arith.mulf %[[D]], %
// CHECK-NEXT: %[[S:.*]] = arith.addf %[[D]], %[[C]]
// CHECK-NEXT: dist.send %[[S]] stage -1 channel 3
// CHECK-NOT: dist.send
// CHECK: func.func @step.2(
// CHECK: lm.begin_backward
// CHECK-NEXT: %[[D:.*]] = arith.mulf
// CHECK-NEXT: dist.send %[[D]] stage -1 channel 2
// CHECK-NOT: dist.send
// CHECK: return
module @around attributes {dist.chunks = 3 : i64, dist.stages = 3 : i64} {
  func.func @step(%w: tensor<4xf32> {lm.state = @w}, %v: tensor<4xf32> {lm.state = @v}, %g: tensor<4xf32> {lm.state = @g})
      -> (tensor<4xf32> {lm.state = @g}) attributes {plan.program = "step"} {
    %a = math.exp %w {dist.chunk = 0} : tensor<4xf32>
    %b = arith.mulf %a, %v {dist.chunk = 1} : tensor<4xf32>
    %r = arith.addf %a, %b {dist.chunk = 1} : tensor<4xf32>
    %e = math.exp %r {dist.chunk = 2} : tensor<4xf32>
    lm.begin_backward
    %d = arith.mulf %e, %v {dist.chunk = 2} : tensor<4xf32>
    %c = arith.mulf %d, %v {dist.chunk = 1} : tensor<4xf32>
    %s = arith.addf %d, %c {dist.chunk = 0} : tensor<4xf32>
    %m = arith.mulf %s, %a {dist.chunk = 0} : tensor<4xf32>
    %n = lm.accumulate %g, %m {dist.chunk = 0} : tensor<4xf32>
    return %n : tensor<4xf32>
  }
}

// -----

// A model of one chunk stays as it is.
// CHECK-LABEL: module @one
// CHECK: func.func @step()
module @one {
  func.func @step() attributes {plan.program = "step"} {
    return
  }
}

// -----

module @backwards attributes {dist.chunks = 2 : i64, dist.stages = 2 : i64} {
  func.func @f(%w: tensor<4xf32> {lm.state = @w}) -> (tensor<4xf32> {lm.output = "y"}) attributes {plan.program = "f"} {
    %a = math.exp %w {dist.chunk = 1} : tensor<4xf32>
    // expected-error @+1 {{of chunk 0 uses a value of chunk 1, against the flow of the pipeline}}
    %b = math.exp %a {dist.chunk = 0} : tensor<4xf32>
    return %b : tensor<4xf32>
  }
}

// -----

module @unmarked attributes {dist.chunks = 2 : i64, dist.stages = 2 : i64} {
  func.func @f(%w: tensor<4xf32> {lm.state = @w}) -> (tensor<4xf32> {lm.output = "y"}) attributes {plan.program = "f"} {
    // expected-error @+1 {{belongs to no chunk of the 2; run dist-mark-stages before the program is differentiated}}
    %a = math.exp %w : tensor<4xf32>
    return %a : tensor<4xf32>
  }
}

// -----

// With two chunks on each of two stages, the way from the last stage leads to
// the first.
// CHECK-LABEL: module @virtual
// CHECK: func.func @f.1(
// CHECK-SAME: plan.chunk = 1 : i64, plan.program = "f", plan.stage = 1 : i64
// CHECK: dist.receive stage -1 channel 0
// CHECK: dist.send {{.*}} stage -1 channel 1
// CHECK: func.func @f.2(
// CHECK-SAME: plan.chunk = 2 : i64, plan.program = "f", plan.stage = 0 : i64
// CHECK: dist.receive stage 1 channel 1
// CHECK: dist.send {{.*}} stage 1 channel 2
module @virtual attributes {dist.chunks = 4 : i64, dist.stages = 2 : i64} {
  func.func @f(%w: tensor<4xf32> {lm.state = @w}) -> (tensor<4xf32> {lm.output = "y"}) attributes {plan.program = "f"} {
    %a = math.exp %w {dist.chunk = 0} : tensor<4xf32>
    %b = math.exp %a {dist.chunk = 1} : tensor<4xf32>
    %c = math.exp %b {dist.chunk = 2} : tensor<4xf32>
    %d = math.exp %c {dist.chunk = 3} : tensor<4xf32>
    return %d : tensor<4xf32>
  }
}

// -----

module @skip attributes {dist.chunks = 4 : i64, dist.stages = 2 : i64} {
  func.func @f(%w: tensor<4xf32> {lm.state = @w}) -> (tensor<4xf32> {lm.output = "y"}) attributes {plan.program = "f"} {
    %a = math.exp %w {dist.chunk = 0} : tensor<4xf32>
    // expected-error @+1 {{of chunk 2 uses a value of chunk 0, which is on the same stage}}
    %b = math.exp %a {dist.chunk = 2} : tensor<4xf32>
    return %b : tensor<4xf32>
  }
}

// -----

module @shared attributes {dist.chunks = 4 : i64, dist.stages = 2 : i64} {
  // expected-error @+2 {{chunks 0 and 2 of stage 0 both write @g}}
  // expected-note @+1 {{help: one virtual stage, or another number of stages}}
  func.func @f(%w: tensor<4xf32> {lm.state = @w}, %g: tensor<4xf32> {lm.state = @g})
      -> (tensor<4xf32> {lm.state = @g}, tensor<4xf32> {lm.state = @g}) attributes {plan.program = "f"} {
    %a = lm.accumulate %g, %w {dist.chunk = 0} : tensor<4xf32>
    %b = lm.accumulate %g, %w {dist.chunk = 2} : tensor<4xf32>
    return %a, %b : tensor<4xf32>, tensor<4xf32>
  }
}
