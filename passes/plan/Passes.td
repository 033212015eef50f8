// Passes that work on the plan dialect or lead to it.
#ifndef LMC_PASSES_PLAN_PASSES_TD
#define LMC_PASSES_PLAN_PASSES_TD

include "mlir/Pass/PassBase.td"

def FormKernels : Pass<"plan-form-kernels", "::mlir::ModuleOp"> {
  let summary = "group operations into kernels and launch them";
  let description = [{
    Rewrites layers as primitives, groups primitives into kernels (see
    FormKernels.cpp for how), outlines each as a `plan.kernel` and puts a
    `plan.launch` in its place. Kernels that are equal become one, so that a
    deep model has the kernels of one layer.

    With `matmuls`, a product takes in no more than a library does: the sum with
    one number for each column, if the layer has it, and one sum with a value
    that is there, such as a gradient so far or the residual. Such a kernel is
    of kind `matmul`. All other products are kernels as without it, among them
    those whose rows are counted at run time.

    Requires: programs (functions with `plan.program`) of lm, arith and math
    operations on tensors of one rank's shape.
    Ensures: programs hold launches and views only.
    Leaves alone: functions that are no program.

    **Before**
    ```mlir
    func.func @f(%x: tensor<8x4xf32> {lm.input = "x"}, %w: tensor<4x6xf32> {lm.state = @w})
        -> (tensor<8x6xf32> {lm.output = "y"}) attributes {plan.program = "f"} {
      %h = lm.linear %x, %w : (tensor<8x4xf32>, tensor<4x6xf32>) -> tensor<8x6xf32>
      %y = lm.silu %h : tensor<8x6xf32>
      return %y : tensor<8x6xf32>
    }
    ```
    **After**
    ```mlir
    %h = lm.contract %x [1], %w [0] : (tensor<8x4xf32>, tensor<4x6xf32>) -> tensor<8x6xf32>
    %n = arith.negf %h : tensor<8x6xf32>
    ...
    plan.yield %s : tensor<8x6xf32>
    ...
    %y = plan.launch @contraction_0(%a, %b) : (tensor<8x4xf32>, tensor<4x6xf32>) -> tensor<8x6xf32>
    return %y : tensor<8x6xf32>
    ```
  }];
  let options = [
    Option<"matmuls", "matmuls", "bool", "false",
           "Leave plain products to the device's library">,
  ];
  let statistics = [
    Statistic<"numLaunches", "launches", "launches in all programs">,
    Statistic<"numMatmuls", "matmuls", "kernels that are a library's product">,
    Statistic<"numKernels", "kernels", "different kernels">
  ];
  let dependentDialects = ["::lmc::plan::PlanDialect", "::lmc::lm::LmDialect",
    "::mlir::arith::ArithDialect", "::mlir::math::MathDialect"];
}

//===----------------------------------------------------------------------===//
// Schedule and assign
//===----------------------------------------------------------------------===//

def Schedule : Pass<"plan-schedule", "::mlir::ModuleOp"> {
  let summary = "Say which programs run in a step, in which order";
  let description = [{
    Adds the schedules that a module's programs make possible:

      train      for each micro-batch forward and backward, then update
      evaluate   for each micro-batch evaluate, then evaluate_finish
      infer, ... every other program is a schedule of its own, of one call

    In a pipeline every stage has its own, and `pipeline` says in which order
    micro-batches pass the chunks of the stages: `gpipe` (all forwards first),
    `1f1b` (at most as many under way as there are stages from this one on),
    `interleaved` (several chunks on a stage), `zb` (backwards in halves, the
    weight halves where a stage would be idle), or the file of a schedule of
    one's own (examples/pipeline.schedule).

    A call's slot says which set of saved values it writes or reads. Slots are
    given out so that two micro-batches that are under way at the same time
    never share one; a single stage needs one slot.

    **Before**
    ```mlir
    module attributes {lm.micro_batches = 2 : i64} {
      func.func @forward() attributes {plan.program = "forward"} {
        return
      }
      func.func @backward() attributes {plan.program = "backward"} {
        return
      }
      func.func @update() attributes {plan.program = "update"} {
        return
      }
    }
    ```
    **After**
    ```mlir
    ...
    plan.schedule "train" stage 0 {
      plan.call @forward micro_batch 0 slot 0
      plan.call @backward micro_batch 0 slot 0
      plan.call @forward micro_batch 1 slot 0
      plan.call @backward micro_batch 1 slot 0
      plan.call @update micro_batch 0 slot 0
    }
    ```

    **Requires**: programs are functions with the attribute `plan.program`,
    each name once.
    **Ensures**: every program is called by a schedule.
    **Leaves alone**: the programs.
  }];
  let options = [
    Option<"microBatches", "micro-batches", "int64_t", "0",
           "Micro-batches of a step; 0 takes the module's lm.micro_batches, "
           "or 1">,
    Option<"pipeline", "pipeline", "std::string", "\"1f1b\"",
           "Order of micro-batches in a pipeline: gpipe, 1f1b, interleaved, "
           "zb, or a file's name">,
  ];
  let statistics = [
    Statistic<"numCalls", "calls", "calls in all schedules">,
    Statistic<"numSlots", "slots", "sets of saved values under way at once">,
  ];
  let dependentDialects = ["::lmc::plan::PlanDialect"];
}

def Assign : Pass<"plan-assign", "::mlir::ModuleOp"> {
  let summary = "Give every value its bytes";
  let description = [{
    Turns each program from launches on tensors into instructions on slices of
    a few allocations, all of known size.

    A value lies where the least copying is needed: a view in its operand, an
    operand of lm.concat_rows in the result, a tied result in the operand that
    it is tied to, a new state in the state's slice, an output in its port. A
    copy is made only where a reader of the old bytes comes after the writer
    of the new ones, or where one value is wanted in two places.

    States, ports and scalars have fixed places. What lives within a step is
    packed by lifetime: programs stand one behind the other on one line of
    time, in the order in which a micro-batch meets them, so that a saved value
    lives from its writer in forward to its last reader in backward and its
    bytes serve other values before and after. Where several micro-batches are
    under way at once on a stage, what each of them saves lies in a few ranges
    of bytes, laid out alike for all micro-batches of a chunk; these ranges and
    the scratch of each call are packed by the calls of the stage. Where each
    range begins, in 64 bytes, is a symbol of kind `slot`; a call's
    `slot_values` say it.

    **Before**
    ```mlir
    module {
      plan.kernel @negate(%x: tensor<16xf32>) -> tensor<16xf32>
          attributes {kind = "flat", tied = array<i64: -1>} {
        %y = arith.negf %x : tensor<16xf32>
        plan.yield %y : tensor<16xf32>
      }
      func.func @step(%x: tensor<16xf32> {lm.input = "x"})
          -> (tensor<16xf32> {lm.output = "y"})
          attributes {plan.program = "step"} {
        %a = plan.launch @negate(%x) : (tensor<16xf32>) -> tensor<16xf32>
        %b = plan.launch @negate(%a) : (tensor<16xf32>) -> tensor<16xf32>
        return %b : tensor<16xf32>
      }
      plan.schedule "step" stage 0 {
        plan.call @step micro_batch 0 slot 0
      }
    }
    ```
    **After**
    ```mlir
    ...
    plan.allocation @inputs input 64
    plan.allocation @outputs output 64
    plan.allocation @scratch scratch 64
    plan.input "x" : tensor<16xf32> in <@inputs[0] 64>
    plan.output "y" : tensor<16xf32> in <@outputs[0] 64>
    plan.program @step chunk 0 {
      plan.run @negate (read @inputs[0] 64, write @scratch[0] 64)
      plan.run @negate (read @scratch[0] 64, write @outputs[0] 64)
    }
    ```

    **Requires**: programs hold launches and views only, with static shapes;
    every argument and result says what it is; schedules are there.
    **Ensures**: no two values that are alive at once share bytes; every
    offset is a multiple of 64 save inside a value; parameters and states
    carry their slice as `plan.slice`.
    **Leaves alone**: kernels, the order of calls, the order of launches.
  }];
  let statistics = [
    Statistic<"numInstructions", "instructions", "instructions made">,
    Statistic<"numInPlace", "in-place", "results written to their final place "
              "or over their operand">,
    Statistic<"numCopies", "copies", "values that had to be copied">,
    Statistic<"arenaBytes", "arena-bytes", "bytes of scratch and saved values">,
    Statistic<"liveBytes", "live-bytes", "the most of them alive at once">,
  ];
  let dependentDialects = ["::lmc::plan::PlanDialect"];
}

#endif // LMC_PASSES_PLAN_PASSES_TD
