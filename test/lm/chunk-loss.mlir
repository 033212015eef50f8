// RUN: lmc-opt %s --split-input-file --verify-diagnostics --lm-chunk-loss=chunk-bytes=640 | FileCheck %s

// 32 rows of 40 bytes of logits become two chunks of 16 rows. Losses and the
// input's gradient are concatenated; the weight's gradient starts from the
// accumulator and is added in order.
// CHECK-LABEL: func.func @step
// CHECK-SAME: %[[X:[a-z0-9]+]]: tensor<2x16x8xf32> {lm.input = "x"}, %[[W:[a-z0-9]+]]: tensor<8x10xf32> {lm.state = @w}
// CHECK-SAME: %[[A:[a-z0-9]+]]: tensor<8x10xf32> {lm.state = @w.gradient}
// CHECK-NOT: tensor<2x16x10xf32>
// CHECK: lm.begin_backward
// CHECK: %[[X0:.*]] = lm.slice_rows %[[X]] at 0
// CHECK: %[[L0:.*]] = lm.linear %[[X0]], %[[W]]
// CHECK: %[[LOSS0:.*]], %{{.*}} = lm.cross_entropy %[[L0]],
// CHECK: %[[D0:.*]] = lm.cross_entropy_grad %[[L0]],
// CHECK: %[[DX0:.*]] = lm.contract %[[D0]] [1], %[[W]] [1]
// CHECK: %[[DW0:.*]] = lm.contract %{{.*}} [0], %[[D0]] [0]
// CHECK: %[[A0:.*]] = lm.accumulate %[[A]], %[[DW0]]
// CHECK: lm.slice_rows %[[X]] at 16
// CHECK: %[[LOSS1:.*]], %{{.*}} = lm.cross_entropy
// CHECK: %[[DX1:.*]] = lm.contract %{{.*}} [1], %[[W]] [1]
// CHECK: %[[A1:.*]] = arith.addf %[[A0]],
// CHECK-DAG: %[[DX:.*]] = lm.concat_rows %[[DX0]], %[[DX1]]
// CHECK-DAG: %[[LOSS:.*]] = lm.concat_rows %[[LOSS0]], %[[LOSS1]]
// CHECK: return %[[LOSS]], %[[DX]], %[[A1]]
func.func @step(%x: tensor<2x16x8xf32> {lm.input = "x"}, %w: tensor<8x10xf32> {lm.state = @w},
    %t: tensor<2x16xi32> {lm.input = "t"}, %s: tensor<2x16xf32> {lm.input = "s"}, %c: tensor<2x16xf32> {lm.input = "c"},
    %a: tensor<8x10xf32> {lm.state = @w.gradient})
    -> (tensor<2x16xf32> {lm.output = "loss"}, tensor<2x16x8xf32> {lm.output = "dx"}, tensor<8x10xf32> {lm.state = @w.gradient}) {
  %logits = lm.linear %x, %w : (tensor<2x16x8xf32>, tensor<8x10xf32>) -> tensor<2x16x10xf32>
  %loss, %lse = lm.cross_entropy %logits, %t, %s : (tensor<2x16x10xf32>, tensor<2x16xi32>, tensor<2x16xf32>) -> (tensor<2x16xf32>, tensor<2x16xf32>)
  lm.begin_backward
  %d = lm.cross_entropy_grad %logits, %t, %lse, %c : (tensor<2x16x10xf32>, tensor<2x16xi32>, tensor<2x16xf32>, tensor<2x16xf32>) -> tensor<2x16x10xf32>
  %dx = lm.contract %d [2], %w [1] : (tensor<2x16x10xf32>, tensor<8x10xf32>) -> tensor<2x16x8xf32>
  %dw = lm.contract %x [0, 1], %d [0, 1] : (tensor<2x16x8xf32>, tensor<2x16x10xf32>) -> tensor<8x10xf32>
  %a1 = lm.accumulate %a, %dw : tensor<8x10xf32>
  return %loss, %dx, %a1 : tensor<2x16xf32>, tensor<2x16x8xf32>, tensor<8x10xf32>
}

// -----

// The last chunk is shorter where rows do not divide.
// CHECK-LABEL: func.func @rest
// CHECK: lm.slice_rows %{{.*}} at 0 : tensor<20x8xf32> to tensor<16x8xf32>
// CHECK: lm.slice_rows %{{.*}} at 16 : tensor<20x8xf32> to tensor<4x8xf32>
func.func @rest(%x: tensor<20x8xf32>, %w: tensor<8x10xf32>, %t: tensor<20xi32>, %s: tensor<20xf32>) -> tensor<20xf32> {
  %logits = lm.linear %x, %w : (tensor<20x8xf32>, tensor<8x10xf32>) -> tensor<20x10xf32>
  %loss, %lse = lm.cross_entropy %logits, %t, %s : (tensor<20x10xf32>, tensor<20xi32>, tensor<20xf32>) -> (tensor<20xf32>, tensor<20xf32>)
  return %loss : tensor<20xf32>
}

// -----

// Logits that something else uses too are left whole, and it says so.
// CHECK-LABEL: func.func @other_use
// CHECK: lm.cross_entropy {{.*}}tensor<32x10xf32>
// CHECK-NOT: lm.slice_rows
func.func @other_use(%x: tensor<32x8xf32>, %w: tensor<8x10xf32>, %t: tensor<32xi32>, %s: tensor<32xf32>) -> (tensor<32xf32>, tensor<32x10xf32>) {
  // expected-remark @+1 {{the loss is computed whole}}
  %logits = lm.linear %x, %w : (tensor<32x8xf32>, tensor<8x10xf32>) -> tensor<32x10xf32>
  %loss, %lse = lm.cross_entropy %logits, %t, %s : (tensor<32x10xf32>, tensor<32xi32>, tensor<32xf32>) -> (tensor<32xf32>, tensor<32xf32>)
  return %loss, %logits : tensor<32xf32>, tensor<32x10xf32>
}
