#include "passes/codegen/cuda/Kernels.h"
using namespace mlir;
using namespace lmc;
using namespace lmc::codegen;
LogicalResult cuda::planAttention(plan::KernelOp kernel, KernelFacts &) {
  return kernel.emitOpError() << "has no emitter";
}
LogicalResult cuda::emitAttention(EmitContext &context) {
  return context.kernel.emitOpError() << "has no emitter";
}
