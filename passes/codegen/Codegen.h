// Native code for kernels: plan.kernel operations in, one ELF shared object
// and the facts an instruction needs out.
//
// The road: the primitives of a kernel's body become scf loops over 1-D
// vectors (one emitter per kind), these become LLVM IR, objects (several
// kernels at a time, in parallel, kept in a cache by content) and one shared
// object linked by lld in this process. The object depends on nothing.
#ifndef LMC_PASSES_CODEGEN_CODEGEN_H
#define LMC_PASSES_CODEGEN_CODEGEN_H

#include "dialects/plan/Plan.h"

#include "mlir/IR/OwningOpRef.h"

#include <string>
#include <vector>

namespace lmc::codegen {

// What a plan says of one kernel beside its code (plan.proto, Kernel). Units
// of the grid: ceil(rows / rowsPerUnit) * columns.
struct KernelFacts {
  std::string symbol; // by content: equal kernels share it
  int64_t rows = 0;   // of the shapes the kernel was built for
  int64_t rowsPerUnit = 1;
  int64_t columns = 1;
  int64_t mostRows = 0;         // of a variant; 0: any number
  unsigned pointers = 0;        // arguments, then results that are not tied
  bool takesMicroBatch = false; // the body holds lm.accumulate
  bool takesRows = false;       // the leading dim is dynamic
  // lm.random_uniform without an id: each takes two integers, the id and the
  // index of its first element in the whole step's tensor.
  unsigned randoms = 0;
  int64_t stackBytes = 0;
  int64_t flops = 0;
  // Of a GPU's block: threads, bytes they share, and the elements of a vector
  // that one of them reads at once.
  unsigned threads = 0;
  int64_t sharedBytes = 0;
  int64_t lanes = 1;
  // Blocks whose registers a multiprocessor has to hold at once.
  unsigned blocks = 1;

  unsigned integers() const {
    return unsigned(takesMicroBatch) + unsigned(takesRows) + 2 * randoms;
  }
};

struct CompiledKernels {
  std::vector<KernelFacts> kernels; // in the order asked for
  std::string object;    // an ELF shared object, or PTX that ends in NUL
  std::string cubin;     // beside PTX, where there is an assembler
  std::string targetCpu; // `native` resolved
  std::vector<std::string> cpuFeatures; // as in /proc/cpuinfo
};

struct CodegenOptions {
  // Or x86-64-v3, x86-64-v4, ...; a GPU's sm_80 or sm_90.
  std::string targetCpu = "native";
  unsigned threads = 0;       // 0: all cores
  bool assemble = true;       // PTX to a cubin, where there is an assembler
  std::string cacheDirectory; // empty: no cache
};

struct Machine;

// Every kind that a kernel may have.
llvm::SmallVector<llvm::StringRef> kernelKinds();

// Facts alone need no code: memory and cost are planned from them.
mlir::FailureOr<KernelFacts> getKernelFacts(plan::KernelOp kernel,
                                            const Machine &machine);

// For a GPU: the kernels, each followed by those that compute what it does and
// are faster where its rows are few, from the fewest rows to the most. `made`
// owns these.
llvm::SmallVector<plan::KernelOp>
withVariants(mlir::ArrayRef<plan::KernelOp> kernels,
             std::vector<mlir::OwningOpRef<plan::KernelOp>> &made);

// Compiles `kernels`; the result's bytes depend neither on the number of
// threads nor on the cache. Fails with a diagnostic at the kernel.
mlir::FailureOr<CompiledKernels>
compileKernels(mlir::ArrayRef<plan::KernelOp> kernels,
               const CodegenOptions &options);

} // namespace lmc::codegen

#endif // LMC_PASSES_CODEGEN_CODEGEN_H
