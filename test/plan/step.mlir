// A program of inference: rows are counted when the step runs, memory is
// planned at the bound of each count.
// RUN: lmc-opt %s --plan-form-kernels --plan-schedule --plan-assign | FileCheck %s

module attributes {lm.sizes = {tokens = 64 : i64, logits = 4 : i64}} {
  lm.state @cache "cache" : tensor<32x2x2x16xf32>

  // The cache is written where it lies; a launch takes its count of rows; what
  // is gathered has as many as the indices, not as the table.
  // CHECK: plan.symbol "logits" size 0 to 4
  // CHECK: plan.symbol "tokens" size 0 to 64
  // CHECK: plan.input "rows" {{.*}} 16
  // CHECK: plan.output "y" {{.*}} 512
  // CHECK-LABEL: plan.program @step
  // CHECK: @cache_write_{{[0-9]+}} (read_write @caches[0] 8192, read @inputs[{{[0-9]+}}] 24576, {{.*}}) integers [#plan.linear<1 * tokens>] rows <1 * tokens>
  // CHECK: @paged_attention_{{[0-9]+}} ({{.*}} write @scratch[{{[0-9]+}}] 8192) integers [#plan.linear<1 * tokens>] rows <1 * tokens>
  // CHECK: @row_{{[0-9]+}} (read @scratch[{{[0-9]+}}] 8192, read @inputs[{{[0-9]+}}] 16, write @outputs[0] 512) integers [#plan.linear<1 * logits>] rows <1 * logits>
  func.func @step(%x: tensor<?x2x3x16xf32> {lm.input = "x", lm.size = "tokens"},
                  %p: tensor<?xi32> {lm.input = "p", lm.size = "tokens"},
                  %r: tensor<?xi32> {lm.input = "rows", lm.size = "logits"},
                  %t: tensor<2x1xi32> {lm.input = "pages"},
                  %c: tensor<32x2x2x16xf32> {lm.state = @cache})
      -> (tensor<?x2x1x16xf32> {lm.output = "y"}, tensor<32x2x2x16xf32> {lm.state = @cache})
      attributes {plan.program = "step"} {
    %n = lm.cache_write %c, %x, %p : (tensor<32x2x2x16xf32>, tensor<?x2x3x16xf32>, tensor<?xi32>) -> tensor<32x2x2x16xf32>
    %a = lm.paged_attention %x, %n, %p, %p, %t {page_size = 16 : i64, scale = 1.0 : f32} : (tensor<?x2x3x16xf32>, tensor<32x2x2x16xf32>, tensor<?xi32>, tensor<?xi32>, tensor<2x1xi32>) -> tensor<?x2x1x16xf32>
    %y = lm.embedding %a, %r : (tensor<?x2x1x16xf32>, tensor<?xi32>) -> tensor<?x2x1x16xf32>
    return %y, %n : tensor<?x2x1x16xf32>, tensor<32x2x2x16xf32>
  }
}
