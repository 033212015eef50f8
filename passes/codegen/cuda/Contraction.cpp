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
// The sum over K is fused multiply-adds in the order of k from zero, whatever
// the shape and the number of rows. Plain on purpose: products in float32 are
// cuBLASLt's; this one is for whatever that does not do.
#include "passes/codegen/Contraction.h"
#include "passes/codegen/cuda/Kernels.h"

#include "mlir/Dialect/Vector/IR/VectorOps.h"

using namespace mlir;
using namespace lmc;
using namespace lmc::codegen;

namespace {

constexpr int64_t kTile = 64, kDepth = 16, kThreads = 256;
constexpr int64_t kRowFloats = kTile + 4; // keeps banks apart
constexpr int64_t kPerThread = 4;

class TileEmitter {
public:
  TileEmitter(EmitContext &context, const KernelBody &body,
              const Product &product)
      : body(body), product(product), context(context), b(context.b),
        fours(b.builder, b.loc, kPerThread, /*aligned=*/true),
        ev(body, b, context.pointers, context.microBatch, context.randoms),
        f32(b.builder.getF32Type()) {}
  LogicalResult emit();

private:
  const KernelBody &body;
  const Product &product;
  EmitContext &context;
  LoopBuilder &b;    // vectors as the epilogue takes them
  LoopBuilder fours; // and as threads' tiles are
  Evaluator ev;
  Type f32;
  bool failedOnce = false;

  void loadTile(Value shared, Value pointer, bool turned, Value major0,
                Value majorEnd, int64_t majorSize, Value k0);
  void emitEpilogue(Value m, Value n, ArrayRef<Value> sums);
  void emitColumns(Value n, Value sum);
};

// shared[k][i] = the operand's element (major0 + i, k0 + k), zero outside. Each
// thread loads four neighbours along the operand's last dim: k if `turned`.
void TileEmitter::loadTile(Value shared, Value pointer, bool turned,
                           Value major0, Value majorEnd, int64_t majorSize,
                           Value k0) {
  Value thread = context.block->thread;
  int64_t across = (turned ? kDepth : kTile) / kPerThread;
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
  if (width % kPerThread == 0) {
    // Past the end the first elements are read, and not used.
    Value inside = b.andMask(rowInside, b.less(column, columnEnd));
    Value offset = b.select(inside, b.add(start, column), b.i64(0));
    Value loaded = fours.loadVector(b.atF32(pointer, offset), f32);
    loaded = b.select(inside, loaded, fours.splatF32(0));
    if (!turned) {
      fours.store(loaded, b.atF32(shared, b.add(b.mul(k, kRowFloats), i)));
      return;
    }
    for (int64_t j = 0; j < kPerThread; ++j)
      elements.push_back(b.builder.create<vector::ExtractOp>(b.loc, loaded, j));
  } else {
    for (int64_t j = 0; j < kPerThread; ++j) {
      Value at = b.add(column, j);
      Value inside = b.andMask(rowInside, b.less(at, columnEnd));
      Value offset = b.select(inside, b.add(start, at), b.i64(0));
      elements.push_back(
          b.select(inside, b.loadF32(b.atF32(pointer, offset)), b.f32(0)));
    }
  }
  for (int64_t j = 0; j < kPerThread; ++j)
    b.store(elements[j],
            b.atF32(b.atF32(shared, b.add(b.mul(k, kRowFloats), i)),
                    turned ? j * kRowFloats : j));
}

LogicalResult TileEmitter::emit() {
  if (failed(ev.beginKernel()))
    return failure();
  ThreadBlock &block = *context.block;
  Value left = block.sharedFloats(kDepth * kRowFloats);
  Value right = block.sharedFloats(kDepth * kRowFloats);
  int64_t columns = (product.n + kTile - 1) / kTile;
  Value m0 = b.mul(b.div(block.unit, columns), kTile);
  Value n0 = b.mul(b.rem(block.unit, columns), kTile);
  Value mEnd = context.rows ? context.rows : b.i64(product.m);
  Value row = b.mul(b.div(block.thread, kTile / kPerThread), kPerThread);
  Value column = b.mul(b.rem(block.thread, kTile / kPerThread), kPerThread);
  Values sums(kPerThread, fours.splatF32(0));
  sums = b.forLoop(
      b.i64(0), b.i64(product.k), kDepth, sums,
      [&](Value k0, ValueRange carried) {
        block.barrier();
        loadTile(left, context.pointers[product.lhs], !product.transposedLhs,
                 m0, mEnd, product.dynamic() ? 0 : product.m, k0);
        loadTile(right, context.pointers[product.rhs], product.transposedRhs,
                 n0, b.i64(product.n), product.n, k0);
        block.barrier();
        return b.forLoop(
            b.i64(0), b.i64(kDepth), 1, carried,
            [&](Value k, ValueRange inner) {
              Values next(inner.begin(), inner.end());
              Value at = b.mul(k, kRowFloats);
              Value x = fours.loadVector(b.atF32(left, b.add(at, row)), f32);
              Value y =
                  fours.loadVector(b.atF32(right, b.add(at, column)), f32);
              for (int64_t i = 0; i < kPerThread; ++i) {
                Value element =
                    b.builder.create<vector::ExtractOp>(b.loc, x, i);
                next[i] = b.fma(fours.splat(element), y, next[i]);
              }
              return next;
            });
      });
  for (int64_t i = 0; i < kPerThread; ++i) {
    Value m = b.add(b.add(m0, row), i);
    Value n = b.add(n0, column);
    b.ifThen(b.andMask(b.less(m, mEnd), b.less(n, b.i64(product.n))), [&] {
      if (failed(ev.beginRow(m)))
        failedOnce = true;
      else
        emitEpilogue(m, n, sums[i]);
    });
  }
  return failure(failedOnce);
}

void TileEmitter::emitEpilogue(Value m, Value n, ArrayRef<Value> sums) {
  if (b.lanes == kPerThread)
    return emitColumns(n, sums[0]);
  for (int64_t j = 0; j < kPerThread; j += b.lanes) {
    SmallVector<int64_t> part;
    for (int64_t lane = 0; lane < b.lanes; ++lane)
      part.push_back(j + lane);
    Value at = b.add(n, j);
    b.ifThen(b.less(at, b.i64(product.n)),
             [&] { emitColumns(at, b.shuffle(sums[0], sums[0], part)); });
  }
}

void TileEmitter::emitColumns(Value n, Value sum) {
  ev.beginChunk({}, n, {});
  ev.define(const_cast<Product &>(product).op.getOutput(), sum);
  for (auto [index, value] : llvm::enumerate(body.yield().getValues())) {
    Value computed = ev.getVector(value);
    failedOnce |= !computed;
    if (computed)
      ev.storeResult(index, computed);
  }
}

} // namespace

LogicalResult cuda::planContraction(plan::KernelOp kernel, KernelFacts &facts) {
  auto product = describeProduct(kernel);
  if (failed(product))
    return failure();
  facts.rows = product->dynamic() ? 0 : product->m;
  facts.rowsPerUnit = kTile;
  facts.columns = (product->n + kTile - 1) / kTile;
  facts.flops =
      product->dynamic() ? 0 : 2 * product->m * product->n * product->k;
  facts.threads = kThreads;
  facts.sharedBytes = 2 * kDepth * kRowFloats * 4;
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
  return TileEmitter(context, *body, *product).emit();
}
