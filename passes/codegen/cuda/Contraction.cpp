// Matrix products on a GPU, with elementwise work on their result.
//
//     C [M, N] = epilogue(A [M, K] * B [K, N])
//
// A block computes 64 x 64 of C with 256 threads of 4 x 4 elements. Its parts
// of A and B, 16 deep along K, pass through shared memory:
//
//               n0  64 columns        left  [16][64 + 4]  turned if K is
//          m0  +--------------+       right [16][64 + 4]  its last dim
//     64 rows  | 4x4 a thread |
//              +--------------+       acc[4][4] += left[k][4] * right[k][4]
//
// Contraction.h says in which order it adds. Plain on purpose: products in
// float32 of training are cuBLASLt's.
#include "passes/codegen/cuda/Contraction.h"
#include "passes/codegen/cuda/Kernels.h"

#include "mlir/Dialect/Vector/IR/VectorOps.h"

using namespace mlir;
using namespace lmc;
using namespace lmc::codegen;
using namespace lmc::codegen::cuda;

static constexpr int64_t kPerThread = 4;

ProductEmitter::ProductEmitter(EmitContext &context, const KernelBody &body,
                               const Product &product)
    : context(context), body(body), product(product),
      blocking(product, context.kernel.getMostRows().value_or(0)), b(context.b),
      fours(b.builder, b.loc, kPerThread, /*aligned=*/true),
      ev(body, b, context.pointers, context.microBatch, context.randoms),
      f32(b.builder.getF32Type()) {}

LogicalResult ProductEmitter::emit() {
  if (failed(ev.beginKernel()))
    return failure();
  shared = context.block->sharedFloats(blocking.sharedFloats);
  mEnd = context.rows ? context.rows : b.i64(product.m);
  if (blocking.fewRows)
    emitFew();
  else
    emitTile();
  return failure(failedOnce);
}

Value ProductEmitter::element(Value vector, int64_t index) {
  return b.builder.create<vector::ExtractOp>(b.loc, vector, index);
}

// A thread's place in a tile of [k][i]: four neighbours along the operand's
// last dim, which is k if `turned`.
ProductEmitter::Place ProductEmitter::placeIn(bool turned) {
  Value thread = context.block->thread;
  int64_t across = (turned ? Blocking::kStep : Blocking::kTile) / kPerThread;
  Value outer = b.div(thread, across);
  Value inner = b.mul(b.rem(thread, across), kPerThread);
  return turned ? Place{inner, outer} : Place{outer, inner};
}

// The operand's elements (major0 + i, k0 + k) at the thread's place, zero
// outside.
Value ProductEmitter::fetch(const Side &side, Value k0) {
  Place place = placeIn(side.turned);
  Value major = b.add(side.major0, place.i), depth = b.add(k0, place.k);
  int64_t width = side.turned ? product.k : side.majorSize;
  Value row = side.turned ? major : depth, column = side.turned ? depth : major;
  Value rowEnd = side.turned ? side.majorEnd : b.i64(product.k);
  Value columnEnd = side.turned ? b.i64(product.k) : side.majorEnd;
  Value rowInside = b.less(row, rowEnd);
  Value start = b.mul(row, width);
  if (width % kPerThread == 0) {
    // Past the end the first elements are read, and not used.
    Value inside = b.andMask(rowInside, b.less(column, columnEnd));
    Value offset = b.select(inside, b.add(start, column), b.i64(0));
    Value loaded = fours.loadVector(b.atF32(side.pointer, offset), f32);
    return b.select(inside, loaded, fours.splatF32(0));
  }
  Value four = fours.splatF32(0);
  for (int64_t j = 0; j < kPerThread; ++j) {
    Value next = b.add(column, j);
    Value inside = b.andMask(rowInside, b.less(next, columnEnd));
    Value offset = b.select(inside, b.add(start, next), b.i64(0));
    Value one =
        b.select(inside, b.loadF32(b.atF32(side.pointer, offset)), b.f32(0));
    four = b.builder.create<vector::InsertOp>(b.loc, one, four, j);
  }
  return four;
}

void ProductEmitter::put(const Side &side, Value fetched) {
  Place place = placeIn(side.turned);
  Value at =
      b.atF32(side.tile, b.add(b.mul(place.k, Blocking::kRowFloats), place.i));
  if (!side.turned)
    return fours.store(fetched, at);
  for (int64_t j = 0; j < kPerThread; ++j)
    b.store(element(fetched, j), b.atF32(at, j * Blocking::kRowFloats));
}

Values ProductEmitter::multiplyTiles(Value left, Value right, Value row,
                                     Value column, ValueRange sums) {
  constexpr int64_t together = 4; // steps, as the assembler does not (Ptx.cpp)
  return b.forLoop(
      b.i64(0), b.i64(Blocking::kStep), together, sums,
      [&](Value k, ValueRange carried) {
        Values next(carried.begin(), carried.end());
        for (int64_t j = 0; j < together; ++j) {
          Value at = b.mul(b.add(k, j), Blocking::kRowFloats);
          Value x = fours.loadVector(b.atF32(left, b.add(at, row)), f32);
          Value y = fours.loadVector(b.atF32(right, b.add(at, column)), f32);
          for (int64_t i = 0; i < kPerThread; ++i)
            next[i] = b.fma(fours.splat(element(x, i)), y, next[i]);
        }
        return next;
      });
}

void ProductEmitter::emitTile() {
  ThreadBlock &block = *context.block;
  int64_t columns = (product.n + Blocking::kTile - 1) / Blocking::kTile;
  Value m0 = b.mul(b.div(block.unit, columns), Blocking::kTile);
  Value n0 = b.mul(b.rem(block.unit, columns), Blocking::kTile);
  int64_t across = Blocking::kTile / kPerThread;
  Value row = b.mul(b.div(block.thread, across), kPerThread);
  Value column = b.mul(b.rem(block.thread, across), kPerThread);
  Side left{context.pointers[product.lhs],
            !product.transposedLhs,
            m0,
            mEnd,
            product.dynamic() ? 0 : product.m,
            shared};
  Side right{context.pointers[product.rhs],
             product.transposedRhs,
             n0,
             b.i64(product.n),
             product.n,
             b.atF32(shared, Blocking::kStep * Blocking::kRowFloats)};
  // Carried: sums, and what was fetched of both sides; the next is under way
  // while this is multiplied.
  auto step = [&](Value k0, ValueRange carried) {
    block.barrier();
    put(left, carried[kPerThread]);
    put(right, carried[kPerThread + 1]);
    block.barrier();
    Value next = b.add(k0, Blocking::kStep);
    Value nextLeft = fetch(left, next), nextRight = fetch(right, next);
    Values sums = multiplyTiles(left.tile, right.tile, row, column,
                                carried.take_front(kPerThread));
    sums.append({nextLeft, nextRight});
    return sums;
  };
  Values zeros(kPerThread, fours.splatF32(0)), first = zeros;
  first.append({fetch(left, b.i64(0)), fetch(right, b.i64(0))});
  Values sums =
      b.forLoop(b.i64(0), b.i64(product.k), blocking.depth, first,
                [&](Value k0, ValueRange carried) {
                  Value end = b.min(b.add(k0, blocking.depth), product.k);
                  Values initial = zeros;
                  llvm::append_range(initial, carried.drop_front(kPerThread));
                  Values part =
                      b.forLoop(k0, end, Blocking::kStep, initial, step);
                  for (int64_t i = 0; i < kPerThread; ++i)
                    part[i] = b.addf(carried[i], part[i]);
                  return part;
                });
  for (int64_t i = 0; i < kPerThread; ++i) {
    Value m = b.add(b.add(m0, row), i);
    Value n = b.add(n0, column);
    b.ifThen(b.andMask(b.less(m, mEnd), b.less(n, b.i64(product.n))), [&] {
      if (failed(ev.beginRow(m)))
        failedOnce = true;
      else
        emitTileRow(m, n, sums[i]);
    });
  }
}

void ProductEmitter::emitTileRow(Value m, Value n, Value sum) {
  if (b.lanes == kPerThread)
    return emitColumns(n, sum);
  for (int64_t j = 0; j < kPerThread; j += b.lanes) {
    SmallVector<int64_t> part;
    for (int64_t lane = 0; lane < b.lanes; ++lane)
      part.push_back(j + lane);
    Value at = b.add(n, j);
    b.ifThen(b.less(at, b.i64(product.n)),
             [&] { emitColumns(at, b.shuffle(sum, sum, part)); });
  }
}

void ProductEmitter::emitColumns(Value n, Value sum) {
  ev.beginChunk({}, n, {});
  ev.define(const_cast<Product &>(product).op.getOutput(), sum);
  for (auto [index, value] : llvm::enumerate(body.yield().getValues())) {
    Value computed = ev.getVector(value);
    failedOnce |= !computed;
    if (computed)
      ev.storeResult(index, computed);
  }
}

LogicalResult cuda::planContraction(plan::KernelOp kernel, KernelFacts &facts) {
  auto product = describeProduct(kernel);
  if (failed(product))
    return failure();
  Blocking blocking(*product, kernel.getMostRows().value_or(0));
  int64_t few = blocking.fewRows,
          width = few ? blocking.strip : Blocking::kTile;
  facts.rows = product->dynamic() ? 0 : product->m;
  facts.rowsPerUnit = few ? few : Blocking::kTile;
  facts.columns = (product->n + width - 1) / width;
  facts.flops =
      product->dynamic() ? 0 : 2 * product->m * product->n * product->k;
  facts.threads = Blocking::kThreads;
  // Elements loaded one by one take more registers, and lines to be turned.
  if (few == 8 && !product->transposedRhs && product->n % kPerThread == 0 &&
      product->k % kPerThread == 0)
    facts.blocks = 2;
  facts.sharedBytes = blocking.sharedFloats * 4;
  facts.lanes = lanesDividing({product->n});
  return success();
}

LogicalResult cuda::emitContraction(EmitContext &context) {
  auto product = describeProduct(context.kernel);
  if (failed(product))
    return failure();
  auto body = analyzeProduct(context.kernel, *product);
  if (failed(body))
    return failure();
  return ProductEmitter(context, *body, *product).emit();
}
