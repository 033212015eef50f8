// RUN: lmc-opt %s --split-input-file --dist-propagate-shardings --dist-insert-reshards --verify-sharded --dist-partition | FileCheck %s

// A product over a sharded dim is partial, and summed once where it is used.
// CHECK-LABEL: @mlp
// CHECK: func.func @f(%[[X:.*]]: tensor<4x8xf32> {{.*}}, %[[UP:.*]]: tensor<8x3xf32> {{.*}}, %[[DOWN:.*]]: tensor<3x8xf32>
// CHECK: %[[A:.*]] = lm.linear %[[X]], %[[UP]] : {{.*}} -> tensor<4x3xf32>
// CHECK: %[[B:.*]] = lm.silu %[[A]] : tensor<4x3xf32>
// CHECK: %[[PART:.*]] = lm.linear %[[B]], %[[DOWN]]
// CHECK: %[[Y:.*]] = dist.all_reduce "sum" %[[PART]] over ["tp"]
// CHECK-NOT: dist.all_reduce
// CHECK: return %[[Y]]
module @mlp attributes {dist.mesh = #dist.mesh<["tp"], [2]>} {
  lm.parameter @up : tensor<8x6xf32> {initialization = {kind = "zeros"}, dist.sharding = #dist.sharding<[[], ["tp"]], []>}
  lm.parameter @down : tensor<6x8xf32> {initialization = {kind = "zeros"}}
  func.func @f(%x: tensor<4x8xf32> {lm.input = "x"}, %up: tensor<8x6xf32> {lm.state = @up}, %down: tensor<6x8xf32> {lm.state = @down})
      -> (tensor<4x8xf32> {lm.output = "y"}) attributes {plan.program = "f"} {
    %a = lm.linear %x, %up : (tensor<4x8xf32>, tensor<8x6xf32>) -> tensor<4x6xf32>
    %b = lm.silu %a : tensor<4x6xf32>
    %y = lm.linear %b, %down : (tensor<4x6xf32>, tensor<6x8xf32>) -> tensor<4x8xf32>
    return %y : tensor<4x8xf32>
  }
}

// -----

// A sum passes through an addition: one all-reduce for both.
// CHECK-LABEL: @linear
// CHECK: %[[A:.*]] = lm.contract
// CHECK: %[[B:.*]] = lm.contract
// CHECK: %[[C:.*]] = arith.addf %[[A]], %[[B]]
// CHECK: dist.all_reduce "sum" %[[C]] over ["tp"]
// CHECK-NOT: dist.all_reduce
// CHECK: return
// What the reshard was stays in the module: the term that completes the sum, and
// who takes it.
// CHECK: dist.resharded 0 in "f" chunk 0 tensor<4x8xf32> from <{{\[\[}}], []], ["tp"]> to <{{\[\[}}], []], []> by ["all_reduce tp"] bytes 128 of "lm.contract" for "func.return"
// CHECK-NOT: dist.resharded
module @linear attributes {dist.mesh = #dist.mesh<["tp"], [2]>} {
  func.func @f(%x: tensor<4x6xf32> {dist.sharding = #dist.sharding<[[], ["tp"]], []>, lm.input = "x"}, %w: tensor<6x8xf32> {lm.input = "w"})
      -> (tensor<4x8xf32> {lm.output = "y"}) attributes {plan.program = "f"} {
    %a = lm.contract %x [1], %w [0] : (tensor<4x6xf32>, tensor<6x8xf32>) -> tensor<4x8xf32>
    %b = lm.contract %x [1], %w [0] : (tensor<4x6xf32>, tensor<6x8xf32>) -> tensor<4x8xf32>
    %y = arith.addf %a, %b : tensor<4x8xf32>
    return %y : tensor<4x8xf32>
  }
}

// -----

// A gradient stays partial on dp; its accumulator says so.
// CHECK-LABEL: @gradient
// CHECK: lm.state @w.gradient {{.*}}dist.sharding = #dist.sharding<{{\[}}[], []], ["dp"]>
// CHECK: func.func @step
// CHECK-NOT: dist.all_reduce
// CHECK: return
module @gradient attributes {dist.mesh = #dist.mesh<["dp"], [2]>} {
  lm.parameter @w : tensor<8x6xf32> {initialization = {kind = "zeros"}}
  lm.state @w.gradient "accumulator" : tensor<8x6xf32> {dist.sharding = #dist.sharding<[[], []], []>, parameter = @w, role = "gradient"}
  func.func @step(%x: tensor<4x8xf32> {dist.sharding = #dist.sharding<[["dp"], []], []>, lm.input = "x"}, %d: tensor<4x6xf32> {lm.input = "d"},
      %a: tensor<8x6xf32> {lm.state = @w.gradient}) -> (tensor<8x6xf32> {lm.state = @w.gradient}) attributes {plan.program = "step"} {
    %g = lm.contract %x [0], %d [0] : (tensor<4x8xf32>, tensor<4x6xf32>) -> tensor<8x6xf32>
    %s = lm.accumulate %a, %g : tensor<8x6xf32>
    return %s : tensor<8x6xf32>
  }
}

// -----

// Rows of a table that lie elsewhere: indices count from the rank's first row
// and miss all others, and the sum over ranks finds each row once.
// CHECK-LABEL: @embedding
// CHECK: %[[SHIFTED:.*]] = arith.subi
// CHECK: %[[PART:.*]] = lm.embedding %{{.*}}, %[[SHIFTED]] : (tensor<5x8xf32>
// CHECK: dist.all_reduce "sum" %[[PART]] over ["tp"]
module @embedding attributes {dist.mesh = #dist.mesh<["tp"], [2]>} {
  func.func @f(%t: tensor<10x8xf32> {dist.sharding = #dist.sharding<[["tp"], []], []>, lm.input = "t"}, %i: tensor<4xi32> {lm.input = "i"})
      -> (tensor<4x8xf32> {lm.output = "y"}) attributes {plan.program = "f"} {
    %y = lm.embedding %t, %i : (tensor<10x8xf32>, tensor<4xi32>) -> tensor<4x8xf32>
    return %y : tensor<4x8xf32>
  }
}

// -----

// What goes to another stage is whole.
// CHECK-LABEL: @stages
// CHECK: %[[PART:.*]] = lm.reduce "sum"
// CHECK: %[[WHOLE:.*]] = dist.all_reduce "sum" %[[PART]] over ["tp"]
// CHECK: dist.send %[[WHOLE]] stage 1 channel 0 : tensor<f32>
module @stages attributes {dist.mesh = #dist.mesh<["pp", "tp"], [2, 2]>} {
  func.func @f(%x: tensor<8xf32> {lm.input = "x", dist.sharding = #dist.sharding<[["tp"]], []>}) attributes {plan.program = "f"} {
    %part = lm.reduce "sum" %x dims [0] : tensor<8xf32> to tensor<f32>
    dist.send %part stage 1 channel 0 : tensor<f32>
    return
  }
}

// -----

// Where tp splits the heads, an attention that draws knows of how many it has
// a part, and of how many samples: as many as its data rank.
// CHECK-LABEL: @heads
// CHECK: lm.attention {{.*}}axes = {{\[}}["dp"], ["tp"], [], []], {{.*}}whole = array<i64: 1, 6, 2, 8>} : (tensor<1x8x3x4x5xf32>
// CHECK: lm.attention %{{[a-z0-9]+}} {scale = 5.000000e-01 : f32} : (tensor<1x8x3x4x5xf32>
module @heads attributes {dist.mesh = #dist.mesh<["dp", "tp"], [2, 2]>} {
  func.func @f(%q: tensor<2x8x6x4x5xf32> {dist.sharding = #dist.sharding<[["dp"], [], ["tp"], [], []], []>, lm.input = "q"},
      %r: tensor<f32> {lm.scalar = "dropout"}, %s: tensor<i32> {lm.scalar = "step"})
      -> (tensor<2x8x6x2x5xf32> {lm.output = "a"}, tensor<2x8x6x2x5xf32> {lm.output = "b"}) attributes {plan.program = "f"} {
    %a, %la = lm.attention %q dropout %r, %s, %s, %s {id = 7 : i64, scale = 0.5 : f32}
        : (tensor<2x8x6x4x5xf32>, tensor<f32>, tensor<i32>, tensor<i32>, tensor<i32>) -> (tensor<2x8x6x2x5xf32>, tensor<2x6x2x8xf32>)
    %b, %lb = lm.attention %q {scale = 0.5 : f32} : (tensor<2x8x6x4x5xf32>) -> (tensor<2x8x6x2x5xf32>, tensor<2x6x2x8xf32>)
    return %a, %b : tensor<2x8x6x2x5xf32>, tensor<2x8x6x2x5xf32>
  }
}

// -----

// An index along a sharded dim counts from the first of all ranks. One along
// a dim that is whole stays.
// CHECK-LABEL: @index
// CHECK: %[[INDEX:.*]] = lm.iota 1 : tensor<4x3xi32>
// CHECK: %[[FIRST:.*]] = arith.muli %[[COORDINATE:.*]], %{{.*}} : tensor<i32>
// CHECK: %[[ALL:.*]] = lm.broadcast %[[FIRST]]
// CHECK: %[[SHIFTED:.*]] = arith.addi %[[INDEX]], %[[ALL]]
// CHECK: %[[ROW:.*]] = lm.iota 0 : tensor<4x3xi32>
// CHECK: arith.subi %[[SHIFTED]], %[[ROW]]
module @index attributes {dist.mesh = #dist.mesh<["tp"], [4]>} {
  func.func @f(%x: tensor<4x12xi32> {dist.sharding = #dist.sharding<[[], ["tp"]], []>, lm.input = "x"})
      -> (tensor<4x12xi32> {lm.output = "y"}) attributes {plan.program = "f"} {
    %i = lm.iota 1 : tensor<4x12xi32>
    %r = lm.iota 0 : tensor<4x12xi32>
    %d = arith.subi %i, %r : tensor<4x12xi32>
    %y = arith.addi %d, %x : tensor<4x12xi32>
    return %y : tensor<4x12xi32>
  }
}
