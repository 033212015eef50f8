// The pass Assign at work on one module; Assign.cpp tells how it goes.
// AssignPack.cpp gives offsets, AssignBuild.cpp writes the instructions.
#ifndef LMC_PASSES_PLAN_ASSIGNER_H
#define LMC_PASSES_PLAN_ASSIGNER_H

#include "dialects/dist/Dist.h"
#include "dialects/lm/Lm.h"
#include "dialects/plan/Plan.h"
#include "passes/plan/AssignArena.h"
#include "passes/plan/AssignHomes.h"

#include "mlir/IR/BuiltinOps.h"
#include "llvm/ADT/MapVector.h"
#include "llvm/ADT/SetVector.h"

namespace lmc::plan {

// Not Program: that name is the plan file's.
struct AssignedProgram {
  mlir::func::FuncOp function;
  int64_t stage = 0, chunk = 0;
  bool isPerMicroBatch = false;
  int64_t base = 0; // of its steps on the line of time
  // Indices of the programs that save what this one reads.
  llvm::SmallSetVector<int, 2> savers;
  ProgramHomes homes;
  std::vector<SliceAttr> slices; // of the root homes, whole
};

struct AssignedPort {
  mlir::Type type;
  int64_t microBatches = 1;
  int64_t offset = 0;
  int64_t bytes = 0; // of all micro-batches
};

// Names in the order of their first appearance.
using Ports = llvm::MapVector<llvm::StringRef, AssignedPort>;

class StagePacker;

class Assigner {
public:
  explicit Assigner(mlir::ModuleOp module)
      : module(module), symbols(module), builder(module.getContext()) {}

  mlir::LogicalResult run();

  unsigned numInstructions = 0, numInPlace = 0, numCopies = 0;
  int64_t arenaBytes = 0, liveBytes = 0;

private:
  friend class StagePacker;

  mlir::LogicalResult readSchedules();
  mlir::LogicalResult findAllHomes();
  mlir::LogicalResult collectPorts();
  mlir::LogicalResult addPort(AssignedProgram &program, Ports &ports,
                              llvm::StringRef name, mlir::Value value);
  bool fitsOneLineOfTime(int64_t stage);
  int indexOf(llvm::StringRef program) const { return indices.lookup(program); }

  // A block of bytes for each pipeline stage; what is allocated is the most.
  using StageBytes = llvm::SmallVector<int64_t>;

  void placeStates();
  void placeInBuckets();
  void placePorts(Ports &ports, llvm::StringRef allocation,
                  llvm::StringRef contents);
  void packStages();
  void placeFixedHomes();
  mlir::FlatSymbolRefAttr allocate(llvm::StringRef name,
                                   llvm::StringRef contents,
                                   const StageBytes &bytes);

  void buildDeclarations();
  void buildProgram(AssignedProgram &program);
  void buildRun(const AssignedProgram &program, const Step &step,
                LaunchOp launch);
  void buildCollective(const AssignedProgram &program, const Step &step);
  LinearAttr firstElement(lm::Drawing random);
  SliceAttr sliceOf(const AssignedProgram &program, const Step::Use &use);

  static std::string slotName(size_t index) {
    return (kSlotPrefix + llvm::Twine(index)).str();
  }
  LinearAttr linear(int64_t constant) {
    return LinearAttr::get(module.getContext(), constant);
  }
  SliceAttr slice(mlir::FlatSymbolRefAttr allocation, LinearAttr offset,
                  int64_t bytes) {
    return SliceAttr::get(module.getContext(), allocation, offset, bytes);
  }

  mlir::ModuleOp module;
  mlir::SymbolTable symbols;
  mlir::OpBuilder builder;
  std::vector<AssignedProgram>
      programs;                 // in the order in which they are called first
  llvm::StringMap<int> indices; // of programs
  std::vector<std::vector<CallOp>> schedules;
  int64_t microBatches = 1, stages = 1;
  llvm::SmallVector<int64_t> lastSlots; // of all calls, the largest
  Ports inputs, outputs, scalars;
  llvm::StringMap<SliceAttr> states;
  llvm::StringMap<mlir::FlatSymbolRefAttr> allocations;
};

} // namespace lmc::plan

#endif // LMC_PASSES_PLAN_ASSIGNER_H
