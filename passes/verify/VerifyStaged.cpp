// The border behind stage. Each check carries the label of the law in
// Passes.td that it enforces.
#include "passes/verify/Passes.h"

#include "dialects/dist/Dist.h"

#include "mlir/Dialect/Func/IR/FuncOps.h"

namespace lmc::verify {
#define GEN_PASS_DEF_VERIFYSTAGED
#include "passes/verify/Passes.h.inc"
} // namespace lmc::verify

using namespace mlir;
using namespace lmc;

namespace {

LogicalResult check(ModuleOp module) {
  auto integer = [&](StringRef name) {
    auto attr = module->getAttrOfType<IntegerAttr>(name);
    return attr ? attr.getInt() : 0;
  };
  int64_t chunks = integer(dist::kChunksAttr);
  int64_t stages = integer(dist::kStagesAttr);
  if (chunks < stages)
    return module.emitOpError() // G3
           << "is cut into " << chunks << " chunks for " << stages << " stages";
  auto function = module.lookupSymbol<func::FuncOp>("forward");
  if (!function)
    return success();
  int64_t last = 0;
  for (Operation &op : function.getBody().front().without_terminator()) {
    auto chunk = op.getAttrOfType<IntegerAttr>(dist::kChunkAttr);
    if (!chunk && chunks == 0)
      continue;
    if (!chunk || chunk.getInt() < 0 || chunk.getInt() >= chunks)
      return op.emitOpError() // G1
             << "belongs to no chunk of " << chunks;
    if (chunk.getInt() < last)
      return op.emitOpError() // G2
             << "belongs to chunk " << chunk.getInt() << ", one before it to "
             << last;
    last = chunk.getInt();
  }
  return success();
}

struct VerifyStagedPass
    : lmc::verify::impl::VerifyStagedBase<VerifyStagedPass> {
  using VerifyStagedBase::VerifyStagedBase;

  void runOnOperation() override {
    if (failed(check(getOperation())))
      return signalPassFailure();
    markAllAnalysesPreserved();
  }
};

} // namespace
