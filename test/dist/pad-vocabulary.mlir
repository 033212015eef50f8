// RUN: lmc-opt %s --split-input-file --verify-diagnostics --dist-pad-vocabulary=multiple=16 | FileCheck %s

// A tied table of 10 rows, a bias and their logits become 16 wide, the loss
// sees 10 of them. Width and tokens of 10 are no vocabulary.
// CHECK: lm.parameter @bias : tensor<16xf32> {{.*}}unpadded = array<i64: 10>
// CHECK: lm.parameter @scale : tensor<10xf32>
// CHECK-NOT: unpadded
// CHECK: lm.parameter @table : tensor<16x10xf32> {{.*}}unpadded = array<i64: 10, 10>
// CHECK-LABEL: func.func @forward
// CHECK-SAME: %[[TOKENS:.*]]: tensor<10xi32> {lm.input = "tokens"}, %[[TABLE:.*]]: tensor<16x10xf32> {lm.state = @table}, %[[SCALE:.*]]: tensor<10xf32> {lm.state = @scale}, %[[BIAS:.*]]: tensor<16xf32> {lm.state = @bias}
// CHECK: %[[X:.*]] = lm.embedding %[[TABLE]], %[[TOKENS]] : (tensor<16x10xf32>, tensor<10xi32>) -> tensor<10x10xf32>
// CHECK: %[[Y:.*]] = arith.mulf %[[X]]
// CHECK: %[[PRODUCT:.*]] = lm.contract %[[Y]] [1], %[[TABLE]] [1] : (tensor<10x10xf32>, tensor<16x10xf32>) -> tensor<10x16xf32>
// CHECK: %[[ROWS:.*]] = lm.broadcast %[[BIAS]] dims [1] : tensor<16xf32> to tensor<10x16xf32>
// CHECK: %[[CAP:.*]] = arith.constant dense<3.000000e+01> : tensor<10x16xf32>
// CHECK: %[[BIASED:.*]] = arith.addf
// CHECK: %[[LOGITS:.*]] = arith.mulf %[[BIASED]], %[[CAP]]
// CHECK: %[[COLUMN:.*]] = lm.iota 0 : tensor<16xi32>
// CHECK: %[[TEN:.*]] = arith.constant dense<10> : tensor<16xi32>
// CHECK: %[[EXISTS:.*]] = arith.cmpi slt, %[[COLUMN]], %[[TEN]]
// CHECK: %[[ZERO:.*]] = arith.constant dense<0.000000e+00> : tensor<16xf32>
// CHECK: %[[LOWEST:.*]] = arith.constant dense<0xFF800000> : tensor<16xf32>
// CHECK: %[[PENALTY:.*]] = arith.select %[[EXISTS]], %[[ZERO]], %[[LOWEST]]
// CHECK: %[[PENALTIES:.*]] = lm.broadcast %[[PENALTY]] dims [1] : tensor<16xf32> to tensor<10x16xf32>
// CHECK: %[[MASKED:.*]] = arith.addf %[[LOGITS]], %[[PENALTIES]]
// CHECK: lm.cross_entropy %[[MASKED]], %[[TOKENS]]
module attributes {lm.vocabulary = 10 : i64} {
  lm.parameter @bias : tensor<10xf32> {initialization = {kind = "zeros"}, lm.dims = ["V"]}
  lm.parameter @scale : tensor<10xf32> {initialization = {kind = "ones"}, lm.dims = ["D"]}
  lm.parameter @table : tensor<10x10xf32> {initialization = {kind = "zeros"}, lm.dims = ["V", "D"]}
  func.func @forward(%tokens: tensor<10xi32> {lm.input = "tokens"}, %table: tensor<10x10xf32> {lm.state = @table},
      %scale: tensor<10xf32> {lm.state = @scale}, %bias: tensor<10xf32> {lm.state = @bias}, %s: tensor<10xf32> {lm.input = "s"})
      -> (tensor<10xf32> {lm.output = "loss"}) {
    %x = lm.embedding %table, %tokens : (tensor<10x10xf32>, tensor<10xi32>) -> tensor<10x10xf32>
    %scales = lm.broadcast %scale dims [1] : tensor<10xf32> to tensor<10x10xf32>
    %y = arith.mulf %x, %scales : tensor<10x10xf32>
    %product = lm.contract %y [1], %table [1] : (tensor<10x10xf32>, tensor<10x10xf32>) -> tensor<10x10xf32>
    %rows = lm.broadcast %bias dims [1] : tensor<10xf32> to tensor<10x10xf32>
    %cap = arith.constant dense<30.0> : tensor<10x10xf32>
    %biased = arith.addf %product, %rows : tensor<10x10xf32>
    %logits = arith.mulf %biased, %cap : tensor<10x10xf32>
    %loss, %lse = lm.cross_entropy %logits, %tokens, %s : (tensor<10x10xf32>, tensor<10xi32>, tensor<10xf32>) -> (tensor<10xf32>, tensor<10xf32>)
    return %loss : tensor<10xf32>
  }
}

// -----

// Logits that somebody reads have as many columns as the vocabulary.
// CHECK: lm.parameter @w : tensor<8x10xf32>
// CHECK-LABEL: func.func @forward
// CHECK: -> tensor<4x10xf32>
module attributes {lm.vocabulary = 10 : i64} {
  lm.parameter @w : tensor<8x10xf32> {initialization = {kind = "zeros"}, lm.dims = ["D", "V"]}
  func.func @forward(%x: tensor<4x8xf32> {lm.input = "x"}, %w: tensor<8x10xf32> {lm.state = @w})
      -> (tensor<4x10xf32> {lm.output = "logits"}) {
    %logits = lm.linear %x, %w : (tensor<4x8xf32>, tensor<8x10xf32>) -> tensor<4x10xf32>
    return %logits : tensor<4x10xf32>
  }
}

// -----

// A sum over the logits would add the padding's.
// CHECK: lm.parameter @w : tensor<8x10xf32>
// CHECK-LABEL: func.func @forward
// CHECK: lm.reduce "sum" %{{.*}} dims [1] : tensor<4x10xf32> to tensor<4xf32>
module attributes {lm.vocabulary = 10 : i64} {
  lm.parameter @w : tensor<8x10xf32> {initialization = {kind = "zeros"}, lm.dims = ["D", "V"]}
  func.func @forward(%x: tensor<4x8xf32> {lm.input = "x"}, %w: tensor<8x10xf32> {lm.state = @w})
      -> (tensor<4xf32> {lm.output = "sum"}) {
    %logits = lm.linear %x, %w : (tensor<4x8xf32>, tensor<8x10xf32>) -> tensor<4x10xf32>
    %e = math.exp %logits : tensor<4x10xf32>
    %sum = lm.reduce "sum" %e dims [1] : tensor<4x10xf32> to tensor<4xf32>
    return %sum : tensor<4xf32>
  }
}

// -----

// Random numbers are counted in the tensor that they are for.
// CHECK: lm.parameter @w : tensor<10xf32>
// CHECK-LABEL: func.func @forward
// CHECK: lm.dropout {{.*}}tensor<10xf32>
module attributes {lm.vocabulary = 10 : i64} {
  lm.parameter @w : tensor<10xf32> {initialization = {kind = "zeros"}, lm.dims = ["V"]}
  func.func @forward(%w: tensor<10xf32> {lm.state = @w}, %t: tensor<i32> {lm.input = "targets"},
      %rate: tensor<f32> {lm.input = "rate"}, %a: tensor<i32> {lm.input = "a"}, %b: tensor<i32> {lm.input = "b"},
      %s: tensor<i32> {lm.input = "s"}, %one: tensor<f32> {lm.input = "one"}) -> (tensor<f32> {lm.output = "loss"}) {
    %dropped = lm.dropout %w, %rate, %a, %b, %s {id = 7 : i64} : (tensor<10xf32>, tensor<f32>, tensor<i32>, tensor<i32>, tensor<i32>) -> tensor<10xf32>
    %loss, %lse = lm.cross_entropy %dropped, %t, %one : (tensor<10xf32>, tensor<i32>, tensor<f32>) -> (tensor<f32>, tensor<f32>)
    return %loss : tensor<f32>
  }
}

// -----

// A constant of many numbers has none for padding.
// CHECK: lm.parameter @w : tensor<3xf32>
// CHECK-LABEL: func.func @forward
// CHECK: arith.addf {{.*}} : tensor<3xf32>
module attributes {lm.vocabulary = 3 : i64} {
  lm.parameter @w : tensor<3xf32> {initialization = {kind = "zeros"}, lm.dims = ["V"]}
  func.func @forward(%w: tensor<3xf32> {lm.state = @w}, %t: tensor<i32> {lm.input = "targets"}, %one: tensor<f32> {lm.input = "one"})
      -> (tensor<f32> {lm.output = "loss"}) {
    %ramp = arith.constant dense<[1.0, 2.0, 3.0]> : tensor<3xf32>
    %logits = arith.addf %w, %ramp : tensor<3xf32>
    %loss, %lse = lm.cross_entropy %logits, %t, %one : (tensor<3xf32>, tensor<i32>, tensor<f32>) -> (tensor<f32>, tensor<f32>)
    return %loss : tensor<f32>
  }
}

// -----

// A dim that is the vocabulary here and something else there.
// CHECK: lm.parameter @v : tensor<10xf32>
// CHECK: lm.parameter @w : tensor<8x10xf32>
module attributes {lm.vocabulary = 10 : i64} {
  lm.parameter @v : tensor<10xf32> {initialization = {kind = "zeros"}, lm.dims = ["D"]}
  lm.parameter @w : tensor<8x10xf32> {initialization = {kind = "zeros"}, lm.dims = ["V", "V"]}
  func.func @forward(%x: tensor<4x8xf32> {lm.input = "x"}, %w: tensor<8x10xf32> {lm.state = @w}, %v: tensor<10xf32> {lm.state = @v},
      %t: tensor<4xi32> {lm.input = "targets"}, %s: tensor<4xf32> {lm.input = "s"}) -> (tensor<4xf32> {lm.output = "loss"}) {
    %product = lm.linear %x, %w : (tensor<4x8xf32>, tensor<8x10xf32>) -> tensor<4x10xf32>
    %rows = lm.broadcast %v dims [1] : tensor<10xf32> to tensor<4x10xf32>
    %logits = arith.addf %product, %rows : tensor<4x10xf32>
    %loss, %lse = lm.cross_entropy %logits, %t, %s : (tensor<4x10xf32>, tensor<4xi32>, tensor<4xf32>) -> (tensor<4xf32>, tensor<4xf32>)
    return %loss : tensor<4xf32>
  }
}

// -----

// Logits that are a parameter are masked, too.
// CHECK: lm.parameter @logits : tensor<4x16xf32> {{.*}}unpadded = array<i64: 4, 10>
// CHECK: %[[MASKED:.*]] = arith.addf %{{.*}} : tensor<4x16xf32>
// CHECK: lm.cross_entropy %[[MASKED]]
module attributes {lm.vocabulary = 10 : i64} {
  lm.parameter @logits : tensor<4x10xf32> {initialization = {kind = "zeros"}, lm.dims = ["T", "V"]}
  func.func @forward(%l: tensor<4x10xf32> {lm.state = @logits},
      %t: tensor<4xi32> {lm.input = "targets"}, %s: tensor<4xf32> {lm.input = "s"}) -> (tensor<4xf32> {lm.output = "loss"}) {
    %loss, %lse = lm.cross_entropy %l, %t, %s : (tensor<4x10xf32>, tensor<4xi32>, tensor<4xf32>) -> (tensor<4xf32>, tensor<4xf32>)
    return %loss : tensor<4xf32>
  }
}

// -----

// Indices that are made here may lie behind the vocabulary, as may those of a
// table that has fewer rows than it, or of an unknown vocabulary.
// CHECK: lm.parameter @w : tensor<8x10xf32>
// CHECK-NOT: unpadded
module attributes {lm.vocabulary = 10 : i64} {
  lm.parameter @w : tensor<8x10xf32> {initialization = {kind = "zeros"}, lm.dims = ["D", "V"]}
  func.func @forward(%x: tensor<4x8xf32> {lm.input = "x"}, %w: tensor<8x10xf32> {lm.state = @w},
      %t: tensor<4xi32> {lm.input = "targets"}, %s: tensor<4xf32> {lm.input = "s"}) -> (tensor<4xf32> {lm.output = "loss"}) {
    %logits = lm.linear %x, %w : (tensor<4x8xf32>, tensor<8x10xf32>) -> tensor<4x10xf32>
    %one = arith.constant dense<1> : tensor<4xi32>
    %next = arith.addi %t, %one : tensor<4xi32>
    %loss, %lse = lm.cross_entropy %logits, %next, %s : (tensor<4x10xf32>, tensor<4xi32>, tensor<4xf32>) -> (tensor<4xf32>, tensor<4xf32>)
    return %loss : tensor<4xf32>
  }
}

// -----

// As above.
// CHECK: lm.parameter @w : tensor<8x10xf32>
// CHECK-NOT: unpadded
module attributes {lm.vocabulary = 12 : i64} {
  lm.parameter @w : tensor<8x10xf32> {initialization = {kind = "zeros"}, lm.dims = ["D", "V"]}
  func.func @forward(%x: tensor<4x8xf32> {lm.input = "x"}, %w: tensor<8x10xf32> {lm.state = @w},
      %t: tensor<4xi32> {lm.input = "targets"}, %s: tensor<4xf32> {lm.input = "s"}) -> (tensor<4xf32> {lm.output = "loss"}) {
    %logits = lm.linear %x, %w : (tensor<4x8xf32>, tensor<8x10xf32>) -> tensor<4x10xf32>
    %loss, %lse = lm.cross_entropy %logits, %t, %s : (tensor<4x10xf32>, tensor<4xi32>, tensor<4xf32>) -> (tensor<4xf32>, tensor<4xf32>)
    return %loss : tensor<4xf32>
  }
}

// -----

// As above.
// CHECK: lm.parameter @w : tensor<8x10xf32>
// CHECK-NOT: unpadded
module attributes {} {
  lm.parameter @w : tensor<8x10xf32> {initialization = {kind = "zeros"}, lm.dims = ["D", "V"]}
  func.func @forward(%x: tensor<4x8xf32> {lm.input = "x"}, %w: tensor<8x10xf32> {lm.state = @w},
      %t: tensor<4xi32> {lm.input = "targets"}, %s: tensor<4xf32> {lm.input = "s"}) -> (tensor<4xf32> {lm.output = "loss"}) {
    %logits = lm.linear %x, %w : (tensor<4x8xf32>, tensor<8x10xf32>) -> tensor<4x10xf32>
    %loss, %lse = lm.cross_entropy %logits, %t, %s : (tensor<4x10xf32>, tensor<4xi32>, tensor<4xf32>) -> (tensor<4xf32>, tensor<4xf32>)
    return %loss : tensor<4xf32>
  }
}

// -----

// A quotient of two paddings is no number; one by numbers per token is.
// CHECK: lm.parameter @w : tensor<8x10xf32>
// CHECK-NOT: unpadded
module attributes {lm.vocabulary = 10 : i64} {
  lm.parameter @w : tensor<8x10xf32> {initialization = {kind = "zeros"}, lm.dims = ["D", "V"]}
  lm.parameter @v : tensor<10xf32> {initialization = {kind = "ones"}, lm.dims = ["V"]}
  func.func @forward(%x: tensor<4x8xf32> {lm.input = "x"}, %w: tensor<8x10xf32> {lm.state = @w}, %v: tensor<10xf32> {lm.state = @v},
      %t: tensor<4xi32> {lm.input = "targets"}, %s: tensor<4xf32> {lm.input = "s"}) -> (tensor<4xf32> {lm.output = "loss"}) {
    %logits = lm.linear %x, %w : (tensor<4x8xf32>, tensor<8x10xf32>) -> tensor<4x10xf32>
    %rows = lm.broadcast %v dims [1] : tensor<10xf32> to tensor<4x10xf32>
    %scaled = arith.divf %logits, %rows : tensor<4x10xf32>
    %loss, %lse = lm.cross_entropy %scaled, %t, %s : (tensor<4x10xf32>, tensor<4xi32>, tensor<4xf32>) -> (tensor<4xf32>, tensor<4xf32>)
    return %loss : tensor<4xf32>
  }
}

// -----

// As above.
// CHECK: lm.parameter @w : tensor<8x16xf32>
module attributes {lm.vocabulary = 10 : i64} {
  lm.parameter @w : tensor<8x10xf32> {initialization = {kind = "zeros"}, lm.dims = ["D", "V"]}
  func.func @forward(%x: tensor<4x8xf32> {lm.input = "x"}, %w: tensor<8x10xf32> {lm.state = @w},
      %t: tensor<4xi32> {lm.input = "targets"}, %s: tensor<4xf32> {lm.input = "s"}) -> (tensor<4xf32> {lm.output = "loss"}) {
    %logits = lm.linear %x, %w : (tensor<4x8xf32>, tensor<8x10xf32>) -> tensor<4x10xf32>
    %rows = lm.broadcast %s dims [0] : tensor<4xf32> to tensor<4x10xf32>
    %scaled = arith.divf %logits, %rows : tensor<4x10xf32>
    %cap = math.tanh %scaled : tensor<4x10xf32>
    %loss, %lse = lm.cross_entropy %cap, %t, %s : (tensor<4x10xf32>, tensor<4xi32>, tensor<4xf32>) -> (tensor<4xf32>, tensor<4xf32>)
    return %loss : tensor<4xf32>
  }
}

// -----

// What is padded already stays as it is.
// CHECK: lm.parameter @w : tensor<8x10xf32> {{.*}}unpadded = array<i64: 8, 9>
module attributes {lm.vocabulary = 10 : i64} {
  lm.parameter @w : tensor<8x10xf32> {initialization = {kind = "zeros"}, lm.dims = ["D", "V"], unpadded = array<i64: 8, 9>}
  func.func @forward(%x: tensor<4x8xf32> {lm.input = "x"}, %w: tensor<8x10xf32> {lm.state = @w},
      %t: tensor<4xi32> {lm.input = "targets"}, %s: tensor<4xf32> {lm.input = "s"}) -> (tensor<4xf32> {lm.output = "loss"}) {
    %logits = lm.linear %x, %w : (tensor<4x8xf32>, tensor<8x10xf32>) -> tensor<4x10xf32>
    %loss, %lse = lm.cross_entropy %logits, %t, %s : (tensor<4x10xf32>, tensor<4xi32>, tensor<4xf32>) -> (tensor<4xf32>, tensor<4xf32>)
    return %loss : tensor<4xf32>
  }
}

// -----

// expected-error @+1 {{of shape [8, 10] cannot be padded from [8, 11]}}
lm.parameter @w : tensor<8x10xf32> {initialization = {kind = "zeros"}, unpadded = array<i64: 8, 11>}
