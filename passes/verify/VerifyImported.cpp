// The border behind import. Each check carries the label of the law in
// Passes.td that it enforces.
#include "passes/verify/Passes.h"

#include "dialects/lm/ProgramSignature.h"
#include "passes/verify/States.h"

namespace lmc::verify {
#define GEN_PASS_DEF_VERIFYIMPORTED
#include "passes/verify/Passes.h.inc"
} // namespace lmc::verify

using namespace mlir;
using namespace lmc;

namespace {

LogicalResult checkOutputs(func::FuncOp function) {
  for (StringRef wanted : {"loss_sum", "weight_sum"}) {
    bool isThere = false;
    for (unsigned i = 0, e = function.getNumResults(); i < e; ++i) {
      auto name = function.getResultAttrOfType<StringAttr>(i, lm::kOutputAttr);
      auto type = dyn_cast<RankedTensorType>(function.getResultTypes()[i]);
      isThere |= name && name.getValue() == wanted && type &&
                 type.getRank() == 0 && type.getElementType().isF32();
    }
    if (!isThere)
      return function.emitOpError() // I4
             << "has no result tensor<f32> with lm.output = \"" << wanted
             << "\"";
  }
  return success();
}

LogicalResult check(ModuleOp module) {
  auto forward = module.lookupSymbol<func::FuncOp>("forward");
  auto step = module.lookupSymbol<func::FuncOp>("step");
  if (!forward == !step)
    return module.emitOpError() // I1
           << "has " << (forward ? "both" : "neither of")
           << " @forward, to be trained, and @step, to be run; a model is one "
              "of them";
  func::FuncOp function = forward ? forward : step;
  for (unsigned i = 0, e = function.getNumArguments(); i < e; ++i)
    if (!function.getArgAttr(i, lm::kStateAttr) &&
        !function.getArgAttr(i, lm::kInputAttr) &&
        !function.getArgAttr(i, lm::kScalarAttr))
      return function.emitOpError() // I2
             << "has argument " << i
             << " with none of lm.state, lm.input, lm.scalar: nobody knows "
                "where it comes from";
  SymbolTable symbols(module);
  if (failed(verify::checkStateTypes(function, symbols, "I3")))
    return failure();
  return forward ? checkOutputs(forward) : success();
}

struct VerifyImportedPass
    : lmc::verify::impl::VerifyImportedBase<VerifyImportedPass> {
  using VerifyImportedBase::VerifyImportedBase;

  void runOnOperation() override {
    if (failed(check(getOperation())))
      return signalPassFailure();
    markAllAnalysesPreserved();
  }
};

} // namespace
