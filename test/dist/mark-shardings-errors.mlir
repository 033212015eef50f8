// RUN: lmc-opt %s --split-input-file --verify-diagnostics --dist-mark-shardings=sizes=1,2,1,1,1,4
// RUN: not lmc-opt %s --dist-mark-shardings=sizes=1,2 2>&1 | FileCheck %s --check-prefix=COUNT
// RUN: not lmc-opt %s --dist-mark-shardings=sizes=1,0,1,1,1,1 2>&1 | FileCheck %s --check-prefix=ZERO
// COUNT: needs 6 axis sizes, has 2
// ZERO: axis "dp" has size 0 (C3)

// An axis that there is not.
module {
  // expected-error @+2 {{axis 'tpp' splits no tensors}}
  // expected-note @+1 {{help: axes are dp, fsdp, cp, ep, tp}}
  dist.rule "parameter" ["*"] dim "F" over ["tpp"]
}

// -----

// A pipeline is cut, not split.
module {
  // expected-error @+2 {{axis 'pp' splits no tensors}}
  // expected-note @+1 {{help: --stages cuts a pipeline}}
  dist.rule "parameter" ["*"] dim "F" over ["pp"]
}

// -----

// A rule that does nothing is worth a word; one for what may be absent is not.
// Nor does tp split anything then.
// expected-warning @+2 {{axis tp of 4 ranks splits nothing: its ranks compute the same}}
// expected-note @+1 {{help: a rule that splits a dim over tp, or a mesh without it}}
module {
  // expected-warning @+1 {{no parameter with a dim F matches '*.up', '*.gate'}}
  dist.rule "parameter" ["*.up", "*.gate"] dim "F" over ["tp"]
  dist.rule "parameter" ["*.up"] dim "F" over ["tp"] {if_present}
  dist.rule "parameter" ["*.up"] dim "F" over ["cp"]
  lm.parameter @a.up : tensor<6x8xf32> {initialization = {kind = "zeros"}, lm.dims = ["D", "H"]}
}

// -----

// What does not divide, with the numbers.
module {
  // expected-note @+1 {{asks for it}}
  dist.rule "parameter" ["*.up"] dim "F" over ["tp"]
  // expected-error @+2 {{dim F of a.up, of size 6, cannot be split into 4 equal parts over axis tp}}
  // expected-note @+1 {{help: choose a size of the axis that divides 6}}
  lm.parameter @a.up : tensor<8x6xf32> {initialization = {kind = "zeros"}, lm.dims = ["D", "F"]}
}

// -----

// No pattern at all.
module {
  // expected-error @+1 {{'[a' is no pattern}}
  dist.rule "parameter" ["[a"] dim "F" over ["tp"]
}

// -----

// Every data rank is handed its own samples.
module {
  // expected-error @+2 {{input "x" must be split by samples over the data axes}}
  // expected-note @+1 {{help: rule}}
  func.func @forward(%x: tensor<4x8xi32> {lm.input = "x", lm.dims = ["B", "T"]}) {
    return
  }
}

// -----

// Only data ranks hold the same state, to be shared out among them.
module {
  // expected-error @+2 {{axis 'tp' does not share out the state of training}}
  // expected-note @+1 {{help: the data axes, dp and fsdp, do}}
  dist.bucket_rule ["*"] #dist.pieces<parameters [] gradients [] moments ["tp"]>
}

// -----

// A bucket of nothing, and one of what others have; over axes of one rank, it
// would say nothing in any case.
module {
  dist.rule "parameter" ["*"] dim "F" over ["tp"]
  // expected-warning @+1 {{no parameter matches 'x.*'}}
  dist.bucket_rule ["x.*"] #dist.pieces<parameters [] gradients [] moments ["dp"]>
  dist.bucket_rule ["y.*"] #dist.pieces<parameters [] gradients [] moments ["dp"]> {if_present}
  dist.bucket_rule ["z.*"] #dist.pieces<parameters [] gradients [] moments ["fsdp"]>
  dist.bucket_rule ["w.*"] #dist.pieces<parameters [] gradients [] moments []>
  // expected-warning @+2 {{every parameter that 'w.a' matches belongs to an earlier bucket}}
  // expected-note @+1 {{help: put this bucket before that one, or leave it out}}
  dist.bucket_rule ["w.a"] #dist.pieces<parameters [] gradients [] moments ["dp"]>
  dist.bucket_rule ["w.a"] #dist.pieces<parameters [] gradients [] moments ["fsdp"]>
  dist.bucket_rule ["w.a", "v.a"] #dist.pieces<parameters [] gradients [] moments ["dp"]>
  lm.parameter @w.a : tensor<4x8xf32> {initialization = {kind = "zeros"}, lm.dims = ["D", "F"]}
  lm.parameter @v.a : tensor<4x8xf32> {initialization = {kind = "zeros"}, lm.dims = ["D", "F"]}
}

// -----

// Nothing beside samples, and which rules say otherwise.
module {
  dist.rule "input" ["*"] dim "B" over ["dp"]
  dist.rule "input" ["x"] dim "T" over ["tp"]
  // expected-error @+4 {{input "x" must be split by samples over the data axes}}
  // expected-note @+3 {{splits dim 0 over dp}}
  // expected-note @+2 {{splits dim 1 over tp}}
  // expected-note @+1 {{help: rule}}
  func.func @forward(%x: tensor<4x8xi32> {lm.input = "x", lm.dims = ["B", "T"]}) {
    return
  }
}

// -----

// What has no parts.
module {
  // expected-note @+1 {{asks for it}}
  dist.rule "parameter" ["*"] dim "R" over ["tp"]
  // expected-error @+2 {{dim R of w, of size 1, cannot be split into 4 equal parts over axis tp}}
  // expected-note @+1 {{help: leave this split out: the dim has no parts}}
  lm.parameter @w : tensor<1x8xf32> {initialization = {kind = "zeros"}, lm.dims = ["R", "K"]}
}
