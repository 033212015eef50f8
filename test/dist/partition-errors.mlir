// RUN: lmc-opt %s --split-input-file --verify-diagnostics --dist-propagate-shardings --dist-insert-reshards --verify-sharded --dist-partition

// A dim that its axis does not divide.
module attributes {dist.mesh = #dist.mesh<["tp"], [2]>} {
  // expected-error @+2 {{a dim of size 7 cannot be split into 2 equal parts over axis tp}}
  // expected-note @+1 {{help: choose a size of the axis that divides 7}}
  func.func @f(%x: tensor<7xf32> {dist.sharding = #dist.sharding<[["tp"]], []>, lm.input = "x"})
      -> (tensor<7xf32> {lm.output = "y"}) attributes {plan.program = "f"} {
    %y = math.exp %x : tensor<7xf32>
    return %y : tensor<7xf32>
  }
}

// -----

// An operation that does not say how it may be sharded.
module attributes {dist.mesh = #dist.mesh<["tp"], [2]>} {
  func.func @f(%x: tensor<8x2xf32> {dist.sharding = #dist.sharding<[["tp"], []], []>, lm.input = "x"})
      -> (tensor<16xf32> {lm.output = "y"}) attributes {plan.program = "f"} {
    // expected-error @+2 {{has no sharding rule, and one of its tensors is split by tp}}
    // expected-note @+1 {{help: implement Shardable}}
    %y = lm.reshape %x : tensor<8x2xf32> to tensor<16xf32>
    return %y : tensor<16xf32>
  }
}
