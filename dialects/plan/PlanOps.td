// The operations of the plan dialect.
#ifndef LMC_DIALECTS_PLAN_PLANOPS_TD
#define LMC_DIALECTS_PLAN_PLANOPS_TD

include "dialects/plan/PlanAttributes.td"
include "dialects/plan/PlanDialect.td"
include "mlir/IR/SymbolInterfaces.td"
include "mlir/Interfaces/ControlFlowInterfaces.td"
include "mlir/Interfaces/FunctionInterfaces.td"
include "mlir/Interfaces/SideEffectInterfaces.td"

class Plan_Op<string mnemonic, list<Trait> traits = []>
    : Op<Plan_Dialect, mnemonic, traits>;

def Plan_KernelOp : Plan_Op<"kernel",
    [IsolatedFromAbove, Symbol, FunctionOpInterface, SingleBlock]> {
  let summary = "a function that becomes one native kernel";
  let description = [{
    The body holds primitives only: `arith` and `math` on tensors, lm's
    primitives, or one operation that brings its own kernel. `kind` says which
    loop nest it takes:

      flat           every tensor has the same elements in the same order
      row            reductions over trailing dims; rows are independent
      column_reduce  reductions over leading dims
      contraction    one lm.contract and elementwise work on its result
      scatter        one lm.embedding_grad and elementwise work on its result
      attention, attention_grad, rope   the operation's own
      matmul         none: one lm.contract of static rows whose product the
                     device's library computes, with at most the sum with one number for each
                     column and that with an argument (Matmul.h)

    Arguments are the operands that are read, results those that are written.
    A result i with `tied[i] = j >= 0` is written to the bytes of argument j.
    The native function's pointers are the arguments, then the results that
    are not tied, in order. It takes one integer, the micro-batch, if the body
    holds an lm.accumulate, then one for `rows` if the leading dim is dynamic,
    then, for each lm.random_uniform without an id, in order, the id and the
    index of its first element in the whole step's tensor.

    `most_rows` makes it a variant for so many rows at most: it computes what
    the kernel without it does, to the last bit, and takes the same pointers and
    integers.

    ```mlir
    plan.kernel @residual_norm(%x: tensor<1024x384xf32>, ...) -> (...)
        attributes {kind = "row", tied = array<i64: -1, -1, -1>} {
      ...
      plan.yield %y, %mean, %rstd : ...
    }
    ```
  }];
  let arguments = (ins SymbolNameAttr:$sym_name,
      TypeAttrOf<FunctionType>:$function_type, StrAttr:$kind,
      DenseI64ArrayAttr:$tied, OptionalAttr<DictArrayAttr>:$arg_attrs,
      OptionalAttr<DictArrayAttr>:$res_attrs, OptionalAttr<I64Attr>:$most_rows);
  let regions = (region SizedRegion<1>:$body);
  let hasCustomAssemblyFormat = 1;
  let hasVerifier = 1;
  let extraClassDeclaration = [{
    ::mlir::ArrayRef<::mlir::Type> getArgumentTypes() {
      return getFunctionType().getInputs();
    }
    ::mlir::ArrayRef<::mlir::Type> getResultTypes() {
      return getFunctionType().getResults();
    }
    ::mlir::Region *getCallableRegion() { return &getBody(); }
  }];
}

def Plan_YieldOp : Plan_Op<"yield",
    [Pure, ReturnLike, Terminator, HasParent<"KernelOp">]> {
  let summary = "the results of a kernel";
  let arguments = (ins Variadic<AnyType>:$values);
  let assemblyFormat = "($values^ `:` type($values))? attr-dict";
}

def Plan_LaunchOp : Plan_Op<"launch", []> {
  let summary = "run a kernel";
  let description = [{
    Operands and results are the kernel's. A result that the kernel ties to an
    argument takes the operand's bytes: the operand has no reader after it.
    `random_ids` are those that the kernel takes as integers.
  }];
  let arguments = (ins FlatSymbolRefAttr:$kernel,
                   Variadic<AnyRankedTensor>:$inputs,
                   OptionalAttr<DenseI64ArrayAttr>:$random_ids);
  let results = (outs Variadic<AnyRankedTensor>:$outputs);
  let assemblyFormat = [{
    $kernel `(` $inputs `)` attr-dict `:` functional-type($inputs, $outputs)
  }];
}

//===----------------------------------------------------------------------===//
// What a plan declares
//===----------------------------------------------------------------------===//

def Plan_SymbolOp : Plan_Op<"symbol", []> {
  let summary = "what a linear expression may depend on";
  let description = [{
    `kind` is `micro_batch`, `slot`, `coordinate` (of this rank, on mesh axis
    `axis`) or `size`. Its value lies in [minimum, maximum].

    Constraints: (C1) the kind is one of these; (C2) 0 <= minimum <= maximum;
    (C3) a coordinate, and nothing else, names an axis.

    ```mlir
    plan.symbol "micro_batch" micro_batch 0 to 3
    ```
  }];
  let arguments = (ins StrAttr:$name, StrAttr:$kind, I64Attr:$minimum,
      I64Attr:$maximum, OptionalAttr<I64Attr>:$axis);
  let assemblyFormat =
      "$name custom<Keyword>($kind) $minimum `to` $maximum attr-dict";
  let hasVerifier = 1;
}

def Plan_AllocationOp : Plan_Op<"allocation", [Symbol]> {
  let summary = "a block of memory, allocated once before the first instruction";
  let description = [{
    `contents` says how long bytes keep their meaning: `scratch` (within a
    program), `saved` (from a forward call to its backward call), `state` (from
    step to step), `input`, `output`, `constant`.

    Constraints: (C1) the contents are one of these; (C2) bytes are a multiple
    of 64 and not negative.

    ```mlir
    plan.allocation @parameters state 4096
    ```
  }];
  let arguments = (ins SymbolNameAttr:$sym_name, StrAttr:$contents,
      I64Attr:$bytes, OptionalAttr<DenseI64ArrayAttr>:$stage_bytes);
  let assemblyFormat = "$sym_name custom<Keyword>($contents) $bytes attr-dict";
  let hasVerifier = 1;
}

class Plan_Port<string mnemonic> : Plan_Op<mnemonic, []> {
  let arguments = (ins StrAttr:$name, TypeAttr:$type, Plan_SliceAttr:$slice,
      DefaultValuedAttr<I64Attr, "1">:$micro_batches);
  let assemblyFormat = "$name `:` $type `in` $slice attr-dict";
}

def Plan_InputOp : Plan_Port<"input"> {
  let summary = "what the host writes before a step";
  let description = [{
    The type is one micro-batch's; the slice holds all micro-batches, one
    behind the other.
  }];
}

def Plan_OutputOp : Plan_Port<"output"> {
  let summary = "what the host reads after a step";
}

def Plan_ScalarOp : Plan_Op<"scalar", []> {
  let summary = "a run-time number that the host writes before each step";
  let arguments = (ins StrAttr:$name, TypeAttr:$type, Plan_SliceAttr:$slice);
  let assemblyFormat = "$name `:` $type `in` $slice attr-dict";
}

//===----------------------------------------------------------------------===//
// Programs and their instructions
//===----------------------------------------------------------------------===//

def Plan_ProgramOp : Plan_Op<"program",
    [Symbol, NoTerminator, SingleBlock, NoRegionArguments]> {
  let summary = "instructions in the order in which they run";
  let description = [{
    ```mlir
    plan.program @forward chunk 0 {
      plan.run @k (read @parameters[0] 64, write @scratch[0] 64)
    }
    ```
  }];
  let arguments = (ins SymbolNameAttr:$sym_name,
      DefaultValuedAttr<I64Attr, "0">:$chunk);
  let regions = (region SizedRegion<1>:$body);
  let assemblyFormat = "$sym_name `chunk` $chunk attr-dict-with-keyword $body";
  let skipDefaultBuilders = 1;
  let builders = [OpBuilder<(ins "::mlir::StringRef":$name, "int64_t":$chunk)>];
}

class Plan_Instruction<string mnemonic>
    : Plan_Op<mnemonic, [HasParent<"ProgramOp">]>;

def Plan_RunOp : Plan_Instruction<"run"> {
  let summary = "run a kernel over slices";
  let description = [{
    One operand per pointer of the native function: the kernel's arguments,
    then its results that are not tied. `integers` are the kernel's, in order.
    `rows` of the grid are the kernel's own where they are not given. A kernel
    of kind `matmul` takes one operand more, the library's workspace.

    The pass verify-assigned holds a run against its kernel: as many operands
    as the kernel has pointers, each with the bytes of its tensor; an argument
    is read, and written too where a result is tied to it, other results are
    written; as many integers as the kernel takes.
  }];
  let arguments = (ins FlatSymbolRefAttr:$kernel,
      TypedArrayAttrBase<Plan_OperandAttr, "operands">:$operands,
      OptionalAttr<TypedArrayAttrBase<Plan_LinearAttr, "integers">>:$integers,
      OptionalAttr<Plan_LinearAttr>:$rows);
  let assemblyFormat = [{
    $kernel custom<Operands>($operands) (`integers` $integers^)?
    (`rows` $rows^)? attr-dict
  }];
}

def Plan_FillOp : Plan_Instruction<"fill"> {
  let summary = "fill a slice with zero bytes";
  let arguments = (ins Plan_SliceAttr:$slice);
  let assemblyFormat = "$slice attr-dict";
}

def Plan_CopyOp : Plan_Instruction<"copy"> {
  let summary = "copy a slice";
  let description = "Constraints: (C1) source and target have as many bytes.";
  let arguments = (ins Plan_SliceAttr:$source, Plan_SliceAttr:$target);
  let assemblyFormat = "$source `to` $target attr-dict";
  let hasVerifier = 1;
}

def Plan_CollectiveOp : Plan_Instruction<"collective"> {
  let summary = "reduce or exchange among the ranks of mesh axes";
  let description = [{
    `kind` is `all_reduce`, `reduce_scatter`, `all_gather`, `all_to_all` or
    `broadcast`; `reduction` is `sum` or `max`; `axes` are indices of mesh
    axes.

    Constraints: (C1) kind and reduction are among these.
  }];
  let arguments = (ins StrAttr:$kind, StrAttr:$reduction, TypeAttr:$element,
      DenseI64ArrayAttr:$axes, Plan_SliceAttr:$source, Plan_SliceAttr:$target);
  let assemblyFormat = [{
    custom<Keyword>($kind) custom<Keyword>($reduction) $element `axes` $axes
    $source `to` $target attr-dict
  }];
  let hasVerifier = 1;
}

class Plan_Transfer<string mnemonic> : Plan_Instruction<mnemonic> {
  let arguments = (ins Plan_SliceAttr:$slice, I64Attr:$stage_offset,
      I64Attr:$channel);
  let assemblyFormat =
      "$slice `stage` $stage_offset `channel` $channel attr-dict";
}

def Plan_SendOp : Plan_Transfer<"send"> {
  let summary = "send to the rank some stages away";
}

def Plan_ReceiveOp : Plan_Transfer<"receive"> {
  let summary = "receive from the rank some stages away";
}

//===----------------------------------------------------------------------===//
// Schedules
//===----------------------------------------------------------------------===//

def Plan_ScheduleOp : Plan_Op<"schedule",
    [NoTerminator, SingleBlock, NoRegionArguments]> {
  let summary = "what the ranks of a pipeline stage do in a step, in order";
  let description = [{
    Holds `plan.call` operations only.

    ```mlir
    plan.schedule "train" stage 0 {
      plan.call @forward micro_batch 0 slot 0
      plan.call @backward micro_batch 0 slot 0
      plan.call @update micro_batch 0 slot 0
    }
    ```
  }];
  let arguments = (ins StrAttr:$name, I64Attr:$stage);
  let regions = (region SizedRegion<1>:$body);
  let assemblyFormat = "$name `stage` $stage attr-dict-with-keyword $body";
  let skipDefaultBuilders = 1;
  let builders = [OpBuilder<(ins "::mlir::StringRef":$name, "int64_t":$stage)>];
}

def Plan_CallOp : Plan_Op<"call", [HasParent<"ScheduleOp">]> {
  let summary = "run a program for a micro-batch";
  let description = [{
    `slot` says in which of several sets the saved values of the micro-batch
    are; plan-assign makes bytes of it: `slot_values` are what the symbols of
    kind `slot` have in this call, in the order of their declaration.
  }];
  let arguments = (ins FlatSymbolRefAttr:$program, I64Attr:$micro_batch,
      I64Attr:$slot, OptionalAttr<DenseI64ArrayAttr>:$slot_values);
  let assemblyFormat =
      "$program `micro_batch` $micro_batch `slot` $slot attr-dict";
}

#endif // LMC_DIALECTS_PLAN_PLANOPS_TD
