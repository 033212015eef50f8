// Where a backward is cut in two.
#ifndef LMC_PASSES_LM_BACKWARDHALVES_H
#define LMC_PASSES_LM_BACKWARDHALVES_H

#include "mlir/IR/Operation.h"
#include "llvm/ADT/DenseSet.h"

namespace lmc::lm {

// The operations of `backward` that belong to the input half; empty if it is
// not to be cut: it sends nothing, so that nobody waits for it, or sends what
// all of it is needed for.
llvm::DenseSet<mlir::Operation *>
findInputHalf(llvm::ArrayRef<mlir::Operation *> forward,
              llvm::ArrayRef<mlir::Operation *> backward);

} // namespace lmc::lm

#endif // LMC_PASSES_LM_BACKWARDHALVES_H
