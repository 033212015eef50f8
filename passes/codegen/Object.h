// From LLVM IR to machine code, and from objects to one shared object.
#ifndef LMC_PASSES_CODEGEN_OBJECT_H
#define LMC_PASSES_CODEGEN_OBJECT_H

#include "passes/codegen/Emitter.h"

#include <string>
#include <vector>

namespace llvm {
class Module;
class TargetMachine;
} // namespace llvm

namespace lmc::codegen {

// A processor to compile for, `native` resolved.
struct Target {
  std::string cpu;
  std::string level;                 // x86-64-v3 or x86-64-v4
  std::string features;              // beside the level's, as LLVM takes them
  std::vector<std::string> cpuFlags; // as in /proc/cpuinfo
  Machine machine;
};

// Errors are sentences in `error`.
mlir::FailureOr<Target> resolveTarget(const std::string &cpu,
                                      std::string &error);

// The passes between MLIR and a back end: short, since the loops are already as
// they should be.
void optimize(llvm::Module &module, llvm::TargetMachine &machine);

// Optimises and compiles a module; the bytes of a relocatable object.
mlir::FailureOr<std::string>
compileToObject(llvm::Module &module, const Target &target, std::string &error);

// Links objects to a shared object that depends on nothing.
mlir::FailureOr<std::string>
linkObjects(const std::vector<std::string> &objects, std::string &error);

} // namespace lmc::codegen

#endif // LMC_PASSES_CODEGEN_OBJECT_H
