// Builds the module of a checked ModelSpec.
#ifndef LMC_FRONTEND_BUILDMODEL_H
#define LMC_FRONTEND_BUILDMODEL_H

#include "frontend/Families.h"
#include "frontend/Findings.h"
#include "frontend/Import.h"

namespace lmc::frontend {

// `options.sequence` is set. `file` is the description that `sources` speaks
// of. Null after a diagnostic.
mlir::OwningOpRef<mlir::ModuleOp>
buildModel(const ModelSpec &spec, const SourceMap &sources,
           llvm::StringRef file, CheckpointNaming naming,
           const ImportOptions &options, mlir::MLIRContext &context);

} // namespace lmc::frontend

#endif // LMC_FRONTEND_BUILDMODEL_H
