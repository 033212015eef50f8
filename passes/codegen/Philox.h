// Random numbers that are a function of (seed, id, step, element): Philox4x32
// with ten rounds (Salmon et al., "Parallel Random Numbers: As Easy as 1, 2,
// 3"), laid out as lm.random_uniform says.
#ifndef LMC_PASSES_CODEGEN_PHILOX_H
#define LMC_PASSES_CODEGEN_PHILOX_H

#include "passes/codegen/LoopBuilder.h"

namespace lmc::codegen {

class Philox {
public:
  // Seeds and step are i32 scalars, the id is an i64.
  Philox(LoopBuilder &b, mlir::Value seedLow, mlir::Value seedHigh,
         mlir::Value step, mlir::Value id);

  // The number of one element, of the elements of a vector of i64, or the four
  // words of 64 elements from a 64-aligned one: word w is that of the `lanes`
  // elements from 16 w + `part` on.
  mlir::Value uniform(mlir::Value element);
  mlir::Value uniforms(mlir::Value elements);
  llvm::SmallVector<mlir::Value, 4> alignedWords(mlir::Value element,
                                                 int64_t part = 0);
  mlir::Value toUniform(mlir::Value word); // i32 to [0, 1)

private:
  LoopBuilder &b;
  mlir::Value keyLow, keyHigh, step;
  llvm::SmallVector<mlir::Value, 4> rounds(mlir::Value blockLow,
                                           mlir::Value blockHigh);
  mlir::Value pick(llvm::ArrayRef<mlir::Value> words, mlir::Value which);
};

} // namespace lmc::codegen

#endif // LMC_PASSES_CODEGEN_PHILOX_H
