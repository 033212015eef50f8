#include "tools/lmc/Diagnostics.h"

#include "mlir/IR/BuiltinAttributes.h"
#include "mlir/IR/Location.h"
#include "llvm/Support/raw_ostream.h"

using namespace mlir;

namespace {

// The line of the description and the layer that a location stands for.
void describe(Location loc, FileLineColLoc &file, StringAttr &layer) {
  if (auto fileLoc = dyn_cast<FileLineColLoc>(loc)) {
    file = fileLoc;
  } else if (auto name = dyn_cast<NameLoc>(loc)) {
    if (!layer)
      layer = name.getName();
    describe(name.getChildLoc(), file, layer);
  } else if (auto fused = dyn_cast<FusedLoc>(loc)) {
    for (Location part : fused.getLocations())
      if (!file)
        describe(part, file, layer);
  } else if (auto call = dyn_cast<CallSiteLoc>(loc)) {
    describe(call.getCallee(), file, layer);
  }
}

void printPlace(Location loc) {
  FileLineColLoc file;
  StringAttr layer;
  describe(loc, file, layer);
  if (!file && !layer)
    return;
  llvm::errs() << "  --> ";
  if (file)
    llvm::errs() << file.getFilename().getValue() << ":" << file.getLine()
                 << ":" << file.getColumn();
  if (layer)
    llvm::errs() << (file ? " " : "") << "(" << layer.getValue() << ")";
  llvm::errs() << "\n";
}

LogicalResult print(Diagnostic &diagnostic) {
  if (lmc::Silence::holds())
    return success();
  const char *severity = "error";
  if (diagnostic.getSeverity() == DiagnosticSeverity::Warning)
    severity = "warning";
  else if (diagnostic.getSeverity() != DiagnosticSeverity::Error)
    severity = "remark";
  llvm::errs() << severity << ": " << diagnostic.str() << "\n";
  printPlace(diagnostic.getLocation());
  for (Diagnostic &note : diagnostic.getNotes()) {
    // A note that says what to do carries its own label.
    std::string text = note.str();
    bool isHelp = llvm::StringRef(text).starts_with("help: ");
    llvm::errs() << (isHelp ? "  " : "  note: ") << text << "\n";
  }
  return success();
}

} // namespace

lmc::DiagnosticPrinter::DiagnosticPrinter(MLIRContext &context)
    : handler(&context, print) {}

int lmc::Silence::alive = 0;

int lmc::printError(const std::string &message, const std::string &help) {
  if (Silence::holds())
    return kWrongInput;
  llvm::errs() << "error: " << message << "\n";
  if (!help.empty())
    llvm::errs() << "  help: " << help << "\n";
  return kWrongInput;
}
