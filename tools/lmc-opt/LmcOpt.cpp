// lmc-opt: an mlir-opt with our dialects and passes, for tests and for people
// who work on a pass.
#include "passes/Plugin.h"
#include "passes/Register.h"

#include "mlir/Tools/mlir-opt/MlirOptMain.h"

// Loads the plugins of --load-pass-plugin=LIB and takes these flags out of
// the command line. A library that is not one of ours is left to mlir-opt,
// which has a flag of the same name for its own kind.
static bool loadPlugins(int &argc, char **argv,
                        mlir::DialectRegistry &registry) {
  lmc::Plugins plugins;
  int kept = 1;
  for (int i = 1; i < argc; ++i) {
    llvm::StringRef path(argv[i]);
    if (path.consume_front("--load-pass-plugin=") ||
        path.consume_front("-load-pass-plugin=")) {
      lmc::PluginComplaint complaint;
      if (succeeded(plugins.load(path, registry, complaint)))
        continue;
      if (complaint.kind != lmc::PluginComplaint::NotAPlugin) {
        llvm::errs() << "error: " << complaint.message << "\n";
        if (!complaint.help.empty())
          llvm::errs() << "  help: " << complaint.help << "\n";
        return false;
      }
    }
    argv[kept++] = argv[i];
  }
  argc = kept;
  return true;
}

int main(int argc, char **argv) {
  mlir::DialectRegistry registry;
  lmc::registerDialects(registry);
  lmc::registerPasses();
  if (!loadPlugins(argc, argv, registry))
    return 2;
  return mlir::asMainReturnCode(
      mlir::MlirOptMain(argc, argv, "lmc pass driver\n", registry));
}
