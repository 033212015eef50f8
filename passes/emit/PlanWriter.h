// From attributes and operations to messages: the part of emit that needs no
// kernels. Holds the indices that messages refer to each other by.
#ifndef LMC_PASSES_EMIT_PLANWRITER_H
#define LMC_PASSES_EMIT_PLANWRITER_H

#include "dialects/dist/Dist.h"
#include "dialects/lm/Lm.h"
#include "dialects/plan/Matmul.h"
#include "passes/codegen/Codegen.h"
#include "runtime/plan/plan.pb.h"

#include "mlir/IR/BuiltinOps.h"
#include "llvm/ADT/MapVector.h"
#include "llvm/ADT/StringMap.h"

namespace lmc::emit {

class PlanWriter {
public:
  PlanWriter(mlir::ModuleOp module, plan::Plan &plan)
      : module(module), states(module), plan(plan) {}

  // In this order: what comes later refers to what came before.
  void writeMesh();
  mlir::LogicalResult writeSettings();
  mlir::LogicalResult writeDeclarations();
  mlir::LogicalResult writeStates();
  mlir::LogicalResult writePrograms(llvm::ArrayRef<plan::KernelOp> kernels,
                                    llvm::ArrayRef<codegen::KernelFacts> facts);
  mlir::LogicalResult writeSchedules();
  void writeReshards();

private:
  void writeTraining(mlir::DictionaryAttr given);
  mlir::LogicalResult writeParameter(lm::ParameterOp op);
  mlir::LogicalResult writeState(lm::StateOp op);
  mlir::LogicalResult writeBoxes(lm::ParameterOp op, plan::State *state);
  mlir::LogicalResult writeConstant(lm::StateOp op);
  mlir::LogicalResult writeScalar(plan::ScalarOp op);
  template <typename Op> mlir::LogicalResult writePort(Op op, plan::Port *port);
  mlir::LogicalResult writeRun(plan::RunOp op,
                               const codegen::KernelFacts &facts,
                               unsigned kernel, plan::Instruction *message);
  mlir::LogicalResult writeMatmul(plan::RunOp op, plan::KernelOp kernel,
                                  plan::Instruction *message);
  mlir::LogicalResult writeInstruction(mlir::Operation *op,
                                       plan::Instruction *message);

  mlir::LogicalResult write(mlir::Operation *op, plan::LinearAttr attr,
                            plan::Linear *message);
  mlir::LogicalResult write(mlir::Operation *op, plan::SliceAttr attr,
                            plan::Slice *message);
  mlir::LogicalResult writeTensor(mlir::Operation *op, mlir::Type type,
                                  plan::State *state);
  void writePiece(mlir::Operation *op, plan::SliceAttr slice,
                  plan::State *state);
  mlir::FailureOr<plan::DataType> getDataType(mlir::Operation *op,
                                              mlir::Type type);
  uint32_t getLocation(mlir::Location loc);

  mlir::ModuleOp module;
  mlir::SymbolTable states;
  plan::Plan &plan;
  llvm::StringMap<uint32_t> symbols, allocations, programs, kernelIndices;
  llvm::StringMap<uint32_t> locations;
  llvm::StringMap<uint32_t> coordinates; // of an axis: its symbol
  llvm::ArrayRef<codegen::KernelFacts> kernelFacts;
  llvm::DenseSet<int64_t> reshards; // of which a collective is left
};

} // namespace lmc::emit

#endif // LMC_PASSES_EMIT_PLANWRITER_H
