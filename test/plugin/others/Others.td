// Operations that lack one answer each, and one that is made of a layer.
#ifndef OTHERS_TD
#define OTHERS_TD

include "dialects/lm/LmInterfaces.td"
include "mlir/IR/OpBase.td"
include "mlir/Interfaces/InferTypeOpInterface.td"
include "mlir/Interfaces/SideEffectInterfaces.td"

defvar Differentiable = DeclareOpInterfaceMethods<DifferentiableOpInterface>;
defvar Lowerable = DeclareOpInterfaceMethods<LowerableOpInterface>;

def Others_Dialect : Dialect {
  let name = "others";
  let cppNamespace = "::others";
}

class Others_Op<string mnemonic, list<Trait> traits>
    : Op<Others_Dialect, mnemonic, !listconcat([Pure], traits)> {
  let arguments = (ins TensorOf<[F32]>:$input);
  let results = (outs TensorOf<[F32]>:$output);
}

def Others_NoBackwardOp
    : Others_Op<"no_backward", [Lowerable, SameOperandsAndResultType]>;
def Others_NoKernelOp
    : Others_Op<"no_kernel", [Differentiable, SameOperandsAndResultType]>;
def Others_NoRuleOp : Others_Op<"no_rule", [Differentiable, Lowerable]>;

// max(x, 0)^2 in terms of lm.relu, which is no primitive.
def Others_LayeredOp : Others_Op<"layered",
    [Differentiable, Lowerable, SameOperandsAndResultType]>;

#endif // OTHERS_TD
