// RUN: lmc-opt %s --split-input-file --verify-diagnostics --dist-propagate-shardings | FileCheck %s

// Columns of the first layer become rows of the second: one mark is enough.
// The gradient of a parameter lies as the parameter does.
// CHECK-LABEL: @mlp
// CHECK: lm.parameter @down : tensor<6x8xf32> {{.*}}dist.sharding = #dist.sharding<{{\[\[}}"tp"], []], []>
// CHECK: lm.state @up.gradient {{.*}}dist.sharding = #dist.sharding<{{\[\[}}], ["tp"]], []>
// CHECK: lm.linear {{.*}}{dist.factors = {{\[\[}}], [], ["tp"]], dist.origins = {{\[\[}}"", "given"]], dist.shardings = [#dist.sharding<{{\[\[}}], ["tp"]], []>]}
// CHECK: lm.silu {{.*}}dist.shardings = [#dist.sharding<{{\[\[}}], ["tp"]], []>]}
// CHECK: lm.linear {{.*}}{dist.factors = {{\[\[}}], ["tp"], []], dist.shardings = [#dist.sharding<{{\[\[}}], []], []>]}
module @mlp attributes {dist.mesh = #dist.mesh<["tp"], [2]>} {
  lm.parameter @up : tensor<8x6xf32> {initialization = {kind = "zeros"}, dist.sharding = #dist.sharding<[[], ["tp"]], []>}
  lm.parameter @down : tensor<6x8xf32> {initialization = {kind = "zeros"}}
  lm.state @up.gradient "accumulator" : tensor<8x6xf32> {parameter = @up, role = "gradient"}
  func.func @f(%x: tensor<4x8xf32> {lm.input = "x"}, %up: tensor<8x6xf32> {lm.state = @up}, %down: tensor<6x8xf32> {lm.state = @down})
      -> (tensor<4x8xf32> {lm.output = "y"}) attributes {plan.program = "f"} {
    %a = lm.linear %x, %up : (tensor<4x8xf32>, tensor<8x6xf32>) -> tensor<4x6xf32>
    %b = lm.silu %a : tensor<4x6xf32>
    %y = lm.linear %b, %down : (tensor<4x6xf32>, tensor<6x8xf32>) -> tensor<4x8xf32>
    return %y : tensor<4x8xf32>
  }
}

// -----

// A loss over a sharded vocabulary becomes primitives.
// CHECK-LABEL: @primitives
// CHECK: %[[LOGITS:.*]] = lm.linear
// CHECK: lm.reduce "max" %[[LOGITS]]
// CHECK: %[[COLUMN:.*]] = lm.iota 1 {{.*}}dist.shardings = [#dist.sharding<{{\[\[}}], ["tp"]], []>]
// CHECK-NOT: lm.cross_entropy
module @primitives attributes {dist.mesh = #dist.mesh<["tp"], [4]>} {
  lm.parameter @w : tensor<8x12xf32> {initialization = {kind = "zeros"}, dist.sharding = #dist.sharding<[[], ["tp"]], []>}
  func.func @f(%x: tensor<4x8xf32> {lm.input = "x"}, %w: tensor<8x12xf32> {lm.state = @w}, %t: tensor<4xi32> {lm.input = "t"}, %s: tensor<4xf32> {lm.input = "s"})
      -> (tensor<4xf32> {lm.output = "loss"}) attributes {plan.program = "f"} {
    %a = lm.linear %x, %w : (tensor<4x8xf32>, tensor<8x12xf32>) -> tensor<4x12xf32>
    %l, %e = lm.cross_entropy %a, %t, %s : (tensor<4x12xf32>, tensor<4xi32>, tensor<4xf32>) -> (tensor<4xf32>, tensor<4xf32>)
    return %l : tensor<4xf32>
  }
}

// -----

// Without a mesh nothing has a sharding.
// CHECK-LABEL: @no_mesh
// CHECK-NOT: dist.
module @no_mesh {
  func.func @f(%x: tensor<4xf32> {lm.input = "x"}) attributes {plan.program = "f"} {
    return
  }
}

// -----

// What is received lies as what was sent on its channel.
// CHECK-LABEL: @stages
// CHECK: func.func @b
// CHECK: dist.receive {{.*}}dist.shardings = [#dist.sharding<{{\[\[}}"dp"], []], []>]}
module @stages attributes {dist.mesh = #dist.mesh<["pp", "dp"], [2, 2]>} {
  func.func @a(%x: tensor<4x8xf32> {lm.input = "x", dist.sharding = #dist.sharding<[["dp"], []], []>}) attributes {plan.program = "a"} {
    dist.send %x stage 1 channel 3 : tensor<4x8xf32>
    return
  }
  func.func @b() -> (tensor<4x8xf32> {lm.output = "y"}) attributes {plan.program = "b"} {
    %x = dist.receive stage -1 channel 3 : tensor<4x8xf32>
    return %x : tensor<4x8xf32>
  }
}

// -----

// Marks of a later priority get what is left: rows of %x would take "tp" from
// the columns of %w, so that the linear stays split by columns while the norm
// before it is split by rows.
// CHECK-LABEL: @rounds
// CHECK: lm.rms_norm {{.*}}dist.origins = {{\[\[}}"sp:7", ""], ["sp:7"]], dist.shardings = [#dist.sharding<{{\[\[}}"tp"], []], []>
// CHECK: lm.linear {{.*}}{dist.factors = {{\[\[}}], [], ["tp"]], dist.origins = {{\[\[}}"", "sp:3"]], dist.shardings = [#dist.sharding<{{\[\[}}], ["tp"]], []>]}
// CHECK: lm.linear {{.*}}{dist.factors = {{\[\[}}], ["tp"], []], dist.origins = {{\[\[}}"sp:7", ""]], dist.shardings = [#dist.sharding<{{\[\[}}"tp"], []], []>]}
// CHECK: arith.addf {{.*}}dist.shardings = [#dist.sharding<{{\[\[}}"tp"], []], []>]
module @rounds attributes {dist.mesh = #dist.mesh<["tp"], [2]>} {
  func.func @f(%x: tensor<4x8xf32> {lm.input = "x", dist.closed}, %n: tensor<8xf32> {lm.input = "n"},
      %w: tensor<8x6xf32> {lm.input = "w", dist.marks = [#dist.mark<result 0 dim 1 over ["tp"] priority 0 from "sp:3">]}, %v: tensor<6x8xf32> {lm.input = "v"})
      -> (tensor<4x8xf32> {lm.output = "y"}) attributes {plan.program = "f"} {
    %a, %r = lm.rms_norm %x, %n {epsilon = 1.0e-5 : f32, dist.marks = [#dist.mark<result 0 dim 0 over ["tp"] priority 1 from "sp:7">]} : (tensor<4x8xf32>, tensor<8xf32>) -> (tensor<4x8xf32>, tensor<4xf32>)
    %b = lm.linear %a, %w : (tensor<4x8xf32>, tensor<8x6xf32>) -> tensor<4x6xf32>
    %c = lm.linear %b, %v : (tensor<4x6xf32>, tensor<6x8xf32>) -> tensor<4x8xf32>
    %y = arith.addf %a, %c : tensor<4x8xf32>
    return %y : tensor<4x8xf32>
  }
}

// -----

// An axis that one of two tied values has on one dim and the other on another
// stays with the state, and with what is sent: it cannot split both.
// CHECK-LABEL: @tied
// CHECK: lm.parameter @w {{.*}}dist.sharding = #dist.sharding<{{\[\[}}"tp"], []], []>
// CHECK: func.func @a(%{{.*}}: tensor<4x8xf32> {dist.sharding = #dist.sharding<{{\[\[}}"tp"], []], []>
// CHECK: dist.receive {{.*}}dist.shardings = [#dist.sharding<{{\[\[}}"tp"], []], []>]}
module @tied attributes {dist.mesh = #dist.mesh<["pp", "tp"], [2, 2]>} {
  lm.parameter @w : tensor<4x8xf32> {initialization = {kind = "zeros"}, dist.marks = [#dist.mark<result 0 dim 0 over ["tp"] priority 0 from "here">]}
  func.func @a(%w: tensor<4x8xf32> {lm.state = @w, dist.sharding = #dist.sharding<[[], ["tp"]], []>}) attributes {plan.program = "a"} {
    dist.send %w stage 1 channel 3 : tensor<4x8xf32>
    return
  }
  func.func @b() -> (tensor<4x8xf32> {lm.output = "y"}) attributes {plan.program = "b"} {
    %x = dist.receive stage -1 channel 3 {dist.marks = [#dist.mark<result 0 dim 1 over ["tp"] priority 0 from "here">]} : tensor<4x8xf32>
    return %x : tensor<4x8xf32>
  }
}
