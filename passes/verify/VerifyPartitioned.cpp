// The border behind partition. Each check carries the label of the law in
// Passes.td that it enforces.
#include "passes/verify/Passes.h"

#include "dialects/plan/Plan.h"
#include "passes/verify/States.h"

#include "llvm/ADT/StringMap.h"

namespace lmc::verify {
#define GEN_PASS_DEF_VERIFYPARTITIONED
#include "passes/verify/Passes.h.inc"
} // namespace lmc::verify

using namespace mlir;
using namespace lmc;

namespace {

LogicalResult checkOps(func::FuncOp function, dist::MeshAttr mesh) {
  for (Operation &op : function.getBody().front()) {
    if (op.hasAttr("dist.shardings"))
      return op.emitOpError("still has shardings"); // P1
    if (dist::isCollective(&op))
      for (Attribute axis : dist::axesOf(&op))
        if (!mesh || !llvm::is_contained(mesh.getAxes(), axis))
          return op.emitOpError() // P4
                 << "goes over " << axis << ", which is no axis of the mesh";
  }
  return success();
}

LogicalResult check(ModuleOp module) {
  auto mesh = module->getAttrOfType<dist::MeshAttr>(dist::kMeshAttr);
  auto mode = module->getAttrOfType<StringAttr>("lm.mode");
  bool isTraining = mode && mode.getValue() == "train";
  if (isTraining &&
      (failed(verify::checkPrograms(
           module, {"forward", "update", "evaluate_finish"}, "P5")) ||
       failed(verify::checkTransfers(module, "P6"))))
    return failure();
  SymbolTable symbols(module);
  llvm::StringMap<Type> saved;
  for (auto function : module.getOps<func::FuncOp>()) {
    auto program = function->getAttrOfType<StringAttr>(lm::kProgramAttr);
    bool isStep = program && program.getValue() == "step" &&
                  (!mode || mode.getValue() == "train");
    for (Operation &op : function.getBody().front())
      if (isStep && isa<lm::BeginBackwardOp>(op))
        return function.emitOpError("is still a whole step"); // P1
    if (failed(checkOps(function, mesh)) ||
        failed(verify::checkStateTypes(function, symbols, "P2", mesh)))
      return failure();
    for (unsigned i = 0, e = function.getNumResults(); i < e; ++i)
      if (auto name =
              function.getResultAttrOfType<StringAttr>(i, lm::kSavedAttr))
        saved[name.getValue()] = function.getResultTypes()[i];
  }
  for (auto function : module.getOps<func::FuncOp>())
    for (unsigned i = 0, e = function.getNumArguments(); i < e; ++i) {
      auto name = function.getArgAttrOfType<StringAttr>(i, lm::kSavedAttr);
      if (name &&
          saved.lookup(name.getValue()) != function.getArgument(i).getType())
        return function.emitOpError() // P3
               << "takes the saved value " << name << " of type "
               << function.getArgument(i).getType()
               << ", which no program saves";
    }
  return success();
}

struct VerifyPartitionedPass
    : lmc::verify::impl::VerifyPartitionedBase<VerifyPartitionedPass> {
  using VerifyPartitionedBase::VerifyPartitionedBase;

  void runOnOperation() override {
    if (failed(check(getOperation())))
      return signalPassFailure();
    markAllAnalysesPreserved();
  }
};

} // namespace
