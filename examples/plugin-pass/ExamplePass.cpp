// The passes, and the entry point that makes a shared object a plugin.
#include "Example.h"

#include "passes/Plugin.h"

#include "mlir/Dialect/Func/IR/FuncOps.h"
#include "mlir/IR/Builders.h"

#include <map>

namespace example {
#define GEN_PASS_DEF_USESQUAREDRELU
#define GEN_PASS_DEF_COUNTFLOPS
#include "ExamplePasses.h.inc"
} // namespace example

using namespace mlir;
using namespace example;

// The name that the frontend gave the layer of an operation.
static StringRef layerName(Operation *op) {
  auto name = op->getLoc()->findInstanceOf<NameLoc>();
  return name ? name.getName().getValue() : StringRef();
}

namespace {

struct UseSquaredRelu : example::impl::UseSquaredReluBase<UseSquaredRelu> {
  using UseSquaredReluBase::UseSquaredReluBase;

  void runOnOperation() override {
    // By name, because it is this one operation that is to be replaced.
    getOperation().walk([&](lmc::lm::GeluOp gelu) {
      if (!layerName(gelu).starts_with(layers)) {
        ++numOther;
        return;
      }
      OpBuilder builder(gelu);
      auto op = builder.create<SquaredReluOp>(gelu.getLoc(), gelu.getType(),
                                              gelu.getInput());
      gelu.replaceAllUsesWith(op.getOutput());
      gelu.erase();
      ++numReplaced;
    });
  }
};

struct CountFlops : example::impl::CountFlopsBase<CountFlops> {
  void runOnOperation() override {
    std::map<std::string, int64_t> flops;
    getOperation().walk([&](lmc::lm::Costed op) {
      // "h.3.mlp.up" belongs to "h.3", "head" to "head".
      auto [first, rest] = layerName(op).split('.');
      std::string block = first.str();
      StringRef index = rest.split('.').first;
      if (unsigned number; !index.getAsInteger(10, number))
        block += "." + index.str();
      flops[block] += op.getFlops();
    });
    Builder builder(&getContext());
    SmallVector<NamedAttribute> entries;
    for (const auto &[block, count] : flops)
      entries.push_back(builder.getNamedAttr(block.empty() ? "other" : block,
                                             builder.getI64IntegerAttr(count)));
    getOperation()->setAttr("example.flops",
                            builder.getDictionaryAttr(entries));
  }
};

} // namespace

static void registerInto(lmc::PluginRegistry &registry) {
  registry.addDialect<ExampleDialect>();
  registerExamplePasses();
  // Behind differentiate there would be a backward, too.
  registry.addHook("import", [](OpPassManager &manager) {
    manager.addPass(createCountFlops());
  });
}

const lmc::PluginInfo *lmcGetPlugin() {
  static const lmc::PluginInfo info = {LMC_PLUGIN_STAMP, "example", "1.0",
                                       registerInto};
  return &info;
}
