// Which products are left to the device's library, and which are kernels still.
// RUN: lmc-opt %s --split-input-file --plan-form-kernels=matmuls=true --verify-kernels | FileCheck %s
// RUN: lmc-opt %s --split-input-file --plan-form-kernels --verify-kernels | FileCheck %s --check-prefix=KERNELS
// KERNELS-NOT: kind = "matmul"

// A layer's bias is the library's; what comes behind it is not.
// CHECK-LABEL: module @layer
// CHECK: plan.kernel @flat_0
// CHECK: math.exp
// CHECK: plan.kernel @matmul_1
// CHECK-SAME: kind = "matmul"
// CHECK-NEXT: lm.contract
// CHECK-NEXT: lm.broadcast
// CHECK-NEXT: arith.addf
// CHECK-NEXT: plan.yield
// CHECK: plan.launch @matmul_1
// CHECK: plan.launch @flat_0
module @layer {
  func.func @f(%x: tensor<2x4x8xf32> {lm.input = "x"}, %w: tensor<8x6xf32> {lm.state = @w}, %b: tensor<6xf32> {lm.state = @b})
      -> (tensor<2x4x6xf32> {lm.output = "y"}) attributes {plan.program = "f"} {
    %h = lm.linear %x, %w bias %b : (tensor<2x4x8xf32>, tensor<8x6xf32>, tensor<6xf32>) -> tensor<2x4x6xf32>
    %y = lm.silu %h : tensor<2x4x6xf32>
    return %y : tensor<2x4x6xf32>
  }
}

// -----

// So is the sum with a value that is there; the second sum is not.
// CHECK-LABEL: module @residual
// CHECK: plan.kernel @flat_0
// CHECK-NEXT: arith.addf
// CHECK: plan.kernel @matmul_1(%{{.*}}: tensor<4x8xf32>, %{{.*}}: tensor<8x6xf32>, %{{.*}}: tensor<4x6xf32>)
// CHECK-NEXT: lm.contract
// CHECK-NEXT: arith.addf
// CHECK-NEXT: plan.yield
module @residual {
  func.func @f(%x: tensor<4x8xf32> {lm.input = "x"}, %w: tensor<8x6xf32> {lm.state = @w}, %r: tensor<4x6xf32> {lm.input = "r"}, %s: tensor<4x6xf32> {lm.input = "s"})
      -> (tensor<4x6xf32> {lm.output = "y"}) attributes {plan.program = "f"} {
    %h = lm.linear %x, %w : (tensor<4x8xf32>, tensor<8x6xf32>) -> tensor<4x6xf32>
    %a = arith.addf %r, %h : tensor<4x6xf32>
    %y = arith.addf %a, %s : tensor<4x6xf32>
    return %y : tensor<4x6xf32>
  }
}

// -----

// A gradient is added to in place; its factors are turned.
// CHECK-LABEL: module @gradient
// CHECK: plan.kernel @matmul_0
// CHECK-SAME: kind = "matmul", tied = array<i64: 2>
// CHECK-NEXT: lm.contract {{.*}}[0], {{.*}}[0]
// CHECK-NEXT: lm.accumulate
// CHECK-NEXT: plan.yield
module @gradient {
  func.func @f(%x: tensor<4x8xf32> {lm.input = "x"}, %dy: tensor<4x6xf32> {lm.input = "dy"}, %g: tensor<8x6xf32> {lm.state = @g})
      -> (tensor<8x6xf32> {lm.state = @g}) attributes {plan.program = "f"} {
    %dw = lm.contract %x [0], %dy [0] : (tensor<4x8xf32>, tensor<4x6xf32>) -> tensor<8x6xf32>
    %sum = lm.accumulate %g, %dw : tensor<8x6xf32>
    return %sum : tensor<8x6xf32>
  }
}

// -----

// A product that two values want takes nothing in.
// CHECK-LABEL: module @wanted_twice
// CHECK: plan.kernel @matmul_1
// CHECK-NEXT: lm.contract
// CHECK-NEXT: plan.yield
module @wanted_twice {
  func.func @f(%x: tensor<4x8xf32> {lm.input = "x"}, %w: tensor<8x6xf32> {lm.state = @w}, %r: tensor<4x6xf32> {lm.input = "r"})
      -> (tensor<4x6xf32> {lm.output = "y"}, tensor<4x6xf32> {lm.output = "z"}) attributes {plan.program = "f"} {
    %h = lm.linear %x, %w : (tensor<4x8xf32>, tensor<8x6xf32>) -> tensor<4x6xf32>
    %y = arith.addf %h, %r : tensor<4x6xf32>
    return %h, %y : tensor<4x6xf32>, tensor<4x6xf32>
  }
}

// -----

// Tokens are counted at run time: no library's, and the whole layer.
// CHECK-LABEL: module @tokens
// CHECK: plan.kernel
// CHECK-SAME: kind = "contraction"
// CHECK-NEXT: lm.contract
// CHECK: math.exp
// CHECK-NOT: plan.kernel
module @tokens attributes {lm.sizes = {tokens = 16 : i64}} {
  func.func @f(%x: tensor<?x8xf32> {lm.input = "x", lm.size = "tokens"}, %w: tensor<8x6xf32> {lm.state = @w})
      -> (tensor<?x6xf32> {lm.output = "y"}) attributes {plan.program = "f"} {
    %h = lm.linear %x, %w : (tensor<?x8xf32>, tensor<8x6xf32>) -> tensor<?x6xf32>
    %y = lm.silu %h : tensor<?x6xf32>
    return %y : tensor<?x6xf32>
  }
}

// -----

// bfloat16 is not the library's yet.
// CHECK-LABEL: module @narrow
// CHECK: kind = "contraction"
module @narrow {
  func.func @f(%x: tensor<4x8xbf16> {lm.input = "x"}, %w: tensor<8x6xbf16> {lm.state = @w})
      -> (tensor<4x6xbf16> {lm.output = "y"}) attributes {plan.program = "f"} {
    %y = lm.contract %x [1], %w [0] : (tensor<4x8xbf16>, tensor<8x6xbf16>) -> tensor<4x6xbf16>
    return %y : tensor<4x6xbf16>
  }
}
