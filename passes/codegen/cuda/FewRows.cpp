// Few rows times B: as fast as B is read. Decoding is this.
//
// A unit is a strip of columns; its 256 threads share K in blocks of `depth`.
// Each element of B is loaded once, whatever the number of rows, 16 bytes at a
// time, and nothing waits before a thread's loads are under way. In place, B
// being [K, N], a thread has four columns of one block of K:
//
//              n0 .. n0 + strip           strip 32: 8 threads across, 32 blocks
//     block 0  t0   t1  .. t7             strip 16: 4 threads across, 64 blocks
//     block 1  t8   t9  .. t15
//     ...                                 16 loads of 16 bytes in flight each
//
// Turned, B being [N, K], a warp has 32 columns of one block of K. It loads
// lines of 128 bytes, 32 k of a column, and turns them in shared memory, so
// that a thread has one column; the next 32 k are under way meanwhile:
//
//     loaded   lane l: column 4 j + l / 8, k 4 (l % 8) .. + 4   j = 0..7
//     used     lane l: column l, k 0 .. 32
//
// Then the blocks' sums are shared and added in order. Rows are computed by 1,
// 4, 8 or 16: those past the end repeat the last one and are not stored.
#include "passes/codegen/cuda/Contraction.h"
#include "passes/codegen/cuda/Kernels.h"

#include "mlir/Dialect/Vector/IR/VectorOps.h"

using namespace mlir;
using namespace lmc;
using namespace lmc::codegen;
using namespace lmc::codegen::cuda;

static constexpr int64_t kFour = 4;       // elements of a load
static constexpr int64_t kLine = 32;      // elements of a line
static constexpr int64_t kTurnedRow = 36; // floats of it in shared memory
static constexpr int64_t kLinesAtOnce = 8;

// Below this many columns, strips are narrower so that there are enough of them
// for a GPU's multiprocessors, of which there are some 130.
static constexpr int64_t kManyColumns = 4096;

static int64_t roundUp(int64_t value, int64_t to) {
  return (value + to - 1) / to * to;
}

// Of variants, and what fewer static rows are rounded up to.
static constexpr int64_t kFew[] = {1, 4, 8, 16};
static constexpr int64_t kShortK = 128;

ArrayRef<int64_t> cuda::fewRowsOf(plan::KernelOp kernel) {
  auto product = describeProduct(kernel);
  if (failed(product) || !product->dynamic())
    return {};
  // A short K is little to read: no variants of many sums.
  return ArrayRef(kFew).take_front(product->k < kShortK ? 2 : std::size(kFew));
}

Blocking::Blocking(const Product &product, int64_t mostRows) {
  fewRows = mostRows;
  for (int64_t few : llvm::reverse(kFew))
    if (!product.dynamic() && product.m <= few && !product.transposedLhs)
      fewRows = few;
  bool turned = product.transposedRhs;
  strip = turned || product.n >= kManyColumns ? 32 : 16;
  blocks = turned ? kThreads / ThreadBlock::kWarp : kThreads * kFour / strip;
  depth = roundUp((product.k + blocks - 1) / blocks, turned ? kLine : kStep);
  int64_t parts = std::min(fewRows, kRowsAtOnce) * blocks * strip;
  int64_t lines = turned ? blocks * strip * kTurnedRow : 0;
  sharedFloats = fewRows ? std::max(parts, lines) : 2 * kStep * kRowFloats;
}

void ProductEmitter::emitFew() {
  Value n0 = b.mul(context.block->unit, blocking.strip);
  addParts(product.transposedRhs ? sumTurned(n0) : sumInPlace(n0), n0);
}

// Where the rows of A begin.
Values ProductEmitter::leftRows() {
  Values pointers;
  for (int64_t r = 0; r < blocking.fewRows; ++r) {
    Value row = r == 0 ? b.i64(0) : b.min(b.i64(r), b.sub(mEnd, 1));
    pointers.push_back(
        b.atF32(context.pointers[product.lhs], b.mul(row, product.k)));
  }
  return pointers;
}

// Four neighbours of a row, and what they are where they lie past its end.
Value ProductEmitter::loadFour(Value pointer, Value row, int64_t width,
                               Value column, Outside outside) {
  Value start = b.atF32(pointer, b.mul(row, width));
  auto clamp = [&](Value at, auto load, Value zero) {
    if (outside == Outside::None)
      return load(b.atF32(start, at));
    Value inside = b.less(at, b.i64(width));
    Value loaded = load(b.atF32(start, b.select(inside, at, b.i64(0))));
    return outside == Outside::Zero ? b.select(inside, loaded, zero) : loaded;
  };
  if (width % kFour == 0)
    return clamp(
        column, [&](Value at) { return fours.loadVector(at, f32); },
        fours.splatF32(0));
  Value four = fours.splatF32(0);
  for (int64_t i = 0; i < kFour; ++i) {
    Value one = clamp(
        b.add(column, i), [&](Value at) { return b.loadF32(at); }, b.f32(0));
    four = b.builder.create<vector::InsertOp>(b.loc, one, four, i);
  }
  return four;
}

// For each row, the sum over the thread's block of K of its four columns.
Values ProductEmitter::sumInPlace(Value n0) {
  int64_t rows = blocking.fewRows;
  Value thread = context.block->thread;
  int64_t across = blocking.strip / kFour;
  Value column = b.add(n0, b.mul(b.rem(thread, across), kFour));
  Value begin = b.min(b.mul(b.div(thread, across), blocking.depth), product.k);
  Value end = b.min(b.add(begin, blocking.depth), product.k);
  Values left = leftRows();
  Value right = context.pointers[product.rhs];
  Outside outside =
      product.n % blocking.strip == 0 ? Outside::None : Outside::Anything;
  // Only the last block of K ends elsewhere than at a multiple of a step.
  auto over = [&](Value from, Value to, int64_t step, Values sums) {
    return b.forLoop(from, to, step, sums, [&](Value k, ValueRange carried) {
      Values next(carried.begin(), carried.end()), loaded;
      for (int64_t i = 0; i < step; ++i)
        loaded.push_back(
            loadFour(right, b.add(k, i), product.n, column, outside));
      bool wide = product.k % kFour == 0 && step % kFour == 0;
      for (int64_t first = 0; first < step; first += wide ? kFour : 1)
        for (int64_t r = 0; r < rows; ++r) {
          Value at = b.atF32(left[r], b.add(k, first));
          Value x = wide ? fours.loadVector(at, f32) : b.loadF32(at);
          for (int64_t i = 0; i < (wide ? kFour : 1); ++i)
            next[r] = b.fma(fours.splat(wide ? element(x, i) : x),
                            loaded[first + i], next[r]);
        }
      return next;
    });
  };
  // Loads that are under way take registers that more rows need for sums; of
  // 8 rows, which two blocks share, fewer.
  int64_t step = Blocking::kStep / (rows == 1 ? 1 : rows == 8 ? 4 : 2);
  Values sums(rows, fours.splatF32(0));
  if (product.k % step == 0)
    return over(begin, end, step, sums);
  Value most = b.add(begin, b.mul(b.div(b.sub(end, begin), step), step));
  return over(most, end, 1, over(begin, most, step, sums));
}

// For each row, the sum over the warp's block of K of the thread's column.
Values ProductEmitter::sumTurned(Value n0) {
  int64_t rows = blocking.fewRows;
  ThreadBlock &block = *context.block;
  Value warp = block.warp(), lane = block.lane();
  Value begin = b.mul(warp, blocking.depth);
  Value end = b.add(begin, blocking.depth);
  Values left = leftRows();
  Outside outside = blocking.depth * blocking.blocks == product.k
                        ? Outside::None
                        : Outside::Zero;
  constexpr int64_t across = kLine / kFour;
  constexpr int64_t rowsOfLoad = ThreadBlock::kWarp / across;
  Value lines = b.atF32(shared, b.mul(warp, ThreadBlock::kWarp * kTurnedRow));
  Value row = b.div(lane, across), place = b.mul(b.rem(lane, across), kFour);
  Value written = b.atF32(lines, b.add(b.mul(row, kTurnedRow), place));
  Value read = b.atF32(lines, b.mul(lane, kTurnedRow));
  auto load = [&](Value k0) {
    Values loaded;
    for (int64_t j = 0; j < kLinesAtOnce; ++j) {
      Value n = b.add(b.add(n0, row), j * rowsOfLoad);
      loaded.push_back(loadFour(context.pointers[product.rhs],
                                b.min(n, product.n - 1), product.k,
                                b.add(k0, place), outside));
    }
    return loaded;
  };
  auto turn = [&](ValueRange loaded) {
    block.barrier();
    for (int64_t j = 0; j < kLinesAtOnce; ++j)
      fours.store(loaded[j], b.atF32(written, j * rowsOfLoad * kTurnedRow));
    block.barrier();
  };
  auto add = [&](Value k0, ValueRange sums) {
    return b.forLoop(
        b.i64(0), b.i64(kLine), kFour, sums, [&](Value k, ValueRange inner) {
          Values next(inner.begin(), inner.end());
          Value y = fours.loadVector(b.atF32(read, k), f32);
          for (int64_t r = 0; r < rows; ++r) {
            Value x =
                loadFour(left[r], b.i64(0), product.k, b.add(k0, k), outside);
            for (int64_t i = 0; i < kFour; ++i)
              next[r] = b.fma(element(x, i), element(y, i), next[r]);
          }
          return next;
        });
  };
  Values carried(rows, b.f32(0));
  carried.append(load(begin));
  Value last = b.sub(end, kLine);
  carried =
      b.forLoop(begin, last, kLine, carried, [&](Value k0, ValueRange before) {
        turn(before.drop_front(rows));
        Values ahead = load(b.add(k0, kLine));
        Values next = add(k0, before.take_front(rows));
        next.append(ahead);
        return next;
      });
  turn(ValueRange(carried).drop_front(rows));
  return add(last, ValueRange(carried).take_front(rows));
}

// Adds the sums of K's blocks in order, some rows at a time:
//     parts[row][block][column]
void ProductEmitter::addParts(ValueRange sums, Value n0) {
  ThreadBlock &block = *context.block;
  int64_t rows = std::min<int64_t>(sums.size(), Blocking::kRowsAtOnce);
  int64_t across = blocking.strip / b.lanes;
  int64_t partsOfRow = blocking.blocks * blocking.strip;
  int64_t numBlocks = (product.k + blocking.depth - 1) / blocking.depth;
  bool isVector = isa<VectorType>(sums[0].getType());
  // A thread's place in a row's parts is its number, by what it holds.
  Value mine =
      b.atF32(shared, b.mul(block.thread, isVector ? kFour : int64_t(1)));
  Value row = b.div(block.thread, across);
  Value column = b.mul(b.rem(block.thread, across), b.lanes);
  Value parts = b.atF32(shared, b.add(b.mul(row, partsOfRow), column));
  Value n = b.add(n0, column);
  for (size_t first = 0; first < sums.size(); first += rows) {
    block.barrier();
    for (int64_t r = 0; r < rows; ++r)
      fours.store(sums[first + r], b.atF32(mine, r * partsOfRow));
    block.barrier();
    Value m = b.add(row, first);
    Value isOne = b.andMask(b.less(row, b.i64(rows)), b.less(m, mEnd));
    b.ifThen(b.andMask(isOne, b.less(n, b.i64(product.n))), [&] {
      Value sum = b.splatF32(0);
      for (int64_t i = 0; i < numBlocks; ++i)
        sum =
            b.addf(sum, b.loadVector(b.atF32(parts, i * blocking.strip), f32));
      if (failed(ev.beginRow(m)))
        failedOnce = true;
      else
        emitColumns(n, sum);
    });
  }
}
