// RUN: lmc-opt %s --verify-diagnostics --dist-propagate-shardings --dist-insert-reshards

// A gradient that is whole on every rank, because an activation is split by
// something else than samples.
module attributes {dist.mesh = #dist.mesh<["dp"], [2]>} {
  // expected-error @+3 {{every rank of dp computes the whole gradient of n, which dp shares out: it must be a sum over samples of its ranks}}
  // expected-note @+2 {{the rule at here splits activations otherwise}}
  // expected-note @+1 {{help: --zero=0, or a bucket for it without dp, or split samples, and nothing else, over dp and fsdp}}
  lm.parameter @n : tensor<8xf32> {dist.pieces = #dist.pieces<parameters [] gradients [] moments ["dp"]>, initialization = {kind = "ones"}}
  lm.state @n.gradient "accumulator" : tensor<8xf32> {parameter = @n, role = "gradient"}
  func.func @f(%x: tensor<4x8xf32> {lm.input = "x", dist.closed}, %w: tensor<8xf32> {lm.state = @n}, %s: tensor<8xf32> {lm.state = @n.gradient})
      -> (tensor<8xf32> {lm.state = @n.gradient}) attributes {plan.program = "f"} {
    %h = math.exp %x {dist.marks = [#dist.mark<result 0 dim 1 over ["dp"] priority 0 from "here">]} : tensor<4x8xf32>
    %y, %r = lm.rms_norm %h, %w {epsilon = 1.0e-5 : f32} : (tensor<4x8xf32>, tensor<8xf32>) -> (tensor<4x8xf32>, tensor<4xf32>)
    %g = math.exp %w : tensor<8xf32>
    %a = lm.accumulate %s, %g : tensor<8xf32>
    return %a : tensor<8xf32>
  }
}
