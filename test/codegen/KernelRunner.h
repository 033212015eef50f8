// Compiles kernels from text, runs them and compares with the reference.
#ifndef LMC_TEST_CODEGEN_KERNELRUNNER_H
#define LMC_TEST_CODEGEN_KERNELRUNNER_H

#include "test/codegen/Reference.h"

#include "passes/codegen/Codegen.h"
#include "test/device/DeviceCases.pb.h"

#include "mlir/IR/BuiltinOps.h"

#include <map>
#include <memory>
#include <string>

namespace lmc::test {

// A shared object, loaded for as long as this lives.
class LoadedObject {
public:
  explicit LoadedObject(const std::string &bytes);
  ~LoadedObject();
  LoadedObject(const LoadedObject &) = delete;
  using Kernel = void (*)(void *const *, const int64_t *, int64_t, int64_t);
  Kernel find(const std::string &symbol) const;

private:
  void *handle = nullptr;
};

// A target: PTX, which runtime/device/cuda/ptx interprets.
inline constexpr const char *kInterpretedGpu = "sm_80";

// The end of a test's name.
inline std::string levelName(const std::string &target) {
  return target == "native" ? "native" : target == "x86-64-v3" ? "v3" : "gpu";
}

struct RunOptions {
  std::string targetCpu = "native"; // or kInterpretedGpu
  int64_t microBatch = 0;
  int64_t rows = 0;        // of a dynamic leading dim
  int64_t indexBound = 16; // i32 arguments lie in [indexLow, indexBound)
  int64_t indexLow = 0;
  std::map<unsigned, int64_t> bounds; // of single i32 arguments
  bool ascending = false;  // elements of i32 arguments count from indexLow
  double tolerance = 2e-5; // relative to the largest of the reference
  double positive = 0;     // added to every float argument
  unsigned seed = 1;
  bool wide = false; // on a GPU, most bytes are accessed 16 at once
  std::map<unsigned, double> given; // all elements of these float arguments
};

// All of a module but those that a library computes.
llvm::SmallVector<plan::KernelOp> kernelsOf(mlir::ModuleOp module);

// Of whatever kernel of a model.
RunOptions optionsForAnyKernel(plan::KernelOp kernel);

// The same for a device: what `kernel` is given then, and what it has to give.
void describeCase(plan::KernelOp kernel, const codegen::KernelFacts &facts,
                  DeviceCase &out);

// Outputs of one run, as bytes per result, for comparison bit by bit.
using Bytes = std::vector<std::vector<char>>;

class KernelRunner {
public:
  KernelRunner();
  ~KernelRunner();
  mlir::MLIRContext &context();

  // Parses one plan.kernel or several. Null after a diagnostic.
  mlir::ModuleOp parse(const std::string &text);

  // Compiles `text`, runs it with random arguments and its grid cut in 1, 2
  // and 7 parts, and fails the current test unless all runs agree bit by bit
  // with each other and, within the tolerance, with the reference. Returns
  // the outputs.
  Bytes check(const std::string &text, const RunOptions &options = {});
  Bytes check(plan::KernelOp kernel, const RunOptions &options = {});

private:
  struct State;
  std::unique_ptr<State> state;
};

} // namespace lmc::test

#endif // LMC_TEST_CODEGEN_KERNELRUNNER_H
