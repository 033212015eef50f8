// RUN: lmc-opt %s --split-input-file --dist-partition | FileCheck %s

// Each transition between two layouts, on one rank's tensors.

// Partial on two axes: one all-reduce over both.
// CHECK-LABEL: @all_reduce
// CHECK: %[[Y:.*]] = dist.all_reduce "sum" %{{.*}} over ["dp", "tp"] : tensor<4x8xf32>
// CHECK: return %[[Y]]
module @all_reduce attributes {dist.mesh = #dist.mesh<["dp", "tp"], [2, 2]>} {
  func.func @f(%x: tensor<4x8xf32> {lm.input = "x", dist.sharding = #dist.sharding<[[], []], ["dp", "tp"]>}) -> (tensor<4x8xf32> {lm.output = "y"}) attributes {plan.program = "f"} {
    %y = dist.reshard %x from <[[], []], ["dp", "tp"]> to <[[], []], []> bytes 0 {dist.shardings = [#dist.sharding<[[], []], []>]} : tensor<4x8xf32>
    return %y : tensor<4x8xf32>
  }
}

// -----

// Along the first dim, pieces lie one behind the other.
// CHECK-LABEL: @gather_first
// CHECK: %[[Y:.*]] = dist.all_gather %{{.*}} dim 0 over ["tp"] : tensor<2x8xf32> to tensor<4x8xf32>
// CHECK-NEXT: return %[[Y]]
module @gather_first attributes {dist.mesh = #dist.mesh<["tp"], [2]>} {
  func.func @f(%x: tensor<4x8xf32> {lm.input = "x", dist.sharding = #dist.sharding<[["tp"], []], []>}) -> (tensor<4x8xf32> {lm.output = "y"}) attributes {plan.program = "f"} {
    %y = dist.reshard %x from <[["tp"], []], []> to <[[], []], []> bytes 64 {dist.shardings = [#dist.sharding<[[], []], []>]} : tensor<4x8xf32>
    return %y : tensor<4x8xf32>
  }
}

// -----

// Along the second, too, where there is one row.
// CHECK-LABEL: @gather_one_row
// CHECK: %[[G:.*]] = dist.all_gather %{{.*}} dim 0 over ["tp"] : tensor<1x2x8xf32> to tensor<2x2x8xf32>
// CHECK-NEXT: %[[Y:.*]] = lm.reshape %[[G]] : tensor<2x2x8xf32> to tensor<1x4x8xf32>
// CHECK-NEXT: return %[[Y]]
module @gather_one_row attributes {dist.mesh = #dist.mesh<["tp"], [2]>} {
  func.func @f(%x: tensor<1x4x8xf32> {lm.input = "x", dist.sharding = #dist.sharding<[[], ["tp"], []], []>}) -> (tensor<1x4x8xf32> {lm.output = "y"}) attributes {plan.program = "f"} {
    %y = dist.reshard %x from <[[], ["tp"], []], []> to <[[], [], []], []> bytes 64 {dist.shardings = [#dist.sharding<[[], [], []], []>]} : tensor<1x4x8xf32>
    return %y : tensor<1x4x8xf32>
  }
}

// -----

// Along the second, strips of 16 elements: row o's strip from rank i is row
// i * 3 + o of what was gathered.
// CHECK-LABEL: @gather
// CHECK: %[[G:.*]] = dist.all_gather %{{.*}} dim 0 over ["tp"] : tensor<3x2x8xf32> to tensor<6x2x8xf32>
// CHECK: %[[O:.*]] = lm.iota 0 : tensor<3x2xi32>
// CHECK: arith.constant dense<1>
// CHECK: %[[FROM_O:.*]] = arith.muli %[[O]],
// CHECK: %[[I:.*]] = lm.iota 1 : tensor<3x2xi32>
// CHECK: arith.constant dense<3>
// CHECK: %[[FROM_I:.*]] = arith.muli %[[I]],
// CHECK: %[[ROW:.*]] = arith.addi %[[FROM_O]], %[[FROM_I]]
// CHECK: %[[TABLE:.*]] = lm.reshape %[[G]] : tensor<6x2x8xf32> to tensor<6x16xf32>
// CHECK: %[[ROWS:.*]] = lm.embedding %[[TABLE]], %[[ROW]] : (tensor<6x16xf32>, tensor<3x2xi32>) -> tensor<3x2x16xf32>
// CHECK: %[[Y:.*]] = lm.reshape %[[ROWS]] : tensor<3x2x16xf32> to tensor<3x4x8xf32>
// CHECK: return %[[Y]]
module @gather attributes {dist.mesh = #dist.mesh<["tp"], [2]>} {
  func.func @f(%x: tensor<3x4x8xf32> {lm.input = "x", dist.sharding = #dist.sharding<[[], ["tp"], []], []>}) -> (tensor<3x4x8xf32> {lm.output = "y"}) attributes {plan.program = "f"} {
    %y = dist.reshard %x from <[[], ["tp"], []], []> to <[[], [], []], []> bytes 192 {dist.shardings = [#dist.sharding<[[], [], []], []>]} : tensor<3x4x8xf32>
    return %y : tensor<3x4x8xf32>
  }
}

// -----

// The way back: rank i's strips of all rows first, then their sum.
// CHECK-LABEL: @scatter
// CHECK: lm.iota 0 : tensor<2x3xi32>
// CHECK: %[[ROWS:.*]] = lm.embedding %{{.*}}, %{{.*}} : (tensor<6x16xf32>, tensor<2x3xi32>) -> tensor<2x3x16xf32>
// CHECK: %[[PIECES:.*]] = lm.reshape %[[ROWS]] : tensor<2x3x16xf32> to tensor<6x2x8xf32>
// CHECK: %[[Y:.*]] = dist.reduce_scatter %[[PIECES]] dim 0 over ["tp"] : tensor<6x2x8xf32> to tensor<3x2x8xf32>
// CHECK: return %[[Y]]
module @scatter attributes {dist.mesh = #dist.mesh<["tp"], [2]>} {
  func.func @f(%x: tensor<3x4x8xf32> {lm.input = "x", dist.sharding = #dist.sharding<[[], [], []], ["tp"]>}) -> (tensor<3x4x8xf32> {lm.output = "y"}) attributes {plan.program = "f"} {
    %y = dist.reshard %x from <[[], [], []], ["tp"]> to <[[], ["tp"], []], []> bytes 192 {dist.shardings = [#dist.sharding<[[], ["tp"], []], []>]} : tensor<3x4x8xf32>
    return %y : tensor<3x4x8xf32>
  }
}

// -----

// A rank's own strips, by its coordinate; nothing is sent.
// CHECK-LABEL: @slice
// CHECK: func.func @f(%{{.*}}, %[[C:.*]]: tensor<i32> {lm.scalar = "coordinate.tp"})
// CHECK-NOT: dist.all
// CHECK: lm.embedding %{{.*}}, %{{.*}} : (tensor<6x16xf32>, tensor<3xi32>) -> tensor<3x16xf32>
// CHECK: return %{{.*}} : tensor<3x2x8xf32>
module @slice attributes {dist.mesh = #dist.mesh<["tp"], [2]>} {
  func.func @f(%x: tensor<3x4x8xf32> {lm.input = "x", dist.sharding = #dist.sharding<[[], [], []], []>}) -> (tensor<3x4x8xf32> {lm.output = "y"}) attributes {plan.program = "f"} {
    %y = dist.reshard %x from <[[], [], []], []> to <[[], ["tp"], []], []> bytes 0 {dist.shardings = [#dist.sharding<[[], ["tp"], []], []>]} : tensor<3x4x8xf32>
    return %y : tensor<3x4x8xf32>
  }
}

// -----

// From rows to columns: a quarter of the bytes of a gather moves.
// CHECK-LABEL: @exchange
// CHECK: lm.embedding %{{.*}} : (tensor<4x4xf32>, tensor<2x2xi32>) -> tensor<2x2x4xf32>
// CHECK: %[[PIECES:.*]] = lm.reshape %{{.*}} : tensor<2x2x4xf32> to tensor<4x4xf32>
// CHECK: %[[Y:.*]] = dist.all_to_all %[[PIECES]] over ["tp"] : tensor<4x4xf32>
// CHECK: return %[[Y]]
module @exchange attributes {dist.mesh = #dist.mesh<["tp"], [2]>} {
  func.func @f(%x: tensor<4x8xf32> {lm.input = "x", dist.sharding = #dist.sharding<[["tp"], []], []>}) -> (tensor<4x8xf32> {lm.output = "y"}) attributes {plan.program = "f"} {
    %y = dist.reshard %x from <[["tp"], []], []> to <[[], ["tp"]], []> bytes 32 {dist.shardings = [#dist.sharding<[[], ["tp"]], []>]} : tensor<4x8xf32>
    return %y : tensor<4x8xf32>
  }
}
