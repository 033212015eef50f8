// Prints the compiler's diagnostics the way a person reads them: what is
// wrong, where in the model's description, the numbers, and what to do.
#ifndef LMC_TOOLS_LMC_DIAGNOSTICS_H
#define LMC_TOOLS_LMC_DIAGNOSTICS_H

#include "mlir/IR/Diagnostics.h"
#include "mlir/IR/MLIRContext.h"

#include <string>

namespace lmc {

// Exit statuses of the command line (see --help).
enum ExitStatus {
  kDone = 0,
  kFailed = 1,
  kWrongInput = 2,
  kDoesNotFit = 3,
  kCorrupt = 4,
  kOurBug = 70,
};

// Prints every diagnostic of a context to stderr while it lives.
class DiagnosticPrinter {
public:
  explicit DiagnosticPrinter(mlir::MLIRContext &context);

private:
  mlir::ScopedDiagnosticHandler handler;
};

// While it lives, nothing is printed.
class Silence {
public:
  Silence() { ++alive; }
  ~Silence() { --alive; }
  Silence(const Silence &) = delete;
  static bool holds() { return alive > 0; }

private:
  static int alive;
};

// error: MESSAGE [help: HELP]; returns the exit status kWrongInput.
int printError(const std::string &message, const std::string &help = "");

} // namespace lmc

#endif // LMC_TOOLS_LMC_DIAGNOSTICS_H
