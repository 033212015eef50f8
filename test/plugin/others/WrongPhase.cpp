// A plugin with a hook behind a phase that does not exist.
#include "passes/Plugin.h"

static void registerInto(lmc::PluginRegistry &registry) {
  registry.addHook("emitt", [](mlir::OpPassManager &) {});
}

const lmc::PluginInfo *lmcGetPlugin() {
  static const lmc::PluginInfo info = {LMC_PLUGIN_STAMP, "wrong-phase", "1",
                                       registerInto};
  return &info;
}
