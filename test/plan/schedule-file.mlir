// RUN: split-file %s %t
// RUN: lmc-opt %t/model.mlir --plan-schedule="pipeline=%t/good.schedule" | FileCheck %s
// RUN: not lmc-opt %t/model.mlir --plan-schedule="pipeline=%t/deadlock.schedule" 2>&1 | FileCheck %s --check-prefix=DEADLOCK
// RUN: not lmc-opt %t/model.mlir --plan-schedule="pipeline=%t/order.schedule" 2>&1 | FileCheck %s --check-prefix=ORDER
// RUN: not lmc-opt %t/model.mlir --plan-schedule="pipeline=%t/slots.schedule" 2>&1 | FileCheck %s --check-prefix=SLOTS
// RUN: not lmc-opt %t/model.mlir --plan-schedule="pipeline=%t/text.schedule" 2>&1 | FileCheck %s --check-prefix=TEXT
// RUN: not lmc-opt %t/model.mlir --plan-schedule="pipeline=%t/none" 2>&1 | FileCheck %s --check-prefix=NONE

// A schedule of the user's own. The first chunk has its backward whole, which
// runs as its weight half; a slot is held until then.
// CHECK: plan.schedule "train" stage 0
// CHECK-NEXT: plan.call @f0 micro_batch 0 slot 0
// CHECK-NEXT: plan.call @f0 micro_batch 1 slot 1
// CHECK-NEXT: plan.call @b0 micro_batch 0 slot 0
// CHECK-NEXT: plan.call @b0 micro_batch 1 slot 1
// CHECK-NEXT: }
// CHECK: plan.schedule "train" stage 1
// CHECK-NEXT: plan.call @f1 micro_batch 0 slot 0
// CHECK-NEXT: plan.call @i1 micro_batch 0 slot 0
// CHECK-NEXT: plan.call @f1 micro_batch 1 slot 1
// CHECK-NEXT: plan.call @i1 micro_batch 1 slot 1
// CHECK-NEXT: plan.call @w1 micro_batch 0 slot 0
// CHECK-NEXT: plan.call @w1 micro_batch 1 slot 1
// CHECK-NEXT: }

// DEADLOCK: error: pipeline schedule {{.*}}deadlock.schedule: the stages wait for each other for ever: stage 0 before B0, stage 1 before F1
// ORDER: error: pipeline schedule {{.*}}order.schedule: stage 1: W0 comes before the input half of its micro-batch
// SLOTS: error: pipeline schedule {{.*}}slots.schedule: stage 0: F1 needs slot 2 of its chunk; the schedule allows 1
// TEXT: error: pipeline schedule {{.*}}text.schedule: line 2: 'X0' is no task; F, B or W, the micro-batch: F3{{$}}
// TEXT: note: help: examples/pipeline.schedule shows what a schedule file is
// NONE: error: cannot read the pipeline schedule '{{.*}}none'{{$}}
// NONE: note: help: gpipe, 1f1b, interleaved, zb or a file

//--- good.schedule
# Weight halves last.
stage 0: F0 F1 B0 W0 B1 W1
stage 1: F0 B0 F1 B1 W0 W1
//--- deadlock.schedule
stage 0: F0 B0 W0 F1 B1 W1
stage 1: F0 F1 B0 B1 W0 W1
//--- order.schedule
stage 0: F0 F1 B0 W0 B1 W1
stage 1: F0 W0 B0 F1 B1 W1
//--- slots.schedule
slots 1
stage 0: F0 F1 B0 W0 B1 W1
stage 1: F0 B0 W0 F1 B1 W1
//--- text.schedule
stage 0: F0 F1 B0 W0 B1 W1
stage 1: F0 X0
//--- model.mlir
module attributes {dist.stages = 2 : i64, lm.micro_batches = 2 : i64} {
  func.func @f0() attributes {plan.chunk = 0 : i64, plan.program = "forward", plan.stage = 0 : i64} {
    return
  }
  func.func @b0() attributes {plan.chunk = 0 : i64, plan.program = "backward", plan.stage = 0 : i64} {
    return
  }
  func.func @f1() attributes {plan.chunk = 1 : i64, plan.program = "forward", plan.stage = 1 : i64} {
    return
  }
  func.func @i1() attributes {plan.chunk = 1 : i64, plan.program = "backward_input", plan.stage = 1 : i64} {
    return
  }
  func.func @w1() attributes {plan.chunk = 1 : i64, plan.program = "backward_weight", plan.stage = 1 : i64} {
    return
  }
}
