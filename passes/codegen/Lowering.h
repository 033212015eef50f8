// From one kernel operation to a relocatable object in memory.
#ifndef LMC_PASSES_CODEGEN_LOWERING_H
#define LMC_PASSES_CODEGEN_LOWERING_H

#include "passes/codegen/Emitter.h"

#include "mlir/IR/BuiltinOps.h"
#include "mlir/IR/OwningOpRef.h"

namespace llvm {
class LLVMContext;
class Module;
} // namespace llvm

namespace lmc::codegen {

// A module with the kernel's entry, `symbol`, and its loops. On a GPU the entry
// takes the pointers, the integers and the number of units.
mlir::OwningOpRef<mlir::ModuleOp> buildKernelModule(plan::KernelOp kernel,
                                                    const Machine &machine);

// Lowers the module to the LLVM dialect in place.
mlir::LogicalResult lowerToLLVM(mlir::ModuleOp module);

// Dialects and translations that the road needs.
void registerCodegenDialects(mlir::DialectRegistry &registry);

std::unique_ptr<llvm::Module> translateToLLVMIR(mlir::ModuleOp module,
                                                llvm::LLVMContext &context);

} // namespace lmc::codegen

#endif // LMC_PASSES_CODEGEN_LOWERING_H
