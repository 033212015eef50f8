#include "passes/codegen/cuda/Kernels.h"
using namespace mlir;
using namespace lmc;
using namespace lmc::codegen;
LogicalResult cuda::planAttentionGrad(plan::KernelOp kernel, KernelFacts &) {
  return kernel.emitOpError() << "has no emitter";
}
LogicalResult cuda::emitAttentionGrad(EmitContext &context) {
  return context.kernel.emitOpError() << "has no emitter";
}
