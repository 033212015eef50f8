// RUN: lmc-opt %s --split-input-file --verify-diagnostics

// broadcast C1: dims are one increasing dim of the result per operand dim.
func.func @broadcast_c1(%x: tensor<2x3xf32>) -> tensor<2x3x4xf32> {
  // expected-error @+1 {{dims [1, 0] must be one increasing dim of the result for each of the operand's 2 dims (C1)}}
  %y = lm.broadcast %x dims [1, 0] : tensor<2x3xf32> to tensor<2x3x4xf32>
  return %y : tensor<2x3x4xf32>
}

// -----

func.func @broadcast_c1_range(%x: tensor<3xf32>) -> tensor<2x3xf32> {
  // expected-error @+1 {{dims [2] must be one increasing dim}}
  %y = lm.broadcast %x dims [2] : tensor<3xf32> to tensor<2x3xf32>
  return %y : tensor<2x3xf32>
}

// -----

// broadcast C2: a dim keeps its size.
func.func @broadcast_c2(%x: tensor<3xf32>) -> tensor<2x3xf32> {
  // expected-error @+1 {{operand dim 0 of size 3 becomes result dim 0 of size 2 (C2)}}
  %y = lm.broadcast %x dims [0] : tensor<3xf32> to tensor<2x3xf32>
  return %y : tensor<2x3xf32>
}

// -----

// reduce C1: dims increase and lie in the operand.
func.func @reduce_c1(%x: tensor<2x3xf32>) -> tensor<f32> {
  // expected-error @+1 {{dims [1, 2] must be some, increase and lie below 2 (C1)}}
  %y = lm.reduce "sum" %x dims [1, 2] : tensor<2x3xf32> to tensor<f32>
  return %y : tensor<f32>
}

// -----

// reduce C2: what is left is the operand's other dims.
func.func @reduce_c2(%x: tensor<2x3xf32>) -> tensor<3xf32> {
  // expected-error @+1 {{result has shape [3], expected [2] (C2)}}
  %y = lm.reduce "sum" %x dims [1] : tensor<2x3xf32> to tensor<3xf32>
  return %y : tensor<3xf32>
}

// -----

// reduce C3: a sum or a maximum.
func.func @reduce_c3(%x: tensor<2x3xf32>) -> tensor<2xf32> {
  // expected-error @+1 {{kind is 'mean', expected 'sum' or 'max' (C3)}}
  %y = lm.reduce "mean" %x dims [1] : tensor<2x3xf32> to tensor<2xf32>
  return %y : tensor<2xf32>
}

// -----

// contract C1: contracted dims pair up.
func.func @contract_c1(%x: tensor<2x3xf32>, %w: tensor<4x5xf32>) -> tensor<2x5xf32> {
  // expected-error @+1 {{contracts lhs dim 1 of size 3 with rhs dim 0 of size 4 (C1)}}
  %y = lm.contract %x [1], %w [0] : (tensor<2x3xf32>, tensor<4x5xf32>) -> tensor<2x5xf32>
  return %y : tensor<2x5xf32>
}

// -----

func.func @contract_c1_count(%x: tensor<2x3xf32>, %w: tensor<2x3xf32>) -> tensor<2x3xf32> {
  // expected-error @+1 {{contracts 2 dims of lhs, 1 of rhs (C1)}}
  %y = lm.contract %x [0, 1], %w [0] : (tensor<2x3xf32>, tensor<2x3xf32>) -> tensor<2x3xf32>
  return %y : tensor<2x3xf32>
}

// -----

// contract C2: an operand is a matrix without a copy.
func.func @contract_c2(%x: tensor<2x3x4xf32>, %w: tensor<3x5xf32>) -> tensor<2x4x5xf32> {
  // expected-error @+1 {{contracts dims [1] of lhs and [0] of rhs; each must be a leading or a trailing run (C2)}}
  %y = lm.contract %x [1], %w [0] : (tensor<2x3x4xf32>, tensor<3x5xf32>) -> tensor<2x4x5xf32>
  return %y : tensor<2x4x5xf32>
}

// -----

// contract C3: lhs's other dims, then rhs's.
func.func @contract_c3(%x: tensor<2x3xf32>, %w: tensor<3x5xf32>) -> tensor<5x2xf32> {
  // expected-error @+1 {{result has shape [5, 2], expected [2, 5] (C3)}}
  %y = lm.contract %x [1], %w [0] : (tensor<2x3xf32>, tensor<3x5xf32>) -> tensor<5x2xf32>
  return %y : tensor<5x2xf32>
}

// -----

// embedding C1: one row of the table per index.
func.func @embedding_c1(%t: tensor<10x4xf32>, %i: tensor<2x3xi32>) -> tensor<2x3x5xf32> {
  // expected-error @+1 {{result has shape [2, 3, 5], expected [2, 3, 4]}}
  %y = lm.embedding %t, %i : (tensor<10x4xf32>, tensor<2x3xi32>) -> tensor<2x3x5xf32>
  return %y : tensor<2x3x5xf32>
}

// -----

// reshape C1: the bytes stay.
func.func @reshape_c1(%x: tensor<2x3xf32>) -> tensor<7xf32> {
  // expected-error @+1 {{turns 6 elements into 7 (C1)}}
  %y = lm.reshape %x : tensor<2x3xf32> to tensor<7xf32>
  return %y : tensor<7xf32>
}

// -----

// slice_rows C1: the rows exist.
func.func @slice_rows_c1(%x: tensor<2x3x4xf32>) -> tensor<4x4xf32> {
  // expected-error @+1 {{takes rows [3, 7) of shape [4, 4] from [2, 3, 4] (C1)}}
  %y = lm.slice_rows %x at 3 : tensor<2x3x4xf32> to tensor<4x4xf32>
  return %y : tensor<4x4xf32>
}

// -----

func.func @slice_rows_c1_dims(%x: tensor<2x3x4xf32>) -> tensor<4x5xf32> {
  // expected-error @+1 {{takes rows [0, 4) of shape [4, 5] from [2, 3, 4] (C1)}}
  %y = lm.slice_rows %x at 0 : tensor<2x3x4xf32> to tensor<4x5xf32>
  return %y : tensor<4x5xf32>
}

// -----

// linear C1: trailing dims of the input meet leading dims of the weight.
func.func @linear_c1(%x: tensor<2x3xf32>, %w: tensor<4x5xf32>) -> tensor<2x5xf32> {
  // expected-error @+1 {{contracts 1 trailing dims of input [2, 3] with leading dims of weight [4, 5] (C1)}}
  %y = lm.linear %x, %w : (tensor<2x3xf32>, tensor<4x5xf32>) -> tensor<2x5xf32>
  return %y : tensor<2x5xf32>
}

// -----

// linear C2: one bias per column.
func.func @linear_c2(%x: tensor<2x3xf32>, %w: tensor<3x5xf32>, %b: tensor<3xf32>) -> tensor<2x5xf32> {
  // expected-error @+1 {{bias (C2) has shape [3], expected [5]}}
  %y = lm.linear %x, %w bias %b : (tensor<2x3xf32>, tensor<3x5xf32>, tensor<3xf32>) -> tensor<2x5xf32>
  return %y : tensor<2x5xf32>
}

// -----

// linear C3: rows of the input, columns of the weight.
func.func @linear_c3(%x: tensor<2x3xf32>, %w: tensor<3x5xf32>) -> tensor<2x6xf32> {
  // expected-error @+1 {{result has shape [2, 6], expected [2, 5]}}
  %y = lm.linear %x, %w : (tensor<2x3xf32>, tensor<3x5xf32>) -> tensor<2x6xf32>
  return %y : tensor<2x6xf32>
}

// -----

// layer_norm C1: weight and bias are vectors over the last dim.
func.func @layer_norm_c1(%x: tensor<2x3xf32>, %w: tensor<2xf32>) -> tensor<2x3xf32> {
  // expected-error @+1 {{weight or bias has shape [2], expected [3]}}
  %y, %m, %r = lm.layer_norm %x, %w {epsilon = 1.0e-5 : f32}
      : (tensor<2x3xf32>, tensor<2xf32>) -> (tensor<2x3xf32>, tensor<2xf32>, tensor<2xf32>)
  return %y : tensor<2x3xf32>
}

// -----

// layer_norm C2: one mean and one rstd per row.
func.func @layer_norm_c2(%x: tensor<2x3xf32>, %w: tensor<3xf32>) -> tensor<2x3xf32> {
  // expected-error @+1 {{statistic has shape [3], expected [2]}}
  %y, %m, %r = lm.layer_norm %x, %w {epsilon = 1.0e-5 : f32}
      : (tensor<2x3xf32>, tensor<3xf32>) -> (tensor<2x3xf32>, tensor<3xf32>, tensor<2xf32>)
  return %y : tensor<2x3xf32>
}

// -----

// rms_norm C1: the weight is a vector over the last dim.
func.func @rms_norm_c1(%x: tensor<2x3xf32>, %w: tensor<2xf32>) -> tensor<2x3xf32> {
  // expected-error @+1 {{weight or bias has shape [2], expected [3]}}
  %y, %r = lm.rms_norm %x, %w {epsilon = 1.0e-5 : f32}
      : (tensor<2x3xf32>, tensor<2xf32>) -> (tensor<2x3xf32>, tensor<2xf32>)
  return %y : tensor<2x3xf32>
}

// -----

// rms_norm C2: one rstd per row.
func.func @rms_norm_c2(%x: tensor<2x3xf32>, %w: tensor<3xf32>) -> tensor<2x3xf32> {
  // expected-error @+1 {{statistic has shape [3], expected [2]}}
  %y, %r = lm.rms_norm %x, %w {epsilon = 1.0e-5 : f32}
      : (tensor<2x3xf32>, tensor<3xf32>) -> (tensor<2x3xf32>, tensor<3xf32>)
  return %y : tensor<2x3xf32>
}

// -----

// rope C1: the rotated width is even and fits a head.
func.func @rope_c1(%x: tensor<1x2x3x4x8xf32>, %p: tensor<1x2xi32>, %t: tensor<16x10xf32>) -> tensor<1x2x3x4x8xf32> {
  // expected-error @+1 {{table [16, 10] must be [P, r] with r even and at most K of [1, 2, 3, 4, 8] (C1)}}
  %y = lm.rope %x, %p, %t {layout = "half", num_rotated = 3 : i64}
      : (tensor<1x2x3x4x8xf32>, tensor<1x2xi32>, tensor<16x10xf32>) -> tensor<1x2x3x4x8xf32>
  return %y : tensor<1x2x3x4x8xf32>
}

// -----

// rope C2: no more slots are rotated than there are.
func.func @rope_c2(%x: tensor<1x2x3x4x8xf32>, %p: tensor<1x2xi32>, %t: tensor<16x8xf32>) -> tensor<1x2x3x4x8xf32> {
  // expected-error @+1 {{rotates 5 of 4 slots (C2)}}
  %y = lm.rope %x, %p, %t {layout = "half", num_rotated = 5 : i64}
      : (tensor<1x2x3x4x8xf32>, tensor<1x2xi32>, tensor<16x8xf32>) -> tensor<1x2x3x4x8xf32>
  return %y : tensor<1x2x3x4x8xf32>
}

// -----

// attention C1: a query head, the key and the value at least.
func.func @attention_c1(%q: tensor<1x2x3x2x8xf32>) -> tensor<1x2x3x0x8xf32> {
  // expected-error @+1 {{qkv has shape [1, 2, 3, 2, 8], expected [B, T, G, R+2, K] with R >= 1 (C1)}}
  %o, %l = lm.attention %q {scale = 1.0 : f32}
      : (tensor<1x2x3x2x8xf32>) -> (tensor<1x2x3x0x8xf32>, tensor<1x3x0x2xf32>)
  return %o : tensor<1x2x3x0x8xf32>
}

// -----

// attention C2: the denominators are by head, then by token.
func.func @attention_c2(%q: tensor<1x2x3x4x8xf32>) -> tensor<1x2x3x2x8xf32> {
  // expected-error @+1 {{logsumexp has shape [1, 2, 3, 2], expected [1, 3, 2, 2]}}
  %o, %l = lm.attention %q {scale = 1.0 : f32}
      : (tensor<1x2x3x4x8xf32>) -> (tensor<1x2x3x2x8xf32>, tensor<1x2x3x2xf32>)
  return %o : tensor<1x2x3x2x8xf32>
}

// -----

// attention C3: without a step there are no numbers.
func.func @attention_c3(%q: tensor<1x2x3x4x8xf32>, %r: tensor<f32>, %s: tensor<i32>) -> tensor<1x2x3x2x8xf32> {
  // expected-error @+1 {{has a dropout rate, but no seed or no step (C3)}}
  %o, %l = "lm.attention"(%q, %r, %s, %s) {id = 7 : i64, scale = 1.0 : f32, operandSegmentSizes = array<i32: 1, 0, 1, 1, 1, 0>}
      : (tensor<1x2x3x4x8xf32>, tensor<f32>, tensor<i32>, tensor<i32>) -> (tensor<1x2x3x2x8xf32>, tensor<1x3x2x2xf32>)
  return %o : tensor<1x2x3x2x8xf32>
}

// -----

// attention_grad C1: a step alone drops nothing.
func.func @attention_grad_c1(%q: tensor<1x2x3x4x8xf32>, %o: tensor<1x2x3x2x8xf32>, %l: tensor<1x3x2x2xf32>, %s: tensor<i32>) -> tensor<1x2x3x4x8xf32> {
  // expected-error @+1 {{has a seed or a step, but no dropout rate (C1)}}
  %y = "lm.attention_grad"(%q, %o, %l, %o, %s) {scale = 1.0 : f32, operandSegmentSizes = array<i32: 1, 1, 1, 1, 0, 0, 0, 0, 1>}
      : (tensor<1x2x3x4x8xf32>, tensor<1x2x3x2x8xf32>, tensor<1x3x2x2xf32>, tensor<1x2x3x2x8xf32>, tensor<i32>) -> tensor<1x2x3x4x8xf32>
  return %y : tensor<1x2x3x4x8xf32>
}

// -----

// cross_entropy C1: one target, weight and loss per row of logits.
func.func @cross_entropy_c1(%x: tensor<4x10xf32>, %t: tensor<5xi32>, %w: tensor<4xf32>) -> tensor<4xf32> {
  // expected-error @+1 {{(C1) has shape [5], expected [4]}}
  %l, %s = lm.cross_entropy %x, %t, %w
      : (tensor<4x10xf32>, tensor<5xi32>, tensor<4xf32>) -> (tensor<4xf32>, tensor<4xf32>)
  return %l : tensor<4xf32>
}
