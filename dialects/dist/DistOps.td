// Attributes and operations of the dist dialect.
#ifndef LMC_DIALECTS_DIST_DISTOPS_TD
#define LMC_DIALECTS_DIST_DISTOPS_TD

include "dialects/dist/DistDialect.td"
include "mlir/IR/AttrTypeBase.td"
include "mlir/IR/BuiltinAttributeInterfaces.td"
include "mlir/Interfaces/SideEffectInterfaces.td"

class Dist_Attr<string name, string attrMnemonic>
    : AttrDef<Dist_Dialect, name> {
  let mnemonic = attrMnemonic;
}

def Dist_MeshAttr : Dist_Attr<"Mesh", "mesh"> {
  let summary = "named axes with their sizes, slowest first";
  let description = [{
    Stands as module attribute `dist.mesh`.

    Constraints: (C1) as many names as sizes; (C2) names are unique; (C3)
    sizes are positive.

    ```mlir
    #dist.mesh<["pp", "dp", "tp"], [1, 2, 2]>
    ```
  }];
  let parameters = (ins "::mlir::ArrayAttr":$axes,
                    "::mlir::DenseI64ArrayAttr":$sizes);
  let assemblyFormat = "`<` $axes `,` $sizes `>`";
  let genVerifyDecl = 1;
  let extraClassDeclaration = [{
    // The size of an axis; 1 for one that the mesh lacks.
    int64_t getSize(::mlir::StringRef axis) const;
    int64_t getNumRanks() const;
  }];
}

def Dist_ShardingAttr : Dist_Attr<"Sharding", "sharding"> {
  let summary = "how a tensor lies on the mesh";
  let description = [{
    `dims` holds a list of axes for each dim, the first one slowest; `partial`
    the axes on which the value is still to be summed.

    Constraints: (C1) an axis occurs once.

    ```mlir
    // [B, T, F]: samples over dp, columns over tp
    #dist.sharding<[["dp"], [], ["tp"]], []>
    ```
  }];
  let parameters = (ins "::mlir::ArrayAttr":$dims, "::mlir::ArrayAttr":$partial);
  let assemblyFormat = "`<` $dims `,` $partial `>`";
  let genVerifyDecl = 1;
  let extraClassDeclaration = [{
    ::mlir::SmallVector<::mlir::StringRef> getAxes(unsigned dim) const;
    ::mlir::SmallVector<::mlir::StringRef> getPartialAxes() const;
  }];
}

def Dist_MarkAttr : Dist_Attr<"Mark", "mark"> {
  let summary = "axes that a strategy gives to a dim";
  let description = [{
    Stands in the list `dist.marks` of a state, an argument or an operation;
    `result` says which result of the operation is meant. Marks of a lower
    priority are propagated before those of a higher one are looked at.
    `origin` says where the mark comes from.

    Constraints: (C1) result, dim and priority are not negative.

    ```mlir
    #dist.mark<result 0 dim 1 over ["tp"] priority 0 from "megatron:14:3">
    ```
  }];
  let parameters = (ins "int64_t":$result, "int64_t":$dim,
                    "::mlir::ArrayAttr":$axes, "int64_t":$priority,
                    "::mlir::StringAttr":$origin);
  let assemblyFormat = [{
    `<` `result` $result `dim` $dim `over` $axes `priority` $priority `from`
    $origin `>`
  }];
  let genVerifyDecl = 1;
}

def Dist_PiecesAttr : Dist_Attr<"Pieces", "pieces"> {
  let summary = "the axes over which a parameter's training state is shared out";
  let description = [{
    Stands as `dist.pieces` of a parameter: the axes that cut its bucket, the
    one of its accumulators and those of its moments into pieces, from large
    pieces to small. A parameter without it is whole on all data ranks.

    Constraints: (C1) an axis occurs once in a list; (C2) the lists of the
    parameters and of the gradients begin that of the moments.

    ```mlir
    // ZeRO 2 over dp, around FSDP over fsdp
    #dist.pieces<parameters ["fsdp"] gradients ["fsdp", "dp"] moments ["fsdp", "dp"]>
    ```
  }];
  let parameters = (ins "::mlir::ArrayAttr":$parameters,
                    "::mlir::ArrayAttr":$gradients, "::mlir::ArrayAttr":$moments);
  let assemblyFormat = [{
    `<` `parameters` $parameters `gradients` $gradients `moments` $moments `>`
  }];
  let genVerifyDecl = 1;
}

def Dist_BucketRuleOp : Op<Dist_Dialect, "bucket_rule"> {
  let summary = "a rule of a sharding strategy for the state of training";
  let description = [{
    Says over which axes the buckets of every parameter that one of the patterns
    matches are shared out. Of several rules that match a parameter the first
    holds. `if_present`: that nothing matches is no surprise.

    Exists from import to shard.

    Constraints: (C1) there is a pattern.

    ```mlir
    dist.bucket_rule ["*"] #dist.pieces<parameters [] gradients [] moments ["dp"]>
    ```
  }];
  let arguments = (ins StrArrayAttr:$patterns, Dist_PiecesAttr:$pieces,
      UnitAttr:$if_present);
  let assemblyFormat = "$patterns $pieces attr-dict";
  let hasVerifier = 1;
}

def Dist_RuleOp : Op<Dist_Dialect, "rule"> {
  let summary = "one rule of a sharding strategy";
  let description = [{
    Says which mesh axes split the dim called `dim` of every tensor that one
    of the patterns matches: of `parameter`s and `input`s by their names, of
    `activation`s, which are results in the forward, by the names of their
    layers and, with `producer`, of their operations. A dim is called by its
    letter (`lm.dims`), or by its number. `if_present`: that nothing matches is
    no surprise.

    Exists from import to shard.

    Constraints: (C1) the kind is one of these three; (C2) there is a pattern
    and an axis; (C3) only a rule for activations names a producer; (C4) the
    priority is not negative.

    ```mlir
    dist.rule "parameter" ["*.attn*.qkv.weight"] dim "G" over ["tp"]
    dist.rule "activation" ["*"] dim "T" over ["tp"] {producer = "lm.*_norm", priority = 1 : i64}
    ```
  }];
  let arguments = (ins StrAttr:$kind, StrArrayAttr:$patterns, StrAttr:$dim,
      StrArrayAttr:$axes, OptionalAttr<StrAttr>:$producer,
      DefaultValuedAttr<I64Attr, "0">:$priority, UnitAttr:$if_present);
  let assemblyFormat = "$kind $patterns `dim` $dim `over` $axes attr-dict";
  let hasVerifier = 1;
}

def Dist_AllReduceOp : Op<Dist_Dialect, "all_reduce",
    [DeclareOpInterfaceMethods<MemoryEffectsOpInterface>,
     AllTypesMatch<["input", "output"]>]> {
  let summary = "sum or maximum over the ranks that differ on some axes";
  let description = [{
    Every member of the group gets the sum (or maximum) of the members'
    values, added in rank order. `tied` says that the result takes the
    operand's bytes, which have no reader afterwards.

    One over `pp` has a side effect: the stages run different programs, and
    what would be merged or dropped in one of them would be missed by the
    others.

    Constraints: (C1) kind is `sum` or `max`; (C2) at least one axis.

    ```mlir
    %y = dist.all_reduce "sum" %x over ["tp"] : tensor<4x256x384xf32>
    ```
  }];
  let arguments = (ins StrAttr:$kind, AnyRankedTensor:$input, ArrayAttr:$axes,
                   UnitAttr:$tied);
  let results = (outs AnyRankedTensor:$output);
  let assemblyFormat = "$kind $input `over` $axes attr-dict `:` type($input)";
  let hasVerifier = 1;
}

class Dist_Resharding<string mnemonic> : Op<Dist_Dialect, mnemonic,
    [DeclareOpInterfaceMethods<MemoryEffectsOpInterface>]> {
  let arguments = (ins AnyRankedTensor:$input, I64Attr:$dim, ArrayAttr:$axes);
  let results = (outs AnyRankedTensor:$output);
  let assemblyFormat = [{
    $input `dim` $dim `over` $axes attr-dict `:` type($input) `to` type($output)
  }];
  let hasVerifier = 1;
}

def Dist_AllGatherOp : Dist_Resharding<"all_gather"> {
  let summary = "every member's piece, laid along a dim in rank order";
  let description = [{
    Constraints: (C1) at least one axis; (C2) the dim exists; (C3) the shapes
    differ in that dim alone, where the result's size is a multiple of the
    operand's.

    ```mlir
    %y = dist.all_gather %x dim 0 over ["fsdp"] : tensor<64xf32> to tensor<128xf32>
    ```
  }];
}

def Dist_ReduceScatterOp : Dist_Resharding<"reduce_scatter"> {
  let summary = "the sum over the members, of which each keeps one piece";
  let description = [{
    Pieces lie along the dim in rank order; they are added in rank order.

    Constraints: (C1) at least one axis; (C2) the dim exists; (C3) the shapes
    differ in that dim alone, where the operand's size is a multiple of the
    result's.

    ```mlir
    %y = dist.reduce_scatter %x dim 0 over ["fsdp"] : tensor<128xf32> to tensor<64xf32>
    ```
  }];
}

def Dist_AllToAllOp : Op<Dist_Dialect, "all_to_all",
    [DeclareOpInterfaceMethods<MemoryEffectsOpInterface>,
     AllTypesMatch<["input", "output"]>]> {
  let summary = "piece i of every member goes to member i";
  let description = [{
    Pieces lie along dim 0, in rank order before and after.

    Constraints: (C1) at least one axis.

    ```mlir
    %y = dist.all_to_all %x over ["tp"] : tensor<2x128xf32>
    ```
  }];
  let arguments = (ins AnyRankedTensor:$input, ArrayAttr:$axes);
  let results = (outs AnyRankedTensor:$output);
  let assemblyFormat = "$input `over` $axes attr-dict `:` type($input)";
  let hasVerifier = 1;
}

def Dist_ReshardOp : Op<Dist_Dialect, "reshard",
    [Pure, AllTypesMatch<["input", "output"]>]> {
  let summary = "the same tensor, lying otherwise";
  let description = [{
    Exists between shard and partition, where shapes are global: which
    collectives make `to` of `from` is the cheapest path over slice,
    all_gather, reduce_scatter, all_reduce and all_to_all
    (passes/dist/ReshardPath.h), and `bytes` is its price: what each rank
    receives.

    Constraints: (C1) both shardings have as many dims as the tensor; (C2) the
    value becomes partial on no axis.

    ```mlir
    %y = dist.reshard %x from <[[], []], ["tp"]> to <[["tp"], []], []> bytes 64 : tensor<4x8xf32>
    ```
  }];
  let arguments = (ins AnyRankedTensor:$input, Dist_ShardingAttr:$from,
                   Dist_ShardingAttr:$to, I64Attr:$bytes);
  let results = (outs AnyRankedTensor:$output);
  let assemblyFormat = [{
    $input `from` $from `to` $to `bytes` $bytes attr-dict `:` type($input)
  }];
  let hasVerifier = 1;
}

def Dist_ReshardedOp : Op<Dist_Dialect, "resharded"> {
  let summary = "what a reshard was, for people who read the plan";
  let description = [{
    Stands in the module from partition on, one for each `dist.reshard` that
    was, in the order of their numbers. The collectives that were made of it
    have the number in their locations (`atReshard`), so that neither passes nor
    the merging of equal operations have to know of it. `bytes` is the price,
    `by` the steps of the path. `of` is the operation that made the value, `for`
    the first one that takes it as it lies now; the location is that of the
    value, called from that of its user. `rules` are those that gave the value its new axes.
    `program` is that of the chunk in which it is done, once in each run.

    Constraints: (C1) both shardings have as many dims as the tensor; (C2)
    number, chunk and bytes are not negative.

    ```mlir
    dist.resharded 0 in "backward" chunk 1 tensor<4x8xf32> from <[[], []], ["tp"]> to <[[], []], []> by ["all_reduce tp"] bytes 128 of "lm.linear" for "arith.addf"
    ```
  }];
  let arguments = (ins I64Attr:$number, StrAttr:$program, I64Attr:$chunk, TypeAttr:$tensor,
      Dist_ShardingAttr:$from, Dist_ShardingAttr:$to, StrArrayAttr:$by,
      I64Attr:$bytes, StrAttr:$of, StrAttr:$for_op,
      DefaultValuedAttr<StrArrayAttr, "{}">:$rules);
  let assemblyFormat = [{
    $number `in` $program `chunk` $chunk $tensor `from` $from `to` $to `by` $by `bytes` $bytes
    `of` $of `for` $for_op attr-dict
  }];
  let hasVerifier = 1;
}

class Dist_Transfer<string mnemonic> : Op<Dist_Dialect, mnemonic,
    [DeclareOpInterfaceMethods<MemoryEffectsOpInterface>]>;

def Dist_SendOp : Dist_Transfer<"send"> {
  let summary = "send a value to another pipeline stage";
  let description = [{
    Meets the `dist.receive` of the same channel on the rank that is
    `stage_offset` further on the pp axis and equal on all others. Values of
    one channel arrive in order.

    Constraints: (C1) the offset is not 0.

    ```mlir
    dist.send %x stage 1 channel 3 : tensor<4x256x384xf32>
    ```
  }];
  let arguments = (ins AnyRankedTensor:$input, I64Attr:$stage_offset,
                   I64Attr:$channel);
  let assemblyFormat = [{
    $input `stage` $stage_offset `channel` $channel attr-dict `:` type($input)
  }];
  let hasVerifier = 1;
}

def Dist_ReceiveOp : Dist_Transfer<"receive"> {
  let summary = "receive a value from another pipeline stage";
  let description = [{
    Constraints: (C1) the offset is not 0.

    ```mlir
    %x = dist.receive stage -1 channel 3 : tensor<4x256x384xf32>
    ```
  }];
  let arguments = (ins I64Attr:$stage_offset, I64Attr:$channel);
  let results = (outs AnyRankedTensor:$output);
  let assemblyFormat = [{
    `stage` $stage_offset `channel` $channel attr-dict `:` type($output)
  }];
  let hasVerifier = 1;
}

#endif // LMC_DIALECTS_DIST_DISTOPS_TD
