#include "passes/codegen/Emitter.h"
using namespace mlir; using namespace lmc; using namespace lmc::codegen;
LogicalResult codegen::planAttention(plan::KernelOp kernel, KernelFacts &) { return kernel.emitOpError() << "none"; }
LogicalResult codegen::emitAttention(EmitContext &) { return failure(); }
