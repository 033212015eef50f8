// The gradient of an embedding: rows of a table summed by index.
//
// A unit owns a strip of columns and walks the positions in order, so rows
// that share an index are added in the order of their position, whatever the
// number of threads. What stood in the table comes first: zeros, or in later
// micro-batches the accumulator, or another gradient that the rows are added
// to.
//
// On a GPU a unit has a part of the table's rows, too, so that there are enough
// of them; each thread owns a vector's columns and meets no other.
#include "passes/codegen/Emitter.h"

#include "mlir/Dialect/Arith/IR/Arith.h"

using namespace mlir;
using namespace lmc;
using namespace lmc::codegen;

namespace {

constexpr int64_t kStrip = 128; // columns
// Of a block.
constexpr int64_t kThreads = 128;
constexpr int64_t kMostRows = 64, kFewestRows = 8; // of the table
constexpr int64_t kManyUnits = 128;                // along the table
constexpr int64_t kAhead = 3;                      // positions

struct ScatterShape {
  lm::EmbeddingGradOp op;
  unsigned indices = 0, gradient = 0; // argument numbers
  int64_t vocabulary = 0, width = 0, positions = 0;
  bool dynamic = false;
  // The body is lm.accumulate of the rows with the result's own bytes: from
  // the second micro-batch on they are the base as they stand.
  bool plainAccumulate = false;
  // Of a unit.
  int64_t strip = kStrip, rows = 0;

  int64_t strips() const { return (width + strip - 1) / strip; }
};

FailureOr<ScatterShape> describeScatter(plan::KernelOp kernel,
                                        const Machine &machine) {
  ScatterShape shape;
  Block &block = kernel.getBody().front();
  auto yield = cast<plan::YieldOp>(block.getTerminator());
  for (Operation &op : block)
    if (auto grad = dyn_cast<lm::EmbeddingGradOp>(op)) {
      if (shape.op)
        return grad.emitOpError() << "stands twice in one kernel";
      shape.op = grad;
    }
  if (!shape.op || yield.getValues().size() != 1)
    return kernel.emitOpError()
           << "of kind scatter must hold one lm.embedding_grad and yield one "
              "result";
  // Rows are added to what stands there, so each must count once: a chain of
  // sums leads from them to the result.
  Value at = shape.op.getOutput();
  while (at != yield.getValues()[0]) {
    Operation *user = at.hasOneUse() ? *at.user_begin() : nullptr;
    bool sum = isa_and_nonnull<arith::AddFOp>(user) ||
               (isa_and_nonnull<lm::AccumulateOp>(user) &&
                cast<lm::AccumulateOp>(user).getValue() == at);
    if (!sum)
      return (user ? user : shape.op.getOperation())->emitOpError()
             << "in a kernel of kind scatter: only arith.addf and "
                "lm.accumulate can follow lm.embedding_grad";
    at = user->getResult(0);
  }
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
  shape.rows = shape.vocabulary;
  if (machine.gpu) {
    shape.strip = kThreads * lanesDividing({shape.width});
    shape.rows =
        std::min(shape.vocabulary, std::clamp(shape.vocabulary / kManyUnits,
                                              kFewestRows, kMostRows));
  }
  shape.dynamic = takesRows(kernel);
  shape.positions =
      shape.dynamic
          ? 0
          : cast<RankedTensorType>(indices.getType()).getNumElements();
  auto accumulate = yield.getValues()[0].getDefiningOp<lm::AccumulateOp>();
  if (accumulate && accumulate.getValue() == shape.op.getOutput())
    if (auto argument = dyn_cast<BlockArgument>(accumulate.getAccumulator()))
      shape.plainAccumulate =
          resultPointerOf(kernel, 0) == argument.getArgNumber();
  return shape;
}

} // namespace

LogicalResult codegen::planScatter(plan::KernelOp kernel,
                                   const Machine &machine, KernelFacts &facts) {
  auto shape = describeScatter(kernel, machine);
  if (failed(shape))
    return failure();
  facts.rows = shape->positions;
  facts.rowsPerUnit = shape->dynamic ? INT32_MAX : shape->positions;
  facts.columns =
      shape->strips() * ((shape->vocabulary + shape->rows - 1) / shape->rows);
  if (machine.gpu) {
    facts.lanes = lanesDividing({shape->width});
    facts.threads = kThreads;
  }
  facts.stackBytes = 4096;
  return success();
}

LogicalResult codegen::emitScatter(EmitContext &context) {
  auto shape = describeScatter(context.kernel, context.machine);
  if (failed(shape))
    return failure();
  LoopBuilder &b = context.b;
  Type f32 = b.builder.getF32Type();
  Value indices = context.pointers[shape->indices];
  Value gradient = context.pointers[shape->gradient];
  unsigned resultPointer = resultPointerOf(context.kernel, 0);
  Value result = context.pointers[resultPointer];
  Value positions = context.rows ? context.rows : b.i64(shape->positions);
  auto body = KernelBody::analyze(context.kernel, KernelBody::Split::Explicit,
                                  shape->width);
  if (failed(body))
    return failure();
  if (body->columnGroups.size() != 1)
    return context.kernel.emitOpError()
           << "of kind scatter must add whole rows of " << shape->width
           << " elements";
  Evaluator ev(*body, b, context.pointers, context.microBatch, context.randoms);
  if (failed(ev.beginKernel()))
    return failure();
  bool failedOnce = false;

  int64_t strip = shape->strip, strips = shape->strips();
  bool whole = shape->rows == shape->vocabulary;
  Share share = context.overThreads();
  context.overUnits([&](Value unit) {
    Value column = b.mul(whole ? unit : b.rem(unit, strips), strip);
    Value columnEnd = b.min(b.add(column, strip), shape->width);
    Value row0 = whole ? b.i64(0) : b.mul(b.div(unit, strips), shape->rows);
    Value rowEnd = b.min(b.add(row0, shape->rows), shape->vocabulary);
    bool masked = shape->width % b.lanes != 0;
    // Every vector of the strip in one row.
    auto overColumns = [&](const std::function<void(Value, Value)> &each) {
      b.forLoop(b.add(column, share.first), columnEnd, share.step,
                [&](Value c) {
                  each(c, masked ? b.laneMask(b.sub(columnEnd, c)) : Value());
                });
    };
    // What the rows are added to: the body's value where no row is.
    auto fill = [&] {
      b.forLoop(row0, rowEnd, 1, [&](Value row) {
        failedOnce |= failed(ev.beginRow(row));
        overColumns([&](Value c, Value mask) {
          ev.beginChunk({}, c, mask);
          ev.define(shape->op.getOutput(), b.splatF32(0));
          Value value = ev.getVector(body->yield().getValues()[0]);
          failedOnce |= !value;
          if (value)
            ev.storeResult(0, value);
        });
      });
    };
    if (shape->plainAccumulate)
      b.ifThen(ev.isFirstMicroBatch(), fill);
    else
      fill();
    Type i32 = b.builder.getI32Type();
    auto indexAt = [&](Value position) {
      return b.toI64(b.loadScalar(b.at(indices, position, i32), i32));
    };
    auto addRow = [&](Value position, Value index) {
      Value from = b.mul(position, shape->width);
      Value to = b.mul(index, shape->width);
      overColumns([&](Value c, Value mask) {
        Value target = b.atF32(result, b.add(to, c));
        Value row = b.loadVector(b.atF32(gradient, b.add(from, c)), f32, mask);
        b.store(b.addf(b.loadVector(target, f32, mask), row), target, mask);
      });
    };
    auto ifMine = [&](Value position, Value index) {
      Value isMine = b.builder.create<arith::CmpIOp>(
          b.loc, arith::CmpIPredicate::ult, b.sub(index, row0),
          b.sub(rowEnd, row0));
      b.ifThen(isMine, [&] { addRow(position, index); });
    };
    if (!context.block)
      return b.forLoop(b.i64(0), positions, 1, [&](Value position) {
        ifMine(position, indexAt(position));
      });
    // Few positions are a block's own, so it mostly reads: indices come ahead.
    Value last = b.sub(positions, 1);
    Values ahead;
    for (int64_t i = 0; i < kAhead; ++i)
      ahead.push_back(indexAt(b.min(b.i64(i), last)));
    b.forLoop(b.i64(0), positions, 1, ahead,
              [&](Value position, ValueRange carried) {
                Values next(carried.drop_front());
                next.push_back(indexAt(b.min(b.add(position, kAhead), last)));
                ifMine(position, carried[0]);
                return next;
              });
  });
  return failure(failedOnce);
}
