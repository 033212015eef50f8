// The lm dialect: WHAT is computed. See LmDialect.td for what it stands for.
#ifndef LMC_DIALECTS_LM_LM_H
#define LMC_DIALECTS_LM_LM_H

#include "dialects/lm/ShardingRule.h"

#include "mlir/Bytecode/BytecodeOpInterface.h"
#include "mlir/IR/Builders.h"
#include "mlir/IR/BuiltinTypes.h"
#include "mlir/IR/Dialect.h"
#include "mlir/IR/OpDefinition.h"
#include "mlir/IR/SymbolTable.h"
#include "mlir/Interfaces/InferTypeOpInterface.h"
#include "mlir/Interfaces/SideEffectInterfaces.h"

#include <optional>

#include "dialects/lm/LmDialect.h.inc"
#include "dialects/lm/LmInterfaces.h.inc"

#define GET_OP_CLASSES
#include "dialects/lm/LmOps.h.inc"

namespace lmc::lm {

// Names of the attributes that tie a program's arguments and results to the
// world outside it.
inline constexpr llvm::StringLiteral kStateAttr = "lm.state";
inline constexpr llvm::StringLiteral kInputAttr = "lm.input";
inline constexpr llvm::StringLiteral kOutputAttr = "lm.output";
inline constexpr llvm::StringLiteral kScalarAttr = "lm.scalar";
// Of an argument with lm.scalar: the number's default.
inline constexpr llvm::StringLiteral kDefaultAttr = "lm.default";
// Of an argument with a dynamic leading dim: the name of that size. The
// module's kSizesAttr has the bound of each: {tokens = 512, logits = 64}.
inline constexpr llvm::StringLiteral kSizeAttr = "lm.size";
inline constexpr llvm::StringLiteral kSizesAttr = "lm.sizes";

// Of a parameter or an argument: what its dims are called, ["V", "D"]. A name
// follows its factor through the operations.
inline constexpr llvm::StringLiteral kDimsAttr = "lm.dims";

// Of an operation of @forward: a block of the model ends with it, so that a
// pipeline may be cut behind it.
inline constexpr llvm::StringLiteral kBlockEndAttr = "lm.block_end";

// Of an operation of a step: it runs with what makes its operands, which are
// too large to keep until later.
inline constexpr llvm::StringLiteral kAtOnceAttr = "lm.at_once";

// Number of elements of the dims [begin, end).
int64_t product(llvm::ArrayRef<int64_t> shape);

// The sharding rule of `op`: its own, or that of an elementwise operation; none
// if it takes no part (a constant, a return).
std::optional<ShardingRule> ruleOf(mlir::Operation *op);

// The rule of an operation that treats all elements alike: one factor per dim.
ShardingRule elementwiseRule(mlir::Operation *op);

// Calls visit(value, dim, factor) for the dims of operands and results that
// have a factor in `rule`, that of `op`.
void forEachDim(mlir::Operation *op, const ShardingRule &rule,
                llvm::function_ref<void(mlir::Value, int64_t, int64_t)> visit);

} // namespace lmc::lm

#endif // LMC_DIALECTS_LM_LM_H
