// Passes that work on the dist dialect or lead to it.
#ifndef LMC_PASSES_DIST_PASSES_TD
#define LMC_PASSES_DIST_PASSES_TD

include "mlir/Pass/PassBase.td"

def MarkStages : Pass<"dist-mark-stages", "::mlir::ModuleOp"> {
  let summary = "choose where a pipeline cuts the model";
  let description = [{
    Gives every operation of `@forward` its model chunk. Cuts go where one
    value crosses, behind blocks where the frontend marked them
    (`lm.block_end`), so that the dearest chunk is as cheap as can be: FLOPs of
    `Costed`, head and loss counted. There are `virtual-stages` chunks for each
    of `stages` stages; chunk c runs on stage c mod `stages`.

    Requires: a function `@forward`.
    Ensures: `dist.chunk` on its operations, `dist.chunks` and `dist.stages` on
    the module; no `lm.block_end`.
    Leaves alone: everything but these marks if there is one chunk.

    **Before** `--dist-mark-stages=stages=2`
    ```mlir
    func.func @forward(%x: tensor<4x8xf32> {lm.input = "x"}, %w: tensor<8x8xf32> {lm.state = @w})
        -> (tensor<f32> {lm.output = "loss_sum"}) {
      %y = lm.linear %x, %w {lm.block_end} : (tensor<4x8xf32>, tensor<8x8xf32>) -> tensor<4x8xf32>
      %z = lm.linear %y, %w {lm.block_end} : (tensor<4x8xf32>, tensor<8x8xf32>) -> tensor<4x8xf32>
      %l = lm.reduce "sum" %z dims [0, 1] : tensor<4x8xf32> to tensor<f32>
      return %l : tensor<f32>
    }
    ```
    **After**
    ```mlir
    %y = lm.linear %x, %w {dist.chunk = 0 : i64} : (tensor<4x8xf32>, tensor<8x8xf32>) -> tensor<4x8xf32>
    %z = lm.linear %y, %w {dist.chunk = 1 : i64} : (tensor<4x8xf32>, tensor<8x8xf32>) -> tensor<4x8xf32>
    %l = lm.reduce "sum" %z dims [0, 1] {dist.chunk = 1 : i64} : tensor<4x8xf32> to tensor<f32>
    ...
    ```
  }];
  let options = [
    Option<"stages", "stages", "int64_t", "1", "size of the pp axis">,
    Option<"virtualStages", "virtual-stages", "int64_t", "1",
           "chunks on each stage">,
    ListOption<"blocks", "blocks", "int64_t",
               "number of blocks of each chunk; empty: chosen by cost">
  ];
  let statistics = [Statistic<"numChunks", "chunks", "model chunks">];
  let dependentDialects = ["::lmc::dist::DistDialect"];
}

def CutStages : Pass<"dist-cut-stages", "::mlir::ModuleOp"> {
  let summary = "one program per model chunk, with sends and receives";
  let description = [{
    Parts every program by the chunks of its operations. A value that another
    chunk uses is sent behind its producer and received where the forward or
    the backward of that chunk begins, on a channel of its own. What only values
    of later chunks make in the backward, such as the sum of the gradients of a
    value's uses, is made in the nearest of them, so that one value crosses.
    What depends on inputs and run-time numbers alone is computed by each chunk
    that needs it.

    Requires: `dist.chunk` on what depends on a state.
    Ensures: `plan.chunk` and `plan.stage` on programs, no `dist.chunk`.
    Leaves alone: modules of one chunk.

    **Before**
    ```mlir
    module attributes {dist.chunks = 2 : i64, dist.stages = 2 : i64} {
      lm.parameter @w : tensor<8x8xf32> {initialization = {kind = "zeros"}}
      func.func @f(%x: tensor<4x8xf32> {lm.input = "x"}, %w: tensor<8x8xf32> {lm.state = @w})
          -> (tensor<4x8xf32> {lm.output = "z"}) attributes {plan.program = "f"} {
        %y = lm.linear %x, %w {dist.chunk = 0} : (tensor<4x8xf32>, tensor<8x8xf32>) -> tensor<4x8xf32>
        %z = lm.linear %y, %w {dist.chunk = 1} : (tensor<4x8xf32>, tensor<8x8xf32>) -> tensor<4x8xf32>
        return %z : tensor<4x8xf32>
      }
    }
    ```
    **After**
    ```mlir
    ...
    %y = lm.linear %x, %w : (tensor<4x8xf32>, tensor<8x8xf32>) -> tensor<4x8xf32>
    dist.send %y stage 1 channel 0 : tensor<4x8xf32>
    return
    ...
    %r = dist.receive stage -1 channel 0 : tensor<4x8xf32>
    %z = lm.linear %r, %v : (tensor<4x8xf32>, tensor<8x8xf32>) -> tensor<4x8xf32>
    return %z : tensor<4x8xf32>
    ```
  }];
  let statistics = [Statistic<"numTransfers", "transfers",
                              "values that cross between chunks">];
  let dependentDialects = ["::lmc::dist::DistDialect"];
}

def PadVocabulary : Pass<"dist-pad-vocabulary", "::mlir::ModuleOp"> {
  let summary = "round the vocabulary up, so that it can be split";
  let description = [{
    Rounds the dims that are the vocabulary up: those called `V` of the
    parameters, and what they become in the forward. They become a multiple of
    the ranks that the axes of a `dist.rule` for them have, and each part one of
    `multiple`. Padding is zero and stays so, losses mask it, and files know
    nothing of it: a parameter's `unpadded` says what they hold.

    Requires: a function `@forward`; `lm.vocabulary`, `lm.dims` of the
    parameters.
    Ensures: nothing but types and the masks of losses changes.
    Leaves alone: a model in which padding would be seen, because logits are an
    output, indices are no tokens or targets, a parameter is padded already, or
    something else than products, sums, tanh and losses takes the vocabulary.
    Warns where a rule's split needs the padding.

    **Before** `--dist-pad-vocabulary=multiple=16`
    ```mlir
    module attributes {lm.vocabulary = 10 : i64} {
      lm.parameter @w : tensor<8x10xf32> {initialization = {kind = "zeros"}, lm.dims = ["D", "V"]}
      func.func @forward(%x: tensor<4x8xf32> {lm.input = "x"}, %w: tensor<8x10xf32> {lm.state = @w},
          %t: tensor<4xi32> {lm.input = "targets"}, %s: tensor<4xf32> {lm.input = "s"})
          -> (tensor<4xf32> {lm.output = "loss"}) {
        %logits = lm.linear %x, %w : (tensor<4x8xf32>, tensor<8x10xf32>) -> tensor<4x10xf32>
        %loss, %lse = lm.cross_entropy %logits, %t, %s
            : (tensor<4x10xf32>, tensor<4xi32>, tensor<4xf32>) -> (tensor<4xf32>, tensor<4xf32>)
        return %loss : tensor<4xf32>
      }
    }
    ```
    **After**
    ```mlir
    lm.parameter @w : tensor<8x16xf32> {initialization = {kind = "zeros"}, lm.dims = ["D", "V"], unpadded = array<i64: 8, 10>}
    ...
    %logits = lm.linear %x, %w : (tensor<4x8xf32>, tensor<8x16xf32>) -> tensor<4x16xf32>
    %column = lm.iota 0 : tensor<16xi32>
    %c10 = arith.constant dense<10> : tensor<16xi32>
    %exists = arith.cmpi slt, %column, %c10 : tensor<16xi32>
    %zero = arith.constant dense<0.000000e+00> : tensor<16xf32>
    %lowest = arith.constant dense<0xFF800000> : tensor<16xf32>
    %bias = arith.select %exists, %zero, %lowest : tensor<16xi1>, tensor<16xf32>
    %rows = lm.broadcast %bias dims [1] : tensor<16xf32> to tensor<4x16xf32>
    %masked = arith.addf %logits, %rows : tensor<4x16xf32>
    %loss, %lse = lm.cross_entropy %masked, %t, %s : (tensor<4x16xf32>, tensor<4xi32>, tensor<4xf32>) -> (tensor<4xf32>, tensor<4xf32>)
    return %loss : tensor<4xf32>
    ...
    ```
  }];
  let options = [
    ListOption<"sizes", "sizes", "int64_t",
               "sizes of the axes pp, dp, fsdp, cp, ep, tp">,
    Option<"multiple", "multiple", "int64_t", "1",
           "of which a rank's part of the vocabulary becomes one">
  ];
  let statistics = [Statistic<"numPadded", "padded", "parameters padded">];
  let dependentDialects = ["::lmc::dist::DistDialect", "::lmc::lm::LmDialect",
    "::mlir::arith::ArithDialect"];
}

def MarkShardings : Pass<"dist-mark-shardings", "::mlir::ModuleOp"> {
  let summary = "match a strategy's rules against the model";
  let description = [{
    Sets the mesh, and the marks that the strategy starts from: each
    `dist.rule` gives axes to a dim of the parameters, inputs or activations
    that it matches. All else follows by propagation. Axes of one rank are
    left out; an input gets no axes beyond its marks. Activations' dims have
    the names of their factors (DimNames.h); of an operation's results, the
    first is meant, and others where they have the same factor.

    Each `dist.bucket_rule` gives its axes of more than one rank to the
    parameters that it is the first to match, as `dist.pieces`.

    Requires: `lm.dims` where a `dist.rule` calls dims by name.
    Ensures: `dist.mesh` on the module, `dist.marks` on what is marked, no
    rules. A dim that its axes do not divide is refused; so are inputs that
    are not split by samples over the data axes. Warns of a rule that matches nothing, of a bucket
    whose parameters all belong to earlier ones, and of an axis that no mark
    has.
    Leaves alone: everything but the rules if the mesh has one rank.

    **Before** `--dist-mark-shardings=sizes=1,1,1,1,1,2`
    ```mlir
    dist.rule "parameter" ["*.mlp*.up.weight"] dim "F" over ["tp"]
    lm.parameter @h.0.mlp.up.weight : tensor<8x32xf32> {initialization = {kind = "zeros"}, lm.dims = ["D", "F"]}
    ```
    **After**
    ```mlir
    module attributes {dist.mesh = #dist.mesh<["pp", "dp", "fsdp", "cp", "ep", "tp"], [1, 1, 1, 1, 1, 2]>} {
      lm.parameter @h.0.mlp.up.weight : tensor<8x32xf32> {dist.marks = [#dist.mark<result 0 dim 1 over ["tp"] priority 0 from "<stdin>:1:5">], initialization = {kind = "zeros"}, lm.dims = ["D", "F"]}
    }
    ```
  }];
  let options = [
    ListOption<"sizes", "sizes", "int64_t",
               "sizes of the axes pp, dp, fsdp, cp, ep, tp">
  ];
  let statistics = [Statistic<"numMarked", "marked", "tensors marked">];
  let dependentDialects = ["::lmc::dist::DistDialect"];
}

def PropagateShardings : Pass<"dist-propagate-shardings", "::mlir::ModuleOp"> {
  let summary = "give every value a sharding";
  let description = [{
    Carries the marked shardings through the factors of every operation
    (`Shardable`) until nothing changes: an axis on one dim of a factor goes to
    all dims of that factor, unless the value or the operation uses the axis
    elsewhere. Marks come in rounds, by priority; an axis that an operation
    could give to two factors serves the one of the earlier mark. A parameter,
    its moments and its gradient share one sharding, as do what is sent and what
    is received; where two of them disagree, the parameter's and the sender's
    stands.
    An operation that can be sharded on a factor only as primitives is
    rewritten then.

    Requires: `dist.mesh`; `dist.marks`, or a `dist.sharding`, which counts as
    a mark of priority 0.
    Ensures: `dist.sharding` on arguments and states; on operations
    `dist.shardings`, what their results should be, `dist.factors`, the axes
    that split each factor, and `dist.origins`, the marks that these come from.
    Leaves alone: types.

    **Before**
    ```mlir
    module attributes {dist.mesh = #dist.mesh<["tp"], [2]>} {
      func.func @f(%x: tensor<4x8xf32>, %w: tensor<8x6xf32> {dist.sharding = #dist.sharding<[[], ["tp"]], []>})
          -> tensor<4x6xf32> attributes {plan.program = "f"} {
        %y = lm.linear %x, %w : (tensor<4x8xf32>, tensor<8x6xf32>) -> tensor<4x6xf32>
        return %y : tensor<4x6xf32>
      }
    }
    ```
    **After**
    ```mlir
    %y = lm.linear %x, %w {dist.factors = [[], [], ["tp"]], dist.origins = [["", "given"]], dist.shardings = [#dist.sharding<[[], ["tp"]], []>]} : (tensor<4x8xf32>, tensor<8x6xf32>) -> tensor<4x6xf32>
    ...
    ```
  }];
  let statistics = [
    Statistic<"numSharded", "sharded", "values that an axis splits">,
    Statistic<"numConflicts", "conflicts", "axes that could not be carried on">
  ];
  let dependentDialects = ["::lmc::dist::DistDialect", "::lmc::lm::LmDialect",
    "::mlir::arith::ArithDialect", "::mlir::math::MathDialect"];
}

def InsertReshards : Pass<"dist-insert-reshards", "::mlir::ModuleOp"> {
  let summary = "make every change of a value's sharding explicit";
  let description = [{
    Follows in program order how each value lies: an operation over a split
    factor that is summed makes its results partial, a sum passes through
    additions. Where a value lies otherwise than it should, or than an operation
    needs it, a `dist.reshard` is inserted, once for each way it is needed, with
    its price: the bytes that each rank receives on the cheapest path.
    Maxima are taken at once.

    Requires: `dist.shardings` and `dist.factors` from
    `dist-propagate-shardings`.
    Ensures: `dist.shardings` and `dist.factors` say how results lie and how
    operations are split; an accumulator may stay partial, its `dist.sharding`
    then names the axes. What no path leads to, because sizes do not divide, is
    refused with them. So is a gradient that is no sum over an
    axis of its parameter's `dist.pieces`: its bucket could not be shared out.
    Leaves alone: modules without `dist.mesh`; shapes, which are global.

    **Before**
    ```mlir
    module attributes {dist.mesh = #dist.mesh<["tp"], [2]>} {
      func.func @f(%x: tensor<4x6xf32> {dist.sharding = #dist.sharding<[[], ["tp"]], []>},
                   %w: tensor<6x8xf32> {dist.sharding = #dist.sharding<[["tp"], []], []>})
          -> (tensor<4x8xf32> {lm.output = "y"}) attributes {plan.program = "f"} {
        %y = lm.linear %x, %w {dist.factors = [[], ["tp"], []], dist.shardings = [#dist.sharding<[[], []], []>]}
            : (tensor<4x6xf32>, tensor<6x8xf32>) -> tensor<4x8xf32>
        return %y : tensor<4x8xf32>
      }
    }
    ```
    **After**
    ```mlir
    ...
    %part = lm.linear %x, %w {dist.factors = [[], ["tp"], []], dist.shardings = [#dist.sharding<[[], []], ["tp"]>]} : (tensor<4x6xf32>, tensor<6x8xf32>) -> tensor<4x8xf32>
    %y = dist.reshard %part from <[[], []], ["tp"]> to <[[], []], []> bytes 128 {dist.shardings = [#dist.sharding<[[], []], []>]} : tensor<4x8xf32>
    return %y : tensor<4x8xf32>
    ...
    ```
  }];
  let statistics = [
    Statistic<"numReshards", "reshards", "reshards inserted">,
    Statistic<"numBytes", "bytes", "that a rank receives in one run of each "
              "program">
  ];
  let dependentDialects = ["::lmc::dist::DistDialect"];
}

def Partition : Pass<"dist-partition", "::mlir::ModuleOp"> {
  let summary = "from global shapes to one rank's shapes and collectives";
  let description = [{
    Gives every value its local shape. A reshard becomes the collectives of its
    path; along a dim that is not the first, pieces are permuted before or
    behind (LowerReshard.h). What it was, and why, a `dist.resharded` of the
    module goes on to say; the collectives' locations have its number. Indices
    into a sharded dim count from the rank's first row, and an `lm.iota` along
    one counts on from the ranks before.

    A dim that its axes do not divide is refused with the sizes.

    Requires: shardings from `dist-insert-reshards`.
    Ensures: local shapes, collectives, no `dist.shardings`, no `dist.reshard`,
    as many `dist.resharded` as there were of those.
    Leaves alone: modules without `dist.mesh`.

    **Before**
    ```mlir
    module attributes {dist.mesh = #dist.mesh<["tp"], [2]>} {
      func.func @f(%x: tensor<4x6xf32> {dist.sharding = #dist.sharding<[[], ["tp"]], []>},
                   %w: tensor<6x8xf32> {dist.sharding = #dist.sharding<[["tp"], []], []>})
          -> (tensor<4x8xf32> {lm.output = "y"}) attributes {plan.program = "f"} {
        %part = lm.linear %x, %w {dist.shardings = [#dist.sharding<[[], []], ["tp"]>]}
            : (tensor<4x6xf32>, tensor<6x8xf32>) -> tensor<4x8xf32>
        %y = dist.reshard %part from <[[], []], ["tp"]> to <[[], []], []> bytes 128 : tensor<4x8xf32>
        return %y : tensor<4x8xf32>
      }
    }
    ```
    **After**
    ```mlir
    ...
    %part = lm.linear %x, %w : (tensor<4x3xf32>, tensor<3x8xf32>) -> tensor<4x8xf32>
    %y = dist.all_reduce "sum" %part over ["tp"] : tensor<4x8xf32>
    return %y : tensor<4x8xf32>
    ...
    dist.resharded 0 in "f" chunk 0 tensor<4x8xf32> from <[[], []], ["tp"]> to <[[], []], []> by ["all_reduce tp"] bytes 128 of "lm.linear" for "func.return"
    ...
    ```
  }];
  let statistics = [
    Statistic<"numReshards", "reshards", "reshards turned to collectives">
  ];
  let dependentDialects = ["::lmc::dist::DistDialect", "::lmc::lm::LmDialect",
    "::mlir::arith::ArithDialect"];
}

def PackBuckets : Pass<"dist-pack-buckets", "::mlir::ModuleOp"> {
  let summary = "lay the tensors of a block one behind the other";
  let description = [{
    Parameters of one block, optimizer group and element type that the same
    chunks use, that the same axes split, whose gradients are partial on the
    same axes and that the same axes cut into pieces become one flat tensor, a bucket; so do their accumulators. A
    parameter outside of all blocks has a bucket of its own. Tensors begin at
    multiples of 64 bytes; the bucket is padded to whole pieces of 256 bytes.

    On the axes of its `#dist.pieces` a rank keeps a piece of a parameter's
    bucket, of that of its accumulator, and of those of its moments, but for the
    axes that split the parameter's dims. Pieces of parameters are gathered
    before the first use in a program; gradients are reduce-scattered in each
    micro-batch before they are added to pieces of accumulators.

    Requires: local shapes; accumulators with the axes they are partial on.
    Ensures: programs take and return buckets; each member says where it lies.
    Leaves alone: states of no parameter; inference.

    **Before** `--dist-pack-buckets`
    ```mlir
    module attributes {dist.mesh = #dist.mesh<["dp"], [2]>} {
      lm.parameter @w : tensor<8x8xf32> {dist.pieces = #dist.pieces<parameters ["dp"] gradients ["dp"] moments ["dp"]>, initialization = {kind = "zeros"}}
      func.func @f(%w: tensor<8x8xf32> {lm.state = @w})
          -> (tensor<8x8xf32> {lm.output = "y"}) attributes {plan.program = "f"} {
        %y = math.exp %w : tensor<8x8xf32>
        return %y : tensor<8x8xf32>
      }
    }
    ```
    **After**
    ```mlir
    lm.parameter @w : tensor<8x8xf32> {dist.bucket = @w.bucket, dist.bucket_offset = 0 : i64, initialization = {kind = "zeros"}}
    ...
    %whole = dist.all_gather %arg0 dim 0 over ["dp"] : tensor<64xf32> to tensor<128xf32>
    %flat = lm.slice_rows %whole at 0 : tensor<128xf32> to tensor<64xf32>
    %w = lm.reshape %flat : tensor<64xf32> to tensor<8x8xf32>
    %y = math.exp %w : tensor<8x8xf32>
    ```
  }];
  let statistics = [
    Statistic<"numBuckets", "buckets", "buckets formed">,
    Statistic<"numCollectives", "collectives", "gathers and scatters made">
  ];
  let dependentDialects = ["::lmc::dist::DistDialect", "::lmc::lm::LmDialect",
    "::mlir::arith::ArithDialect"];
}

#endif // LMC_PASSES_DIST_PASSES_TD
