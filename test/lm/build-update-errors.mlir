// RUN: lmc-opt %s --split-input-file --verify-diagnostics --lm-build-update

// An accumulator that nothing would update.
lm.parameter @w : tensor<4xf32> {initialization = {kind = "zeros"}}
// expected-error @+1 {{lies in no bucket; run dist-pack-buckets first}}
lm.state @w.gradient "accumulator" : tensor<4xf32> {parameter = @w, role = "gradient"}
lm.state @loss_sum "accumulator" : tensor<f32> {role = "loss_sum"}
lm.state @weight_sum "accumulator" : tensor<f32> {role = "weight_sum"}
