// The operations of the plan dialect.
#ifndef LMC_DIALECTS_PLAN_PLANOPS_TD
#define LMC_DIALECTS_PLAN_PLANOPS_TD

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

    Arguments are the operands that are read, results those that are written.
    A result i with `tied[i] = j >= 0` is written to the bytes of argument j.
    The native function's pointers are the arguments, then the results that
    are not tied, in order. It takes one integer, the micro-batch, if the body
    holds an lm.accumulate, then one for `rows` if the leading dim is dynamic.

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
      OptionalAttr<DictArrayAttr>:$res_attrs);
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
  }];
  let arguments = (ins FlatSymbolRefAttr:$kernel,
                   Variadic<AnyRankedTensor>:$inputs);
  let results = (outs Variadic<AnyRankedTensor>:$outputs);
  let assemblyFormat = [{
    $kernel `(` $inputs `)` attr-dict `:` functional-type($inputs, $outputs)
  }];
}

#endif // LMC_DIALECTS_PLAN_PLANOPS_TD
