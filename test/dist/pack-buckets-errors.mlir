// RUN: lmc-opt %s --split-input-file --verify-diagnostics --dist-pack-buckets

// A gradient that is the same on all ranks of dp has no pieces to sum.
module @whole attributes {dist.mesh = #dist.mesh<["dp"], [2]>} {
  // expected-error @+2 {{has a gradient that is whole on every rank of dp}}
  // expected-note @+1 {{help: no split_moments for it in the sharding file}}
  lm.parameter @w : tensor<16xf32> {dist.pieces = #dist.pieces<parameters [] gradients ["dp"] moments ["dp"]>, initialization = {kind = "zeros"}}
  lm.state @w.gradient "accumulator" : tensor<16xf32> {parameter = @w, role = "gradient"}
  func.func @backward() attributes {plan.program = "backward"} {
    return
  }
}

// -----

// A gradient that another program computes cannot go with its bucket.
module @apart attributes {dist.mesh = #dist.mesh<["dp"], [2]>} {
  lm.parameter @a : tensor<16xf32> {block = 0 : i64, dist.pieces = #dist.pieces<parameters [] gradients ["dp"] moments ["dp"]>, initialization = {kind = "zeros"}}
  // expected-error @+2 {{has a gradient that @backward does not compute}}
  // expected-note @+1 {{help: no split_gradients for it in the sharding file}}
  lm.parameter @b : tensor<16xf32> {block = 0 : i64, dist.pieces = #dist.pieces<parameters [] gradients ["dp"] moments ["dp"]>, initialization = {kind = "zeros"}}
  lm.state @a.gradient "accumulator" : tensor<16xf32> {parameter = @a, role = "gradient", dist.sharding = #dist.sharding<[[]], ["dp"]>}
  lm.state @b.gradient "accumulator" : tensor<16xf32> {parameter = @b, role = "gradient", dist.sharding = #dist.sharding<[[]], ["dp"]>}
  func.func @backward(%w: tensor<16xf32> {lm.state = @a}, %v: tensor<16xf32> {lm.state = @b}, %a: tensor<16xf32> {lm.state = @a.gradient})
      -> (tensor<16xf32> {lm.state = @a.gradient}) attributes {plan.program = "backward"} {
    %g = math.exp %w : tensor<16xf32>
    %s = lm.accumulate %a, %g : tensor<16xf32>
    return %s : tensor<16xf32>
  }
}
