// RUN: lmc-opt %s --plan-assign | FileCheck %s

// Collectives over the leading dim are instructions; a gathered value is
// scratch, a scattered sum that is a state's new value is written there.
// CHECK-LABEL: plan.program @reduce
// CHECK-NEXT: plan.collective all_gather sum f32 axes {{\[}}0] <@parameters[0] 64> to <@scratch[0] 128>
// CHECK-NEXT: plan.collective reduce_scatter sum f32 axes {{\[}}0] <@scratch[0] 128> to <@gradients[0] 64>
module attributes {dist.mesh = #dist.mesh<["fsdp"], [2]>} {
  lm.parameter @w : tensor<32xf32> {
      dist.sharding = #dist.sharding<[["fsdp"]], []>, initialization = {kind = "zeros"}}
  lm.state @w.gradient "accumulator" : tensor<32xf32> {
      dist.sharding = #dist.sharding<[["fsdp"]], []>, parameter = @w, role = "gradient"}
  func.func @reduce(%w: tensor<16xf32> {lm.state = @w})
      -> (tensor<16xf32> {lm.state = @w.gradient})
      attributes {plan.program = "reduce"} {
    %all = dist.all_gather %w dim 0 over ["fsdp"] : tensor<16xf32> to tensor<32xf32>
    %sum = dist.reduce_scatter %all dim 0 over ["fsdp"] : tensor<32xf32> to tensor<16xf32>
    return %sum : tensor<16xf32>
  }
  plan.schedule "train" stage 0 {
    plan.call @reduce micro_batch 0 slot 0
  }
}
