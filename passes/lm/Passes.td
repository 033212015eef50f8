// Passes that work on the lm dialect.
#ifndef LMC_PASSES_LM_PASSES_TD
#define LMC_PASSES_LM_PASSES_TD

include "mlir/Pass/PassBase.td"

def Differentiate : Pass<"lm-differentiate", "::mlir::ModuleOp"> {
  let summary = "append the backward of the forward function";
  let description = [{
    Turns `@forward` into `@step`: the forward, `lm.begin_backward`, and the
    backward that each operation's `Differentiable` interface builds, in
    reverse order. Gradients of trainable parameters go into accumulators, one
    `lm.state` each; loss and weight sums go into accumulators of their own.
    Frozen parameters get none, and no backward is built that only they would
    use. A copy of the forward without dropout stays as program `evaluate`.

    Requires: a function `@forward` with a result `lm.output = "loss_sum"`.
    Ensures: one result `lm.state` per accumulator; every operation behind
    `lm.begin_backward` is used.
    Leaves alone: everything but `@forward`.

    **Before**
    ```mlir
    lm.parameter @w : tensor<3x2xf32> {initialization = {kind = "zeros"}}
    func.func @forward(%x: tensor<4x3xf32> {lm.input = "x"}, %w: tensor<3x2xf32> {lm.state = @w})
        -> (tensor<f32> {lm.output = "loss_sum"}) {
      %y = lm.linear %x, %w : (tensor<4x3xf32>, tensor<3x2xf32>) -> tensor<4x2xf32>
      %l = lm.reduce "sum" %y dims [0, 1] : tensor<4x2xf32> to tensor<f32>
      return %l : tensor<f32>
    }
    ```
    **After**
    ```mlir
    lm.state @w.gradient "accumulator" : tensor<3x2xf32> {parameter = @w, role = "gradient"}
    ...
    %y = lm.linear %x, %w : (tensor<4x3xf32>, tensor<3x2xf32>) -> tensor<4x2xf32>
    %l = lm.reduce "sum" %y dims [0, 1] : tensor<4x2xf32> to tensor<f32>
    lm.begin_backward
    %seed = arith.constant dense<1.000000e+00> : tensor<f32>
    %g = lm.broadcast %seed dims [] : tensor<f32> to tensor<4x2xf32>
    %d = lm.contract %x [0], %g [0] : (tensor<4x3xf32>, tensor<4x2xf32>) -> tensor<3x2xf32>
    %a1 = lm.accumulate %a, %d : tensor<3x2xf32>
    %s1 = lm.accumulate %s, %l : tensor<f32>
    return %a1, %s1 : tensor<3x2xf32>, tensor<f32>
    ...
    lm.state @loss_sum "accumulator" : tensor<f32> {role = "loss_sum"}
    ```
  }];
  let options = [
    Option<"seed", "seed", "double", "1.0",
           "gradient of the loss sum: loss scale over tokens per step">
  ];
  let statistics = [
    Statistic<"numDifferentiated", "differentiated", "operations with a backward">,
    Statistic<"numUnused", "unused-parameters",
              "trainable parameters that no loss depends on">
  ];
  let dependentDialects = ["::lmc::lm::LmDialect",
    "::mlir::arith::ArithDialect", "::mlir::math::MathDialect"];
}

def BuildUpdate : Pass<"lm-build-update", "::mlir::ModuleOp"> {
  let summary = "write the program that ends a step";
  let description = [{
    Builds `@update`: loss and gradient scale from the summed weights, the
    global gradient norm, the clip factor, whether all is finite, and one
    AdamW update per bucket; and `@evaluate_finish`, the mean loss of an
    evaluation. Adds the moments `m` and `v` of every parameter that has an
    accumulator, in buckets of their own. What is partial is summed over its
    axes; where axes cut the moments into pieces, gradients are
    reduce-scattered, and parameters gathered where they are kept whole.

    With W the sum of weights (1 where that is 0) and s the seed, the true
    gradient is accumulator * (1/s)/W. Clipping follows Pascanu et al.: factor = min(1, clip_norm /
    (norm + 1e-6)), off where clip_norm is 0. A group other than `decay` and
    `no_decay` takes its decay from the scalar `weight_decay.GROUP`.

    Requires: the buckets of `dist-pack-buckets`.
    Ensures: outputs loss, grad_norm, finite, gradient_scale.
    Leaves alone: all other programs.

    **Before**
    ```mlir
    lm.parameter @w : tensor<64xf32> {dist.bucket = @b, dist.bucket_offset = 0 : i64, group = "no_decay", initialization = {kind = "zeros"}}
    lm.state @w.gradient "accumulator" : tensor<64xf32> {dist.bucket = @b.gradient, dist.bucket_offset = 0 : i64, parameter = @w, role = "gradient"}
    lm.state @b "bucket" : tensor<64xf32> {role = "parameter"}
    lm.state @b.gradient "bucket" : tensor<64xf32> {parameter = @b, role = "gradient"}
    lm.state @loss_sum "accumulator" : tensor<f32> {role = "loss_sum"}
    lm.state @weight_sum "accumulator" : tensor<f32> {role = "weight_sum"}
    ```
    **After**
    ```mlir
    lm.state @w.v "moment" : tensor<64xf32> {dist.bucket = @b.v, dist.bucket_offset = 0 : i64, parameter = @w, role = "v"}
    lm.state @w.m "moment" : tensor<64xf32> {dist.bucket = @b.m, dist.bucket_offset = 0 : i64, parameter = @w, role = "m"}
    ...
    %rows = lm.reshape %gradient : tensor<64xf32> to tensor<1x64xf32>
    %squares = arith.mulf %rows, %rows : tensor<1x64xf32>
    %sums = lm.reduce "sum" %squares dims [1] : tensor<1x64xf32> to tensor<1xf32>
    %sum = lm.reduce "sum" %sums dims [0] : tensor<1xf32> to tensor<f32>
    ...
    %norm = math.sqrt %all : tensor<f32>
    %scaled = arith.mulf %norm, %scale : tensor<f32>
    ...
    %loss = arith.divf %lossSum, %weightSum : tensor<f32>
    return %loss : tensor<f32>
    ```
  }];
  let options = [Option<"seed", "seed", "double", "1.0",
                        "the seed that the backward used">];
  let statistics = [Statistic<"numUpdated", "updated", "parameters updated">];
  let dependentDialects = ["::lmc::lm::LmDialect",
    "::mlir::arith::ArithDialect", "::mlir::math::MathDialect",
    "::mlir::func::FuncDialect"];
}

def ChunkLoss : Pass<"lm-chunk-loss", "::mlir::ModuleOp"> {
  let summary = "compute head and loss by chunks of rows";
  let description = [{
    Logits are the largest tensor of a step and are needed only between the
    head's matrix product and the loss's backward. In a program that holds
    both sides, the head, the loss and the products of their backward are
    moved behind `lm.begin_backward` and repeated for chunks of rows, so that
    one chunk of logits exists at a time; losses and input gradients of the
    chunks are concatenated, weight gradients added in order.

    Requires: an `lm.cross_entropy` whose logits come from `lm.linear` or
    `lm.contract`. Ensures: no value of the logits' global shape if there is
    more than one chunk. Leaves alone: losses of other forms (counted).

    **Before** `--lm-chunk-loss=chunk-bytes=640`
    ```mlir
    func.func @score(%x: tensor<2x16x8xf32>, %w: tensor<8x10xf32>, %t: tensor<2x16xi32>, %s: tensor<2x16xf32>)
        -> tensor<2x16xf32> {
      %logits = lm.linear %x, %w : (tensor<2x16x8xf32>, tensor<8x10xf32>) -> tensor<2x16x10xf32>
      %loss, %lse = lm.cross_entropy %logits, %t, %s
          : (tensor<2x16x10xf32>, tensor<2x16xi32>, tensor<2x16xf32>) -> (tensor<2x16xf32>, tensor<2x16xf32>)
      return %loss : tensor<2x16xf32>
    }
    ```
    **After**
    ```mlir
    %x0 = lm.slice_rows %x at 0 : tensor<2x16x8xf32> to tensor<16x8xf32>
    ...
    %logits0 = lm.linear %x0, %w : (tensor<16x8xf32>, tensor<8x10xf32>) -> tensor<16x10xf32>
    ...
    %x1 = lm.slice_rows %x at 16 : tensor<2x16x8xf32> to tensor<16x8xf32>
    ...
    %logits1 = lm.linear %x1, %w : (tensor<16x8xf32>, tensor<8x10xf32>) -> tensor<16x10xf32>
    ...
    %loss = lm.concat_rows %loss0, %loss1 : (tensor<16xf32>, tensor<16xf32>) -> tensor<2x16xf32>
    return %loss : tensor<2x16xf32>
    ```
  }];
  let options = [Option<"chunkBytes", "chunk-bytes", "int64_t", "134217728",
                        "bytes of one chunk's logits at most">];
  let statistics = [
    Statistic<"numChunks", "chunks", "chunks made">,
    Statistic<"numMissed", "missed", "losses left whole">
  ];
  let dependentDialects = ["::lmc::lm::LmDialect",
    "::mlir::arith::ArithDialect"];
}

def SplitPrograms : Pass<"lm-split-programs", "::mlir::ModuleOp"> {
  let summary = "cut the step into a forward and a backward program";
  let description = [{
    Cuts each program `step` at `lm.begin_backward`. A value of the forward that the
    backward uses becomes a result of `@forward` and an argument of
    `@backward` with the same `lm.saved` name; constants are repeated instead.

    With `split-backward`, a backward that sends something is cut once more:
    `backward_input` is what the sends need, `backward_weight` the rest, which
    may run later. Values that cross from one to the other are saved, too;
    BackwardHalves.cpp says how it is cut so that no more is kept than by a
    whole backward.

    Requires: one `lm.begin_backward` in each.
    Ensures: saved values are explicit; the steps are gone.
    Leaves alone: all other programs.

    **Before**
    ```mlir
    func.func @step(%x: tensor<4xf32> {lm.input = "x"}) -> (tensor<4xf32> {lm.state = @s}) attributes {plan.program = "step"} {
      %y = math.exp %x : tensor<4xf32>
      lm.begin_backward
      %z = arith.mulf %y, %y : tensor<4xf32>
      return %z : tensor<4xf32>
    }
    ```
    **After**
    ```mlir
    func.func @forward(%x: tensor<4xf32> {lm.input = "x"}) -> (tensor<4xf32> {lm.saved = "saved0"})
        attributes {plan.program = "forward"} {
      %y = math.exp %x : tensor<4xf32>
      return %y : tensor<4xf32>
    }
    func.func @backward(%y: tensor<4xf32> {lm.saved = "saved0"}) -> (tensor<4xf32> {lm.state = @s})
        attributes {plan.program = "backward"} {
      %z = arith.mulf %y, %y : tensor<4xf32>
      return %z : tensor<4xf32>
    }
    ```
  }];
  let options = [
    Option<"splitBackward", "split-backward", "bool", "false",
           "cut the backward where the chunk before waits for it">
  ];
  let statistics = [
    Statistic<"numSaved", "saved", "values kept for the backward">
  ];
  let dependentDialects = ["::mlir::func::FuncDialect"];
}

#endif // LMC_PASSES_LM_PASSES_TD
