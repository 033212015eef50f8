// One call that makes every dialect and pass of the compiler known.
#ifndef LMC_PASSES_REGISTER_H
#define LMC_PASSES_REGISTER_H

#include "mlir/IR/DialectRegistry.h"

namespace lmc {

void registerDialects(mlir::DialectRegistry &registry);
void registerPasses();

} // namespace lmc

#endif // LMC_PASSES_REGISTER_H
