// Attention to the cache of an inference step, on a GPU.
//
// A block has one token and some heads of one group. Its threads share the
// token's positions, in parts of a warp: as many lanes as a key has vectors
// take a key together, several keys at a time, so that whole lines are loaded
// and many are under way.
//
//     heads of 64      lanes 0..15        lanes 16..31
//     warp 0           keys 0..3          keys 4..7
//     warp 1           keys 8..11         keys 12..15
//     ...              then 128 positions further
//
// Each part has an online softmax of its own, in registers; in the end the
// parts meet in a fixed order. Which part takes a key depends on the key's
// position alone, so a token's bits depend on its own position alone.
#include "passes/codegen/PagedAttention.h"
#include "passes/codegen/cuda/Kernels.h"

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/Math/IR/Math.h"
#include "mlir/Dialect/Vector/IR/VectorOps.h"

#include <limits>

using namespace mlir;
using namespace lmc;
using namespace lmc::codegen;

namespace {

constexpr unsigned kThreads = 512;
constexpr int64_t kWarp = ThreadBlock::kWarp;
constexpr int64_t kWarps = kThreads / kWarp;

// How a block's threads share positions and heads.
struct Parts {
  // Of a thread's registers: outputs, and vectors of keys loaded at once.
  static constexpr int64_t kOutputs = 16, kLoads = 4;

  explicit Parts(const CacheShape &s) {
    width = lanesDividing({s.k});
    int64_t vectors = s.k / width;
    lanes = std::min<int64_t>(llvm::PowerOf2Ceil(vectors), kWarp);
    perLane = (vectors + lanes - 1) / lanes;
    int64_t most = std::max<int64_t>(1, kOutputs / (perLane * width));
    tiles = (s.r + most - 1) / most;
    heads = (s.r + tiles - 1) / tiles;
    keys = std::max<int64_t>(1, kLoads / perLane);
  }

  int64_t width;        // elements of a vector
  int64_t lanes;        // of a part
  int64_t perLane;      // vectors of a key that a lane takes
  int64_t tiles, heads; // of a group; of a tile
  int64_t keys;         // that a part takes at a time
  int64_t count() const { return kThreads / lanes; }
};

class PagedBlock {
public:
  PagedBlock(EmitContext &context, const CacheShape &shape)
      : context(context), s(shape), op(cast<lm::PagedAttentionOp>(shape.op)),
        b(context.b), block(*context.block), parts(shape) {
    auto pages = cast<RankedTensorType>(op.getPages().getType());
    numSequences = pages.getDimSize(0);
    pagesPerSequence = pages.getDimSize(1);
  }
  void emit();

private:
  EmitContext &context;
  const CacheShape &s;
  lm::PagedAttentionOp op;
  LoopBuilder &b;
  ThreadBlock &block;
  Parts parts;
  int64_t numSequences, pagesPerSequence;
  // Of the unit.
  Value position, pages, groupOffset, firstHead;
  // Of the lane: where its vectors of a key begin, and whether they do.
  Values elements, inside;
  Values queries; // [heads][perLane]

  // What a part knows of the positions that it has seen.
  struct State {
    Values maxima, totals; // [heads]
    Values outputs;        // [heads][perLane], not normalised
  };
  State unpack(ValueRange carried);
  static Values pack(const State &state);
  State addKeys(State state, Value key0);
  State meetInWarp(State state);
  void meetInBlock(const State &state);

  void placeLane();
  void loadQueries(Value token, Value group);
  Value score(ArrayRef<Value> query, ArrayRef<Value> key);
  // Index of a head of the tile in its group; past the end, the last.
  Value headAt(Value index);
  Value pointer(unsigned operand) {
    return context.pointers[s.arguments[operand]];
  }
  Value exp(Value x) { return b.builder.create<math::ExpOp>(b.loc, x); }
};

PagedBlock::State PagedBlock::unpack(ValueRange carried) {
  int64_t h = parts.heads;
  return {Values(carried.begin(), carried.begin() + h),
          Values(carried.begin() + h, carried.begin() + 2 * h),
          Values(carried.begin() + 2 * h, carried.end())};
}
Values PagedBlock::pack(const State &state) {
  Values all = state.maxima;
  all.append(state.totals);
  all.append(state.outputs);
  return all;
}

Value PagedBlock::headAt(Value index) {
  Value head = b.add(firstHead, index);
  return s.r % parts.heads == 0 ? head : b.min(head, s.r - 1);
}

void PagedBlock::placeLane() {
  Value lane = b.rem(block.thread, parts.lanes);
  for (int64_t i = 0; i < parts.perLane; ++i) {
    Value element = b.mul(b.add(lane, i * parts.lanes), parts.width);
    Value isInside = b.less(element, b.i64(s.k));
    bool whole = (i + 1) * parts.lanes * parts.width <= s.k;
    elements.push_back(whole ? element : b.select(isInside, element, b.i64(0)));
    inside.push_back(whole ? b.boolean(true) : isInside);
  }
}

// Zero outside, so that what is loaded of a key there does not count.
void PagedBlock::loadQueries(Value token, Value group) {
  Value base = b.atF32(pointer(0), b.add(b.mul(token, s.tokenStride()),
                                         b.mul(group, (s.r + 2) * s.k)));
  for (int64_t h = 0; h < parts.heads; ++h)
    for (auto [element, isInside] : llvm::zip(elements, inside)) {
      Value at = b.add(b.mul(headAt(b.i64(h)), s.k), element);
      queries.push_back(b.select(
          isInside, b.loadVector(b.atF32(base, at), b.builder.getF32Type()),
          b.splatF32(0)));
    }
}

// Known to all lanes of the part.
Value PagedBlock::score(ArrayRef<Value> query, ArrayRef<Value> key) {
  Value sum = b.splatF32(0);
  for (auto [q, k] : llvm::zip(query, key))
    sum = b.fma(q, k, sum);
  sum = b.reduceLanes(sum, false);
  for (int64_t mask = parts.lanes / 2; mask >= 1; mask /= 2)
    sum = b.addf(sum, block.shuffle(sum, mask));
  return b.mulf(sum, b.f32(op.getScale().convertToDouble()));
}

PagedBlock::State PagedBlock::addKeys(State state, Value key0) {
  int64_t size = op.getPageSize(), window = op.getWindow();
  int64_t perLane = parts.perLane;
  Value first =
      b.add(key0, b.mul(b.div(block.thread, parts.lanes), parts.keys));
  // All loads before the first use of one.
  Values keys, values, isSeen;
  auto pageOf = [&](Value p) {
    return loadIndex(b, pages, b.div(b.min(p, position), size));
  };
  bool onOnePage = size % parts.keys == 0;
  Value page = onOnePage ? pageOf(first) : Value();
  for (int64_t j = 0; j < parts.keys; ++j) {
    Value p = b.add(first, j);
    isSeen.push_back(b.less(p, b.add(position, 1)));
    if (window > 0)
      isSeen[j] = b.andMask(isSeen[j], b.less(b.sub(position, window), p));
    if (!onOnePage)
      page = pageOf(p);
    // Hidden keys take the token's own place.
    Value row = b.add(b.mul(page, size), b.rem(b.min(p, position), size));
    Value offset =
        b.add(b.mul(clampIndex(b, row, s.rows), s.rowStride()), groupOffset);
    Value from = b.atF32(pointer(1), offset);
    for (Value element : elements) {
      Value at = b.atF32(from, element);
      keys.push_back(b.loadVector(at, b.builder.getF32Type()));
      values.push_back(b.loadVector(b.atF32(at, s.k), b.builder.getF32Type()));
    }
  }
  for (int64_t h = 0; h < parts.heads; ++h) {
    Values scores;
    Value next = state.maxima[h];
    for (int64_t j = 0; j < parts.keys; ++j) {
      Value seen = b.select(isSeen[j],
                            score(ArrayRef(queries).slice(h * perLane, perLane),
                                  ArrayRef(keys).slice(j * perLane, perLane)),
                            b.f32(-std::numeric_limits<float>::infinity()));
      scores.push_back(seen);
      next = b.maxf(seen, next);
    }
    Value factor = exp(b.subf(state.maxima[h], next));
    state.maxima[h] = next;
    state.totals[h] = b.mulf(state.totals[h], factor);
    MutableArrayRef<Value> outputs =
        MutableArrayRef(state.outputs).slice(h * perLane, perLane);
    for (Value &output : outputs)
      output = b.mulf(output, b.splat(factor));
    for (int64_t j = 0; j < parts.keys; ++j) {
      Value weight = exp(b.subf(scores[j], next));
      state.totals[h] = b.addf(state.totals[h], weight);
      for (int64_t i = 0; i < perLane; ++i)
        outputs[i] =
            b.fma(b.splat(weight), values[j * perLane + i], outputs[i]);
    }
  }
  return state;
}

// The parts of a warp, of which each then knows the sum.
PagedBlock::State PagedBlock::meetInWarp(State state) {
  for (int64_t mask = kWarp / 2; mask >= parts.lanes; mask /= 2)
    for (int64_t h = 0; h < parts.heads; ++h) {
      Value &maximum = state.maxima[h], &total = state.totals[h];
      Value next = b.maxf(maximum, block.shuffle(maximum, mask));
      Value factor = exp(b.subf(maximum, next));
      maximum = next;
      total = b.mulf(total, factor);
      total = b.addf(total, block.shuffle(total, mask));
      for (Value &output : MutableArrayRef(state.outputs)
                               .slice(h * parts.perLane, parts.perLane)) {
        output = b.mulf(output, b.splat(factor));
        Value other = output;
        for (int64_t i = 0; i < parts.width; ++i)
          other = b.builder.create<vector::InsertOp>(
              b.loc,
              block.shuffle(
                  b.builder.create<vector::ExtractOp>(b.loc, output, i), mask),
              other, i);
        output = b.addf(output, other);
      }
    }
  return state;
}

// Shared: outputs [warps][heads][k]; maxima, totals and factors
// [warps][heads].
void PagedBlock::meetInBlock(const State &state) {
  int64_t heads = parts.heads, perWarp = heads * s.k;
  Value outputs = block.sharedFloats(kWarps * perWarp);
  Value maxima = block.sharedFloats(kWarps * heads);
  Value totals = block.sharedFloats(kWarps * heads);
  Value factors = block.sharedFloats(kWarps * heads);
  Value warp = block.warp();
  b.ifThen(b.less(block.lane(), b.i64(parts.lanes)), [&] {
    for (int64_t h = 0; h < heads; ++h) {
      Value line = b.add(b.mul(warp, heads), h);
      b.ifThen(b.equal(block.lane(), b.i64(0)), [&] {
        b.store(state.maxima[h], b.atF32(maxima, line));
        b.store(state.totals[h], b.atF32(totals, line));
      });
      for (int64_t i = 0; i < parts.perLane; ++i)
        b.ifThen(inside[i], [&] {
          b.store(state.outputs[h * parts.perLane + i],
                  b.atF32(outputs, b.add(b.mul(line, s.k), elements[i])));
        });
    }
  });
  block.barrier();
  b.ifThen(b.less(block.thread, b.i64(kWarps * heads)), [&] {
    Value head = b.rem(block.thread, heads), most = b.f32(-1e30);
    for (int64_t w = 0; w < kWarps; ++w)
      most = b.maxf(b.loadF32(b.atF32(maxima, b.add(head, w * heads))), most);
    Value own = b.loadF32(b.atF32(maxima, block.thread));
    b.store(exp(b.subf(own, most)), b.atF32(factors, block.thread));
  });
  block.barrier();
  Value target = context.pointers[resultPointerOf(context.kernel, 0)];
  Value to = b.atF32(target, b.mul(b.div(block.unit, parts.tiles), s.r * s.k));
  Share share = context.overThreads();
  b.forLoop(share.first, b.i64(perWarp), share.step, [&](Value at) {
    Value head = b.div(at, s.k), total = b.f32(0), sum = b.splatF32(0);
    for (int64_t w = 0; w < kWarps; ++w) {
      Value factor = b.loadF32(b.atF32(factors, b.add(head, w * heads)));
      total = b.fma(b.loadF32(b.atF32(totals, b.add(head, w * heads))), factor,
                    total);
      sum = b.fma(b.loadVector(b.atF32(outputs, b.add(at, w * perWarp)),
                               b.builder.getF32Type()),
                  b.splat(factor), sum);
    }
    Value inverse = b.builder.create<arith::DivFOp>(b.loc, b.f32(1), total);
    Value whole = b.add(firstHead, head);
    b.ifThen(b.less(whole, b.i64(s.r)), [&] {
      b.store(b.mulf(b.splat(inverse), sum),
              b.atF32(to, b.add(b.mul(firstHead, s.k), at)));
    });
  });
}

void PagedBlock::emit() {
  Value line = b.div(block.unit, parts.tiles);
  Value token = b.div(line, s.g), group = b.rem(line, s.g);
  firstHead = b.mul(b.rem(block.unit, parts.tiles), parts.heads);
  position = clampIndex(b, loadIndex(b, pointer(2), token),
                        pagesPerSequence * op.getPageSize());
  Value sequence = clampIndex(b, loadIndex(b, pointer(3), token), numSequences);
  pages = b.at(pointer(4), b.mul(sequence, pagesPerSequence),
               b.builder.getI32Type());
  groupOffset = b.mul(group, 2 * s.k);
  placeLane();
  loadQueries(token, group);

  State state;
  // Small enough to lose against any score, finite so that m - m' is.
  state.maxima.assign(parts.heads, b.f32(-1e30));
  state.totals.assign(parts.heads, b.f32(0));
  state.outputs.assign(parts.heads * parts.perLane, b.splatF32(0));
  int64_t together = parts.count() * parts.keys;
  Value begin = b.i64(0);
  if (int64_t window = op.getWindow(); window > 0)
    begin = b.mul(b.div(b.max(b.sub(position, window - 1), b.i64(0)), together),
                  together);
  Values last = b.forLoop(begin, b.add(position, 1), together, pack(state),
                          [&](Value key0, ValueRange carried) {
                            return pack(addKeys(unpack(carried), key0));
                          });
  meetInBlock(meetInWarp(unpack(last)));
}

} // namespace

LogicalResult cuda::planPagedAttention(plan::KernelOp kernel,
                                       KernelFacts &facts) {
  auto shape = describePagedAttention(kernel);
  if (failed(shape))
    return failure();
  Parts parts(*shape);
  facts.rows = shape->t;
  facts.rowsPerUnit = 1;
  facts.columns = shape->g * parts.tiles;
  facts.threads = kThreads;
  auto bytes = [](int64_t floats) { return (floats * 4 + 15) / 16 * 16; };
  facts.sharedBytes =
      bytes(kWarps * parts.heads * shape->k) + 3 * bytes(kWarps * parts.heads);
  facts.lanes = parts.width;
  return success();
}

LogicalResult cuda::emitPagedAttention(EmitContext &context) {
  auto shape = describePagedAttention(context.kernel);
  if (failed(shape))
    return failure();
  PagedBlock(context, *shape).emit();
  return success();
}
