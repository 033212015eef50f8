// A library's product gets a workspace for as long as it runs, and the plan the
// number that says how exact it is.
// RUN: lmc-opt %s --split-input-file --plan-assign --verify-assigned | FileCheck %s

// Both workspaces are the same bytes.
// CHECK: plan.allocation @scratch scratch
// CHECK: plan.scalar "tf32" : tensor<f32> in <@scalars[0] 4>
// CHECK: plan.run @matmul (read @inputs[0] 128, read @inputs[{{.*}}] 256, write @scratch[{{.*}}] 128, write @scratch[[AT:.*]] 4194496)
// CHECK: plan.run @matmul (read @scratch[{{.*}}] 128, read @inputs[{{.*}}] 256, write @outputs[0] 128, write @scratch[[AT]] 4194496)
module {
  plan.kernel @matmul(%x: tensor<4x8xf32>, %w: tensor<8x8xf32>) -> tensor<4x8xf32>
      attributes {kind = "matmul", tied = array<i64: -1>} {
    %y = lm.contract %x [1], %w [0] : (tensor<4x8xf32>, tensor<8x8xf32>) -> tensor<4x8xf32>
    plan.yield %y : tensor<4x8xf32>
  }
  func.func @step(%x: tensor<4x8xf32> {lm.input = "a"}, %w: tensor<8x8xf32> {lm.input = "b"})
      -> (tensor<4x8xf32> {lm.output = "y"})
      attributes {plan.program = "step"} {
    %a = plan.launch @matmul(%x, %w) : (tensor<4x8xf32>, tensor<8x8xf32>) -> tensor<4x8xf32>
    %b = plan.launch @matmul(%a, %w) : (tensor<4x8xf32>, tensor<8x8xf32>) -> tensor<4x8xf32>
    return %b : tensor<4x8xf32>
  }
  plan.schedule "step" stage 0 {
    plan.call @step micro_batch 0 slot 0
  }
}

// -----

// Of few tiles, room for sixteen parts of K.
// CHECK: plan.run @few (read @inputs[{{.*}}] 33554432, read @inputs[{{.*}}] 33554432, write @outputs[0] 1048576, write @scratch[{{.*}}] 16777408)
module {
  plan.kernel @few(%x: tensor<512x16384xf32>, %w: tensor<16384x512xf32>) -> tensor<512x512xf32>
      attributes {kind = "matmul", tied = array<i64: -1>} {
    %y = lm.contract %x [1], %w [0] : (tensor<512x16384xf32>, tensor<16384x512xf32>) -> tensor<512x512xf32>
    plan.yield %y : tensor<512x512xf32>
  }
  func.func @step(%x: tensor<512x16384xf32> {lm.input = "a"}, %w: tensor<16384x512xf32> {lm.input = "b"})
      -> (tensor<512x512xf32> {lm.output = "y"})
      attributes {plan.program = "step"} {
    %a = plan.launch @few(%x, %w) : (tensor<512x16384xf32>, tensor<16384x512xf32>) -> tensor<512x512xf32>
    return %a : tensor<512x512xf32>
  }
  plan.schedule "step" stage 0 {
    plan.call @step micro_batch 0 slot 0
  }
}
