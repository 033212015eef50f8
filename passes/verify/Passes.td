// What must hold at the borders between phases, as passes that change nothing.
#ifndef LMC_PASSES_VERIFY_PASSES_TD
#define LMC_PASSES_VERIFY_PASSES_TD

include "mlir/Pass/PassBase.td"

def VerifyImported : Pass<"verify-imported", "::mlir::ModuleOp"> {
  let summary = "Check what must hold of a model that was read";
  let description = [{
    Fails where, behind the phase import,

      (I1) there is not one function with the model: `@forward`, or the program
           `step` of inference;
      (I2) an argument does not say what it is (lm.state, lm.input, lm.scalar);
      (I3) an argument or result is tied to a state that is not declared, or of
           another type;
      (I4) `@forward` lacks the scalar output loss_sum or weight_sum.

    **Before**
    ```mlir
    module {
      func.func @step(%x: tensor<4xf32> {lm.input = "x"}) -> (tensor<4xf32> {lm.output = "y"})
          attributes {plan.program = "step"} {
        return %x : tensor<4xf32>
      }
    }
    ```
    **After**: unchanged.

    **Requires**: nothing.
    **Ensures**: (I1) to (I4).
    **Leaves alone**: everything.
  }];
}

def VerifyStaged : Pass<"verify-staged", "::mlir::ModuleOp"> {
  let summary = "Check what must hold of a model that a pipeline will cut";
  let description = [{
    Fails where, behind the phase stage,

      (G1) some operations of `@forward` have a chunk and others none, or one that
           the module does not have;
      (G2) chunks do not follow each other in the order of operations;
      (G3) there are fewer chunks than stages.

    **Before**
    ```mlir
    module attributes {dist.chunks = 1 : i64, dist.stages = 1 : i64} {
      func.func @forward(%x: tensor<4xf32> {lm.input = "x"}) {
        %y = math.exp %x {dist.chunk = 0 : i64} : tensor<4xf32>
        return
      }
    }
    ```
    **After**: unchanged.

    **Requires**: dist-mark-stages has run.
    **Ensures**: (G1) to (G3).
    **Leaves alone**: everything.
  }];
}

def VerifyDifferentiated : Pass<"verify-differentiated", "::mlir::ModuleOp"> {
  let summary = "Check what must hold of the programs of a step";
  let description = [{
    Fails where, behind the phase differentiate,

      (D1) a stage lacks one of the programs step and evaluate;
      (D2) a step has not one lm.begin_backward;
      (D3) an argument or result is tied to a state of another type;
      (D4) what one program sends, not one other receives, with its type;
      (D5) an operation still has a chunk.

    **Before**
    ```mlir
    module {
      func.func @step() attributes {plan.program = "step"} {
        lm.begin_backward
        return
      }
      func.func @evaluate() attributes {plan.program = "evaluate"} {
        return
      }
    }
    ```
    **After**: unchanged.

    **Requires**: lm-differentiate has run.
    **Ensures**: (D1) to (D5).
    **Leaves alone**: everything.
  }];
}

def VerifySharded : Pass<"verify-sharded", "::mlir::ModuleOp"> {
  let summary = "Check what must hold once every value has a sharding";
  let description = [{
    Fails where, behind the phase shard of a module with a mesh,

      (S1) an argument, a state or a result has no sharding, or one with another
           number of dims;
      (S2) a sharding names an axis that the mesh lacks;
      (S3) an argument lies otherwise than the state that it is tied to;
      (S4) an operand or a result lies otherwise than the factors of its
           operation are split, or is split on a dim that has no factor;
      (S5) a partial value is used where no sum passes through: a reduction is
           missing;
      (S6) a result is said to be partial on other axes than the operation
           makes it: a reduction is missing, or would be done twice;
      (S7) a reshard does not start from how its operand lies.

    **Before**
    ```mlir
    module attributes {dist.mesh = #dist.mesh<["dp"], [2]>} {
      func.func @f(%x: tensor<4xf32> {dist.sharding = #dist.sharding<[["dp"]], []>, lm.input = "x"}) attributes {plan.program = "f"} {
        return
      }
    }
    ```
    **After**: unchanged.

    **Requires**: dist-insert-reshards has run.
    **Ensures**: (S1) to (S7).
    **Leaves alone**: everything.
  }];
}

def VerifyPartitioned : Pass<"verify-partitioned", "::mlir::ModuleOp"> {
  let summary = "Check what must hold of one rank's programs";
  let description = [{
    Fails where, behind the phase partition,

      (P1) an operation still has shardings, or a program is still a whole step;
      (P2) an argument tied to a state has not the local type of the state;
      (P3) what a backward takes as saved, its forward does not save, with its
           type;
      (P4) a collective names an axis that the mesh lacks;
      (P5) in training, a stage lacks one of the programs forward, update and
           evaluate_finish;
      (P6) in training, what one program sends, not one other receives, with its
           type.

    **Before**
    ```mlir
    module {
      func.func @forward(%x: tensor<4xf32> {lm.input = "x"}) -> (tensor<4xf32> {lm.saved = "a"})
          attributes {plan.program = "forward"} {
        return %x : tensor<4xf32>
      }
      func.func @backward(%x: tensor<4xf32> {lm.saved = "a"}) attributes {plan.program = "backward"} {
        return
      }
    }
    ```
    **After**: unchanged.

    **Requires**: dist-partition and lm-split-programs have run.
    **Ensures**: (P1) to (P6).
    **Leaves alone**: everything.
  }];
}

def VerifyKernels : Pass<"verify-kernels", "::mlir::ModuleOp"> {
  let summary = "Check what must hold of programs made of launches";
  let description = [{
    Fails where, behind the phase kernels,

      (K1) a program holds anything but launches, views, collectives and transfers;
      (K2) a launch names no kernel, or one of other types;
      (K3) a kernel holds an operation that is no primitive;
      (K4) a kernel of kind matmul is more than a library's product.

    **Before**
    ```mlir
    module {
      func.func @f(%x: tensor<4xf32> {lm.input = "x"}) -> (tensor<2x2xf32> {lm.output = "y"})
          attributes {plan.program = "f"} {
        %y = lm.reshape %x : tensor<4xf32> to tensor<2x2xf32>
        return %y : tensor<2x2xf32>
      }
    }
    ```
    **After**: unchanged.

    **Requires**: plan-form-kernels has run.
    **Ensures**: (K1) to (K4).
    **Leaves alone**: everything.
  }];
}

def VerifyScheduled : Pass<"verify-scheduled", "::mlir::ModuleOp"> {
  let summary = "Check what must hold of schedules";
  let description = [{
    Fails where, behind the phase schedule,

      (C1) a program is called by no schedule;
      (C2) a stage calls a program of another one;
      (C3) a backward runs without its forward before it, or in another slot;
      (C4) a forward takes a slot whose micro-batch still waits for its
           backward;
      (C5) a weight half runs without its input half before it, or in another
           slot;
      (C6) a program is called twice for one micro-batch;
      (C7) the stages wait for each other for ever;
      (C8) a stage receives what was sent for another micro-batch;
      (C9) what a stage sends is never received.

    **Before**
    ```mlir
    module {
      func.func @f() attributes {plan.program = "f"} {
        return
      }
      plan.schedule "f" stage 0 {
        plan.call @f micro_batch 0 slot 0
      }
    }
    ```
    **After**: unchanged.

    **Requires**: plan-schedule has run.
    **Ensures**: (C1) to (C9).
    **Leaves alone**: everything.
  }];
}

def VerifyAssigned : Pass<"verify-assigned", "::mlir::ModuleOp"> {
  let summary = "Check what must hold once every value has its bytes";
  let description = [{
    Fails where, behind the phase assign,

      (B1) a function is still a program;
      (B2) a slice leaves its allocation for some value of its symbols, names
           an allocation or a symbol that is not there, or writes inputs or
           constants;
      (B3) a run breaks a law of plan.run: operands, access and integers are
           the kernel's;
      (B4) an instruction writes bytes that another of its operands holds;
      (B5) a program reads scratch that nothing in this call has written;
      (B6) a schedule calls what is no program, or gives a symbol no value or
           one out of its bounds.

    **Before**
    ```mlir
    module {
      plan.allocation @scratch scratch 64
      plan.program @p chunk 0 {
        plan.fill <@scratch[0] 64>
      }
    }
    ```
    **After**: unchanged.

    **Requires**: plan-assign has run.
    **Ensures**: (B1) to (B6).
    **Leaves alone**: everything.
  }];
  let statistics = [
    Statistic<"numSlices", "slices", "slices checked">,
    Statistic<"numUnproved", "unproved",
              "reads of scratch at an offset that depends on a symbol">,
  ];
}

#endif // LMC_PASSES_VERIFY_PASSES_TD
