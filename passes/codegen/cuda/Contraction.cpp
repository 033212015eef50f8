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

// into[k][i] = the operand's element (major0 + i, k0 + k), zero outside. Each
// thread loads four neighbours along the operand's last dim: k if `turned`.
void ProductEmitter::loadTile(Value into, Value pointer, bool turned,
                              Value major0, Value majorEnd, int64_t majorSize,
                              Value k0) {
  Value thread = context.block->thread;
  int64_t across = (turned ? Blocking::kStep : Blocking::kTile) / kPerThread;
  Value outer = b.div(thread, across);
  Value inner = b.mul(b.rem(thread, across), kPerThread);
  Value i = turned ? outer : inner, k = turned ? inner : outer;
  Value major = b.add(major0, i), depth = b.add(k0, k);
  int64_t width = turned ? product.k : majorSize;
  Value row = turned ? major : depth, column = turned ? depth : major;
  Value rowEnd = turned ? majorEnd : b.i64(product.k);
  Value columnEnd = turned ? b.i64(product.k) : majorEnd;
  Value rowInside = b.less(row, rowEnd);
  Value start = b.mul(row, width);
  Values elements;
  Value at = b.atF32(into, b.add(b.mul(k, Blocking::kRowFloats), i));
  if (width % kPerThread == 0) {
    // Past the end the first elements are read, and not used.
    Value inside = b.andMask(rowInside, b.less(column, columnEnd));
    Value offset = b.select(inside, b.add(start, column), b.i64(0));
    Value loaded = fours.loadVector(b.atF32(pointer, offset), f32);
    loaded = b.select(inside, loaded, fours.splatF32(0));
    if (!turned)
      return fours.store(loaded, at);
    for (int64_t j = 0; j < kPerThread; ++j)
      elements.push_back(element(loaded, j));
  } else {
    for (int64_t j = 0; j < kPerThread; ++j) {
      Value next = b.add(column, j);
      Value inside = b.andMask(rowInside, b.less(next, columnEnd));
      Value offset = b.select(inside, b.add(start, next), b.i64(0));
      elements.push_back(
          b.select(inside, b.loadF32(b.atF32(pointer, offset)), b.f32(0)));
    }
  }
  for (int64_t j = 0; j < kPerThread; ++j)
    b.store(elements[j], b.atF32(at, turned ? j * Blocking::kRowFloats : j));
}

void ProductEmitter::emitTile() {
  ThreadBlock &block = *context.block;
  Value left = shared;
  Value right = b.atF32(shared, Blocking::kStep * Blocking::kRowFloats);
  int64_t columns = (product.n + Blocking::kTile - 1) / Blocking::kTile;
  Value m0 = b.mul(b.div(block.unit, columns), Blocking::kTile);
  Value n0 = b.mul(b.rem(block.unit, columns), Blocking::kTile);
  int64_t across = Blocking::kTile / kPerThread;
  Value row = b.mul(b.div(block.thread, across), kPerThread);
  Value column = b.mul(b.rem(block.thread, across), kPerThread);
  auto step = [&](Value k0, ValueRange carried) {
    block.barrier();
    loadTile(left, context.pointers[product.lhs], !product.transposedLhs, m0,
             mEnd, product.dynamic() ? 0 : product.m, k0);
    loadTile(right, context.pointers[product.rhs], product.transposedRhs, n0,
             b.i64(product.n), product.n, k0);
    block.barrier();
    return b.forLoop(
        b.i64(0), b.i64(Blocking::kStep), 1, carried,
        [&](Value k, ValueRange inner) {
          Values next(inner.begin(), inner.end());
          Value at = b.mul(k, Blocking::kRowFloats);
          Value x = fours.loadVector(b.atF32(left, b.add(at, row)), f32);
          Value y = fours.loadVector(b.atF32(right, b.add(at, column)), f32);
          for (int64_t i = 0; i < kPerThread; ++i)
            next[i] = b.fma(fours.splat(element(x, i)), y, next[i]);
          return next;
        });
  };
  Values zeros(kPerThread, fours.splatF32(0));
  Values sums =
      b.forLoop(b.i64(0), b.i64(product.k), blocking.depth, zeros,
                [&](Value k0, ValueRange carried) {
                  Value end = b.min(b.add(k0, blocking.depth), product.k);
                  Values part =
                      b.forLoop(k0, end, Blocking::kStep, zeros, step);
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
