// The border behind shard. Each check carries the label of the law in
// Passes.td that it enforces.
#include "passes/verify/Passes.h"

#include "passes/verify/States.h"

namespace lmc::verify {
#define GEN_PASS_DEF_VERIFYSHARDED
#include "passes/verify/Passes.h.inc"
} // namespace lmc::verify

using namespace mlir;
using namespace lmc;

namespace {

LogicalResult checkSharding(Operation *at, Attribute attribute, Type type,
                            const Twine &what, dist::MeshAttr mesh) {
  auto sharding = dyn_cast_or_null<dist::ShardingAttr>(attribute);
  auto tensor = dyn_cast<RankedTensorType>(type);
  if (!sharding || !tensor ||
      static_cast<int64_t>(sharding.getDims().size()) != tensor.getRank())
    return at->emitOpError() << "gives " << what << " of type " << type // S1
                             << " no sharding of as many dims";
  for (unsigned dim = 0; dim < sharding.getDims().size(); ++dim)
    for (StringRef axis : sharding.getAxes(dim))
      if (!llvm::is_contained(mesh.getAxes(),
                              StringAttr::get(mesh.getContext(), axis)))
        return at->emitOpError()
               << "splits dim " << dim << " of " << what // S2
               << " over \"" << axis << "\", which is no axis of the mesh";
  return success();
}

LogicalResult checkFunction(func::FuncOp function, SymbolTable &symbols,
                            dist::MeshAttr mesh) {
  for (unsigned i = 0, e = function.getNumArguments(); i < e; ++i) {
    Attribute sharding = function.getArgAttr(i, dist::kShardingAttr);
    if (failed(checkSharding(function, sharding,
                             function.getArgument(i).getType(),
                             "argument " + Twine(i), mesh)))
      return failure();
    auto state =
        function.getArgAttrOfType<FlatSymbolRefAttr>(i, lm::kStateAttr);
    Operation *op = state ? symbols.lookup(state.getValue()) : nullptr;
    if (op && op->getAttr(dist::kShardingAttr) != sharding)
      return function.emitOpError() // S3
             << "has argument " << i << " sharded as " << sharding << ", its "
             << "state " << state << " as " << op->getAttr(dist::kShardingAttr);
  }
  for (Operation &op : function.getBody().front()) {
    if (op.getNumResults() == 0)
      continue;
    auto shardings = op.getAttrOfType<ArrayAttr>("dist.shardings");
    if (!shardings || shardings.size() != op.getNumResults())
      return op.emitOpError("has no sharding for each of its results"); // S1
    for (auto [i, result] : llvm::enumerate(op.getResults()))
      if (failed(checkSharding(&op, shardings[i], result.getType(),
                               "result " + Twine(i), mesh)))
        return failure();
  }
  return success();
}

LogicalResult check(ModuleOp module) {
  auto mesh = module->getAttrOfType<dist::MeshAttr>(dist::kMeshAttr);
  if (!mesh)
    return success();
  SymbolTable symbols(module);
  for (Operation &op : *module.getBody()) {
    if (RankedTensorType type = verify::declaredType(&op))
      if (failed(checkSharding(&op, op.getAttr(dist::kShardingAttr), type,
                               "itself", mesh)))
        return failure();
    if (auto function = dyn_cast<func::FuncOp>(op))
      if (failed(checkFunction(function, symbols, mesh)))
        return failure();
  }
  return success();
}

struct VerifyShardedPass
    : lmc::verify::impl::VerifyShardedBase<VerifyShardedPass> {
  using VerifyShardedBase::VerifyShardedBase;

  void runOnOperation() override {
    if (failed(check(getOperation())))
      return signalPassFailure();
    markAllAnalysesPreserved();
  }
};

} // namespace
