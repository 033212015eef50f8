// RUN: lmc-opt %s --split-input-file --plan-schedule | FileCheck %s
// RUN: lmc-opt %s --split-input-file --plan-schedule=micro-batches=1 | FileCheck %s --check-prefix=ONE

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
