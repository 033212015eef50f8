// RUN: sed -e 's/PIECES/parameters [] gradients ["dp"] moments ["dp"]/' %s | lmc-opt --dist-pack-buckets | FileCheck %s --check-prefix=TWO
// RUN: sed -e 's/PIECES/parameters ["dp"] gradients ["dp"] moments ["dp"]/' %s | lmc-opt --dist-pack-buckets | FileCheck %s --check-prefix=THREE

// ZeRO 2: what this micro-batch adds is laid together, with zeros where no
// gradient is, and scattered behind the last gradient.
// TWO-LABEL: module @pieces
// TWO: lm.state @both.gradient {{.*}}dist.bucket = @both.bucket.gradient, dist.bucket_offset = 0 : i64
// TWO: lm.state @both.bucket.piece "piece" : tensor<128xf32> {dist.bucket = @both.bucket, dist.sharding = #dist.sharding<{{\[}}["dp"]], []>, role = "parameter"}
// TWO: func.func @backward_all(
// TWO-SAME: %[[A:[a-z0-9]+]]: tensor<64xf32> {lm.state = @both.bucket.gradient}
// TWO-SAME: %[[P:[a-z0-9]+]]: tensor<128xf32> {lm.state = @both.bucket}
// TWO: %[[G:.*]] = math.exp
// TWO: %[[ZEROS:.*]] = arith.constant dense<0.000000e+00> : tensor<112xf32>
// TWO: %[[ROWS:.*]] = lm.concat_rows %{{.*}}, %[[ZEROS]]
// TWO: %[[SUM:.*]] = dist.reduce_scatter %[[ROWS]] dim 0 over ["dp"] : tensor<128xf32> to tensor<64xf32>
// TWO: %[[NEW:.*]] = lm.accumulate %[[A]], %[[SUM]]
// TWO: math.sqrt
// TWO: return %{{.*}}, %[[NEW]]

// ZeRO 3: parameters are gathered before their first use.
// THREE-LABEL: module @pieces
// THREE: func.func @backward_all(
// THREE-SAME: %[[P:[a-z0-9]+]]: tensor<64xf32> {lm.state = @both.bucket}
// THREE: math.absf
// THREE: %[[WHOLE:.*]] = dist.all_gather %[[P]] dim 0 over ["dp"] : tensor<64xf32> to tensor<128xf32>
// THREE: %[[W:.*]] = lm.slice_rows %[[WHOLE]] at 0
// THREE: math.exp %[[W]]
module @pieces attributes {dist.mesh = #dist.mesh<["dp"], [2]>} {
  lm.parameter @both : tensor<16xf32> {dist.pieces = #dist.pieces<PIECES>, initialization = {kind = "zeros"}}
  lm.state @both.gradient "accumulator" : tensor<16xf32> {parameter = @both, role = "gradient", dist.sharding = #dist.sharding<[[]], ["dp"]>}
  func.func @backward_all(%x: tensor<16xf32> {lm.input = "x"}, %w: tensor<16xf32> {lm.state = @both}, %a: tensor<16xf32> {lm.state = @both.gradient})
      -> (tensor<16xf32> {lm.state = @both.gradient}, tensor<16xf32> {lm.output = "y"}) attributes {plan.program = "backward"} {
    %z = math.absf %x : tensor<16xf32>
    %g = math.exp %w : tensor<16xf32>
    %s = lm.accumulate %a, %g : tensor<16xf32>
    %y = math.sqrt %z : tensor<16xf32>
    return %s, %y : tensor<16xf32>, tensor<16xf32>
  }
}
