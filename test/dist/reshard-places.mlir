// RUN: lmc-opt %s --dist-propagate-shardings --dist-insert-reshards --mlir-print-debuginfo --mlir-print-local-scope | FileCheck %s --check-prefix=SHARD
// RUN: lmc-opt %s --dist-propagate-shardings --dist-insert-reshards --dist-partition --mlir-print-debuginfo --mlir-print-local-scope | FileCheck %s --check-prefix=LOCAL

// A sum that additions pass on is taken in the layer whose term completes it,
// not where the stream goes through: a linear without bias has no other
// operation behind it. What becomes of the reshard keeps the place and the
// reshard's number; the note has the place of who takes the sum as well.
// SHARD: arith.addf {{.*}} loc("stream")
// SHARD: dist.reshard {{.*}} loc("h.1.out")
// LOCAL: dist.all_reduce {{.*}} loc(fused<{dist.resharded = 0 : i64}>["h.1.out"])
// LOCAL: dist.resharded 0 {{.*}} of "lm.contract" for "math.exp" loc(callsite("h.1.out" at "head"))
module attributes {dist.mesh = #dist.mesh<["tp"], [2]>} {
  func.func @f(%x: tensor<4x6xf32> {dist.sharding = #dist.sharding<[[], ["tp"]], []>, lm.input = "x"}, %w: tensor<6x8xf32> {lm.input = "w"})
      -> (tensor<4x8xf32> {lm.output = "y"}) attributes {plan.program = "f"} {
    %a = lm.contract %x [1], %w [0] : (tensor<4x6xf32>, tensor<6x8xf32>) -> tensor<4x8xf32> loc("h.0.out")
    %b = lm.contract %x [1], %w [0] : (tensor<4x6xf32>, tensor<6x8xf32>) -> tensor<4x8xf32> loc("h.1.out")
    %s = arith.addf %a, %b : tensor<4x8xf32> loc("stream")
    %y = math.exp %s : tensor<4x8xf32> loc("head")
    return %y : tensor<4x8xf32>
  }
}
