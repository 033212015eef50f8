// RUN: lmc-opt %s --split-input-file --dist-mark-stages=stages=2 | FileCheck %s
// RUN: lmc-opt %s --split-input-file --dist-mark-stages | FileCheck %s --check-prefix=ONE
// RUN: lmc-opt %s --split-input-file --dist-mark-stages="stages=2 virtual-stages=2" | FileCheck %s --check-prefix=VIRTUAL

// The head is as dear as three blocks, so that the cut comes behind the third
// of four; the mask of token weights crosses nothing.
// CHECK-LABEL: module @head
// CHECK-COUNT-3: lm.linear {{.*}}dist.chunk = 0
// CHECK: lm.linear {{.*}}dist.chunk = 1
// CHECK: lm.linear {{.*}}dist.chunk = 1
// CHECK-NOT: block_end
// One stage is no pipeline.
// ONE-LABEL: module @head
// ONE-NOT: dist.chunk
// ONE-NOT: block_end
// Two chunks on each of two stages.
// VIRTUAL-LABEL: module @head
// VIRTUAL-SAME: dist.chunks = 4 : i64, dist.stages = 2 : i64
// VIRTUAL: lm.linear {{.*}}dist.chunk = 0
// VIRTUAL: lm.linear {{.*}}dist.chunk = 1
// VIRTUAL: lm.linear {{.*}}dist.chunk = 2
// VIRTUAL: lm.linear {{.*}}dist.chunk = 2
// VIRTUAL: lm.linear {{.*}}dist.chunk = 3
module @head {
  func.func @forward(%x: tensor<4x8xf32> {lm.input = "x"}, %w: tensor<8x8xf32> {lm.state = @w}, %h: tensor<8x24xf32> {lm.state = @h})
      -> (tensor<f32> {lm.output = "loss_sum"}) {
    %a = lm.linear %x, %w {lm.block_end} : (tensor<4x8xf32>, tensor<8x8xf32>) -> tensor<4x8xf32>
    %b = lm.linear %a, %w {lm.block_end} : (tensor<4x8xf32>, tensor<8x8xf32>) -> tensor<4x8xf32>
    %c = lm.linear %b, %w {lm.block_end} : (tensor<4x8xf32>, tensor<8x8xf32>) -> tensor<4x8xf32>
    %d = lm.linear %c, %w {lm.block_end} : (tensor<4x8xf32>, tensor<8x8xf32>) -> tensor<4x8xf32>
    %e = lm.linear %d, %h : (tensor<4x8xf32>, tensor<8x24xf32>) -> tensor<4x24xf32>
    %l = lm.reduce "sum" %e dims [0, 1] : tensor<4x24xf32> to tensor<f32>
    return %l : tensor<f32>
  }
}

// -----

// Without marked blocks a cut goes where one value crosses: two do in the
// middle of this one, so that three of the four layers are on one side.
// CHECK-LABEL: module @branches
// CHECK: lm.linear {{.*}}dist.chunk = 0
// CHECK: lm.linear {{.*}}dist.chunk = 1
// CHECK: lm.linear {{.*}}dist.chunk = 1
// CHECK: arith.addf {{.*}}dist.chunk = 1
// CHECK: lm.linear {{.*}}dist.chunk = 1
module @branches {
  func.func @forward(%x: tensor<4x8xf32> {lm.input = "x"}, %w: tensor<8x8xf32> {lm.state = @w})
      -> (tensor<f32> {lm.output = "loss_sum"}) {
    %a = lm.linear %x, %w : (tensor<4x8xf32>, tensor<8x8xf32>) -> tensor<4x8xf32>
    %b = lm.linear %a, %w : (tensor<4x8xf32>, tensor<8x8xf32>) -> tensor<4x8xf32>
    %c = lm.linear %b, %w : (tensor<4x8xf32>, tensor<8x8xf32>) -> tensor<4x8xf32>
    %d = arith.addf %a, %c : tensor<4x8xf32>
    %e = lm.linear %d, %w : (tensor<4x8xf32>, tensor<8x8xf32>) -> tensor<4x8xf32>
    %l = lm.reduce "sum" %e dims [0, 1] : tensor<4x8xf32> to tensor<f32>
    return %l : tensor<f32>
  }
}
