// RUN: lmc-opt %s --plan-schedule="pipeline=interleaved" | FileCheck %s

// Two chunks on each of two stages: two micro-batches pass chunk 0, then the
// same two chunk 2. Evaluation goes forward alike.
// CHECK: plan.schedule "train" stage 0
// CHECK-NEXT: plan.call @f0 micro_batch 0 slot 0
// CHECK-NEXT: plan.call @f0 micro_batch 1 slot 1
// CHECK-NEXT: plan.call @f2 micro_batch 0 slot 0
// CHECK-NEXT: plan.call @f2 micro_batch 1 slot 1
// CHECK-NEXT: plan.call @b2 micro_batch 0 slot 0
// CHECK-NEXT: plan.call @b2 micro_batch 1 slot 1
// CHECK-NEXT: plan.call @b0 micro_batch 0 slot 0
// CHECK-NEXT: plan.call @b0 micro_batch 1 slot 1
// CHECK-NEXT: plan.call @update micro_batch 0 slot 0
// CHECK: plan.schedule "evaluate" stage 0
// CHECK-NEXT: plan.call @e0 micro_batch 0 slot 0
// CHECK-NEXT: plan.call @e0 micro_batch 1 slot 0
// CHECK-NEXT: plan.call @e2 micro_batch 0 slot 0
// CHECK-NEXT: plan.call @e2 micro_batch 1 slot 0
// CHECK: plan.schedule "train" stage 1
// CHECK-NEXT: plan.call @f1 micro_batch 0 slot 0
// CHECK-NEXT: plan.call @f1 micro_batch 1 slot 1
// CHECK-NEXT: plan.call @f3 micro_batch 0 slot 0
// CHECK-NEXT: plan.call @b3 micro_batch 0 slot 0
module attributes {dist.chunks = 4 : i64, dist.stages = 2 : i64, lm.micro_batches = 2 : i64} {
  func.func @f0() attributes {plan.chunk = 0 : i64, plan.program = "forward", plan.stage = 0 : i64} {
    return
  }
  func.func @b0() attributes {plan.chunk = 0 : i64, plan.program = "backward", plan.stage = 0 : i64} {
    return
  }
  func.func @e0() attributes {plan.chunk = 0 : i64, plan.program = "evaluate", plan.stage = 0 : i64} {
    return
  }
  func.func @f1() attributes {plan.chunk = 1 : i64, plan.program = "forward", plan.stage = 1 : i64} {
    return
  }
  func.func @b1() attributes {plan.chunk = 1 : i64, plan.program = "backward", plan.stage = 1 : i64} {
    return
  }
  func.func @e1() attributes {plan.chunk = 1 : i64, plan.program = "evaluate", plan.stage = 1 : i64} {
    return
  }
  func.func @f2() attributes {plan.chunk = 2 : i64, plan.program = "forward", plan.stage = 0 : i64} {
    return
  }
  func.func @b2() attributes {plan.chunk = 2 : i64, plan.program = "backward", plan.stage = 0 : i64} {
    return
  }
  func.func @e2() attributes {plan.chunk = 2 : i64, plan.program = "evaluate", plan.stage = 0 : i64} {
    return
  }
  func.func @f3() attributes {plan.chunk = 3 : i64, plan.program = "forward", plan.stage = 1 : i64} {
    return
  }
  func.func @b3() attributes {plan.chunk = 3 : i64, plan.program = "backward", plan.stage = 1 : i64} {
    return
  }
  func.func @e3() attributes {plan.chunk = 3 : i64, plan.program = "evaluate", plan.stage = 1 : i64} {
    return
  }
  func.func @update() attributes {plan.program = "update", plan.stage = 0 : i64} {
    return
  }
}
