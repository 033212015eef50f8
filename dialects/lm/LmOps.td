// The operations of the lm dialect. Laws are labelled (C1), (C2), ...; the
// verifier line and the negative test carry the same label.
#ifndef LMC_DIALECTS_LM_LMOPS_TD
#define LMC_DIALECTS_LM_LMOPS_TD

include "dialects/lm/LmDialect.td"
include "dialects/lm/LmInterfaces.td"
include "mlir/IR/SymbolInterfaces.td"
include "mlir/Interfaces/SideEffectInterfaces.td"
include "mlir/Interfaces/InferTypeOpInterface.td"

defvar Differentiable =
    DeclareOpInterfaceMethods<DifferentiableOpInterface>;
defvar Lowerable = DeclareOpInterfaceMethods<LowerableOpInterface>;
defvar Costed = DeclareOpInterfaceMethods<CostedOpInterface>;
defvar Shardable = DeclareOpInterfaceMethods<ShardableOpInterface>;

def Lm_Float : TensorOf<[F32, BF16, F16]>;
def Lm_Index : TensorOf<[I32]>;
def Lm_Scalar : 0DTensorOf<[F32]>;
def Lm_IntScalar : 0DTensorOf<[I32]>;

//===----------------------------------------------------------------------===//
// State
//===----------------------------------------------------------------------===//

def Lm_ParameterOp : Lm_Op<"parameter", [Symbol]> {
  let summary = "a tensor that is learned";
  let description = [{
    Declares a parameter of global shape. `initialization` is
    `{kind = "normal", scale = 0.02, id = 7}` (kinds zeros, ones, normal,
    uniform, constant); `boxes` is the map to checkpoint tensors (one
    dictionary per box, fields as in plan.proto's `Box`); `group` names the
    optimizer group. A frozen parameter (`trainable = false`) gets no
    gradient, no accumulator and no moments. `block` counts the model's blocks;
    parameters of one block are stored together. One outside of all blocks has
    none. What is behind the shape `unpadded` is padding: zero, and in no file.

    ```mlir
    lm.parameter @wte : tensor<256x384xf32>
        {group = "decay", initialization = {kind = "normal", scale = 0.02, id = 1}}
    ```
  }];
  let arguments = (ins SymbolNameAttr:$sym_name, TypeAttr:$type,
      DictionaryAttr:$initialization,
      DefaultValuedAttr<BoolAttr, "true">:$trainable,
      DefaultValuedStrAttr<StrAttr, "decay">:$group,
      OptionalAttr<I64Attr>:$block, OptionalAttr<ArrayAttr>:$boxes,
      OptionalAttr<DenseI64ArrayAttr>:$unpadded);
  let assemblyFormat = "$sym_name `:` $type attr-dict";
  let extraClassDeclaration = [{
    ::mlir::RankedTensorType getTensorType() {
      return ::mlir::cast<::mlir::RankedTensorType>(getType());
    }
  }];
  let hasVerifier = 1;
}

def Lm_StateOp : Lm_Op<"state", [Symbol]> {
  let summary = "a tensor that outlives a step and is not learned";
  let description = [{
    `kind` is `moment`, `accumulator`, `cache`, `constant`, `bucket` or
    `piece`. A moment or an accumulator names its `parameter` and its `role`
    (`m`, `v`, `gradient`). A constant carries its `values`.

    A bucket holds the local tensors of some parameters (role `parameter`), or
    their moments or accumulators, one behind the other; `parameter` is then
    the bucket of the parameters. A piece is the part of a bucket that this
    rank works on. passes/dist/PackBuckets.cpp makes both.

    ```mlir
    lm.state @wte.m moment : tensor<256x384xf32> {parameter = @wte, role = "m"}
    ```
  }];
  let arguments = (ins SymbolNameAttr:$sym_name, StrAttr:$kind, TypeAttr:$type,
      OptionalAttr<FlatSymbolRefAttr>:$parameter, OptionalAttr<StrAttr>:$role,
      OptionalAttr<ElementsAttr>:$values);
  let assemblyFormat = "$sym_name $kind `:` $type attr-dict";
  let extraClassDeclaration = [{
    ::mlir::RankedTensorType getTensorType() {
      return ::mlir::cast<::mlir::RankedTensorType>(getType());
    }
  }];
}

//===----------------------------------------------------------------------===//
// Primitives: what kernels are generated from, beside arith and math
//===----------------------------------------------------------------------===//

class Lm_Primitive<string mnemonic, list<Trait> traits = []>
    : Lm_Op<mnemonic, !listconcat([Pure], traits)>;

def Lm_BroadcastOp : Lm_Primitive<"broadcast", [Differentiable, Shardable]> {
  let summary = "repeat a tensor along new dims";
  let description = [{
    Dim i of the operand becomes dim `dims[i]` of the result; all other dims
    of the result are new.

    Constraints: (C1) `dims` has one entry per operand dim, increasing, in
    range; (C2) sizes agree.
  }];
  let arguments = (ins AnyRankedTensor:$input, DenseI64ArrayAttr:$dims);
  let results = (outs AnyRankedTensor:$output);
  let assemblyFormat =
      "$input `dims` $dims attr-dict `:` type($input) `to` type($output)";
  let hasVerifier = 1;
}

def Lm_ReduceOp : Lm_Primitive<"reduce", [Differentiable, Shardable]> {
  let summary = "sum or maximum over dims";
  let description = [{
    `kind` is `sum` or `max`; `dims` (increasing) are removed.

    Constraints: (C1) dims increasing and in range; (C2) result shape is the
    operand's without them; (C3) kind is `sum` or `max`.
  }];
  let arguments = (ins StrAttr:$kind, AnyRankedTensor:$input,
                   DenseI64ArrayAttr:$dims);
  let results = (outs AnyRankedTensor:$output);
  let assemblyFormat =
      "$kind $input `dims` $dims attr-dict `:` type($input) `to` type($output)";
  let hasVerifier = 1;
}

def Lm_IotaOp : Lm_Primitive<"iota", [Shardable]> {
  let summary = "the index along a dim, as i32";
  let arguments = (ins I64Attr:$dim);
  let results = (outs Lm_Index:$output);
  let assemblyFormat = "$dim attr-dict `:` type($output)";
}

def Lm_RandomUniformOp : Lm_Primitive<"random_uniform",
    [Shardable, DrawingOpInterface]> {
  let summary = "uniform numbers in [0, 1), a function of the global index";
  let description = [{
    Philox4x32-10 with key (seed, id) and counter (step, 64-bit block index).
    The leading dim counts samples. Element e (row-major, in the tensor of all
    samples of the step) takes word `(e >> 4) & 3` of
    the block `(e >> 6) * 16 + (e & 15)`, so that 16 neighbouring blocks serve
    64 neighbouring elements; the number is the word's upper 24 bits times
    2^-24. Key words: seed.lo ^ id.lo, seed.hi ^ id.hi; counter words:
    block.lo, block.hi, step, 0.

    The id is not there in a kernel that takes it as an integer at run time,
    so that kernels of different layers are equal, with the e of its first
    element, so that neither micro-batch nor rank shows.

    Where a dim behind the first is split, `whole` is the shape of which the
    tensor is a part (the leading dim as it is here), and `axes` has the mesh
    axes that split each dim.
  }];
  let arguments = (ins Lm_IntScalar:$seedLow, Lm_IntScalar:$seedHigh,
                   Lm_IntScalar:$step, OptionalAttr<I64Attr>:$id,
                   OptionalAttr<DenseI64ArrayAttr>:$whole,
                   OptionalAttr<ArrayAttr>:$axes);
  let results = (outs TensorOf<[F32]>:$output);
  let assemblyFormat = "operands attr-dict `:` functional-type(operands, results)";
}

def Lm_ContractOp : Lm_Primitive<"contract", [Differentiable, Shardable, Costed]> {
  let summary = "sum of products over paired dims";
  let description = [{
    Contracts `lhs_dims` of lhs with `rhs_dims` of rhs (equal sizes, in
    order). The result's dims are lhs's other dims, then rhs's other dims.
    The contracted dims of an operand are its first or its last ones, so that
    operands are matrices without a copy.

    Constraints: (C1) as many lhs_dims as rhs_dims, sizes equal; (C2) each
    list is a leading or a trailing run; (C3) result shape as said.

    ```mlir
    // y[b,t,f] = sum_d x[b,t,d] w[d,f]
    %y = lm.contract %x[2], %w[0] : (tensor<4x256x384xf32>, tensor<384x1536xf32>)
           -> tensor<4x256x1536xf32>
    ```
  }];
  let arguments = (ins Lm_Float:$lhs, Lm_Float:$rhs,
      DenseI64ArrayAttr:$lhs_dims, DenseI64ArrayAttr:$rhs_dims);
  let results = (outs Lm_Float:$output);
  let assemblyFormat = [{
    $lhs $lhs_dims `,` $rhs $rhs_dims attr-dict `:` functional-type(operands, results)
  }];
  let hasVerifier = 1;
}

def Lm_AccumulateOp : Lm_Primitive<"accumulate",
    [Shardable, SameOperandsAndResultType]> {
  let summary = "the value in a step's first micro-batch, the sum afterwards";
  let description = [{
    Result = `value` if the run-time integer *micro-batch* of the kernel is 0,
    `accumulator + value` otherwise; the accumulator is not read in the first
    case. A kernel that holds one takes the micro-batch as an integer.
  }];
  let arguments = (ins Lm_Float:$accumulator, Lm_Float:$value);
  let results = (outs Lm_Float:$output);
  let assemblyFormat = "$accumulator `,` $value attr-dict `:` type($output)";
}

def Lm_EmbeddingOp : Lm_Primitive<"embedding", [Differentiable, Shardable]> {
  let summary = "rows of a table, by index";
  let description = [{
    table [V, D...], indices [I...] -> [I..., D...]. An index outside [0, V)
    gives a row of zeros.

    Constraints: (C1) result shape is indices' followed by the table's
    trailing dims.
  }];
  let arguments = (ins AnyRankedTensor:$table, Lm_Index:$indices);
  let results = (outs AnyRankedTensor:$output);
  let assemblyFormat =
      "$table `,` $indices attr-dict `:` functional-type(operands, results)";
  let hasVerifier = 1;
}

def Lm_EmbeddingGradOp : Lm_Primitive<"embedding_grad", [Shardable]> {
  let summary = "sum of the rows that share an index";
  let description = [{
    indices [I...], gradient [I..., D...] -> [V, D...]; an index outside
    [0, V) adds nowhere. Rows are added in the order of their position.
  }];
  let arguments = (ins Lm_Index:$indices, Lm_Float:$gradient);
  let results = (outs Lm_Float:$output);
  let assemblyFormat =
      "$indices `,` $gradient attr-dict `:` functional-type(operands, results)";
}

def Lm_ReshapeOp : Lm_Primitive<"reshape", [Differentiable]> {
  let summary = "the same bytes under another shape";
  let description = "Constraints: (C1) as many elements before and after.";
  let arguments = (ins AnyRankedTensor:$input);
  let results = (outs AnyRankedTensor:$output);
  let assemblyFormat = "$input attr-dict `:` type($input) `to` type($output)";
  let hasVerifier = 1;
}

def Lm_SliceRowsOp : Lm_Primitive<"slice_rows", []> {
  let summary = "rows [offset, offset + size) of the flattened leading dims";
  let description = [{
    The operand's first `input rank - output rank + 1` dims are flattened to
    rows; the result holds the rows from `offset` on, as many as its first dim
    says. The same bytes, no copy.

    Constraints: (C1) trailing dims agree and the rows exist.
  }];
  let arguments = (ins AnyRankedTensor:$input, I64Attr:$offset);
  let results = (outs AnyRankedTensor:$output);
  let assemblyFormat =
      "$input `at` $offset attr-dict `:` type($input) `to` type($output)";
  let hasVerifier = 1;
}

def Lm_ConcatRowsOp : Lm_Primitive<"concat_rows", []> {
  let summary = "rows laid one behind the other";
  let description = [{
    The inverse of `lm.slice_rows`: the operands' rows, in order, are the rows
    of the result. Assignment lets producers write their rows in place.
  }];
  let arguments = (ins Variadic<AnyRankedTensor>:$inputs);
  let results = (outs AnyRankedTensor:$output);
  let assemblyFormat = "$inputs attr-dict `:` functional-type(operands, results)";
}

//===----------------------------------------------------------------------===//
// Layers
//===----------------------------------------------------------------------===//

class Lm_Layer<string mnemonic, list<Trait> traits = []>
    : Lm_Op<mnemonic, !listconcat([Pure], traits)>;

def Lm_LinearOp : Lm_Layer<"linear",
    [Differentiable, Lowerable, Shardable, Costed]> {
  let summary = "x times weight, plus bias";
  let description = [{
    input [..., C...], weight [C..., N...], bias [N...] -> [..., N...], where
    C are `num_contracted` dims.

    Constraints: (C1) the contracted dims of input and weight agree; (C2) the
    bias has the weight's other dims; (C3) result shape as said.
  }];
  let arguments = (ins Lm_Float:$input, Lm_Float:$weight,
                   Optional<Lm_Float>:$bias,
                   DefaultValuedAttr<I64Attr, "1">:$num_contracted);
  let results = (outs Lm_Float:$output);
  let assemblyFormat = [{
    $input `,` $weight (`bias` $bias^)? attr-dict `:` functional-type(operands, results)
  }];
  let hasVerifier = 1;
}

def Lm_GeluOp : Lm_Layer<"gelu",
    [Differentiable, Lowerable, SameOperandsAndResultType]> {
  let summary = "Gaussian error linear unit";
  let description = [{
    `exact`: x/2 (1 + erf(x/sqrt 2)); `tanh`: x/2 (1 + tanh(sqrt(2/pi)
    (x + 0.044715 x^3))); `quick`: x sigmoid(1.702 x). Hendrycks and Gimpel,
    "Gaussian Error Linear Units".
  }];
  let arguments = (ins Lm_Float:$input, StrAttr:$form);
  let results = (outs Lm_Float:$output);
  let assemblyFormat = "$form $input attr-dict `:` type($output)";
  let hasVerifier = 1;
}

def Lm_SiluOp : Lm_Layer<"silu",
    [Differentiable, Lowerable, SameOperandsAndResultType]> {
  let summary = "x sigmoid(x)";
  let arguments = (ins Lm_Float:$input);
  let results = (outs Lm_Float:$output);
  let assemblyFormat = "$input attr-dict `:` type($output)";
}

def Lm_ReluOp : Lm_Layer<"relu",
    [Differentiable, Lowerable, SameOperandsAndResultType]> {
  let summary = "max(x, 0)";
  let arguments = (ins Lm_Float:$input);
  let results = (outs Lm_Float:$output);
  let assemblyFormat = "$input attr-dict `:` type($output)";
}

def Lm_DropoutOp : Lm_Layer<"dropout",
    [Differentiable, Lowerable, Shardable, DrawingOpInterface]> {
  let summary = "zero elements at random, scale the others by 1/(1 - rate)";
  let description = [{
    An element is kept where `lm.random_uniform` with the same seed, step and
    id is at least `rate`. The backward draws the same numbers again. `whole`
    and `axes` are those of `lm.random_uniform`.
  }];
  let arguments = (ins Lm_Float:$input, Lm_Scalar:$rate,
      Lm_IntScalar:$seedLow, Lm_IntScalar:$seedHigh, Lm_IntScalar:$step,
      I64Attr:$id, OptionalAttr<DenseI64ArrayAttr>:$whole,
      OptionalAttr<ArrayAttr>:$axes);
  let results = (outs Lm_Float:$output);
  let assemblyFormat = "operands attr-dict `:` functional-type(operands, results)";
}

def Lm_LayerNormOp : Lm_Layer<"layer_norm", [Differentiable, Lowerable, Shardable]> {
  let summary = "normalise the last dim to mean 0 and variance 1, scale, shift";
  let description = [{
    input [..., D], weight [D], bias [D] -> output [..., D], mean [...],
    rstd [...] (reciprocal standard deviation, of the biased variance plus
    epsilon). Ba, Kiros, Hinton, "Layer Normalization".

    Constraints: (C1) weight and bias are [D]; (C2) mean and rstd are the
    input without its last dim.
  }];
  let arguments = (ins Lm_Float:$input, Lm_Float:$weight,
                   Optional<Lm_Float>:$bias, F32Attr:$epsilon);
  let results = (outs Lm_Float:$output, Lm_Float:$mean, Lm_Float:$rstd);
  let assemblyFormat = [{
    $input `,` $weight (`bias` $bias^)? attr-dict `:` functional-type(operands, results)
  }];
  let hasVerifier = 1;
}

def Lm_LayerNormInputGradOp : Lm_Layer<"layer_norm_input_grad",
    [Lowerable, Shardable]> {
  let summary = "gradient of lm.layer_norm by its input";
  let arguments = (ins Lm_Float:$gradient, Lm_Float:$input, Lm_Float:$weight,
                   Lm_Float:$mean, Lm_Float:$rstd);
  let results = (outs Lm_Float:$output);
  let assemblyFormat = "operands attr-dict `:` functional-type(operands, results)";
}

def Lm_LayerNormWeightGradOp : Lm_Layer<"layer_norm_weight_grad",
    [Lowerable, Shardable]> {
  let summary = "gradients of lm.layer_norm by weight and bias";
  let arguments = (ins Lm_Float:$gradient, Lm_Float:$input,
                   Lm_Float:$mean, Lm_Float:$rstd);
  let results = (outs Lm_Float:$weightGradient, Lm_Float:$biasGradient);
  let assemblyFormat = "operands attr-dict `:` functional-type(operands, results)";
}

def Lm_RmsNormOp : Lm_Layer<"rms_norm", [Differentiable, Lowerable, Shardable]> {
  let summary = "divide the last dim by its root mean square, scale";
  let description = [{
    input [..., D], weight [D] -> output [..., D], rstd [...]. Zhang and
    Sennrich, "Root Mean Square Layer Normalization".

    Constraints: (C1) weight is [D]; (C2) rstd is the input without its last
    dim.
  }];
  let arguments = (ins Lm_Float:$input, Lm_Float:$weight, F32Attr:$epsilon);
  let results = (outs Lm_Float:$output, Lm_Float:$rstd);
  let assemblyFormat = "operands attr-dict `:` functional-type(operands, results)";
  let hasVerifier = 1;
}

def Lm_RmsNormInputGradOp : Lm_Layer<"rms_norm_input_grad", [Lowerable, Shardable]> {
  let summary = "gradient of lm.rms_norm by its input";
  let arguments = (ins Lm_Float:$gradient, Lm_Float:$input, Lm_Float:$weight,
                   Lm_Float:$rstd);
  let results = (outs Lm_Float:$output);
  let assemblyFormat = "operands attr-dict `:` functional-type(operands, results)";
}

def Lm_RmsNormWeightGradOp : Lm_Layer<"rms_norm_weight_grad", [Lowerable, Shardable]> {
  let summary = "gradient of lm.rms_norm by its weight";
  let arguments = (ins Lm_Float:$gradient, Lm_Float:$input, Lm_Float:$rstd);
  let results = (outs Lm_Float:$output);
  let assemblyFormat = "operands attr-dict `:` functional-type(operands, results)";
}

def Lm_RopeOp : Lm_Layer<"rope", [Differentiable, Shardable]> {
  let summary = "rotate pairs of a head's elements by position";
  let description = [{
    input [B, T, G, S, K]; the first `num_rotated` of the S slots (queries and
    the key) are rotated, the others pass. positions [B, T] (an inference step
    has one dim of tokens instead of B, T); table [P, r] holds
    r/2 cosines, then r/2 sines, r <= K the rotated width. Pair i is elements
    (i, i + r/2) in layout `half`, (2i, 2i + 1) in layout `interleaved`.
    `inverse` turns the other way: the gradient. Su et al., "RoFormer".

    Constraints: (C1) r even and at most K; (C2) num_rotated at most S.
  }];
  let arguments = (ins Lm_Float:$input, Lm_Index:$positions, Lm_Float:$table,
      StrAttr:$layout, I64Attr:$num_rotated,
      DefaultValuedAttr<BoolAttr, "false">:$inverse);
  let results = (outs Lm_Float:$output);
  let assemblyFormat =
      "operands attr-dict `:` functional-type(operands, results)";
  let hasVerifier = 1;
}

// Dropout of attention's probabilities.
defvar Lm_DropoutOperands = (ins Optional<Lm_Scalar>:$rate,
    Optional<Lm_IntScalar>:$seedLow, Optional<Lm_IntScalar>:$seedHigh,
    Optional<Lm_IntScalar>:$step);
defvar Lm_AttentionAttributes = (ins F32Attr:$scale,
    DefaultValuedAttr<BoolAttr, "true">:$causal,
    DefaultValuedAttr<I64Attr, "0">:$window, OptionalAttr<I64Attr>:$id,
    OptionalAttr<DenseI64ArrayAttr>:$whole, OptionalAttr<ArrayAttr>:$axes);

def Lm_AttentionOp : Lm_Layer<"attention", [Differentiable, Shardable, Costed,
    AttrSizedOperandSegments, DeclareOpInterfaceMethods<DrawingOpInterface,
    ["draws", "getDrawnFor", "getDrawnPerElement"]>]> {
  let summary = "dropout(softmax(scale q k^T + mask)) v";
  let description = [{
    qkv [B, T, G, R+2, K] holds, for each of G key/value heads, R query heads,
    the key and the value. Token t of sample b sees token s of the same sample
    if s <= t (when `causal`), s > t - window (when window > 0) and both have
    the same segment (when `segments` [B, T] are given). Results: output
    [B, T, G, R, K] and the logarithm of each softmax's denominator
    [B, G, R, T], float32. No T x T tensor exists. Dao et al.,
    "FlashAttention".

    With a dropout rate a probability is kept, and scaled by 1/(1 - rate),
    where its number is at least the rate; the logarithm is that of all. The
    numbers are those of `lm.random_uniform` for a tensor [B, G, R, T, S]: of
    query t and key s, S being T rounded up to a multiple of 64.

    Constraints: (C1) qkv has 5 dims and at least 3 slots; (C2) result shapes
    as said; (C3) rate, seed and step are all there or none of them is.

    ```mlir
    %y, %l = lm.attention %qkv dropout %rate, %low, %high, %step {id = 7 : i64, scale = 2.500000e-01 : f32}
      : (tensor<1x8x2x4x16xf32>, tensor<f32>, tensor<i32>, tensor<i32>, tensor<i32>)
        -> (tensor<1x8x2x2x16xf32>, tensor<1x2x2x8xf32>)
    ```
  }];
  let arguments = !con((ins Lm_Float:$qkv, Optional<Lm_Index>:$segments),
                       Lm_DropoutOperands, Lm_AttentionAttributes);
  let results = (outs Lm_Float:$output, TensorOf<[F32]>:$logsumexp);
  let assemblyFormat = [{
    $qkv (`segments` $segments^)?
    (`dropout` $rate^ `,` $seedLow `,` $seedHigh `,` $step)?
    attr-dict `:` functional-type(operands, results)
  }];
  let hasVerifier = 1;
}

def Lm_AttentionGradOp : Lm_Layer<"attention_grad", [Shardable, Costed,
    AttrSizedOperandSegments, DeclareOpInterfaceMethods<DrawingOpInterface,
    ["draws", "getDrawnFor", "getDrawnPerElement"]>]> {
  let summary = "gradient of lm.attention";
  let description = [{
    Draws the forward's numbers again.

    Constraints: (C1) rate, seed and step are all there or none of them is.
  }];
  let arguments = !con((ins Lm_Float:$qkv, Lm_Float:$output,
      TensorOf<[F32]>:$logsumexp, Lm_Float:$gradient,
      Optional<Lm_Index>:$segments), Lm_DropoutOperands, Lm_AttentionAttributes);
  let results = (outs Lm_Float:$qkvGradient);
  let assemblyFormat = [{
    $qkv `,` $output `,` $logsumexp `,` $gradient (`segments` $segments^)?
    (`dropout` $rate^ `,` $seedLow `,` $seedHigh `,` $step)?
    attr-dict `:` functional-type(operands, results)
  }];
  let hasVerifier = 1;
}

def Lm_CacheWriteOp : Lm_Layer<"cache_write"> {
  let summary = "put the keys and values of tokens into the cache";
  let description = [{
    cache [C, G, 2, K] holds a key and a value per row and key/value head;
    token t's, the last two slots of qkv [T, G, R+2, K], become row slots[t].
    A slot outside [0, C) writes nothing. The result is the new cache: tied to
    the old one, which has no later reader.

    Constraints: (C1) qkv, slots and cache agree in T, G and K; (C2) the result
    is of the cache's type.

    ```mlir
    %new = lm.cache_write %cache, %qkv, %slots
      : (tensor<64x2x2x16xf32>, tensor<?x2x4x16xf32>, tensor<?xi32>) -> tensor<64x2x2x16xf32>
    ```
  }];
  let arguments = (ins Lm_Float:$cache, Lm_Float:$qkv, Lm_Index:$slots);
  let results = (outs Lm_Float:$output);
  let assemblyFormat = "operands attr-dict `:` functional-type(operands, results)";
  let hasVerifier = 1;
}

def Lm_PagedAttentionOp : Lm_Layer<"paged_attention"> {
  let summary = "attention of tokens to what the cache holds of their sequences";
  let description = [{
    Token t of qkv [T, G, R+2, K] stands at positions[t] of the sequence
    sequences[t] and sees that sequence's positions up to its own, of these
    the last `window` ones (when window > 0). Position p of sequence s is row
    pages[s, p / page_size] * page_size + p mod page_size of the cache
    [C, G, 2, K]; the token's own key and value are in it already. Result
    [T, G, R, K]. A token's bits depend on its sequence alone: neither on the
    other tokens of the step nor on where its pages lie. Kwon et al.,
    "PagedAttention".

    Constraints: (C1) qkv has 4 dims and at least 3 slots; cache, positions
    and sequences agree with it in T, G and K; (C2) the page size is positive
    and divides C; (C3) result shape as said.

    ```mlir
    %y = lm.paged_attention %qkv, %cache, %positions, %sequences, %pages
      {page_size = 16 : i64, scale = 2.500000e-01 : f32}
      : (tensor<?x2x4x16xf32>, tensor<64x2x2x16xf32>, tensor<?xi32>, tensor<?xi32>,
         tensor<3x8xi32>) -> tensor<?x2x2x16xf32>
    ```
  }];
  let arguments = (ins Lm_Float:$qkv, Lm_Float:$cache, Lm_Index:$positions,
      Lm_Index:$sequences, Lm_Index:$pages, F32Attr:$scale, I64Attr:$page_size,
      DefaultValuedAttr<I64Attr, "0">:$window);
  let results = (outs Lm_Float:$output);
  let assemblyFormat = "operands attr-dict `:` functional-type(operands, results)";
  let hasVerifier = 1;
}

def Lm_CrossEntropyOp : Lm_Layer<"cross_entropy",
    [Differentiable, Lowerable, Shardable]> {
  let summary = "weighted negative log-likelihood of each target";
  let description = [{
    logits [..., V], targets [...], weights [...] -> loss [...] = weight *
    (logsumexp(logits) - logits[target]) and logsumexp [...], float32.

    Constraints: (C1) shapes as said.
  }];
  let arguments = (ins Lm_Float:$logits, Lm_Index:$targets, Lm_Float:$weights);
  let results = (outs TensorOf<[F32]>:$loss, TensorOf<[F32]>:$logsumexp);
  let assemblyFormat =
      "$logits `,` $targets `,` $weights attr-dict `:` functional-type(operands, results)";
  let hasVerifier = 1;
}

def Lm_CrossEntropyGradOp : Lm_Layer<"cross_entropy_grad", [Lowerable, Shardable]> {
  let summary = "gradient of lm.cross_entropy by its logits";
  let description = [{
    coefficient [...] is weight times the gradient of the loss; result =
    coefficient * (exp(logits - logsumexp) - [v = target]).
  }];
  let arguments = (ins Lm_Float:$logits, Lm_Index:$targets,
      TensorOf<[F32]>:$logsumexp, TensorOf<[F32]>:$coefficient);
  let results = (outs Lm_Float:$output);
  let assemblyFormat = "operands attr-dict `:` functional-type(operands, results)";
}

//===----------------------------------------------------------------------===//
// Training
//===----------------------------------------------------------------------===//

def Lm_BeginBackwardOp : Lm_Op<"begin_backward"> {
  let summary = "what stands before it is the forward, what follows the backward";
  let assemblyFormat = "attr-dict";
}

def Lm_AdamwUpdateOp : Lm_Layer<"adamw_update", [Lowerable, Shardable]> {
  let summary = "one AdamW step with decoupled weight decay";
  let description = [{
    g = gradient * multiplier; m' = beta1 m + (1 - beta1) g; v' = beta2 v +
    (1 - beta2) g^2; p' = p - lr ((m' / correction1) / (sqrt(v' / correction2)
    + epsilon) + decay p). Where `finite` is 0 nothing changes. Loshchilov and
    Hutter, "Decoupled Weight Decay Regularization", algorithm 2.
  }];
  let arguments = (ins Lm_Float:$parameter, TensorOf<[F32]>:$m,
      TensorOf<[F32]>:$v, TensorOf<[F32]>:$gradient, Lm_Scalar:$lr,
      Lm_Scalar:$beta1, Lm_Scalar:$beta2, Lm_Scalar:$epsilon,
      Lm_Scalar:$decay, Lm_Scalar:$correction1, Lm_Scalar:$correction2,
      Lm_Scalar:$multiplier, Lm_Scalar:$finite);
  let results = (outs Lm_Float:$newParameter, TensorOf<[F32]>:$newM,
                 TensorOf<[F32]>:$newV);
  let assemblyFormat = "operands attr-dict `:` functional-type(operands, results)";
}

#endif // LMC_DIALECTS_LM_LMOPS_TD
