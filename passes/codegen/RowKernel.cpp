// Kernels whose rows are independent: elementwise work, reductions over a row,
// rows gathered by an index. A flat kernel is one row whose columns are split
// over the units.
//
// A row takes one pass over its columns per stage of reductions and one to
// finish. A result is stored in the first pass that can compute it, and later
// passes read it back instead of computing it again; a result that is tied to
// an argument waits for the last pass, because the passes before read the
// argument.
//
// On a GPU a row's vectors are dealt over the threads of a block, in every pass
// alike, so that a thread reads back what it stored itself; rows too narrow for
// that take a thread each.
#include "passes/codegen/Emitter.h"

#include "mlir/Dialect/Arith/IR/Arith.h"

#include <algorithm>
#include <limits>

using namespace mlir;
using namespace lmc;
using namespace lmc::codegen;

namespace {

constexpr int64_t kUnroll = 4;
constexpr int64_t kFlatUnit = 16384; // elements
// A longer row is summed in blocks of this many columns, so that rounding
// errors grow with the number of blocks and not of elements.
constexpr int64_t kSumBlock = 4096;

bool isMax(lm::ReduceOp reduce) { return reduce.getKind() == "max"; }

FailureOr<KernelBody> analyzeRows(plan::KernelOp kernel) {
  if (kernel.getKind() == "flat" && !takesRows(kernel)) {
    auto body = KernelBody::analyze(kernel, KernelBody::Split::Flat);
    if (failed(body))
      return failure();
    if (body->columnGroups.size() <= 1 && body->reductions.empty())
      return body;
  }
  return KernelBody::analyze(kernel, KernelBody::Split::Rows);
}

bool isFlat(const KernelBody &body) {
  return body.split == body.elements && body.reductions.empty();
}

// Rows of one entry of the leading dim, if that is dynamic.
int64_t rowsPerEntry(const KernelBody &body) {
  return body.dynamicRows ? body.rows() / kDynamicSize : 1;
}

// How the threads of a block share rows.
struct RowShare {
  int64_t lanes = 1, threads = 256;
  bool threadPerRow = false; // else the block has one at a time
};

constexpr int64_t kFlatVectors = 4;   // of a thread
constexpr int64_t kMostThreads = 512; // more would have few registers each
constexpr int64_t kNarrow = 8;        // vectors of a row of one thread
constexpr int64_t kStraight = 4;      // vectors of a thread that need no loop
// Vectors that a thread of a block sums before it adds to the sum of sums.
constexpr int64_t kThreadBlock = 256;

RowShare shareRows(const KernelBody &body) {
  RowShare share;
  if (body.columnGroups.empty()) {
    share.threads = body.rows() > 1 ? 128 : ThreadBlock::kWarp;
    share.threadPerRow = true;
    return share;
  }
  Interval last = body.columnGroups.back();
  share.lanes = lanesDividing({last.hi / last.lo});
  if (isFlat(body))
    return share;
  int64_t vectors = body.split / share.lanes;
  share.threadPerRow = vectors <= kNarrow;
  share.threads = share.threadPerRow
                      ? 128
                      : std::min(kMostThreads, (vectors + 31) / 32 * 32);
  return share;
}

// One block writes a result that is one number. If it lies over an argument,
// other blocks must not read that.
LogicalResult checkScalars(const KernelBody &body) {
  auto isOne = [&](Value value) {
    return body.placeOf(value) == Level::Kernel;
  };
  auto values = body.yield().getValues();
  if (llvm::all_of(values, isOne) || (body.rows() == 1 && !isFlat(body)))
    return success();
  for (auto [index, value] : llvm::enumerate(values))
    if (isOne(value) && body.isTied(index))
      return const_cast<plan::KernelOp &>(body.kernel).emitOpError()
             << "overwrites the single number that other blocks of a GPU may "
                "not have read yet; let result "
             << index << " lie elsewhere";
  return success();
}

// Reductions that one pass has.
int64_t mostReductions(const KernelBody &body) {
  SmallVector<int64_t> counts(body.numStages + 1, 0);
  for (lm::ReduceOp op : body.reductions) {
    lm::ReduceOp reduce = op;
    ++counts[body.stage(reduce.getOutput())];
  }
  return *std::max_element(counts.begin(), counts.end());
}

// One pass over the columns of a row.
struct Pass {
  SmallVector<lm::ReduceOp, 4> reductions;
  SmallVector<unsigned, 4> stores; // results
};

class RowEmitter {
public:
  RowEmitter(EmitContext &context, const KernelBody &body)
      : context(context), body(body), b(context.b),
        ev(body, b, context.pointers, context.microBatch, context.randoms) {
    if (context.block) {
      share = shareRows(body);
      sets = 1;
    }
  }

  LogicalResult emit();

private:
  EmitContext &context;
  const KernelBody &body;
  LoopBuilder &b;
  Evaluator ev;
  bool failedOnce = false;
  RowShare share;         // of a block
  int64_t sets = kUnroll; // of accumulators

  SmallVector<Pass, 4> passes;
  SmallVector<unsigned, 4> rowStores, kernelStores;

  void plan();
  void emitRow(Value begin, Value end);
  void emitPass(const Pass &pass, Value begin, Value end);
  Values emitGroups(const Pass &pass, Value begin, Value end, Values &outer,
                    Values accumulators);
  Values emitColumns(const Pass &pass, Value begin, Value end, ValueRange outer,
                     Values accumulators);
  Values emitShare(const Pass &pass, Value begin, Value end,
                   Values accumulators);
  Values emitChunk(const Pass &pass, ValueRange outer, Value column, Value mask,
                   int quarter, Values accumulators);
  void foldAndDefine(const Pass &pass, ArrayRef<Value> accumulators);
  void storeRow(ArrayRef<unsigned> results);
  Value identity(lm::ReduceOp reduce) {
    return b.splatF32(isMax(reduce) ? -std::numeric_limits<float>::infinity()
                                    : 0.0);
  }
  Value combine(lm::ReduceOp reduce, Value a, Value c) {
    return isMax(reduce) ? b.maxf(c, a) : b.addf(a, c);
  }
};

// Which pass computes what.
void RowEmitter::plan() {
  passes.resize(body.numStages + 1);
  for (lm::ReduceOp reduce : body.reductions)
    passes[body.stage(reduce.getOutput()) - 1].reductions.push_back(reduce);
  for (auto [index, value] : llvm::enumerate(body.yield().getValues())) {
    switch (body.placeOf(value)) {
    case Level::Kernel:
      // The result of reducing the only row is there when the row is done.
      (body.level(value) == Level::Kernel ? kernelStores : rowStores)
          .push_back(index);
      break;
    case Level::Row:
      rowStores.push_back(index);
      break;
    case Level::Vector:
      passes[body.isTied(index) ? body.numStages : body.stage(value)]
          .stores.push_back(index);
    }
  }
}

LogicalResult RowEmitter::emit() {
  plan();
  if (failed(ev.beginKernel()))
    return failure();
  // Whoever has the first unit, which an empty range has not.
  if (!kernelStores.empty()) {
    Value has = b.less(context.begin, context.end);
    if (context.block)
      has = b.equal(context.block->thread, b.i64(0));
    b.ifThen(b.andMask(b.equal(context.begin, b.i64(0)), has), [&] {
      for (unsigned result : kernelStores)
        ev.storeResult(result,
                       ev.get(body.yield().getValues()[result], Level::Kernel));
    });
  }
  KernelFacts facts;
  if (failed(planRow(context.kernel, context.machine, facts)))
    return failure();
  if (context.block && facts.sharedBytes)
    context.block->reserveReduce(mostReductions(body));
  int64_t perUnit = facts.rowsPerUnit * rowsPerEntry(body);
  Value first = b.mul(context.begin, perUnit);
  Value last = b.mul(context.end, perUnit);
  if (isFlat(body)) {
    last = b.min(last, body.elements);
    if (failed(ev.beginRow(b.i64(0))))
      return failure();
    emitRow(first, last);
  } else {
    last = b.min(last, context.rows ? b.mul(context.rows, rowsPerEntry(body))
                                    : b.i64(body.rows()));
    bool dealt = context.block && share.threadPerRow;
    if (dealt)
      first = b.add(first, context.block->thread);
    b.forLoop(first, last, dealt ? share.threads : 1, [&](Value row) {
      if (failed(ev.beginRow(row)))
        failedOnce = true;
      else
        emitRow(b.i64(0), b.i64(body.columnGroups.empty()
                                    ? 1
                                    : body.columnGroups.back().hi /
                                          body.columnGroups.back().lo));
    });
  }
  return failure(failedOnce);
}

void RowEmitter::emitRow(Value begin, Value end) {
  for (auto [stage, pass] : llvm::enumerate(passes)) {
    emitPass(pass, begin, end);
    if (failedOnce || failed(ev.finishStage(stage + 1))) {
      failedOnce = true;
      return;
    }
    for (unsigned result : pass.stores)
      if (!body.isTied(result))
        ev.readBack(body.yield().getValues()[result],
                    ev.pointerOf(body.resultPointer(result)));
  }
  storeRow(rowStores);
}

void RowEmitter::storeRow(ArrayRef<unsigned> results) {
  if (results.empty())
    return;
  Values computed;
  for (unsigned result : results) {
    computed.push_back(ev.get(body.yield().getValues()[result], Level::Row));
    failedOnce |= !computed.back();
  }
  if (failedOnce)
    return;
  auto store = [&] {
    for (auto [result, value] : llvm::zip(results, computed))
      ev.storeResult(result, value);
  };
  if (!context.block || share.threadPerRow)
    return store();
  // One thread stores what all have, when all have read what it overwrites.
  if (llvm::any_of(results, [&](unsigned r) { return body.isTied(r); }))
    context.block->barrier();
  b.ifThen(b.equal(context.block->thread, b.i64(0)), store);
}

void RowEmitter::emitPass(const Pass &pass, Value begin, Value end) {
  if (pass.reductions.empty() && pass.stores.empty())
    return;
  if (body.columnGroups.empty()) {
    // Rows of one column: reducing one is taking it.
    for (lm::ReduceOp reduce : pass.reductions) {
      Value value = ev.get(reduce.getInput(), Level::Row);
      failedOnce |= !value;
      if (value)
        ev.define(reduce.getOutput(), value);
    }
    return;
  }
  Values accumulators;
  for (int64_t u = 0; u < sets; ++u)
    for (lm::ReduceOp reduce : pass.reductions)
      accumulators.push_back(identity(reduce));
  Values outer;
  accumulators = context.block
                     ? emitShare(pass, begin, end, accumulators)
                     : emitGroups(pass, begin, end, outer, accumulators);
  if (!failedOnce)
    foldAndDefine(pass, accumulators);
}

// What all accumulators hold together is the reduction's value.
void RowEmitter::foldAndDefine(const Pass &pass, ArrayRef<Value> accumulators) {
  size_t count = pass.reductions.size();
  if (context.block) {
    Values folded;
    SmallVector<bool> max;
    for (auto [reduce, sum] : llvm::zip(pass.reductions, accumulators)) {
      max.push_back(isMax(reduce));
      folded.push_back(b.reduceLanes(sum, max.back()));
    }
    if (!share.threadPerRow)
      folded = context.block->reduce(folded, max);
    for (auto [index, op] : llvm::enumerate(pass.reductions)) {
      lm::ReduceOp reduce = op;
      ev.define(reduce.getOutput(), folded[index]);
    }
    return;
  }
  for (auto [index, op] : llvm::enumerate(pass.reductions)) {
    lm::ReduceOp reduce = op;
    Value low =
        combine(reduce, accumulators[index], accumulators[count + index]);
    Value high = combine(reduce, accumulators[2 * count + index],
                         accumulators[3 * count + index]);
    ev.define(reduce.getOutput(),
              b.reduceLanes(combine(reduce, low, high), isMax(reduce)));
  }
}

// One thread's vectors of a row, all column groups in one loop.
Values RowEmitter::emitShare(const Pass &pass, Value begin, Value end,
                             Values accumulators) {
  Interval last = body.columnGroups.back();
  int64_t width = last.hi / last.lo;
  Share own =
      share.threadPerRow ? Share{b.i64(0), b.lanes} : context.overThreads();
  if (!isFlat(body))
    end = b.i64(body.split);
  auto visit = [&](Value at, ValueRange carried) {
    Values outer;
    for (size_t g = 0; g + 1 < body.columnGroups.size(); ++g) {
      Interval group = body.columnGroups[g];
      outer.push_back(b.rem(b.div(at, group.lo), group.hi / group.lo));
    }
    Value column = outer.empty() ? at : b.rem(at, width);
    return emitChunk(pass, outer, column, {}, -1,
                     Values(carried.begin(), carried.end()));
  };
  // Every thread has the same few vectors: without a loop, what one pass loads
  // stays in registers for the next.
  if (!isFlat(body) && body.split % own.step == 0 &&
      body.split / own.step <= kStraight) {
    for (int64_t at = 0; at < body.split; at += own.step)
      accumulators = visit(b.add(own.first, at), accumulators);
    return accumulators;
  }
  auto walk = [&](Value from, Value to, ValueRange initial) {
    return b.forLoop(b.add(from, own.first), to, own.step, initial, visit);
  };
  int64_t block = own.step * kThreadBlock;
  if (pass.reductions.empty() || body.split <= 2 * block)
    return walk(begin, end, accumulators);
  return b.forLoop(
      begin, end, block, accumulators, [&](Value from, ValueRange carried) {
        Values sums = walk(from, b.min(b.add(from, block), end), accumulators);
        for (auto [index, sum] : llvm::enumerate(sums))
          sum = combine(pass.reductions[index], carried[index], sum);
        return sums;
      });
}

// Nested loops over all column groups but the last.
Values RowEmitter::emitGroups(const Pass &pass, Value begin, Value end,
                              Values &outer, Values accumulators) {
  if (outer.size() + 1 == body.columnGroups.size()) {
    ev.beginChunk(outer, b.i64(0), {});
    return emitColumns(pass, begin, end, outer, accumulators);
  }
  Interval group = body.columnGroups[outer.size()];
  return b.forLoop(b.i64(0), b.i64(group.hi / group.lo), 1, accumulators,
                   [&](Value iv, ValueRange carried) {
                     outer.push_back(iv);
                     Values next =
                         emitGroups(pass, begin, end, outer,
                                    Values(carried.begin(), carried.end()));
                     outer.pop_back();
                     return next;
                   });
}

Values RowEmitter::emitColumns(const Pass &pass, Value begin, Value end,
                               ValueRange outer, Values accumulators) {
  int64_t step = kUnroll * b.lanes;
  Value count = b.sub(end, begin);
  Value mainEnd = b.add(begin, b.mul(b.div(count, step), step));
  std::optional<int64_t> first = LoopBuilder::constantOf(begin);
  std::optional<int64_t> staticMain = LoopBuilder::constantOf(mainEnd);
  std::optional<int64_t> staticEnd = LoopBuilder::constantOf(end);
  // Quarters of 64 elements share their random blocks. The first element's
  // global index is a multiple of the number of elements.
  Interval last = body.columnGroups.back();
  bool aligned = b.lanes == 16 &&
                 ((last.hi / last.lo) % 64 == 0 ||
                  (body.columnGroups.size() == 1 &&
                   body.elements == body.split && body.elements % 64 == 0));
  size_t perVector = pass.reductions.size();
  auto emitMain = [&](Value from, Value to, Values initial) {
    return b.forLoop(
        from, to, step, initial, [&](Value column, ValueRange carried) {
          Values next;
          for (int64_t u = 0; u < kUnroll; ++u) {
            Values part(carried.begin() + u * perVector,
                        carried.begin() + (u + 1) * perVector);
            part = emitChunk(pass, outer, b.add(column, u * b.lanes), {},
                             aligned ? static_cast<int>(u) : -1, part);
            next.append(part);
          }
          return next;
        });
  };
  if (!staticMain || *staticMain > *first) {
    if (perVector > 0 && staticMain && *staticMain > 2 * kSumBlock) {
      accumulators = b.forLoop(
          begin, mainEnd, kSumBlock, accumulators,
          [&](Value block, ValueRange carried) {
            Values fresh;
            for (int64_t u = 0; u < kUnroll; ++u)
              for (lm::ReduceOp reduce : pass.reductions)
                fresh.push_back(identity(reduce));
            Values sums =
                emitMain(block, b.min(b.add(block, kSumBlock), mainEnd), fresh);
            for (auto [index, sum] : llvm::enumerate(sums))
              sum = combine(pass.reductions[index % perVector], carried[index],
                            sum);
            return sums;
          });
    } else {
      accumulators = emitMain(begin, mainEnd, accumulators);
    }
  }
  if (staticMain && staticEnd && *staticMain == *staticEnd)
    return accumulators;
  // What is left, one masked vector at a time.
  Values part(accumulators.begin(), accumulators.begin() + perVector);
  part = b.forLoop(
      mainEnd, end, b.lanes, part, [&](Value column, ValueRange carried) {
        return emitChunk(pass, outer, column, b.laneMask(b.sub(end, column)),
                         -1, Values(carried.begin(), carried.end()));
      });
  std::copy(part.begin(), part.end(), accumulators.begin());
  return accumulators;
}

Values RowEmitter::emitChunk(const Pass &pass, ValueRange outer, Value column,
                             Value mask, int quarter, Values accumulators) {
  ev.beginChunk(outer, column, mask, quarter);
  for (auto [index, op] : llvm::enumerate(pass.reductions)) {
    lm::ReduceOp reduce = op;
    Value value = ev.getVector(reduce.getInput());
    if (!value) {
      failedOnce = true;
      return accumulators;
    }
    if (mask)
      value = b.select(mask, value, identity(reduce));
    accumulators[index] = combine(reduce, accumulators[index], value);
  }
  for (unsigned result : pass.stores) {
    Value value = ev.getVector(body.yield().getValues()[result]);
    if (!value) {
      failedOnce = true;
      return accumulators;
    }
    ev.storeResult(result, value);
  }
  return accumulators;
}

} // namespace

LogicalResult codegen::planRow(plan::KernelOp kernel, const Machine &machine,
                               KernelFacts &facts) {
  auto body = analyzeRows(kernel);
  if (failed(body))
    return failure();
  facts.columns = 1;
  facts.stackBytes = 8192;
  RowShare share = shareRows(*body);
  if (machine.gpu) {
    if (failed(checkScalars(*body)))
      return failure();
    facts.lanes = share.lanes;
    facts.threads = share.threads;
    if (!share.threadPerRow)
      facts.sharedBytes =
          ThreadBlock::reduceBytes(share.threads, mostReductions(*body));
  }
  if (isFlat(*body)) {
    facts.rows = body->elements;
    facts.rowsPerUnit =
        machine.gpu ? share.threads * share.lanes * kFlatVectors : kFlatUnit;
    return success();
  }
  // With a dynamic leading dim the grid counts its entries, of one or more
  // rows each.
  facts.rows = body->dynamicRows ? 0 : body->rows();
  if (machine.gpu) {
    facts.rowsPerUnit =
        share.threadPerRow
            ? std::max<int64_t>(share.threads / rowsPerEntry(*body), 1)
            : 1;
    return success();
  }
  int64_t perRow = body->split * rowsPerEntry(*body);
  facts.rowsPerUnit =
      std::clamp<int64_t>(kFlatUnit / std::max<int64_t>(perRow, 1), 1, 256);
  return success();
}

LogicalResult codegen::emitRow(EmitContext &context) {
  auto body = analyzeRows(context.kernel);
  if (failed(body))
    return failure();
  return RowEmitter(context, *body).emit();
}
