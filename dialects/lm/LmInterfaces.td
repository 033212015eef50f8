// The joints between operations and passes. Each is small; a plugin's
// operation that implements them takes part like a built-in one.
#ifndef LMC_DIALECTS_LM_LMINTERFACES_TD
#define LMC_DIALECTS_LM_LMINTERFACES_TD

include "mlir/IR/OpBase.td"

def DifferentiableOpInterface : OpInterface<"Differentiable"> {
  let cppNamespace = "::lmc::lm";
  let description = [{
    Builds the backward of one operation. The forward's operands and results
    may be used freely: what the backward uses of them is what has to be kept
    or recomputed between the two.
  }];
  let methods = [
    InterfaceMethod<[{
      Appends to `operandGradients` one value per operand: the gradient of the
      loss with respect to it, of the operand's type, or a null value for an
      operand without gradient (indices, seeds). `resultGradients` holds one
      value per result, null where no gradient arrives. `wanted` says per
      operand whether its gradient will be used; an unwanted one may be null.
    }], "::mlir::LogicalResult", "buildBackward",
    (ins "::mlir::OpBuilder &":$builder,
         "::mlir::ArrayRef<::mlir::Value>":$resultGradients,
         "::mlir::ArrayRef<bool>":$wanted,
         "::mlir::SmallVectorImpl<::mlir::Value> &":$operandGradients)>
  ];
}

def LowerableOpInterface : OpInterface<"Lowerable"> {
  let cppNamespace = "::lmc::lm";
  let description = [{
    The road of an operation to a kernel: it rewrites itself as primitives
    (`arith`, `math` and lm's primitives on tensors), which are fused with
    their neighbours.
  }];
  let methods = [
    InterfaceMethod<[{
      Builds the primitives and appends one value per result, of the result's
      type.
    }], "::mlir::LogicalResult", "decompose",
    (ins "::mlir::OpBuilder &":$builder,
         "::mlir::SmallVectorImpl<::mlir::Value> &":$results)>
  ];
}

def CostedOpInterface : OpInterface<"Costed"> {
  let cppNamespace = "::lmc::lm";
  let description = "What an operation costs.";
  let methods = [
    InterfaceMethod<[{
      Floating-point operations, a multiply-add counted as two. Causal
      attention counts the half that is computed.
    }], "int64_t", "getFlops">
  ];
}

def ShardableOpInterface : OpInterface<"Shardable"> {
  let cppNamespace = "::lmc::lm";
  let description = [{
    The sharding rule: which dims of operands and results are one factor of
    the computation, as an einsum names its indices. See
    dialects/lm/ShardingRule.h.
  }];
  let methods = [
    InterfaceMethod<"The rule of this operation.",
      "::lmc::lm::ShardingRule", "getShardingRule">
  ];
}

#endif // LMC_DIALECTS_LM_LMINTERFACES_TD
