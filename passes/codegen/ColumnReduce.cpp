// Kernels that sum or maximise over rows: gradients of biases and norms.
//
// A unit owns a strip of columns and walks all rows, so a column's sum is
// never split over threads. Rows are summed in blocks of kRowBlock whose sums
// are added up: rounding errors grow with the number of blocks. Strips jump
// from page to page, which the hardware does not foresee: rows ahead are
// prefetched.
//
// On a GPU a unit's strip is 32 columns wide, a line of its memory. The block's
// threads form teams that each walk every so-manieth row; the teams' sums are
// added in their order.
#include "passes/codegen/Emitter.h"

#include <limits>

using namespace mlir;
using namespace lmc;
using namespace lmc::codegen;

namespace {

constexpr int64_t kRowBlock = 64;
constexpr int64_t kPrefetchRows = 8;

bool isMax(lm::ReduceOp reduce) { return reduce.getKind() == "max"; }

struct Strips {
  int64_t vectors;    // of a strip
  int64_t width;      // columns of a strip
  int64_t perGroup;   // strips along the last column group
  int64_t outerCount; // entries of the groups before it
  // Of a block: threads side by side, and teams of them.
  int64_t across = 1, teams = 1;
};

constexpr int64_t kThreads = 256; // of a block
// Columns of a strip: fewer where there would be few strips for a GPU.
constexpr int64_t kBlockStrip = 32, kNarrowStrip = 16, kFewColumns = 1536;

Strips cutStrips(const KernelBody &body, const Machine &machine,
                 int64_t lanes) {
  Interval last = body.columnGroups.back();
  int64_t width = last.hi / last.lo;
  Strips strips;
  if (machine.gpu) {
    strips.vectors = 1;
    strips.width = body.split <= kFewColumns ? kNarrowStrip : kBlockStrip;
    strips.across = strips.width / lanes;
    strips.teams = kThreads / strips.across;
    strips.perGroup = (width + strips.width - 1) / strips.width;
    strips.outerCount = body.split / width;
    return strips;
  }
  // The accumulators stay in registers beside what the body computes.
  strips.vectors = body.reductions.size() <= 2 && width >= 8 * 16 * 4 ? 8 : 4;
  strips.width = strips.vectors * 16;
  strips.vectors = strips.width / lanes;
  strips.perGroup = (width + strips.width - 1) / strips.width;
  strips.outerCount = body.split / width;
  return strips;
}

FailureOr<KernelBody> analyzeColumns(plan::KernelOp kernel) {
  auto body = KernelBody::analyze(kernel, KernelBody::Split::Columns);
  if (failed(body))
    return failure();
  if (body->numStages > 1)
    return kernel.emitOpError()
           << "reduces over rows " << body->numStages
           << " times one behind the other; one kernel does it once";
  if (body->reductions.empty())
    return kernel.emitOpError() << "of kind column_reduce reduces nothing";
  return body;
}

class ColumnEmitter {
public:
  ColumnEmitter(EmitContext &context, const KernelBody &body)
      : context(context), body(body), b(context.b),
        ev(body, b, context.pointers, context.microBatch, context.randoms),
        strips(cutStrips(body, context.machine, b.lanes)), team(b.i64(0)) {}

  LogicalResult emit();

private:
  EmitContext &context;
  const KernelBody &body;
  LoopBuilder &b;
  Evaluator ev;
  Strips strips;
  Value team;    // of the thread
  Value partial; // [teams][reductions][columns of a strip], of a block
  bool failedOnce = false;

  void emitBlockStrip(ValueRange outer, Value column, int64_t width);
  Values emitAllRows(Value rows, ValueRange outer, Value column,
                     ArrayRef<Value> masks);
  void finish(ValueRange outer, Value column, ArrayRef<Value> masks,
              ArrayRef<Value> totals);
  void emitStrip(ValueRange outer, Value column, Value columns, bool masked);
  Values emitRows(Value from, Value to, ValueRange outer, Value column,
                  ArrayRef<Value> masks);
  Values identities();
  Value combine(size_t index, Value a, Value c) {
    bool max = isMax(body.reductions[index % body.reductions.size()]);
    return max ? b.maxf(c, a) : b.addf(a, c);
  }
  void prefetchRow(Value row, ValueRange outer, Value column);
};

Values ColumnEmitter::identities() {
  Values result;
  for (int64_t v = 0; v < strips.vectors; ++v)
    for (lm::ReduceOp reduce : body.reductions) {
      lm::ReduceOp op = reduce;
      result.push_back(b.splatF32(
          isMax(op) ? -std::numeric_limits<float>::infinity() : 0.0));
    }
  return result;
}

LogicalResult ColumnEmitter::emit() {
  if (failed(ev.beginKernel()))
    return failure();
  Interval last = body.columnGroups.back();
  int64_t width = last.hi / last.lo;
  if (context.block)
    partial = context.block->sharedFloats(
        strips.teams * body.reductions.size() * strips.width);
  context.overUnits([&](Value unit) {
    Value strip = b.rem(unit, strips.perGroup);
    Value rest = b.div(unit, strips.perGroup);
    Values outer;
    for (size_t g = 0; g + 1 < body.columnGroups.size(); ++g) {
      int64_t inner = 1;
      for (size_t i = g + 1; i + 1 < body.columnGroups.size(); ++i)
        inner *= body.columnGroups[i].hi / body.columnGroups[i].lo;
      int64_t size = body.columnGroups[g].hi / body.columnGroups[g].lo;
      outer.push_back(b.rem(b.div(rest, inner), size));
    }
    Value column = b.mul(strip, strips.width);
    Value columns = b.sub(b.i64(width), column);
    if (context.block)
      return emitBlockStrip(outer, column, width);
    if (width % strips.width == 0) {
      emitStrip(outer, column, columns, /*masked=*/false);
      return;
    }
    b.ifThenElse(
        b.less(columns, b.i64(strips.width)),
        [&] { emitStrip(outer, column, columns, /*masked=*/true); },
        [&] { emitStrip(outer, column, columns, /*masked=*/false); });
  });
  return failure(failedOnce);
}

void ColumnEmitter::emitStrip(ValueRange outer, Value column, Value columns,
                              bool masked) {
  SmallVector<Value> masks(strips.vectors);
  if (masked)
    for (int64_t v = 0; v < strips.vectors; ++v)
      masks[v] = b.laneMask(b.sub(columns, v * b.lanes));
  Value rows = context.rows ? context.rows : b.i64(body.rows());
  Values totals = emitAllRows(rows, outer, column, masks);
  if (!failedOnce)
    finish(outer, column, masks, totals);
}

Values ColumnEmitter::emitAllRows(Value rows, ValueRange outer, Value column,
                                  ArrayRef<Value> masks) {
  int64_t block = kRowBlock * strips.teams;
  return b.forLoop(
      b.i64(0), rows, block, identities(), [&](Value from, ValueRange carried) {
        Value to = b.min(b.add(from, block), rows);
        Values sums = emitRows(b.add(from, team), to, outer, column, masks);
        for (auto [index, sum] : llvm::enumerate(sums))
          sum = combine(index, carried[index], sum);
        return sums;
      });
}

void ColumnEmitter::emitBlockStrip(ValueRange outer, Value column,
                                   int64_t width) {
  Value place = b.rem(context.block->thread, strips.across);
  team = b.div(context.block->thread, strips.across);
  column = b.add(column, b.mul(place, b.lanes));
  Value inside = b.less(column, b.i64(width));
  // Threads past the last column have no rows, but meet the others.
  Value rows = context.rows ? context.rows : b.i64(body.rows());
  Values totals =
      emitAllRows(b.select(inside, rows, b.i64(0)), outer, column, {Value()});
  if (failedOnce)
    return;
  Value at = b.atF32(partial, b.mul(place, b.lanes));
  int64_t perTeam = totals.size() * strips.width;
  for (auto [index, total] : llvm::enumerate(totals))
    b.store(total, b.atF32(b.atF32(at, b.mul(team, perTeam)),
                           int64_t(index) * strips.width));
  context.block->barrier();
  b.ifThen(b.andMask(inside, b.equal(team, b.i64(0))), [&] {
    Values sums = b.forLoop(
        b.i64(1), b.i64(strips.teams), 1, totals,
        [&](Value other, ValueRange carried) {
          Values next;
          for (auto [index, sum] : llvm::enumerate(carried)) {
            Value from = b.atF32(b.atF32(at, b.mul(other, perTeam)),
                                 int64_t(index) * strips.width);
            next.push_back(combine(index, sum,
                                   b.loadVector(from, b.builder.getF32Type())));
          }
          return next;
        });
    finish(outer, column, {Value()}, sums);
  });
}

void ColumnEmitter::finish(ValueRange outer, Value column,
                           ArrayRef<Value> masks, ArrayRef<Value> totals) {
  size_t count = body.reductions.size();
  ev.endRows();
  for (int64_t v = 0; v < strips.vectors; ++v) {
    ev.beginChunk(outer, b.add(column, v * b.lanes), masks[v]);
    for (size_t i = 0; i < count; ++i) {
      lm::ReduceOp reduce = body.reductions[i];
      ev.define(reduce.getOutput(), totals[v * count + i]);
    }
    for (auto [index, value] : llvm::enumerate(body.yield().getValues())) {
      Value computed = ev.getVector(value);
      failedOnce |= !computed;
      if (computed)
        ev.storeResult(index, computed);
    }
  }
}

Values ColumnEmitter::emitRows(Value from, Value to, ValueRange outer,
                               Value column, ArrayRef<Value> masks) {
  size_t count = body.reductions.size();
  return b.forLoop(
      from, to, strips.teams, identities(), [&](Value row, ValueRange carried) {
        Values sums(carried.begin(), carried.end());
        if (failed(ev.beginRow(row))) {
          failedOnce = true;
          return sums;
        }
        for (int64_t v = 0; v < strips.vectors; ++v) {
          ev.beginChunk(outer, b.add(column, v * b.lanes), masks[v]);
          for (size_t i = 0; i < count; ++i) {
            lm::ReduceOp reduce = body.reductions[i];
            Value value = ev.getVector(reduce.getInput());
            failedOnce |= !value;
            if (value)
              sums[v * count + i] = combine(i, sums[v * count + i], value);
          }
        }
        if (!context.block)
          prefetchRow(b.add(row, kPrefetchRows), outer, column);
        return sums;
      });
}

void ColumnEmitter::prefetchRow(Value row, ValueRange outer, Value column) {
  ev.movePlace(row, outer, column);
  for (BlockArgument argument : body.block().getArguments()) {
    if (!body.hasSpace(argument) ||
        countElements(argument.getType()) != body.elements)
      continue;
    Type element = cast<RankedTensorType>(argument.getType()).getElementType();
    Value address = b.at(context.pointers[argument.getArgNumber()],
                         ev.offsetOf(argument), element);
    int64_t perLine = 512 / element.getIntOrFloatBitWidth();
    for (int64_t offset = 0; offset < strips.width; offset += perLine)
      b.prefetch(b.at(address, offset, element));
  }
}

} // namespace

LogicalResult codegen::planColumnReduce(plan::KernelOp kernel,
                                        const Machine &machine,
                                        KernelFacts &facts) {
  auto body = analyzeColumns(kernel);
  if (failed(body))
    return failure();
  if (body->columnGroups.empty())
    return planRow(kernel, machine, facts);
  Interval last = body->columnGroups.back();
  facts.lanes = machine.gpu ? lanesDividing({last.hi / last.lo}) : 16;
  Strips strips = cutStrips(*body, machine, facts.lanes);
  if (machine.gpu) {
    facts.threads = kThreads;
    facts.sharedBytes =
        strips.teams * int64_t(body->reductions.size()) * strips.width * 4;
  }
  // All rows are one block, however many there are.
  facts.rows = body->dynamicRows ? 0 : body->rows();
  facts.rowsPerUnit = body->dynamicRows ? INT32_MAX : body->rows();
  facts.columns = strips.perGroup * strips.outerCount;
  facts.stackBytes = 16384;
  return success();
}

LogicalResult codegen::emitColumnReduce(EmitContext &context) {
  auto body = analyzeColumns(context.kernel);
  if (failed(body))
    return failure();
  if (body->columnGroups.empty())
    return emitRow(context);
  return ColumnEmitter(context, *body).emit();
}
