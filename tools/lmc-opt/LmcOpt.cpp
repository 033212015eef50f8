// lmc-opt: an mlir-opt with our dialects and passes, for tests and for people
// who work on a pass.
#include "passes/Register.h"

#include "mlir/Tools/mlir-opt/MlirOptMain.h"

int main(int argc, char **argv) {
  mlir::DialectRegistry registry;
  lmc::registerDialects(registry);
  lmc::registerPasses();
  return mlir::asMainReturnCode(
      mlir::MlirOptMain(argc, argv, "lmc pass driver\n", registry));
}
