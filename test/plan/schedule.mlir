// RUN: lmc-opt %s --split-input-file --plan-schedule | FileCheck %s
// RUN: lmc-opt %s --split-input-file --plan-schedule=micro-batches=1 | FileCheck %s --check-prefix=ONE
// RUN: lmc-opt %s --split-input-file --plan-schedule="pipeline=gpipe" | FileCheck %s --check-prefix=GPIPE

// Each micro-batch's backward follows its forward, so that one slot of saved
// values is enough; the update ends the step.
// CHECK-LABEL: plan.schedule "train" stage 0
// CHECK-NEXT: plan.call @forward micro_batch 0 slot 0
// CHECK-NEXT: plan.call @backward micro_batch 0 slot 0
// CHECK-NEXT: plan.call @forward micro_batch 1 slot 0
// CHECK-NEXT: plan.call @backward micro_batch 1 slot 0
// CHECK-NEXT: plan.call @update micro_batch 0 slot 0
// CHECK-NEXT: }
// ONE-LABEL: plan.schedule "train" stage 0
// ONE-NEXT: plan.call @forward micro_batch 0 slot 0
// ONE-NEXT: plan.call @backward micro_batch 0 slot 0
// ONE-NEXT: plan.call @update micro_batch 0 slot 0
// ONE-NEXT: }
module attributes {lm.micro_batches = 2 : i64} {
  func.func @forward() attributes {plan.program = "forward"} {
    return
  }
  func.func @backward() attributes {plan.program = "backward"} {
    return
  }
  func.func @update() attributes {plan.program = "update"} {
    return
  }
}

// -----

// Evaluation sums over micro-batches and finishes once; a program of another
// kind is a schedule of its own.
// CHECK-LABEL: plan.schedule "evaluate" stage 0
// CHECK-NEXT: plan.call @evaluate micro_batch 0 slot 0
// CHECK-NEXT: plan.call @evaluate micro_batch 1 slot 0
// CHECK-NEXT: plan.call @finish micro_batch 0 slot 0
// CHECK-NEXT: }
// CHECK: plan.schedule "score" stage 0
// CHECK-NEXT: plan.call @score micro_batch 0 slot 0
module attributes {lm.micro_batches = 2 : i64} {
  func.func @evaluate() attributes {plan.program = "evaluate"} {
    return
  }
  func.func @finish() attributes {plan.program = "evaluate_finish"} {
    return
  }
  func.func @score() attributes {plan.program = "score"} {
    return
  }
}

// -----

// 1F1B: the first of two stages runs one forward ahead, so that it needs two
// slots; the last one goes forward and backward in turns. GPipe runs all
// forwards first.
// CHECK-LABEL: plan.schedule "train" stage 0
// CHECK-NEXT: plan.call @f0 micro_batch 0 slot 0
// CHECK-NEXT: plan.call @f0 micro_batch 1 slot 1
// CHECK-NEXT: plan.call @b0 micro_batch 0 slot 0
// CHECK-NEXT: plan.call @f0 micro_batch 2 slot 0
// CHECK-NEXT: plan.call @b0 micro_batch 1 slot 1
// CHECK-NEXT: plan.call @b0 micro_batch 2 slot 0
// CHECK-NEXT: }
// CHECK: plan.schedule "train" stage 1
// CHECK-NEXT: plan.call @f1 micro_batch 0 slot 0
// CHECK-NEXT: plan.call @b1 micro_batch 0 slot 0
// CHECK-NEXT: plan.call @f1 micro_batch 1 slot 0
// CHECK-NEXT: plan.call @b1 micro_batch 1 slot 0
// CHECK-NEXT: plan.call @f1 micro_batch 2 slot 0
// CHECK-NEXT: plan.call @b1 micro_batch 2 slot 0
// CHECK-NEXT: plan.call @update micro_batch 0 slot 0
// CHECK-NEXT: }
// GPIPE-LABEL: func.func @f0
// GPIPE: plan.schedule "train" stage 0
// GPIPE-NEXT: plan.call @f0 micro_batch 0 slot 0
// GPIPE-NEXT: plan.call @f0 micro_batch 1 slot 1
// GPIPE-NEXT: plan.call @f0 micro_batch 2 slot 2
// GPIPE-NEXT: plan.call @b0 micro_batch 0 slot 0
// GPIPE-NEXT: plan.call @b0 micro_batch 1 slot 1
// GPIPE-NEXT: plan.call @b0 micro_batch 2 slot 2
module attributes {dist.stages = 2 : i64, lm.micro_batches = 3 : i64} {
  func.func @f0() attributes {plan.chunk = 0 : i64, plan.program = "forward", plan.stage = 0 : i64} {
    return
  }
  func.func @b0() attributes {plan.chunk = 0 : i64, plan.program = "backward", plan.stage = 0 : i64} {
    return
  }
  func.func @f1() attributes {plan.chunk = 1 : i64, plan.program = "forward", plan.stage = 1 : i64} {
    return
  }
  func.func @b1() attributes {plan.chunk = 1 : i64, plan.program = "backward", plan.stage = 1 : i64} {
    return
  }
  func.func @update() attributes {plan.program = "update", plan.stage = 1 : i64} {
    return
  }
}
