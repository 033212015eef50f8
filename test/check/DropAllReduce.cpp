// A plugin that makes plans wrong: `drop-all-reduce{layer=L program=P}` takes
// the all-reduces of a layer out of the programs whose names begin with P, so
// that every rank goes on with its own part of the sum. `lmc check` has to find
// it.
#include "dialects/dist/Dist.h"
#include "passes/Plugin.h"

#include "mlir/Dialect/Func/IR/FuncOps.h"
#include "mlir/IR/BuiltinOps.h"
#include "mlir/Pass/Pass.h"

using namespace mlir;

namespace {

struct DropAllReduce : PassWrapper<DropAllReduce, OperationPass<ModuleOp>> {
  MLIR_DEFINE_EXPLICIT_INTERNAL_INLINE_TYPE_ID(DropAllReduce)
  DropAllReduce() = default;
  DropAllReduce(const DropAllReduce &other) : PassWrapper(other) {}

  StringRef getArgument() const override { return "drop-all-reduce"; }
  StringRef getDescription() const override {
    return "leave out the all-reduces of a layer";
  }
  void runOnOperation() override {
    SmallVector<lmc::dist::AllReduceOp> dropped;
    getOperation().walk([&](lmc::dist::AllReduceOp op) {
      auto name = op->getLoc()->findInstanceOf<NameLoc>();
      if (name && name.getName() == layer.getValue() &&
          op->getParentOfType<func::FuncOp>().getName().starts_with(
              program.getValue()))
        dropped.push_back(op);
    });
    for (lmc::dist::AllReduceOp op : dropped) {
      op.getOutput().replaceAllUsesWith(op.getInput());
      op.erase();
    }
  }

  Option<std::string> layer{*this, "layer", llvm::cl::desc("of the model")};
  Option<std::string> program{*this, "program",
                              llvm::cl::desc("forward or backward")};
};

void registerInto(lmc::PluginRegistry &) { PassRegistration<DropAllReduce>(); }

} // namespace

const lmc::PluginInfo *lmcGetPlugin() {
  static const lmc::PluginInfo info = {LMC_PLUGIN_STAMP, "drop-all-reduce", "1",
                                       registerInto};
  return &info;
}
