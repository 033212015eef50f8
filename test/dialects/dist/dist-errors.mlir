// RUN: lmc-opt %s --split-input-file --verify-diagnostics

// mesh C1: each axis has a size.
// expected-error @+1 {{names 2 axes, sizes 1 (C1)}}
module @mesh_c1 attributes {dist.mesh = #dist.mesh<["dp", "tp"], [2]>} {
}

// -----

// mesh C2: axes are told apart by their names.
// expected-error @+1 {{axis "dp" is no unique name (C2)}}
module @mesh_c2 attributes {dist.mesh = #dist.mesh<["dp", "dp"], [2, 2]>} {
}

// -----

// mesh C3: an axis has ranks.
// expected-error @+1 {{axis "tp" has size 0 (C3)}}
module @mesh_c3 attributes {dist.mesh = #dist.mesh<["dp", "tp"], [2, 0]>} {
}

// -----

// sharding C1: an axis splits one dim.
// expected-error @+1 {{axis "tp" occurs twice (C1)}}
func.func private @sharding_c1(tensor<4x4xf32> {dist.sharding = #dist.sharding<[["tp"], ["tp"]], []>})

// -----

// expected-error @+1 {{axis "tp" occurs twice (C1)}}
func.func private @sharding_c1_partial(tensor<4xf32> {dist.sharding = #dist.sharding<[["tp"]], ["tp"]>})

// -----

// all_reduce C1: a sum or a maximum.
func.func @all_reduce_c1(%x: tensor<4xf32>) -> tensor<4xf32> {
  // expected-error @+1 {{kind is 'mean', expected 'sum' or 'max' (C1)}}
  %y = dist.all_reduce "mean" %x over ["tp"] : tensor<4xf32>
  return %y : tensor<4xf32>
}

// -----

// all_reduce C2: over some axis.
func.func @all_reduce_c2(%x: tensor<4xf32>) -> tensor<4xf32> {
  // expected-error @+1 {{names no axis (C2)}}
  %y = dist.all_reduce "sum" %x over [] : tensor<4xf32>
  return %y : tensor<4xf32>
}

// -----

// send C1: to another stage.
func.func @send_c1(%x: tensor<4xf32>) {
  // expected-error @+1 {{goes to its own stage (C1)}}
  dist.send %x stage 0 channel 0 : tensor<4xf32>
  return
}

// -----

// receive C1: from another stage.
func.func @receive_c1() -> tensor<4xf32> {
  // expected-error @+1 {{comes from its own stage (C1)}}
  %x = dist.receive stage 0 channel 0 : tensor<4xf32>
  return %x : tensor<4xf32>
}

// -----

// all_gather C1: over some axis.
func.func @all_gather_c1(%x: tensor<4xf32>) -> tensor<8xf32> {
  // expected-error @+1 {{names no axis (C1)}}
  %y = dist.all_gather %x dim 0 over [] : tensor<4xf32> to tensor<8xf32>
  return %y : tensor<8xf32>
}

// -----

// all_gather C2: along a dim that exists.
func.func @all_gather_c2(%x: tensor<4xf32>) -> tensor<8xf32> {
  // expected-error @+1 {{has dim 1, the tensors have 1 dims (C2)}}
  %y = dist.all_gather %x dim 1 over ["dp"] : tensor<4xf32> to tensor<8xf32>
  return %y : tensor<8xf32>
}

// -----

// all_gather C3: whole pieces in one dim.
func.func @all_gather_c3(%x: tensor<4x2xf32>) -> tensor<8x3xf32> {
  // expected-error @+1 {{not whole pieces along dim 0 (C3)}}
  %y = dist.all_gather %x dim 0 over ["dp"] : tensor<4x2xf32> to tensor<8x3xf32>
  return %y : tensor<8x3xf32>
}

// -----

// reduce_scatter C1: over some axis.
func.func @reduce_scatter_c1(%x: tensor<8xf32>) -> tensor<4xf32> {
  // expected-error @+1 {{names no axis (C1)}}
  %y = dist.reduce_scatter %x dim 0 over [] : tensor<8xf32> to tensor<4xf32>
  return %y : tensor<4xf32>
}

// -----

// reduce_scatter C2: along a dim that exists.
func.func @reduce_scatter_c2(%x: tensor<8xf32>) -> tensor<4xf32> {
  // expected-error @+1 {{has dim -1, the tensors have 1 dims (C2)}}
  %y = dist.reduce_scatter %x dim -1 over ["dp"] : tensor<8xf32> to tensor<4xf32>
  return %y : tensor<4xf32>
}

// -----

// reduce_scatter C3: whole pieces in one dim.
func.func @reduce_scatter_c3(%x: tensor<8xf32>) -> tensor<3xf32> {
  // expected-error @+1 {{not whole pieces along dim 0 (C3)}}
  %y = dist.reduce_scatter %x dim 0 over ["dp"] : tensor<8xf32> to tensor<3xf32>
  return %y : tensor<3xf32>
}

// -----

// mark C1: dims count from 0.
// expected-error @+1 {{marks dim -1 of result 0 with priority 0; none may be negative (C1)}}
func.func private @mark_c1(tensor<4xf32> {dist.marks = [#dist.mark<result 0 dim -1 over ["tp"] priority 0 from "here">]})

// -----

module @rule_c1 {
  // rule C1
  // expected-error @+1 {{is for a 'gradient', expected 'parameter', 'input' or 'activation' (C1)}}
  dist.rule "gradient" ["*"] dim "F" over ["tp"]
}

// -----

module @rule_c2 {
  // rule C2
  // expected-error @+1 {{needs a pattern and an axis (C2)}}
  dist.rule "parameter" [] dim "F" over ["tp"]
}

// -----

module @rule_c3 {
  // rule C3
  // expected-error @+1 {{names the producer 'lm.linear', but a parameter has none (C3)}}
  dist.rule "parameter" ["*"] dim "F" over ["tp"] {producer = "lm.linear"}
}

// -----

module @rule_c4 {
  // rule C4
  // expected-error @+1 {{has the priority -1; 0 is the first (C4)}}
  dist.rule "parameter" ["*"] dim "F" over ["tp"] {priority = -1 : i64}
}

// -----

func.func @all_to_all_c1(%x: tensor<4xf32>) {
  // expected-error @+1 {{names no axis (C1)}}
  %y = dist.all_to_all %x over [] : tensor<4xf32>
  return
}

// -----

module @resharded_c1 {
  // expected-error @+1 {{has a sharding of 2 dims for 'tensor<4xf32>' (C1)}}
  dist.resharded 0 in "forward" chunk 0 tensor<4xf32> from <[[]], ["tp"]> to <[[], []], []> by ["all_reduce tp"] bytes 16 of "lm.linear" for "arith.addf"
}

// -----

module @resharded_c2 {
  // expected-error @+1 {{has the negative number -1 (C2)}}
  dist.resharded 0 in "forward" chunk -1 tensor<4xf32> from <[[]], ["tp"]> to <[[]], []> by ["all_reduce tp"] bytes 16 of "lm.linear" for "arith.addf"
}

// -----

func.func @reshard_c1(%x: tensor<4xf32>) {
  // expected-error @+1 {{has a sharding of 2 dims, the tensor has 1 (C1)}}
  %y = dist.reshard %x from <[[]], []> to <[[], []], []> bytes 0 : tensor<4xf32>
  return
}

// -----

func.func @reshard_c2(%x: tensor<4xf32>) {
  // expected-error @+1 {{makes a value partial on "tp" (C2)}}
  %y = dist.reshard %x from <[[]], []> to <[[]], ["tp"]> bytes 0 : tensor<4xf32>
  return
}

// -----

// pieces C1: an axis cuts once.
// expected-error @+1 {{moments are cut by axes, each once, not by "dp" again (C1)}}
func.func private @pieces_c1(tensor<4xf32> {dist.pieces = #dist.pieces<parameters [] gradients [] moments ["dp", "dp"]>})

// -----

// pieces C2: moments are pieces of what parameters and gradients are.
// expected-error @+1 {{gradients are cut by ["dp"], moments by ["fsdp", "dp"]; these must begin with those (C2)}}
func.func private @pieces_c2(tensor<4xf32> {dist.pieces = #dist.pieces<parameters ["fsdp"] gradients ["dp"] moments ["fsdp", "dp"]>})

// -----

// bucket_rule C1: a rule is for something.
// expected-error @+2 {{needs a pattern (C1)}}
module @bucket_rule_c1 {
  dist.bucket_rule [] #dist.pieces<parameters [] gradients [] moments ["dp"]>
}
