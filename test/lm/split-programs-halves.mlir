// RUN: lmc-opt %s --split-input-file --lm-split-programs=split-backward | FileCheck %s

// The chunk before waits for %dx alone: %dw comes later. Its operands are kept,
// %dy in the place of %a, which nobody reads any more. The bias' gradient is
// cheap.
// CHECK-LABEL: module @halves
// CHECK: func.func @forward.1(
// CHECK-SAME: -> (tensor<4x8xf32> {lm.saved = "saved0.1"}, tensor<4x8xf32> {lm.saved = "saved1.1"})
// CHECK: return %[[A:.*]], %[[X:.*]] :
// CHECK: func.func @backward_input.1(
// CHECK-SAME: -> (tensor<4x8xf32> {lm.saved = "saved2.1"}, tensor<8xf32> {lm.state = @b}) attributes {plan.chunk = 1 : i64, plan.program = "backward_input", plan.stage = 1 : i64}
// CHECK: dist.receive stage 1 channel 2
// CHECK-NEXT: %[[DY:.*]] = arith.mulf
// CHECK-NEXT: lm.contract %[[DY]]
// CHECK-NEXT: dist.send
// CHECK-NEXT: lm.reduce "sum" %[[DY]]
// CHECK-NEXT: lm.accumulate
// CHECK-NEXT: return %[[DY]],
// CHECK: func.func @backward_weight.1(%[[X:.*]]: tensor<4x8xf32> {lm.saved = "saved1.1"}, %[[DY:.*]]: tensor<4x8xf32> {lm.saved = "saved2.1"},
// CHECK-SAME: -> (tensor<8x8xf32> {lm.state = @g})
// CHECK-NEXT: lm.contract %[[X]] [0], %[[DY]] [0]
// CHECK-NEXT: lm.accumulate
// CHECK-NEXT: return
module @halves {
  func.func @step.1(%w: tensor<8x8xf32> {lm.state = @w}, %g: tensor<8x8xf32> {lm.state = @g}, %b: tensor<8xf32> {lm.state = @b})
      -> (tensor<8x8xf32> {lm.state = @g}, tensor<8xf32> {lm.state = @b})
      attributes {plan.chunk = 1 : i64, plan.program = "step", plan.stage = 1 : i64} {
    %x = dist.receive stage -1 channel 0 : tensor<4x8xf32>
    %y = lm.linear %x, %w : (tensor<4x8xf32>, tensor<8x8xf32>) -> tensor<4x8xf32>
    %a = math.exp %y : tensor<4x8xf32>
    dist.send %a stage 1 channel 1 : tensor<4x8xf32>
    lm.begin_backward
    %d = dist.receive stage 1 channel 2 : tensor<4x8xf32>
    %dy = arith.mulf %d, %a : tensor<4x8xf32>
    %dx = lm.contract %dy [1], %w [1] : (tensor<4x8xf32>, tensor<8x8xf32>) -> tensor<4x8xf32>
    dist.send %dx stage -1 channel 3 : tensor<4x8xf32>
    %dw = lm.contract %x [0], %dy [0] : (tensor<4x8xf32>, tensor<4x8xf32>) -> tensor<8x8xf32>
    %n = lm.accumulate %g, %dw : tensor<8x8xf32>
    %db = lm.reduce "sum" %dy dims [0] : tensor<4x8xf32> to tensor<8xf32>
    %m = lm.accumulate %b, %db : tensor<8xf32>
    return %n, %m : tensor<8x8xf32>, tensor<8xf32>
  }
}

// -----

// What is marked runs with what makes its operands; the mark has served then.
// CHECK-LABEL: module @at_once
// CHECK: func.func @backward_input.1(
// CHECK: dist.send
// CHECK-NEXT: lm.contract %{{.*}} [0], %{{.*}} [0] :
// CHECK-NOT: lm.at_once
// CHECK: func.func @backward_weight.1(
// CHECK: lm.contract
module @at_once {
  func.func @step.1(%w: tensor<8x8xf32> {lm.state = @w}, %g: tensor<8x8xf32> {lm.state = @g}, %h: tensor<8x8xf32> {lm.state = @h})
      -> (tensor<8x8xf32> {lm.state = @g}, tensor<8x8xf32> {lm.state = @h})
      attributes {plan.chunk = 1 : i64, plan.program = "step", plan.stage = 1 : i64} {
    %x = dist.receive stage -1 channel 0 : tensor<4x8xf32>
    %y = lm.linear %x, %w : (tensor<4x8xf32>, tensor<8x8xf32>) -> tensor<4x8xf32>
    %a = math.exp %y : tensor<4x8xf32>
    dist.send %a stage 1 channel 1 : tensor<4x8xf32>
    lm.begin_backward
    %d = dist.receive stage 1 channel 2 : tensor<4x8xf32>
    %dy = arith.mulf %d, %a : tensor<4x8xf32>
    %dx = lm.contract %dy [1], %w [1] : (tensor<4x8xf32>, tensor<8x8xf32>) -> tensor<4x8xf32>
    dist.send %dx stage -1 channel 3 : tensor<4x8xf32>
    %dw = lm.contract %x [0], %dy [0] {lm.at_once} : (tensor<4x8xf32>, tensor<4x8xf32>) -> tensor<8x8xf32>
    %n = lm.accumulate %g, %dw : tensor<8x8xf32>
    %dv = lm.contract %x [0], %d [0] : (tensor<4x8xf32>, tensor<4x8xf32>) -> tensor<8x8xf32>
    %m = lm.accumulate %h, %dv : tensor<8x8xf32>
    return %n, %m : tensor<8x8xf32>, tensor<8x8xf32>
  }
}

// -----

// A sum that begins in the input half ends there, lest another micro-batch's
// comes between: its second part runs there, too.
// CHECK-LABEL: module @sum
// CHECK: func.func @backward_input.1(
// CHECK: lm.accumulate
// CHECK: arith.addf
// CHECK: func.func @backward_weight.1(
// CHECK-NOT: arith.addf
module @sum {
  func.func @step.1(%w: tensor<8x8xf32> {lm.state = @w}, %g: tensor<8x8xf32> {lm.state = @g}, %h: tensor<8x8xf32> {lm.state = @h})
      -> (tensor<8x8xf32> {lm.state = @g}, tensor<8x8xf32> {lm.state = @h})
      attributes {plan.chunk = 1 : i64, plan.program = "step", plan.stage = 1 : i64} {
    %x = dist.receive stage -1 channel 0 : tensor<4x8xf32>
    %y = lm.linear %x, %w : (tensor<4x8xf32>, tensor<8x8xf32>) -> tensor<4x8xf32>
    %a = math.exp %y : tensor<4x8xf32>
    dist.send %a stage 1 channel 1 : tensor<4x8xf32>
    lm.begin_backward
    %d = dist.receive stage 1 channel 2 : tensor<4x8xf32>
    %dy = arith.mulf %d, %a : tensor<4x8xf32>
    %dx = lm.contract %dy [1], %w [1] : (tensor<4x8xf32>, tensor<8x8xf32>) -> tensor<4x8xf32>
    dist.send %dx stage -1 channel 3 : tensor<4x8xf32>
    %dw = lm.contract %x [0], %dy [0] {lm.at_once} : (tensor<4x8xf32>, tensor<4x8xf32>) -> tensor<8x8xf32>
    %s = lm.accumulate %g, %dw : tensor<8x8xf32>
    %dv = lm.contract %x [0], %d [0] : (tensor<4x8xf32>, tensor<4x8xf32>) -> tensor<8x8xf32>
    %n = arith.addf %s, %dv : tensor<8x8xf32>
    %du = lm.contract %x [0], %dy [0] : (tensor<4x8xf32>, tensor<4x8xf32>) -> tensor<8x8xf32>
    %m = lm.accumulate %h, %du : tensor<8x8xf32>
    return %n, %m : tensor<8x8xf32>, tensor<8x8xf32>
  }
}

// -----

// A weight half would keep %d beside %x, more than a whole backward does.
// CHECK-LABEL: module @full
// CHECK: func.func @backward.1(
// CHECK-NOT: func.func @backward_weight.1
module @full {
  func.func @step.1(%w: tensor<8x8xf32> {lm.state = @w}, %g: tensor<8x8xf32> {lm.state = @g}, %b: tensor<8xf32> {lm.state = @b})
      -> (tensor<8x8xf32> {lm.state = @g}, tensor<8xf32> {lm.state = @b})
      attributes {plan.chunk = 1 : i64, plan.program = "step", plan.stage = 1 : i64} {
    %x = dist.receive stage -1 channel 0 : tensor<4x8xf32>
    %y = lm.linear %x, %w : (tensor<4x8xf32>, tensor<8x8xf32>) -> tensor<4x8xf32>
    dist.send %y stage 1 channel 1 : tensor<4x8xf32>
    lm.begin_backward
    %d = dist.receive stage 1 channel 2 : tensor<4x8xf32>
    %dx = lm.contract %d [1], %w [1] : (tensor<4x8xf32>, tensor<8x8xf32>) -> tensor<4x8xf32>
    dist.send %dx stage -1 channel 3 : tensor<4x8xf32>
    %dw = lm.contract %x [0], %d [0] : (tensor<4x8xf32>, tensor<4x8xf32>) -> tensor<8x8xf32>
    %n = lm.accumulate %g, %dw : tensor<8x8xf32>
    %db = lm.reduce "sum" %d dims [0] : tensor<4x8xf32> to tensor<8xf32>
    %m = lm.accumulate %b, %db : tensor<8xf32>
    return %n, %m : tensor<8x8xf32>, tensor<8xf32>
  }
}

// -----

// Nobody waits for the first chunk's backward.
// CHECK-LABEL: module @first
// CHECK: func.func @backward.1(
// CHECK-NOT: func.func @backward_weight.1
module @first {
  func.func @step.1(%t: tensor<4xi32> {lm.input = "tokens"}, %w: tensor<8x8xf32> {lm.state = @w}, %g: tensor<8x8xf32> {lm.state = @g}, %b: tensor<8xf32> {lm.state = @b})
      -> (tensor<8x8xf32> {lm.state = @g}, tensor<8xf32> {lm.state = @b})
      attributes {plan.chunk = 1 : i64, plan.program = "step", plan.stage = 1 : i64} {
    %x = lm.embedding %w, %t : (tensor<8x8xf32>, tensor<4xi32>) -> tensor<4x8xf32>
    %y = lm.linear %x, %w : (tensor<4x8xf32>, tensor<8x8xf32>) -> tensor<4x8xf32>
    %a = math.exp %y : tensor<4x8xf32>
    dist.send %a stage 1 channel 1 : tensor<4x8xf32>
    lm.begin_backward
    %d = dist.receive stage 1 channel 2 : tensor<4x8xf32>
    %dy = arith.mulf %d, %a : tensor<4x8xf32>
    %dx = lm.contract %dy [1], %w [1] : (tensor<4x8xf32>, tensor<8x8xf32>) -> tensor<4x8xf32>
    %dw = lm.contract %x [0], %dy [0] : (tensor<4x8xf32>, tensor<4x8xf32>) -> tensor<8x8xf32>
    %n = lm.accumulate %g, %dw : tensor<8x8xf32>
    %db = lm.reduce "sum" %dy dims [0] : tensor<4x8xf32> to tensor<8xf32>
    %m = lm.accumulate %b, %db : tensor<8xf32>
    return %n, %m : tensor<8x8xf32>, tensor<8xf32>
  }
}
