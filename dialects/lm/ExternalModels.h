// Interfaces of lm for operations of other dialects.
#ifndef LMC_DIALECTS_LM_EXTERNALMODELS_H
#define LMC_DIALECTS_LM_EXTERNALMODELS_H

namespace mlir {
class DialectRegistry;
}

namespace lmc::lm {
void registerExternalModels(mlir::DialectRegistry &registry);
}

#endif // LMC_DIALECTS_LM_EXTERNALMODELS_H
