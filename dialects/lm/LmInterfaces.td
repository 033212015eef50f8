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

def DrawingOpInterface : OpInterface<"Drawing"> {
  let cppNamespace = "::lmc::lm";
  let description = [{
    An operation that draws random numbers, as `lm.random_uniform` says. The
    tensor of its numbers has the dims of one of its values and, where an
    element of that value needs several, a last dim of these.

    Where a dim behind the first is split, the attribute `whole` is the shape
    of which the value is a part (the leading dim as it is here), and `axes`
    has the mesh axes that split each dim.
  }];
  let methods = [
    InterfaceMethod<"The id of its numbers; none if a kernel is given it.",
      "::std::optional<uint64_t>", "getId">,
    InterfaceMethod<"False if this one draws none.", "bool", "draws", (ins),
      /*methodBody=*/"", [{
      return true;
    }]>,
    InterfaceMethod<"The value whose elements need numbers.",
      "::mlir::Value", "getDrawnFor", (ins), /*methodBody=*/"", [{
      return $_op->getResult(0);
    }]>,
    InterfaceMethod<"Numbers for each of its elements.",
      "int64_t", "getDrawnPerElement", (ins),
      /*methodBody=*/"", [{
      return 1;
    }]>
  ];
}

#endif // LMC_DIALECTS_LM_LMINTERFACES_TD
