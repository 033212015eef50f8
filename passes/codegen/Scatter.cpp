// The gradient of an embedding: rows of a table summed by index.
//
// A unit owns a strip of columns and walks the positions in order, so rows
// that share an index are added in the order of their position, whatever the
// number of threads. What stood in the table comes first: zeros, or in later
// micro-batches the accumulator, or another gradient that the rows are added
// to.
#include "passes/codegen/Emitter.h"

#include "mlir/Dialect/Arith/IR/Arith.h"

using namespace mlir;
using namespace lmc;
using namespace lmc::codegen;

namespace {

constexpr int64_t kStrip = 128; // columns

struct ScatterShape {
  lm::EmbeddingGradOp op;
  unsigned indices = 0, gradient = 0; // argument numbers
  int64_t vocabulary = 0, width = 0, positions = 0;
  bool dynamic = false;
  std::optional<unsigned> base; // the argument that rows are added to
  bool accumulates = false;     // base counts from the second micro-batch on
};

FailureOr<ScatterShape> describeScatter(plan::KernelOp kernel) {
  ScatterShape shape;
  Operation *last = nullptr;
  for (Operation &op : kernel.getBody().front().without_terminator()) {
    if (auto grad = dyn_cast<lm::EmbeddingGradOp>(op)) {
      if (shape.op)
        return grad.emitOpError() << "stands twice in one kernel";
      shape.op = grad;
      last = grad;
      continue;
    }
    bool addsToBase = isa<lm::AccumulateOp, arith::AddFOp>(op) && shape.op &&
                      last == shape.op.getOperation();
    Value other;
    if (addsToBase)
      other = op.getOperand(0) == shape.op.getOutput() ? op.getOperand(1)
                                                       : op.getOperand(0);
    auto argument = dyn_cast_if_present<BlockArgument>(other);
    if (!argument || op.getOperand(0) == op.getOperand(1))
      return op.emitOpError()
             << "cannot follow lm.embedding_grad in a kernel: only one "
                "lm.accumulate or arith.addf with an argument can";
    shape.base = argument.getArgNumber();
    shape.accumulates = isa<lm::AccumulateOp>(op);
    last = &op;
  }
  auto yield =
      cast<plan::YieldOp>(kernel.getBody().front().getTerminator());
  if (!shape.op || yield.getValues().size() != 1 ||
      yield.getValues()[0].getDefiningOp() != last)
    return kernel.emitOpError()
           << "of kind scatter must yield one sum of rows, made by "
              "lm.embedding_grad";
  auto indices = dyn_cast<BlockArgument>(shape.op.getIndices());
  auto gradient = dyn_cast<BlockArgument>(shape.op.getGradient());
  if (!indices || !gradient)
    return shape.op.emitOpError()
           << "in a kernel must read arguments of the kernel";
  shape.indices = indices.getArgNumber();
  shape.gradient = gradient.getArgNumber();
  auto table = cast<RankedTensorType>(shape.op.getOutput().getType());
  shape.vocabulary = table.getDimSize(0);
  shape.width = table.getNumElements() / shape.vocabulary;
  shape.dynamic = takesRows(kernel);
  shape.positions =
      shape.dynamic ? 0 : cast<RankedTensorType>(indices.getType())
                              .getNumElements();
  return shape;
}

} // namespace

LogicalResult codegen::planScatter(plan::KernelOp kernel, KernelFacts &facts) {
  auto shape = describeScatter(kernel);
  if (failed(shape))
    return failure();
  facts.rows = shape->positions;
  facts.rowsPerUnit = shape->dynamic ? INT32_MAX : shape->positions;
  facts.columns = (shape->width + kStrip - 1) / kStrip;
  facts.stackBytes = 4096;
  return success();
}

LogicalResult codegen::emitScatter(EmitContext &context) {
  auto shape = describeScatter(context.kernel);
  if (failed(shape))
    return failure();
  LoopBuilder &b = context.b;
  Type f32 = b.builder.getF32Type();
  Value indices = context.pointers[shape->indices];
  Value gradient = context.pointers[shape->gradient];
  unsigned resultPointer = resultPointerOf(context.kernel, 0);
  Value result = context.pointers[resultPointer];
  Value base = shape->base ? context.pointers[*shape->base] : Value();
  bool inPlace = shape->base && resultPointer == *shape->base;
  Value positions = context.rows ? context.rows : b.i64(shape->positions);

  b.forLoop(context.begin, context.end, 1, [&](Value unit) {
    Value column = b.mul(unit, kStrip);
    Value columnEnd = b.min(b.add(column, kStrip), shape->width);
    bool masked = shape->width % b.lanes != 0;
    // Every vector of the strip in one row.
    auto overColumns = [&](const std::function<void(Value, Value)> &body) {
      b.forLoop(column, columnEnd, b.lanes, [&](Value c) {
        body(c, masked ? b.laneMask(b.sub(columnEnd, c)) : Value());
      });
    };
    auto fill = [&](bool zero) {
      b.forLoop(b.i64(0), b.i64(shape->vocabulary), 1, [&](Value row) {
        Value offset = b.mul(row, shape->width);
        overColumns([&](Value c, Value mask) {
          Value at = b.add(offset, c);
          Value value = zero ? b.splatF32(0)
                             : b.loadVector(b.atF32(base, at), f32, mask);
          b.store(value, b.atF32(result, at), mask);
        });
      });
    };
    if (!shape->base)
      fill(true);
    else if (shape->accumulates && inPlace)
      b.ifThen(b.equal(context.microBatch, b.i64(0)), [&] { fill(true); });
    else if (shape->accumulates)
      b.ifThenElse(
          b.equal(context.microBatch, b.i64(0)), [&] { fill(true); },
          [&] { fill(false); });
    else if (!inPlace)
      fill(false);
    b.forLoop(b.i64(0), positions, 1, [&](Value position) {
      Value index = b.toI64(b.loadScalar(
          b.at(indices, position, b.builder.getI32Type()),
          b.builder.getI32Type()));
      Value valid = b.builder.create<arith::CmpIOp>(
          b.loc, arith::CmpIPredicate::ult, index, b.i64(shape->vocabulary));
      b.ifThen(valid, [&] {
        Value from = b.mul(position, shape->width);
        Value to = b.mul(index, shape->width);
        overColumns([&](Value c, Value mask) {
          Value target = b.atF32(result, b.add(to, c));
          Value row = b.loadVector(b.atF32(gradient, b.add(from, c)), f32,
                                   mask);
          b.store(b.addf(b.loadVector(target, f32, mask), row), target, mask);
        });
      });
    });
  });
  return success();
}
