// Runs the kernels of a GPU without one: the same loops, compiled for this
// processor, with a block's threads as fibres.
//
// What is emulated is what codegen/ThreadBlock.h has: who a thread is,
// barriers, shuffles in a warp and shared memory. Fibres run one after the
// other until each waits; then whoever can go on does. So these are found, and
// fail the current test:
//
//   a barrier or a shuffle that not all its threads reach, or reach at
//     different places of the code;
//   shared memory read before it was written (it begins as NaN) or past its
//     end;
//   races that show: blocks are run with their threads in turn and in reverse,
//     and KernelRunner wants the same bits of both.
//
// What is not: the memory model of several blocks at once, timing, PTX itself.
#ifndef LMC_TEST_CODEGEN_BLOCKEMULATOR_H
#define LMC_TEST_CODEGEN_BLOCKEMULATOR_H

#include "passes/codegen/Codegen.h"
#include "test/codegen/KernelRunner.h"

#include "mlir/IR/BuiltinOps.h"

namespace lmc::test {

class EmulatedKernel {
public:
  // Lowers a kernel as for a GPU. Fails the current test if that fails.
  explicit EmulatedKernel(plan::KernelOp kernel);
  // A module that calls ThreadBlock's functions; facts as a plan has them.
  EmulatedKernel(mlir::ModuleOp module, const codegen::KernelFacts &facts);
  ~EmulatedKernel();

  codegen::KernelFacts facts;
  bool isLoaded() const { return function; }
  // Runs the units [begin, end), one block each; in every other call, threads
  // take turns from the last to the first. False if a block got stuck.
  bool run(void *const *pointers, const int64_t *integers, int64_t begin,
           int64_t end);

private:
  std::unique_ptr<LoadedObject> object;
  void (*function)(void *const *, const int64_t *) = nullptr;
  bool reverse = false;
  void lower(plan::KernelOp kernel);
  void load(mlir::ModuleOp module);
};

} // namespace lmc::test

#endif // LMC_TEST_CODEGEN_BLOCKEMULATOR_H
