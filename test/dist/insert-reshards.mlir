// RUN: lmc-opt %s --split-input-file --verify-diagnostics --dist-propagate-shardings --dist-insert-reshards --verify-sharded | FileCheck %s

// Tokens split between the layers that tp splits: what is split by tokens is
// gathered once for both its users, partial sums are scattered over tokens, and
// two of them that are added once only. Prices: 4 x 8 floats, of which another
// rank has half.
// CHECK-LABEL: @tokens
// CHECK: %[[X:.*]] = dist.reshard %arg0 from <{{\[\[}}], []], []> to <{{\[\[}}"tp"], []], []> bytes 0
// CHECK: %[[H:.*]], %{{.*}} = lm.rms_norm %[[X]], {{.*}}dist.shardings = [#dist.sharding<{{\[\[}}"tp"], []], []>
// CHECK: %[[WHOLE:.*]] = dist.reshard %[[H]] from <{{\[\[}}"tp"], []], []> to <{{\[\[}}], []], []> bytes 64
// CHECK: %[[A:.*]] = lm.linear %[[WHOLE]]
// CHECK: %[[B:.*]] = lm.linear %[[WHOLE]]
// CHECK: %[[C:.*]] = lm.linear %[[A]], {{.*}}dist.shardings = [#dist.sharding<{{\[\[}}], []], ["tp"]>]
// CHECK: %[[D:.*]] = lm.linear %[[B]]
// CHECK: %[[SUM:.*]] = arith.addf %[[C]], %[[D]] {{.*}}dist.shardings = [#dist.sharding<{{\[\[}}], []], ["tp"]>]
// CHECK: %[[MINE:.*]] = dist.reshard %[[SUM]] from <{{\[\[}}], []], ["tp"]> to <{{\[\[}}"tp"], []], []> bytes 64
// CHECK: arith.addf %[[H]], %[[MINE]]
// CHECK-NOT: dist.reshard
// CHECK: return
module @tokens attributes {dist.mesh = #dist.mesh<["tp"], [2]>} {
  func.func @f(%x: tensor<4x8xf32> {lm.input = "x", dist.closed}, %n: tensor<8xf32> {lm.input = "n"},
      %w: tensor<8x6xf32> {lm.input = "w", dist.sharding = #dist.sharding<[[], ["tp"]], []>}, %v: tensor<6x8xf32> {lm.input = "v", dist.sharding = #dist.sharding<[["tp"], []], []>})
      -> (tensor<4x8xf32> {lm.output = "y"}) attributes {plan.program = "f"} {
    %h, %r = lm.rms_norm %x, %n {epsilon = 1.0e-5 : f32, dist.marks = [#dist.mark<result 0 dim 0 over ["tp"] priority 1 from "here">]} : (tensor<4x8xf32>, tensor<8xf32>) -> (tensor<4x8xf32>, tensor<4xf32>)
    %a = lm.linear %h, %w : (tensor<4x8xf32>, tensor<8x6xf32>) -> tensor<4x6xf32>
    %b = lm.linear %h, %w : (tensor<4x8xf32>, tensor<8x6xf32>) -> tensor<4x6xf32>
    %c = lm.linear %a, %v : (tensor<4x6xf32>, tensor<6x8xf32>) -> tensor<4x8xf32>
    %d = lm.linear %b, %v : (tensor<4x6xf32>, tensor<6x8xf32>) -> tensor<4x8xf32>
    %s = arith.addf %c, %d : tensor<4x8xf32>
    %y = arith.addf %h, %s : tensor<4x8xf32>
    return %y : tensor<4x8xf32>
  }
}

// -----

// Two marks that an operation cannot have at once: the first operand's stays.
// CHECK-LABEL: @conflict
// CHECK: %[[Z:.*]] = dist.reshard %{{.*}} from <{{\[\[}}"dp"]], []> to <{{\[\[}}"tp"]], []> bytes 16
// CHECK: arith.addf %{{.*}}, %[[Z]]
module @conflict attributes {dist.mesh = #dist.mesh<["dp", "tp"], [2, 2]>} {
  func.func @f(%x: tensor<8xf32> {dist.sharding = #dist.sharding<[["tp"]], []>, lm.input = "x"},
               %z: tensor<8xf32> {dist.sharding = #dist.sharding<[["dp"]], []>, lm.input = "z"})
      -> (tensor<8xf32> {lm.output = "y"}) attributes {plan.program = "f"} {
    %y = arith.addf %x, %z : tensor<8xf32>
    return %y : tensor<8xf32>
  }
}

// -----

// An accumulator stays partial on the axes over which its terms are sums; its
// sharding says so.
// CHECK-LABEL: @accumulator
// CHECK: lm.state @w.gradient {{.*}}dist.sharding = #dist.sharding<{{\[\[}}], []], ["dp"]>
// CHECK: lm.accumulate
// CHECK-NOT: dist.reshard
// CHECK: return
module @accumulator attributes {dist.mesh = #dist.mesh<["dp"], [2]>} {
  lm.parameter @w : tensor<8x6xf32> {initialization = {kind = "zeros"}}
  lm.state @w.gradient "accumulator" : tensor<8x6xf32> {parameter = @w, role = "gradient"}
  func.func @step(%x: tensor<4x8xf32> {dist.sharding = #dist.sharding<[["dp"], []], []>, lm.input = "x"}, %d: tensor<4x6xf32> {lm.input = "d"},
      %a: tensor<8x6xf32> {lm.state = @w.gradient}) -> (tensor<8x6xf32> {lm.state = @w.gradient}) attributes {plan.program = "step"} {
    %g = lm.contract %x [0], %d [0] : (tensor<4x8xf32>, tensor<4x6xf32>) -> tensor<8x6xf32>
    %s = lm.accumulate %a, %g : tensor<8x6xf32>
    return %s : tensor<8x6xf32>
  }
}

// -----

// What is added to an accumulator comes to where it lies: of the second product,
// a sum over both axes, each rank of tp takes its rows, still partial on dp.
// CHECK-LABEL: @join
// CHECK: lm.state @w.gradient {{.*}}dist.sharding = #dist.sharding<{{\[\[}}"tp"], []], ["dp"]>
// CHECK: %[[S:.*]] = lm.accumulate
// CHECK: %[[H:.*]] = lm.contract
// CHECK: %[[MINE:.*]] = dist.reshard %[[H]] from <{{\[\[}}], []], ["dp", "tp"]> to <{{\[\[}}"tp"], []], ["dp"]> bytes 96
// CHECK: arith.addf %[[S]], %[[MINE]] {{.*}}dist.shardings = [#dist.sharding<{{\[\[}}"tp"], []], ["dp"]>]
module @join attributes {dist.mesh = #dist.mesh<["dp", "tp"], [2, 2]>} {
  lm.parameter @w : tensor<8x6xf32> {initialization = {kind = "zeros"}, dist.sharding = #dist.sharding<[["tp"], []], []>}
  lm.state @w.gradient "accumulator" : tensor<8x6xf32> {parameter = @w, role = "gradient"}
  func.func @step(%x: tensor<4x8xf32> {dist.sharding = #dist.sharding<[["dp"], ["tp"]], []>, lm.input = "x", dist.closed}, %d: tensor<4x6xf32> {lm.input = "d"},
      %y: tensor<4x8xf32> {dist.sharding = #dist.sharding<[["dp", "tp"], []], []>, lm.input = "y", dist.closed}, %e: tensor<4x6xf32> {dist.sharding = #dist.sharding<[["dp", "tp"], []], []>, lm.input = "e", dist.closed},
      %a: tensor<8x6xf32> {lm.state = @w.gradient}) -> (tensor<8x6xf32> {lm.state = @w.gradient}) attributes {plan.program = "step"} {
    %g = lm.contract %x [0], %d [0] : (tensor<4x8xf32>, tensor<4x6xf32>) -> tensor<8x6xf32>
    %s = lm.accumulate %a, %g : tensor<8x6xf32>
    %h = lm.contract %y [0], %e [0] : (tensor<4x8xf32>, tensor<4x6xf32>) -> tensor<8x6xf32>
    %t = arith.addf %s, %h : tensor<8x6xf32>
    return %t : tensor<8x6xf32>
  }
}

// -----

// What was accumulated in other micro-batches cannot be summed and added to: of
// two gradients, one partial, the other whole, the first is summed before.
// CHECK-LABEL: @mixed
// CHECK: %[[G:.*]] = lm.contract
// CHECK: %[[SUM:.*]] = dist.reshard %[[G]] from <{{\[\[}}], []], ["dp"]> to <{{\[\[}}], []], []>
// CHECK: %[[S:.*]] = lm.accumulate %{{.*}}, %[[SUM]]
// CHECK: arith.addf %[[S]], %{{.*}}dist.shardings = [#dist.sharding<{{\[\[}}], []], []>]
module @mixed attributes {dist.mesh = #dist.mesh<["dp"], [2]>} {
  lm.parameter @w : tensor<8x6xf32> {initialization = {kind = "zeros"}}
  lm.state @w.gradient "accumulator" : tensor<8x6xf32> {parameter = @w, role = "gradient"}
  func.func @step(%x: tensor<4x8xf32> {dist.sharding = #dist.sharding<[["dp"], []], []>, lm.input = "x"}, %d: tensor<4x6xf32> {lm.input = "d"},
      %e: tensor<8x6xf32> {lm.input = "e"}, %a: tensor<8x6xf32> {lm.state = @w.gradient}) -> (tensor<8x6xf32> {lm.state = @w.gradient}) attributes {plan.program = "step"} {
    %g = lm.contract %x [0], %d [0] : (tensor<4x8xf32>, tensor<4x6xf32>) -> tensor<8x6xf32>
    %s = lm.accumulate %a, %g : tensor<8x6xf32>
    %t = arith.addf %s, %e : tensor<8x6xf32>
    return %t : tensor<8x6xf32>
  }
}

// -----

// A third one comes too late for that.
module @third attributes {dist.mesh = #dist.mesh<["dp"], [2]>} {
  lm.parameter @w : tensor<8x6xf32> {initialization = {kind = "zeros"}}
  lm.state @w.gradient "accumulator" : tensor<8x6xf32> {parameter = @w, role = "gradient"}
  func.func @step(%x: tensor<4x8xf32> {dist.sharding = #dist.sharding<[["dp"], []], []>, lm.input = "x"}, %d: tensor<4x6xf32> {lm.input = "d"},
      %e: tensor<8x6xf32> {lm.input = "e"}, %a: tensor<8x6xf32> {lm.state = @w.gradient}) -> (tensor<8x6xf32> {lm.state = @w.gradient}) attributes {plan.program = "step"} {
    %g = lm.contract %x [0], %d [0] : (tensor<4x8xf32>, tensor<4x6xf32>) -> tensor<8x6xf32>
    %s = lm.accumulate %a, %g : tensor<8x6xf32>
    %t = arith.addf %s, %g : tensor<8x6xf32>
    // expected-error @+2 {{adds gradients that lie otherwise, #dist.sharding<[[], []], ["dp"]> and #dist.sharding<[[], []], []>, to one accumulator}}
    // expected-note @+1 {{help: a rule that splits the uses of this parameter alike}}
    %u = arith.addf %t, %e : tensor<8x6xf32>
    return %u : tensor<8x6xf32>
  }
}

// -----

// Unequal parts do not move.
module @unequal attributes {dist.mesh = #dist.mesh<["tp"], [2]>} {
  func.func @f(%x: tensor<7x4xf32> {dist.sharding = #dist.sharding<[["tp"], []], []>, lm.input = "x"},
               %z: tensor<7x4xf32> {dist.sharding = #dist.sharding<[[], ["tp"]], []>, lm.input = "z"})
      -> (tensor<7x4xf32> {lm.output = "y"}) attributes {plan.program = "f"} {
    // expected-error @+3 {{a dim of size 7 cannot be split into 2 equal parts, and tensor<7x4xf32> is made as}}
    // expected-note @+2 {{the rule at given has a part in it}}
    // expected-note @+1 {{help: a size that 2 divides, such as 8, or rules by which the dim stays whole}}
    %y = arith.addf %x, %z : tensor<7x4xf32>
    return %y : tensor<7x4xf32>
  }
}

// -----

// What no factor splits is computed whole: queries of one head, here marked, are
// shared out behind the attention.
// CHECK-LABEL: @queries
// CHECK: %[[Y:.*]], %{{.*}} = lm.attention {{.*}}dist.shardings = [#dist.sharding<{{\[\[}}], [], [], [], []], []>, #dist.sharding<{{\[\[}}], [], [], []], []>]
// CHECK: dist.reshard %[[Y]] {{.*}}to <{{\[\[}}], [], [], ["tp"], []], []> bytes 0
module @queries attributes {dist.mesh = #dist.mesh<["tp"], [2]>} {
  func.func @f(%x: tensor<1x4x2x4x8xf32> {lm.input = "x", dist.closed}) -> (tensor<1x4x2x2x8xf32> {lm.output = "y"}) attributes {plan.program = "f"} {
    %y, %l = lm.attention %x {scale = 1.0 : f32, dist.marks = [#dist.mark<result 0 dim 3 over ["tp"] priority 0 from "here">, #dist.mark<result 1 dim 2 over ["tp"] priority 0 from "here">]} : (tensor<1x4x2x4x8xf32>) -> (tensor<1x4x2x2x8xf32>, tensor<1x2x2x4xf32>)
    return %y : tensor<1x4x2x2x8xf32>
  }
}

// -----

// Two programs that add to one accumulator: where one of them has the whole, the
// other adds the whole, too.
// CHECK-LABEL: @two
// CHECK: lm.state @sum {{.*}}dist.sharding = #dist.sharding<[], []>
// CHECK: func.func @f
// CHECK: %[[WHOLE:.*]] = dist.reshard %{{.*}} from <[], ["tp"]> to <[], []>
// CHECK: lm.accumulate %{{.*}}, %[[WHOLE]] {{.*}}dist.shardings = [#dist.sharding<[], []>]
// CHECK: func.func @g
// CHECK-NOT: dist.reshard
module @two attributes {dist.mesh = #dist.mesh<["tp"], [2]>} {
  lm.state @sum "accumulator" : tensor<f32>
  func.func @f(%s: tensor<f32> {lm.state = @sum}, %x: tensor<4xf32> {dist.sharding = #dist.sharding<[["tp"]], []>, lm.input = "x"}) -> (tensor<f32> {lm.state = @sum}) attributes {plan.program = "f"} {
    %r = lm.reduce "sum" %x dims [0] : tensor<4xf32> to tensor<f32>
    %a = lm.accumulate %s, %r : tensor<f32>
    return %a : tensor<f32>
  }
  func.func @g(%s: tensor<f32> {lm.state = @sum}, %x: tensor<4xf32> {lm.input = "x"}) -> (tensor<f32> {lm.state = @sum}) attributes {plan.program = "g"} {
    %r = lm.reduce "sum" %x dims [0] : tensor<4xf32> to tensor<f32>
    %a = lm.accumulate %s, %r : tensor<f32>
    return %a : tensor<f32>
  }
}
