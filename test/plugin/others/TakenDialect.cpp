// A plugin that brings a dialect of a name that is taken.
#include "passes/Plugin.h"

#include "dialects/lm/Lm.h"

static void registerInto(lmc::PluginRegistry &registry) {
  registry.addDialect<lmc::lm::LmDialect>();
}

const lmc::PluginInfo *lmcGetPlugin() {
  static const lmc::PluginInfo info = {LMC_PLUGIN_STAMP, "taken-dialect", "1",
                                       registerInto};
  return &info;
}
