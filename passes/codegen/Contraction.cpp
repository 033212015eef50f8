// Matrix products with elementwise work on their result.
//
//     C [M, N] = epilogue(A [M, K] * B [K, N])
//
// A may lie transposed ([K, M]), B too ([N, K]). A unit is a block of rows by
// a block of columns. For each block along K it packs its part of B
// into panels [k][48] on the stack, then walks tiles of 8 rows by 48 columns:
// 24 accumulators, and per k three loads of B and eight broadcasts of A.
//
//          n0      48 columns
//     m0  +-------+-------+        acc[8][3] += A[8][k] * panel[k][48]
//     8   | tile  |       |
//         +-------+       |        one vector is 16 columns
//
// The sum over K has one shape whatever the unit, the tile or the number of
// rows: fused multiply-adds in the order of k from zero within a block, block
// sums added in order. Bits therefore depend neither on threads nor on how
// many rows are computed together.
//
// Few rows (decoding) read B where it lies: packing would cost more than the
// product.
#include "passes/codegen/Contraction.h"

#include "mlir/Dialect/Arith/IR/Arith.h"

using namespace mlir;
using namespace lmc;
using namespace lmc::codegen;

namespace {

constexpr int64_t kPackAhead = 8; // rows of B that packing fetches ahead
constexpr int64_t kFewAhead = 128;
constexpr int64_t kStreamAhead = 4; // and that a product of few rows does

class ProductEmitter {
public:
  ProductEmitter(EmitContext &context, const KernelBody &body,
                 const Product &product)
      : context(context), body(body), product(product), b(context.b),
        ev(body, b, context.pointers, context.microBatch, context.randoms),
        tileRows(context.machine.wide ? 8 : 6),
        tileColumns(context.machine.wide ? 48 : 16),
        vectors(tileColumns / b.lanes) {}

  LogicalResult emit();

private:
  EmitContext &context;
  const KernelBody &body;
  Product product;
  LoopBuilder &b;
  Evaluator ev;
  const int64_t tileRows, tileColumns, vectors;
  bool failedOnce = false;

  Value a, rhs;                  // pointers
  Value panels, sums, packedLhs; // on the stack
  Value mEnd, n0;                // of the unit
  Value m0, numPanels;

  bool manyBlocks() const { return product.k > product.depth; }
  void emitUnit(Value unit);
  void emitFewRows();
  void emitWideRows();
  void emitStrip(Value m, Value column, int64_t run, bool masked);
  void emitRows(Value k0, Value depth, bool packed);
  void packNormal(Value k0, Value depth);
  void packTransposed(Value k0, Value depth);
  void packLhs(Value m, Value tiles, Value k0, Value depth);
  void emitTile(int64_t rows, Value m, Value panel, Value k0, Value depth,
                bool packed, Value packedA);
  void emitEpilogue(int64_t rows, Value m, Value column, Value tile);
};

LogicalResult ProductEmitter::emit() {
  if (failed(ev.beginKernel()))
    return failure();
  a = context.pointers[product.lhs];
  rhs = context.pointers[product.rhs];
  Type f32 = b.builder.getF32Type();
  panels = b.stackArray(f32, product.panelElements());
  sums = b.stackArray(f32, product.sumElements());
  if (product.transposedLhs)
    packedLhs = b.stackArray(f32, product.packedLhsElements());
  auto units = [&] {
    b.forLoop(context.begin, context.end, 1,
              [&](Value unit) { emitUnit(unit); });
  };
  bool isWide = !product.transposedRhs && !product.transposedLhs;
  if (isWide && product.dynamic())
    b.ifThenElse(
        b.less(context.rows, b.i64(tileRows)), [&] { emitWideRows(); }, units);
  else if (isWide && product.m < tileRows)
    emitWideRows();
  else
    units();
  return failure(failedOnce);
}

void ProductEmitter::emitUnit(Value unit) {
  int64_t columns = product.columns();
  m0 = b.mul(b.div(unit, columns), product.rowsPerUnit);
  n0 = b.mul(b.rem(unit, columns), product.columnsPerUnit());
  mEnd = b.min(b.add(m0, product.rowsPerUnit),
               context.rows ? context.rows : b.i64(product.m));
  Value nEnd = b.min(b.add(n0, product.columnsPerUnit()), product.n);
  numPanels = b.ceilDiv(b.sub(nEnd, n0), tileColumns);
  auto overDepth = [&](bool packed) {
    auto block = [&](Value k0) {
      Value depth = b.min(b.sub(b.i64(product.k), k0), product.depth);
      if (packed && product.transposedRhs)
        packTransposed(k0, depth);
      else if (packed)
        packNormal(k0, depth);
      emitRows(k0, depth, packed);
    };
    if (manyBlocks())
      b.forLoop(b.i64(0), b.i64(product.k), product.depth, block);
    else
      block(b.i64(0));
  };
  // Few rows do not pack; a transposed B is turned in registers then.
  bool mayStream = product.transposedRhs && product.k % b.lanes == 0 &&
                   !product.transposedLhs;
  bool mayBeFew = product.dynamic() || product.m < tileRows;
  auto few = [&] {
    if (mayStream)
      emitFewRows();
    else
      overDepth(false);
  };
  bool mayStay = mayStream || (product.transposedLhs && !product.transposedRhs);
  if (!mayBeFew || !mayStay)
    overDepth(true);
  else if (!product.dynamic())
    few();
  else
    b.ifThenElse(b.less(b.sub(mEnd, m0), b.i64(tileRows)), few,
                 [&] { overDepth(true); });
}

// Rows times a transposed B, read once and where it lies: squares of B are
// turned in registers and used at once.
void ProductEmitter::emitFewRows() {
  Type f32 = b.builder.getF32Type();
  auto sumOf = [&](Value m, ArrayRef<Value> rows, Value from, Value to) {
    return b.forLoop(from, to, b.lanes, ValueRange{b.splatF32(0)},
                     [&](Value k, ValueRange carried) {
                       Values square;
                       for (Value row : rows) {
                         Value at = b.atF32(row, k);
                         b.prefetch(b.atF32(at, kFewAhead));
                         square.push_back(b.loadVector(at, f32));
                       }
                       transposeSquare(b, square);
                       Value left = b.atF32(a, b.add(b.mul(m, product.k), k));
                       Value sum = carried[0];
                       for (int64_t i = 0; i < b.lanes; ++i)
                         sum = b.fma(b.splat(b.loadF32(b.atF32(left, i))),
                                     square[i], sum);
                       return Values{sum};
                     })[0];
  };
  b.forLoop(m0, mEnd, 1, [&](Value m) {
    b.forLoop(b.i64(0), numPanels, 1, [&](Value panel) {
      Value column = b.add(n0, b.mul(panel, tileColumns));
      b.forLoop(b.i64(0), b.i64(tileColumns), b.lanes, [&](Value lane0) {
        Values rows;
        for (int64_t r = 0; r < b.lanes; ++r) {
          Value n = b.min(b.add(b.add(column, lane0), r), product.n - 1);
          rows.push_back(b.atF32(rhs, b.mul(n, product.k)));
        }
        Value k = b.i64(product.k);
        Value total;
        if (manyBlocks())
          total = b.forLoop(
              b.i64(0), k, product.depth, ValueRange{b.splatF32(0)},
              [&](Value k0, ValueRange carried) {
                Value to = b.min(b.add(k0, product.depth), k);
                return Values{b.addf(carried[0], sumOf(m, rows, k0, to))};
              })[0];
        else
          total = sumOf(m, rows, b.i64(0), k);
        b.store(total, b.atF32(sums, lane0));
      });
      emitEpilogue(1, m, column, sums);
    });
  });
}

// Rows times B, read once and where it lies: all columns of the units
// [begin, end) together, in strips as wide as registers allow. Narrow strips
// jump from page to page: 48 columns run at a third of the memory's speed, 384
// at nearly all of it.
void ProductEmitter::emitWideRows() {
  Value first = b.mul(context.begin, product.columnsPerUnit());
  Value last = b.min(b.mul(context.end, product.columnsPerUnit()), product.n);
  Value rows = context.rows ? context.rows : b.i64(product.m);
  int64_t widest = tileRows == 8 ? 24 : 6; // vectors, of panels of three
  Value from = first;
  for (int64_t run : {widest, widest / 2, int64_t(3)}) {
    int64_t width = run * b.lanes;
    bool isLast = width == Product::kPanel;
    Value count = b.div(b.sub(last, from), width);
    Value to = isLast ? last : b.add(from, b.mul(count, width));
    b.forLoop(from, to, width, [&](Value column) {
      b.forLoop(b.i64(0), rows, 1, [&](Value m) {
        emitStrip(m, column, run, isLast && product.n % Product::kPanel != 0);
      });
    });
    from = to;
    if (isLast)
      break;
  }
}

// One row times the columns [column, column + run * lanes).
void ProductEmitter::emitStrip(Value m, Value column, int64_t run,
                               bool masked) {
  Type f32 = b.builder.getF32Type();
  SmallVector<Value> masks(run);
  if (masked)
    for (int64_t v = 0; v < run; ++v)
      masks[v] = b.laneMask(b.sub(b.i64(product.n - v * b.lanes), column));
  auto sumsOf = [&](Value from, Value to) {
    return b.forLoop(
        from, to, 1, Values(run, b.splatF32(0)),
        [&](Value k, ValueRange carried) {
          Values next(carried.begin(), carried.end());
          Value row = b.atF32(rhs, b.add(b.mul(k, product.n), column));
          Value ahead = b.atF32(row, kStreamAhead * product.n);
          Value left =
              b.splat(b.loadF32(b.atF32(a, b.add(b.mul(m, product.k), k))));
          for (int64_t v = 0; v < run; ++v) {
            if (v * b.lanes % 16 == 0)
              b.prefetch(b.atF32(ahead, v * b.lanes));
            Value right =
                b.loadVector(b.atF32(row, v * b.lanes), f32, masks[v]);
            next[v] = b.fma(left, right, next[v]);
          }
          return next;
        });
  };
  Value k = b.i64(product.k);
  Values totals;
  if (manyBlocks())
    totals = b.forLoop(b.i64(0), k, product.depth, Values(run, b.splatF32(0)),
                       [&](Value k0, ValueRange carried) {
                         Value to = b.min(b.add(k0, product.depth), k);
                         Values next = sumsOf(k0, to);
                         for (int64_t v = 0; v < run; ++v)
                           next[v] = b.addf(carried[v], next[v]);
                         return next;
                       });
  else
    totals = sumsOf(b.i64(0), k);
  for (int64_t v = 0; v < run; ++v)
    b.store(totals[v], b.atF32(sums, v * b.lanes));
  // A strip is wider than a tile where registers are short.
  Value end = b.i64(run * b.lanes);
  if (masked)
    end = b.min(b.sub(b.i64(product.n), column), end);
  b.forLoop(b.i64(0), end, tileColumns, [&](Value offset) {
    emitEpilogue(1, m, b.add(column, offset), b.atF32(sums, offset));
  });
}

void ProductEmitter::packNormal(Value k0, Value depth) {
  Type f32 = b.builder.getF32Type();
  bool masked = product.n % tileColumns != 0;
  b.forLoop(b.i64(0), depth, 1, [&](Value k) {
    Value source = b.atF32(rhs, b.add(b.mul(b.add(k0, k), product.n), n0));
    Value target = b.atF32(panels, b.mul(k, tileColumns));
    Value ahead = b.atF32(source, kPackAhead * product.n);
    for (int64_t at = 0; at < product.columnsPerUnit(); at += 16)
      b.prefetch(b.atF32(ahead, at));
    b.forLoop(b.i64(0), numPanels, 1, [&](Value p) {
      Value column = b.mul(p, tileColumns);
      Value from = b.atF32(source, column);
      Value to = b.atF32(target, b.mul(p, product.depth * tileColumns));
      for (int64_t v = 0; v < vectors; ++v) {
        Value mask;
        if (masked)
          mask = b.laneMask(
              b.sub(b.i64(product.n - v * b.lanes), b.add(n0, column)));
        b.store(b.loadVector(b.atF32(from, v * b.lanes), f32, mask),
                b.atF32(to, v * b.lanes));
      }
    });
  });
}

void ProductEmitter::packTransposed(Value k0, Value depth) {
  Type f32 = b.builder.getF32Type();
  bool maskedDepth = product.k % b.lanes != 0;
  int64_t groupsPerPanel = tileColumns / b.lanes;
  Value groups = b.mul(numPanels, groupsPerPanel);
  b.forLoop(b.i64(0), groups, 1, [&](Value group) {
    Value panel = b.div(group, groupsPerPanel);
    Value lane0 = b.mul(b.rem(group, groupsPerPanel), b.lanes);
    Value n = b.add(n0, b.mul(group, b.lanes));
    Values rowPointers;
    for (int64_t r = 0; r < b.lanes; ++r) {
      // Columns past the end repeat the last one; nothing stores them.
      Value row = b.min(b.add(n, r), product.n - 1);
      rowPointers.push_back(b.atF32(rhs, b.add(b.mul(row, product.k), k0)));
    }
    Value target = b.atF32(
        panels, b.add(b.mul(panel, product.depth * tileColumns), lane0));
    b.forLoop(b.i64(0), depth, b.lanes, [&](Value k) {
      Value mask;
      if (maskedDepth)
        mask = b.laneMask(b.sub(depth, k));
      Values rows;
      for (Value pointer : rowPointers)
        rows.push_back(b.loadVector(b.atF32(pointer, k), f32, mask));
      transposeSquare(b, rows);
      Value to = b.atF32(target, b.mul(k, tileColumns));
      for (int64_t i = 0; i < b.lanes; ++i)
        b.store(rows[i], b.atF32(to, i * tileColumns));
    });
  });
}

// Tiles of the transposed A, each [k][8], from row m on. Its rows lie far
// apart, in a page each: several tiles are packed in one walk over them.
void ProductEmitter::packLhs(Value m, Value tiles, Value k0, Value depth) {
  Type f32 = b.builder.getF32Type();
  Type wide = b.vectorOf(f32, 8);
  auto copy = [&](Value from, Value to) {
    if (tileRows == 8) {
      Value row =
          b.builder.create<LLVM::LoadOp>(b.loc, wide, from, /*alignment=*/4);
      return b.store(row, to);
    }
    for (int64_t i = 0; i < tileRows; ++i)
      b.store(b.loadF32(b.atF32(from, i)), b.atF32(to, i));
  };
  int64_t tileSize = product.tileStride();
  b.forLoop(b.i64(0), depth, 1, [&](Value k) {
    Value from = b.atF32(a, b.add(b.mul(b.add(k0, k), product.m), m));
    Value to = b.atF32(packedLhs, b.mul(k, 8));
    auto one = [&](Value tile) {
      copy(b.atF32(from, b.mul(tile, tileRows)),
           b.atF32(to, b.mul(tile, tileSize)));
    };
    constexpr int64_t kUnroll = 8;
    Value most = b.mul(b.div(tiles, kUnroll), kUnroll);
    b.forLoop(b.i64(0), most, kUnroll, [&](Value tile) {
      for (int64_t i = 0; i < kUnroll; ++i)
        one(b.add(tile, i));
    });
    b.forLoop(most, tiles, 1, one);
  });
}

void ProductEmitter::emitRows(Value k0, Value depth, bool packed) {
  auto overPanels = [&](int64_t rows, Value m, Value packedA) {
    b.forLoop(b.i64(0), numPanels, 1, [&](Value panel) {
      emitTile(rows, m, panel, k0, depth, packed, packedA);
    });
  };
  Value tail = m0;
  if (packed) {
    Value count = b.div(b.sub(mEnd, m0), tileRows);
    tail = b.add(m0, b.mul(count, tileRows));
    if (product.transposedLhs) {
      int64_t group = tileRows * Product::kPackedTiles;
      b.forLoop(m0, tail, group, [&](Value first) {
        Value tiles =
            b.min(b.div(b.sub(tail, first), tileRows), Product::kPackedTiles);
        packLhs(first, tiles, k0, depth);
        b.forLoop(b.i64(0), tiles, 1, [&](Value tile) {
          overPanels(tileRows, b.add(first, b.mul(tile, tileRows)),
                     b.atF32(packedLhs, b.mul(tile, product.tileStride())));
        });
      });
    } else {
      b.forLoop(m0, tail, tileRows,
                [&](Value m) { overPanels(tileRows, m, {}); });
    }
  }
  if (product.dynamic() || product.m % tileRows != 0 || !packed ||
      product.rowsPerUnit % tileRows != 0)
    b.forLoop(tail, mEnd, 1, [&](Value m) { overPanels(1, m, {}); });
}

void ProductEmitter::emitTile(int64_t rows, Value m, Value panel, Value k0,
                              Value depth, bool packed, Value packedA) {
  Type f32 = b.builder.getF32Type();
  Value column = b.add(n0, b.mul(panel, tileColumns));
  SmallVector<Value> masks(vectors);
  if (!packed && product.n % tileColumns != 0)
    for (int64_t v = 0; v < vectors; ++v)
      masks[v] = b.laneMask(b.sub(b.i64(product.n - v * b.lanes), column));
  Value source =
      packed ? b.atF32(panels, b.mul(panel, product.depth * tileColumns))
             : b.atF32(rhs, b.add(b.mul(k0, product.n), column));
  int64_t sourceStride = packed ? tileColumns : product.n;

  Value left;
  int64_t leftDepthStride = 1, leftRowStride = product.k;
  if (packedA) {
    left = packedA;
    leftDepthStride = 8;
    leftRowStride = 1;
  } else if (product.transposedLhs) {
    left = b.atF32(a, b.add(b.mul(k0, product.m), m));
    leftDepthStride = product.m;
    leftRowStride = 1;
  } else {
    left = b.atF32(a, b.add(b.mul(m, product.k), k0));
  }

  auto oneStep = [&](Value k, Values sumsNow) {
    Value from = b.atF32(source, b.mul(k, sourceStride));
    Value leftAt = b.atF32(left, b.mul(k, leftDepthStride));
    Values columns;
    for (int64_t v = 0; v < vectors; ++v)
      columns.push_back(
          b.loadVector(b.atF32(from, v * b.lanes), f32, masks[v]));
    for (int64_t r = 0; r < rows; ++r) {
      Value element = b.splat(b.loadF32(b.atF32(leftAt, r * leftRowStride)));
      for (int64_t v = 0; v < vectors; ++v)
        sumsNow[r * vectors + v] =
            b.fma(element, columns[v], sumsNow[r * vectors + v]);
    }
    return sumsNow;
  };
  // K is known: unrolled by hand if all blocks allow it.
  int64_t unroll = product.k % 4 == 0 && product.depth % 4 == 0 ? 4 : 1;
  Values sumsNow(rows * vectors, b.splatF32(0));
  sumsNow = b.forLoop(b.i64(0), depth, unroll, sumsNow,
                      [&](Value k, ValueRange carried) {
                        Values next(carried.begin(), carried.end());
                        for (int64_t u = 0; u < unroll; ++u)
                          next = oneStep(b.add(k, u), next);
                        return next;
                      });

  Value tile = sums;
  if (manyBlocks())
    tile = b.atF32(sums, b.add(b.mul(b.sub(m, m0), product.columnsPerUnit()),
                               b.mul(panel, tileColumns * rows)));
  Value later;
  if (manyBlocks()) {
    Value first = b.equal(k0, b.i64(0));
    later =
        b.splat(b.builder.create<arith::XOrIOp>(b.loc, first, b.boolean(true)));
  }
  for (int64_t i = 0; i < rows * vectors; ++i) {
    Value to = b.atF32(tile, i * b.lanes);
    Value sum = sumsNow[i];
    if (manyBlocks())
      sum = b.addf(b.loadVector(to, f32, later), sum);
    b.store(sum, to);
  }
  if (!manyBlocks())
    return emitEpilogue(rows, m, column, tile);
  b.ifThen(b.equal(b.add(k0, depth), b.i64(product.k)),
           [&] { emitEpilogue(rows, m, column, tile); });
}

void ProductEmitter::emitEpilogue(int64_t rows, Value m, Value column,
                                  Value tile) {
  Type f32 = b.builder.getF32Type();
  bool masked = product.n % tileColumns != 0;
  b.forLoop(b.i64(0), b.i64(rows), 1, [&](Value r) {
    if (failed(ev.beginRow(b.add(m, r)))) {
      failedOnce = true;
      return;
    }
    Value sumsOfRow = b.atF32(tile, b.mul(r, tileColumns));
    for (int64_t v = 0; v < vectors; ++v) {
      Value at = b.add(column, v * b.lanes);
      Value mask;
      if (masked)
        mask = b.laneMask(b.sub(b.i64(product.n), at));
      ev.beginChunk({}, at, mask);
      ev.define(product.op.getOutput(),
                b.loadVector(b.atF32(sumsOfRow, v * b.lanes), f32));
      for (auto [index, value] : llvm::enumerate(body.yield().getValues())) {
        Value computed = ev.getVector(value);
        failedOnce |= !computed;
        if (computed)
          ev.storeResult(index, computed);
      }
    }
  });
}

} // namespace

void codegen::transposeSquare(LoopBuilder &b, Values &rows) {
  // Swaps the off-diagonal blocks of halves, quarters, ... (Eklundh).
  int64_t size = rows.size();
  for (int64_t block = size / 2; block >= 1; block /= 2)
    for (int64_t i = 0; i < size; ++i) {
      if (i & block)
        continue;
      SmallVector<int64_t> upper(size), lower(size);
      for (int64_t lane = 0; lane < size; ++lane) {
        upper[lane] = lane & block ? size + lane - block : lane;
        lower[lane] = lane & block ? size + lane : lane + block;
      }
      Value top = rows[i], bottom = rows[i + block];
      rows[i] = b.shuffle(top, bottom, upper);
      rows[i + block] = b.shuffle(top, bottom, lower);
    }
}

LogicalResult codegen::emitContraction(EmitContext &context) {
  auto product = describeProduct(context.kernel);
  if (failed(product))
    return failure();
  auto body = analyzeProduct(context.kernel, *product);
  if (failed(body))
    return failure();
  return ProductEmitter(context, *body, *product).emit();
}
