// PTX for NVIDIA's GPUs, from the LLVM IR of a block's kernel. Needs nothing of
// the CUDA toolkit; where ptxas is found, machine code beside it.
#ifndef LMC_PASSES_CODEGEN_CUDA_PTX_H
#define LMC_PASSES_CODEGEN_CUDA_PTX_H

#include "passes/codegen/Object.h"

namespace lmc::codegen::cuda {

// sm_80 or sm_90. Errors are sentences in `error`.
mlir::FailureOr<Target> resolveTarget(const std::string &name,
                                      std::string &error);

// Optimises and compiles the kernel `symbol`, launched with `threads` threads,
// in so few registers that a multiprocessor holds `blocks` of them.
mlir::FailureOr<std::string>
compileToPtx(llvm::Module &module, const std::string &symbol, unsigned threads,
             unsigned blocks, const Target &target, std::string &error);

// One PTX module of several, ending in NUL as the driver takes it.
std::string joinPtx(const std::vector<std::string> &kernels);

// The assembler, from PATH or the toolkit that CUDA_HOME names; empty if there
// is none.
std::string findAssembler();
// What it says of itself: another one writes other code.
std::string assemblerVersion(const std::string &assembler);
// A cubin. `messages` takes what the assembler says, registers and spills with
// `verbose`.
mlir::FailureOr<std::string> assemble(const std::string &assembler,
                                      const std::string &ptx,
                                      const Target &target, bool verbose,
                                      std::string &messages);

} // namespace lmc::codegen::cuda

#endif // LMC_PASSES_CODEGEN_CUDA_PTX_H
