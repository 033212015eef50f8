// RUN: lmc-opt %s --split-input-file --dist-mark-shardings=sizes=1,2,1,1,1,2 | FileCheck %s
// RUN: lmc-opt %s --split-input-file --dist-mark-shardings=sizes=1,1,1,1,1,1 | FileCheck %s --check-prefix=ONE
// RUN: not lmc-opt %s --dist-mark-shardings=sizes=1,2 2>&1 | FileCheck %s --check-prefix=COUNT
// RUN: not lmc-opt %s --dist-mark-shardings=sizes=1,0,1,1,1,1 2>&1 | FileCheck %s --check-prefix=ZERO

// Samples go over dp; over tp the vocabulary, the key/value heads and the
// inner width. A norm is on every rank, a scalar has no samples.
// CHECK-LABEL: module attributes {dist.mesh = #dist.mesh<["pp", "dp", "fsdp", "cp", "ep", "tp"], [1, 2, 1, 1, 1, 2]>}
// CHECK: @wte.weight : tensor<10x8xf32> {dist.sharding = #dist.sharding<{{\[\[}}"tp"], []], []>
// CHECK: @h.0.attn.qkv.weight : tensor<8x2x3x4xf32> {dist.sharding = #dist.sharding<{{\[\[}}], ["tp"], [], []], []>
// CHECK: @h.0.mlp.up.weight : tensor<8x32xf32> {dist.sharding = #dist.sharding<{{\[\[}}], ["tp"]], []>
// CHECK: @h.0.norm1.weight : tensor<8xf32> {initialization
// CHECK: @forward(%{{.*}}: tensor<4x8xi32> {dist.sharding = #dist.sharding<{{\[\[}}"dp"], []], []>, lm.input = "tokens"}, %{{.*}}: tensor<i32> {lm.input = "step"})

// A mesh of one rank leaves all as it is.
// ONE-NOT: dist.

// COUNT: needs 6 axis sizes, has 2
// ZERO: axis "dp" has size 0 (C3)
lm.parameter @wte.weight : tensor<10x8xf32> {initialization = {kind = "zeros"}}
lm.parameter @h.0.attn.qkv.weight : tensor<8x2x3x4xf32> {initialization = {kind = "zeros"}}
lm.parameter @h.0.mlp.up.weight : tensor<8x32xf32> {initialization = {kind = "zeros"}}
lm.parameter @h.0.norm1.weight : tensor<8xf32> {initialization = {kind = "zeros"}}
func.func @forward(%x: tensor<4x8xi32> {lm.input = "tokens"}, %s: tensor<i32> {lm.input = "step"}) {
  return
}
