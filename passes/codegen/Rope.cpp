// Rotary positions: pairs of a head's elements turned by an angle that grows
// with the position. A unit is a few tokens.
//
// Layout `half` turns (i, i + r/2): two vectors with the same table entries.
// Layout `interleaved` turns (2i, 2i + 1): one vector, its neighbours swapped,
// and each table entry doubled; where a vector is one element, as `half` does.
#include "passes/codegen/Emitter.h"

#include "mlir/Dialect/Arith/IR/Arith.h"

using namespace mlir;
using namespace lmc;
using namespace lmc::codegen;

namespace {

struct RopeShape {
  lm::RopeOp op;
  unsigned input = 0, positions = 0, table = 0; // argument numbers
  int64_t tokens = 0, groups = 0, slots = 0, width = 0, rotated = 0;
  int64_t tableRows = 0, perEntry = 1;
  bool dynamic = false;
};

FailureOr<RopeShape> describeRope(plan::KernelOp kernel) {
  RopeShape shape;
  Block &block = kernel.getBody().front();
  for (Operation &op : block.without_terminator()) {
    auto rope = dyn_cast<lm::RopeOp>(op);
    if (!rope || shape.op)
      return op.emitOpError()
             << "in a kernel of kind rope, which holds one lm.rope alone";
    shape.op = rope;
  }
  if (!shape.op)
    return kernel.emitOpError() << "of kind rope holds no lm.rope";
  auto input = dyn_cast<BlockArgument>(shape.op.getInput());
  auto positions = dyn_cast<BlockArgument>(shape.op.getPositions());
  auto table = dyn_cast<BlockArgument>(shape.op.getTable());
  if (!input || !positions || !table)
    return shape.op.emitOpError()
           << "in a kernel must read arguments of the kernel";
  shape.input = input.getArgNumber();
  shape.positions = positions.getArgNumber();
  shape.table = table.getArgNumber();
  auto type = cast<RankedTensorType>(input.getType());
  unsigned rank = type.getRank();
  shape.groups = type.getDimSize(rank - 3);
  shape.slots = type.getDimSize(rank - 2);
  shape.width = type.getDimSize(rank - 1);
  auto tableType = cast<RankedTensorType>(table.getType());
  shape.tableRows = tableType.getDimSize(0);
  shape.rotated = tableType.getDimSize(1);
  shape.dynamic = takesRows(kernel);
  int64_t tokens = countElements(positions.getType());
  shape.tokens = shape.dynamic ? 0 : tokens;
  shape.perEntry = shape.dynamic ? tokens / kDynamicSize : 1;
  return shape;
}

constexpr int64_t kTokensPerUnit = 4;
constexpr int64_t kThreads = 512; // of a block, which has one token

// What divides both of a pair's places, and each slot's.
int64_t blockLanes(RopeShape shape) {
  if (shape.op.getLayout() == "interleaved")
    return lanesDividing({shape.rotated, shape.width});
  return lanesDividing({shape.rotated / 2, shape.width});
}

class RopeEmitter {
public:
  RopeEmitter(EmitContext &context, const RopeShape &shape)
      : context(context), shape(shape), b(context.b),
        f32(context.b.builder.getF32Type()) {}

  void emit();

private:
  EmitContext &context;
  RopeShape shape;
  LoopBuilder &b;
  Type f32;

  void emitApart(Value from, Value to, Value table);
  void emitPairs(Value from, Value to, Value table);
  void copy(Value from, Value to, int64_t begin, int64_t end);
  // Vectors over [begin, end), the last one masked.
  void overVectors(int64_t begin, int64_t end,
                   const std::function<void(Value, Value)> &body);
  Value negate(Value v) { return b.builder.create<arith::NegFOp>(b.loc, v); }
};

void RopeEmitter::overVectors(int64_t begin, int64_t end,
                              const std::function<void(Value, Value)> &body) {
  if (begin >= end)
    return;
  bool masked = (end - begin) % b.lanes != 0;
  Share share = context.overLanes();
  b.forLoop(b.add(share.first, begin), b.i64(end), share.step, [&](Value i) {
    body(i, masked ? b.laneMask(b.sub(b.i64(end), i)) : Value());
  });
}

// Pairs whose elements are of two vectors.
void RopeEmitter::emitApart(Value from, Value to, Value table) {
  int64_t half = shape.rotated / 2;
  bool interleaved = shape.op.getLayout() == "interleaved";
  bool inverse = shape.op.getInverse();
  overVectors(0, half, [&](Value i, Value mask) {
    Value first = interleaved ? b.mul(i, 2) : i;
    int64_t distance = interleaved ? 1 : half;
    auto second = [&](Value base) {
      return b.atF32(b.atF32(base, first), distance);
    };
    Value cosine = b.loadVector(b.atF32(table, i), f32, mask);
    Value sine = b.loadVector(b.atF32(b.atF32(table, i), half), f32, mask);
    Value x = b.loadVector(b.atF32(from, first), f32, mask);
    Value y = b.loadVector(second(from), f32, mask);
    Value s = inverse ? negate(sine) : sine;
    Value turnedX = b.fma(negate(s), y, b.mulf(cosine, x));
    Value turnedY = b.fma(s, x, b.mulf(cosine, y));
    b.store(turnedX, b.atF32(to, first), mask);
    b.store(turnedY, second(to), mask);
  });
}

void RopeEmitter::emitPairs(Value from, Value to, Value table) {
  int64_t half = shape.rotated / 2;
  SmallVector<int64_t> doubled, swapped;
  SmallVector<float> sign;
  for (int64_t i = 0; i < b.lanes; ++i) {
    doubled.push_back(i / 2);
    swapped.push_back(i ^ 1);
    bool even = i % 2 == 0;
    sign.push_back(even != shape.op.getInverse() ? -1.0f : 1.0f);
  }
  Value signs = b.builder.create<arith::ConstantOp>(
      b.loc, DenseElementsAttr::get(b.floats(), ArrayRef<float>(sign)));
  // Half as many entries as elements, which divide those of the table.
  LoopBuilder halves(b.builder, b.loc, b.lanes / 2, b.aligned);
  overVectors(0, shape.rotated, [&](Value i, Value mask) {
    Value pair = b.div(i, 2);
    Value entries;
    if (!context.block)
      entries = b.laneMask(b.min(b.sub(b.i64(half), pair), b.lanes / 2));
    auto entry = [&](int64_t offset) {
      Value at = b.atF32(b.atF32(table, pair), offset);
      Value loaded =
          entries ? b.loadVector(at, f32, entries) : halves.loadVector(at, f32);
      return b.shuffle(loaded, loaded, doubled);
    };
    Value cosine = entry(0), sine = b.mulf(entry(half), signs);
    Value x = b.loadVector(b.atF32(from, i), f32, mask);
    Value other = b.shuffle(x, x, swapped);
    b.store(b.fma(sine, other, b.mulf(cosine, x)), b.atF32(to, i), mask);
  });
}

void RopeEmitter::copy(Value from, Value to, int64_t begin, int64_t end) {
  overVectors(begin, end, [&](Value i, Value mask) {
    b.store(b.loadVector(b.atF32(from, i), f32, mask), b.atF32(to, i), mask);
  });
}

void RopeEmitter::emit() {
  Value input = context.pointers[shape.input];
  Value positions = context.pointers[shape.positions];
  unsigned target = resultPointerOf(context.kernel, 0);
  Value output = context.pointers[target];
  bool inPlace = target == shape.input;
  int64_t perUnit = (context.block ? 1 : kTokensPerUnit) * shape.perEntry;
  Value tokens =
      context.rows ? b.mul(context.rows, shape.perEntry) : b.i64(shape.tokens);
  Value end = b.min(b.mul(context.end, perUnit), tokens);
  int64_t perToken = shape.groups * shape.slots * shape.width;
  int64_t turned = shape.op.getNumRotated() * shape.width;
  b.forLoop(b.mul(context.begin, perUnit), end, 1, [&](Value token) {
    Type i32 = b.builder.getI32Type();
    Value position = b.toI64(b.loadScalar(b.at(positions, token, i32), i32));
    // A position past the table turns like the table's last one.
    position = b.max(b.min(position, shape.tableRows - 1), b.i64(0));
    Value table =
        b.atF32(context.pointers[shape.table], b.mul(position, shape.rotated));
    Share groups = context.overWarps();
    b.forLoop(groups.first, b.i64(shape.groups), groups.step, [&](Value group) {
      Value offset = b.add(b.mul(token, perToken),
                           b.mul(group, shape.slots * shape.width));
      Value from = b.atF32(input, offset), to = b.atF32(output, offset);
      b.forLoop(b.i64(0), b.i64(turned), shape.width, [&](Value slot) {
        Value slotFrom = b.atF32(from, slot), slotTo = b.atF32(to, slot);
        if (shape.op.getLayout() == "interleaved" && b.lanes > 1)
          emitPairs(slotFrom, slotTo, table);
        else
          emitApart(slotFrom, slotTo, table);
        if (!inPlace)
          copy(slotFrom, slotTo, shape.rotated, shape.width);
      });
      if (!inPlace)
        copy(from, to, turned, shape.slots * shape.width);
    });
  });
}

} // namespace

LogicalResult codegen::planRope(plan::KernelOp kernel, const Machine &machine,
                                KernelFacts &facts) {
  auto shape = describeRope(kernel);
  if (failed(shape))
    return failure();
  facts.rows = shape->tokens;
  facts.rowsPerUnit = machine.gpu ? 1 : kTokensPerUnit;
  facts.columns = 1;
  if (machine.gpu) {
    facts.lanes = blockLanes(*shape);
    facts.threads = kThreads;
  }
  facts.stackBytes = 4096;
  return success();
}

LogicalResult codegen::emitRope(EmitContext &context) {
  auto shape = describeRope(context.kernel);
  if (failed(shape))
    return failure();
  RopeEmitter(context, *shape).emit();
  return success();
}
