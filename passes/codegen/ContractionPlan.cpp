// How a product is cut into units; see Contraction.cpp for the loops.
#include "passes/codegen/Contraction.h"

using namespace mlir;
using namespace lmc;
using namespace lmc::codegen;

namespace {

constexpr int64_t kMostRows = 384; // of a unit

lm::ContractOp findContract(plan::KernelOp kernel) {
  lm::ContractOp found;
  for (Operation &op : kernel.getBody().front())
    if (auto contract = dyn_cast<lm::ContractOp>(op)) {
      if (found)
        return {};
      found = contract;
    }
  return found;
}

Value lookThroughReshape(Value value) {
  while (auto cast = value.getDefiningOp<lm::ReshapeOp>())
    value = cast.getInput();
  return value;
}

int64_t productOf(ArrayRef<int64_t> shape) {
  int64_t count = 1;
  for (int64_t size : shape)
    count *= ShapedType::isDynamic(size) ? kDynamicSize : size;
  return count;
}

} // namespace

FailureOr<Product> codegen::describeProduct(plan::KernelOp kernel) {
  Product product;
  product.op = findContract(kernel);
  if (!product.op)
    return kernel.emitOpError()
           << "of kind contraction must hold exactly one lm.contract";
  auto lhs = dyn_cast<BlockArgument>(lookThroughReshape(product.op.getLhs()));
  auto rhs = dyn_cast<BlockArgument>(lookThroughReshape(product.op.getRhs()));
  if (!lhs || !rhs)
    return product.op.emitOpError()
           << "in a kernel must contract arguments of the kernel";
  product.lhs = lhs.getArgNumber();
  product.rhs = rhs.getArgNumber();
  auto lhsShape =
      cast<RankedTensorType>(product.op.getLhs().getType()).getShape();
  auto rhsShape =
      cast<RankedTensorType>(product.op.getRhs().getType()).getShape();
  ArrayRef<int64_t> lhsDims = product.op.getLhsDims();
  ArrayRef<int64_t> rhsDims = product.op.getRhsDims();
  size_t count = lhsDims.size();
  product.transposedLhs = count < lhsShape.size() && lhsDims.front() == 0;
  product.transposedRhs = rhsDims.front() != 0;
  product.k = productOf(product.transposedLhs ? lhsShape.take_front(count)
                                              : lhsShape.take_back(count));
  product.m = productOf(lhsShape) / product.k;
  product.n = productOf(rhsShape) / product.k;
  if (product.k >= kDynamicSize || product.n >= kDynamicSize ||
      (product.m >= kDynamicSize && product.transposedLhs))
    return product.op.emitOpError()
           << "may have a dynamic dim only as the leading one of its left "
              "operand";

  if (product.dynamic() && product.m != kDynamicSize)
    return product.op.emitOpError()
           << "has " << product.m / kDynamicSize
           << " rows for each entry of its dynamic leading dim; make them one "
              "dim first";

  // Units: enough of them for threads, each large enough to earn its packing.
  // A transposed A is packed anew for every block of columns, and its rows lie
  // in pages far apart: fewer and wider blocks, less of K at a time.
  bool transposed = product.transposedLhs;
  int64_t fewestUnits = transposed ? 8 : 16;
  int64_t depth = transposed ? 256 : 384;
  int64_t rows = product.dynamic() ? kMostRows : product.m;
  int64_t rowBlocks = (rows + kMostRows - 1) / kMostRows;
  product.rowsPerUnit = (rows + rowBlocks - 1) / rowBlocks;
  product.rowsPerUnit = (product.rowsPerUnit + 23) / 24 * 24; // of any tile
  rowBlocks = (rows + product.rowsPerUnit - 1) / product.rowsPerUnit;
  int64_t panels = (product.n + Product::kPanel - 1) / Product::kPanel;
  product.depth = std::min(depth, (product.k + 15) / 16 * 16);
  int64_t widest = std::clamp<int64_t>(panels * rowBlocks / fewestUnits, 1, 6);
  int64_t blocks = (panels + widest - 1) / widest;
  product.panelsPerUnit = (panels + blocks - 1) / blocks;
  return product;
}

FailureOr<KernelBody> codegen::analyzeProduct(plan::KernelOp kernel,
                                              const Product &product) {
  auto body =
      KernelBody::analyze(kernel, KernelBody::Split::Explicit, product.n);
  if (failed(body))
    return failure();
  if (body->columnGroups.size() > 1)
    return kernel.emitOpError()
           << "broadcasts along a part of the product's columns, which a "
              "contraction does not";
  for (Value value : body->yield().getValues())
    if (body->placeOf(value) != Level::Vector && body->split > 1)
      return kernel.emitOpError()
             << "of kind contraction yields " << value.getType()
             << ", which is not of the product's shape";
  return body;
}

LogicalResult codegen::planContraction(plan::KernelOp kernel, const Machine &,
                                       KernelFacts &facts) {
  auto product = describeProduct(kernel);
  if (failed(product))
    return failure();
  facts.rows = product->dynamic() ? 0 : product->m;
  facts.rowsPerUnit = product->rowsPerUnit;
  facts.columns = product->columns();
  facts.stackBytes = 4 * (product->panelElements() + product->sumElements() +
                          product->packedLhsElements()) +
                     16384;
  facts.flops =
      product->dynamic() ? 0 : 2 * product->m * product->n * product->k;
  return success();
}
