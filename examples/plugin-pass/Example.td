// One operation and two passes: all that this plugin brings.
#ifndef EXAMPLE_TD
#define EXAMPLE_TD

include "dialects/lm/LmInterfaces.td"
include "mlir/IR/OpBase.td"
include "mlir/Interfaces/InferTypeOpInterface.td"
include "mlir/Interfaces/SideEffectInterfaces.td"
include "mlir/Pass/PassBase.td"

def Example_Dialect : Dialect {
  let name = "example";
  let cppNamespace = "::example";
  let summary = "Operations that lmc does not have";
}

// Each trait and interface is what some phase asks:
//   Differentiable             differentiate: what is the backward?
//   SameOperandsAndResultType  shard: one factor per dim, like any elementwise
//                              operation (others implement Shardable)
//   Lowerable                  kernels: what is it in primitives?
//   Costed                     how much work is it?
//   Pure                       it may be removed, merged and computed again
def Example_SquaredReluOp : Op<Example_Dialect, "squared_relu",
    [Pure, SameOperandsAndResultType,
     DeclareOpInterfaceMethods<DifferentiableOpInterface>,
     DeclareOpInterfaceMethods<LowerableOpInterface>,
     DeclareOpInterfaceMethods<CostedOpInterface>]> {
  let summary = "max(x, 0)^2";
  let description = [{
    The activation of So et al., "Primer: Searching for Efficient Transformers
    for Language Modeling". Its slope is 2 max(x, 0).
  }];
  let arguments = (ins TensorOf<[F32, BF16, F16]>:$input);
  let results = (outs TensorOf<[F32, BF16, F16]>:$output);
  let assemblyFormat = "$input attr-dict `:` type($output)";
}

def UseSquaredRelu : Pass<"example-use-squared-relu", "::mlir::ModuleOp"> {
  let summary = "example.squared_relu in the place of lm.gelu";
  let description = [{
    Replaces every `lm.gelu` whose layer's name (that of the ModelSpec, such
    as `h.3.mlp.activation`) begins with `layers`.

    **Before**
    ```mlir
    func.func @f(%x: tensor<4xf32>) -> tensor<4xf32> {
      %y = lm.gelu "tanh" %x : tensor<4xf32>
      return %y : tensor<4xf32>
    }
    ```
    **After**
    ```mlir
    func.func @f(%x: tensor<4xf32>) -> tensor<4xf32> {
      %y = example.squared_relu %x : tensor<4xf32>
      return %y : tensor<4xf32>
    }
    ```
  }];
  let dependentDialects = ["::example::ExampleDialect"];
  let options = [
    Option<"layers", "layers", "std::string", "\"\"",
           "how the names of the layers to change begin; all without it">
  ];
  let statistics = [
    Statistic<"numReplaced", "replaced", "how many it replaced">,
    Statistic<"numOther", "other", "how many are of other layers">
  ];
}

def CountFlops : Pass<"example-count-flops", "::mlir::ModuleOp"> {
  let summary = "note the FLOPs of the forward, per block";
  let description = [{
    Sums what the `Costed` interface says, by the block that an operation
    belongs to, into the module's attribute `example.flops`. Changes nothing
    else.
  }];
}

#endif // EXAMPLE_TD
