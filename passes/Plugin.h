// Plugins: shared objects that bring operations and passes of their own.
//
// A plugin is built against the installed package (examples/plugin-pass shows
// one) and defines lmcGetPlugin. `lmc compile --load-pass-plugin=LIB` and
// lmc-opt load it before a model is parsed. Nothing is ever unloaded.
#ifndef LMC_PASSES_PLUGIN_H
#define LMC_PASSES_PLUGIN_H

#include "passes/Pipeline.h"
#include "passes/PluginStamp.h"

#include "mlir/IR/DialectRegistry.h"
#include "mlir/Pass/PassManager.h"
#include "llvm/Config/llvm-config.h"

#include <functional>
#include <string>
#include <vector>

// What the two sides of a plugin must have in common: C++ classes cross the
// border, so that nothing less than the same headers, the same LLVM and the
// same kind of compiler will do.
#ifdef __clang__
#define LMC_PLUGIN_COMPILER "Clang"
#else
#define LMC_PLUGIN_COMPILER "GCC"
#endif
// It is looked for in the file before any of the plugin's code runs.
#define LMC_PLUGIN_STAMP_MARK "lmc-plugin for "
#define LMC_PLUGIN_STAMP                                                       \
  LMC_PLUGIN_STAMP_MARK "lmc " LMC_PLUGIN_HEADERS                              \
                        ", LLVM " LLVM_VERSION_STRING ", " LMC_PLUGIN_COMPILER

namespace lmc {

using AddPasses = std::function<void(mlir::OpPassManager &)>;

// What a plugin gets to know and may add to. Passes go to MLIR's own registry,
// through the register functions that TableGen makes.
class PluginRegistry {
public:
  explicit PluginRegistry(mlir::DialectRegistry &dialects)
      : dialects(dialects) {}

  template <typename Dialect> void addDialect() {
    llvm::StringRef name = Dialect::getDialectNamespace();
    if (dialects.getDialectAllocator(name))
      takenDialects.push_back(name.str());
    else
      dialects.insert<Dialect>();
  }
  // For interfaces of operations that other dialects own.
  mlir::DialectRegistry &getDialects() { return dialects; }

  // Runs passes behind a phase of every compilation. The manager is that of
  // the module.
  void addHook(llvm::StringRef phase, AddPasses add) {
    hooks.push_back({phase.str(), std::move(add)});
  }

private:
  friend class Plugins;
  struct Hook {
    std::string phase;
    AddPasses add;
  };
  mlir::DialectRegistry &dialects;
  std::vector<Hook> hooks;
  std::vector<std::string> takenDialects;
};

struct PluginInfo {
  const char *stamp;   // LMC_PLUGIN_STAMP
  const char *name;    // in messages and in the plan's settings
  const char *version; // the plugin's own
  void (*registerInto)(PluginRegistry &registry);
};

// What a plugin, or a flag that speaks of one, has wrong.
struct PluginComplaint {
  enum Kind { WrongInput, NotAPlugin, OtherVersion };
  Kind kind = WrongInput;
  std::string message;
  std::string help;
};

// The plugins of one compilation, and the passes that its user asked for.
class Plugins {
public:
  mlir::LogicalResult load(llvm::StringRef path,
                           mlir::DialectRegistry &dialects,
                           PluginComplaint &complaint);
  // "after-PHASE:pass{option=value},pass". After load, so that the passes of
  // plugins are known.
  mlir::LogicalResult addPass(llvm::StringRef text, PluginComplaint &complaint);

  // Appends what runs behind `phase`: the hooks in the order of loading, then
  // the user's passes in the order they were given.
  void addPasses(mlir::OpPassManager &manager, Phase phase) const;
  // "example 1.0, other 2.3"; empty without plugins.
  std::string describe() const;

private:
  struct Entry {
    Phase phase;
    AddPasses add;
  };
  std::vector<const PluginInfo *> loaded;
  std::vector<Entry> hooks, passes;
};

} // namespace lmc

// The one symbol that a plugin exports. The object that it points to lives as
// long as the plugin.
extern "C" __attribute__((visibility("default"))) const lmc::PluginInfo *
lmcGetPlugin();

#endif // LMC_PASSES_PLUGIN_H
