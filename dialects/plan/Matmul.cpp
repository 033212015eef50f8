// See Matmul.h.
#include "dialects/plan/Matmul.h"

#include "mlir/Dialect/Arith/IR/Arith.h"

using namespace mlir;
using namespace lmc::plan;
namespace lm = lmc::lm;

static RankedTensorType typeOf(Value value) {
  return cast<RankedTensorType>(value.getType());
}

static std::optional<unsigned> argumentOf(Value value) {
  auto argument = dyn_cast<BlockArgument>(value);
  if (!argument)
    return std::nullopt;
  return argument.getArgNumber();
}

// Shapes of the product alone.
static std::optional<MatmulFacts> describeContract(lm::ContractOp op) {
  std::optional<unsigned> left = argumentOf(op.getLhs());
  std::optional<unsigned> right = argumentOf(op.getRhs());
  if (!left || !right || !typeOf(op.getOutput()).getElementType().isF32())
    return std::nullopt;
  MatmulFacts matmul{*left, *right};
  ArrayRef<int64_t> lhs = typeOf(op.getLhs()).getShape();
  ArrayRef<int64_t> rhs = typeOf(op.getRhs()).getShape();
  size_t contracted = op.getLhsDims().size();
  matmul.leftTransposed =
      contracted < lhs.size() && op.getLhsDims().front() == 0;
  matmul.rightTransposed = op.getRhsDims().front() != 0;
  ArrayRef<int64_t> rows = matmul.leftTransposed ? lhs.drop_front(contracted)
                                                 : lhs.drop_back(contracted);
  ArrayRef<int64_t> depth = matmul.leftTransposed ? lhs.take_front(contracted)
                                                  : lhs.take_back(contracted);
  ArrayRef<int64_t> columns = matmul.rightTransposed
                                  ? rhs.drop_back(contracted)
                                  : rhs.drop_front(contracted);
  // Rows that are counted at run time are dynamic, that is less than one.
  for (int64_t size : llvm::concat<const int64_t>(rows, depth, columns))
    if (size < 1)
      return std::nullopt;
  matmul.rows = ShapedType::getNumElements(rows);
  matmul.depth = ShapedType::getNumElements(depth);
  matmul.columns = ShapedType::getNumElements(columns);
  return matmul;
}

// One number for each column of `type`, the last `numDims` dims of which are
// the product's columns.
static std::optional<unsigned> biasOf(Value value, unsigned numDims) {
  auto broadcast = value.getDefiningOp<lm::BroadcastOp>();
  if (!broadcast || broadcast.getDims().size() != numDims)
    return std::nullopt;
  int64_t first = typeOf(value).getRank() - numDims;
  for (auto [index, dim] : llvm::enumerate(broadcast.getDims()))
    if (dim != first + static_cast<int64_t>(index))
      return std::nullopt;
  return argumentOf(broadcast.getInput());
}

std::optional<MatmulFacts> lmc::plan::describeMatmul(KernelOp kernel) {
  std::optional<MatmulFacts> matmul;
  Value value; // what is computed so far
  unsigned columnDims = 0;
  Block &body = kernel.getBody().front();
  for (Operation &op : body.without_terminator()) {
    if (isa<lm::BroadcastOp>(op))
      continue; // its user says what it is
    if (auto contract = dyn_cast<lm::ContractOp>(op)) {
      if (matmul || !(matmul = describeContract(contract)))
        return std::nullopt;
      value = contract.getOutput();
      columnDims =
          typeOf(contract.getRhs()).getRank() - contract.getRhsDims().size();
      continue;
    }
    auto accumulate = dyn_cast<lm::AccumulateOp>(op);
    if (!matmul || (!accumulate && !isa<arith::AddFOp>(op)) ||
        !llvm::is_contained(op.getOperands(), value))
      return std::nullopt;
    Value other = op.getOperand(op.getOperand(0) == value ? 1 : 0);
    std::optional<unsigned> bias = biasOf(other, columnDims);
    if (accumulate && accumulate.getValue() != value)
      return std::nullopt;
    if (bias && !accumulate && !matmul->bias)
      matmul->bias = bias;
    else if (!matmul->addend && (matmul->addend = argumentOf(other)))
      matmul->accumulates = !!accumulate;
    else
      return std::nullopt;
    value = op.getResult(0);
  }
  auto yield = cast<YieldOp>(body.getTerminator());
  if (!matmul || yield.getValues().size() != 1 || yield.getValues()[0] != value)
    return std::nullopt;
  int64_t tied = kernel.getTied().front();
  if (tied >= 0 &&
      (tied != matmul->addend || tied == matmul->left || tied == matmul->right))
    return std::nullopt;
  return matmul;
}

int64_t lmc::plan::matmulWorkspaceBytes(KernelOp kernel) {
  constexpr int64_t mebibyte = 1 << 20, alignment = 256 - 64;
  constexpr int64_t tile = 128, manyTiles = 264, mostParts = 16;
  int64_t bytes = 4 * mebibyte;
  if (auto matmul = describeMatmul(kernel)) {
    int64_t tiles = llvm::divideCeil(matmul->rows, tile) *
                    llvm::divideCeil(matmul->columns, tile);
    int64_t parts =
        std::min(mostParts, manyTiles / std::max<int64_t>(1, tiles));
    // Of few tiles: no overflow.
    if (parts > 1)
      bytes = std::clamp(parts * matmul->rows * matmul->columns * 4, bytes,
                         32 * mebibyte);
  }
  return bytes + alignment;
}
