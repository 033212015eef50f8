// The plan dialect: WHEN something is computed, and in which bytes.
#ifndef LMC_DIALECTS_PLAN_PLAN_H
#define LMC_DIALECTS_PLAN_PLAN_H

#include "mlir/Bytecode/BytecodeOpInterface.h"
#include "mlir/IR/BuiltinTypes.h"
#include "mlir/IR/Dialect.h"
#include "mlir/IR/OpDefinition.h"
#include "mlir/IR/OpImplementation.h"
#include "mlir/IR/SymbolTable.h"
#include "mlir/Interfaces/ControlFlowInterfaces.h"
#include "mlir/Interfaces/FunctionInterfaces.h"
#include "mlir/Interfaces/SideEffectInterfaces.h"

#include "dialects/plan/PlanDialect.h.inc"

#define GET_ATTRDEF_CLASSES
#include "dialects/plan/PlanAttributes.h.inc"

#define GET_OP_CLASSES
#include "dialects/plan/PlanOps.h.inc"

namespace lmc::plan {

// Marks a function as a program and says which: forward, backward, update,
// evaluate, evaluate_finish, ...
inline constexpr llvm::StringLiteral kProgramAttr = "plan.program";
// Of a program of a pipeline: the stage that runs it, and the model chunk that
// it is part of. Without them it is stage and chunk 0.
inline constexpr llvm::StringLiteral kStageAttr = "plan.stage";
inline constexpr llvm::StringLiteral kChunkAttr = "plan.chunk";
// Of a parameter or state in a pipeline: the stages that hold it.
inline constexpr llvm::StringLiteral kStagesAttr = "plan.stages";
// Where a parameter or a state lies, once that is assigned.
inline constexpr llvm::StringLiteral kSliceAttr = "plan.slice";
// A value that a micro-batch's forward saves for its backward: an attribute
// of forward's result and of backward's argument.
inline constexpr llvm::StringLiteral kSavedAttr = "lm.saved";
// Names of the symbols that a call sets: its micro-batch, and slots by number.
inline constexpr llvm::StringLiteral kMicroBatch = "micro_batch";
inline constexpr llvm::StringLiteral kSlotPrefix = "slot.";

} // namespace lmc::plan

#endif // LMC_DIALECTS_PLAN_PLAN_H
