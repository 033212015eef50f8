#include "passes/dist/LowerReshard.h"

#include "passes/dist/LocalIndex.h"
#include "passes/dist/ReshardPath.h"

using namespace mlir;
using namespace lmc;
using namespace lmc::dist;

namespace {

using Shape = SmallVector<int64_t>;

class Lowering {
public:
  Lowering(OpBuilder &b, Location loc, func::FuncOp function, MeshAttr mesh)
      : b(b), loc(loc), function(function), mesh(mesh), m(b, loc) {}

  Value apply(const Transition &step, Value x);

private:
  static Shape shapeOf(Value x) {
    return Shape(lm::TensorMath::typeOf(x).getShape());
  }
  static int64_t outerOf(ArrayRef<int64_t> shape, unsigned dim) {
    return lm::product(shape.take_front(dim));
  }
  Value reshaped(Value x, ArrayRef<int64_t> shape) {
    auto type = lm::TensorMath::typeOf(x).clone(shape);
    return type == x.getType() ? x
                               : Value(b.create<lm::ReshapeOp>(loc, type, x));
  }
  // Rows of `x`, seen as a table of rows of `run` elements.
  Value rows(Value x, int64_t run, Value indices) {
    int64_t count = lm::product(shapeOf(x)) / run;
    Shape shape = shapeOf(indices);
    shape.push_back(run);
    Value table = reshaped(x, {count, run});
    return b.create<lm::EmbeddingOp>(
        loc, lm::TensorMath::typeOf(x).clone(shape), table, indices);
  }
  // i * first + j * second for each (i, j) of a tensor of `shape`.
  Value grid(ArrayRef<int64_t> shape, int64_t first, int64_t second) {
    auto type = RankedTensorType::get(shape, b.getI32Type());
    auto along = [&](int64_t dim, int64_t factor) -> Value {
      Value index = b.create<lm::IotaOp>(loc, type, dim);
      return b.create<arith::MulIOp>(loc, index,
                                     m.constant(type, double(factor)));
    };
    return b.create<arith::AddIOp>(loc, along(0, first), along(1, second));
  }
  // Strips of dim `dim` become `n` pieces, one behind the other; the result has
  // dim 0 of all pieces.
  Value toPieces(Value x, unsigned dim, int64_t n);
  // The way back: `x` holds n pieces, whose dim `dim` is made n times longer.
  Value fromPieces(Value x, unsigned dim, int64_t n);
  Value slice(Value x, unsigned dim, ArrayRef<StringRef> axes, int64_t n);

  OpBuilder &b;
  Location loc;
  func::FuncOp function;
  MeshAttr mesh;
  lm::TensorMath m;
};

Value Lowering::toPieces(Value x, unsigned dim, int64_t n) {
  Shape shape = shapeOf(x);
  int64_t outer = outerOf(shape, dim);
  shape[dim] /= n;
  shape[0] *= n;
  if (outer > 1)
    x = rows(x, lm::product(shapeOf(x)) / (outer * n), grid({n, outer}, 1, n));
  return reshaped(x, shape);
}

Value Lowering::fromPieces(Value x, unsigned dim, int64_t n) {
  Shape shape = shapeOf(x);
  shape[0] /= n;
  int64_t outer = outerOf(shape, dim);
  shape[dim] *= n;
  if (outer > 1)
    x = rows(x, lm::product(shapeOf(x)) / (outer * n),
             grid({outer, n}, 1, outer));
  return reshaped(x, shape);
}

Value Lowering::slice(Value x, unsigned dim, ArrayRef<StringRef> axes,
                      int64_t n) {
  Shape shape = shapeOf(x);
  int64_t outer = outerOf(shape, dim);
  shape[dim] /= n;
  auto type = RankedTensorType::get({outer}, b.getI32Type());
  Value mine = m.broadcastScalar(
      firstRow(b, loc, function, axes, /*localSize=*/1, mesh), type);
  if (outer > 1) {
    Value first = b.create<arith::MulIOp>(
        loc, b.create<lm::IotaOp>(loc, type, 0), m.constant(type, double(n)));
    mine = b.create<arith::AddIOp>(loc, first, mine);
  }
  return reshaped(rows(x, lm::product(shapeOf(x)) / (outer * n), mine), shape);
}

Value Lowering::apply(const Transition &step, Value x) {
  int64_t n = 1;
  for (StringRef axis : step.axes)
    n *= mesh.getSize(axis);
  ArrayAttr axes = b.getStrArrayAttr(step.axes);
  auto resized = [&](Value of, bool longer) {
    Shape shape = shapeOf(of);
    shape[0] = longer ? shape[0] * n : shape[0] / n;
    return lm::TensorMath::typeOf(of).clone(shape);
  };
  switch (step.kind) {
  case Transition::AllReduce:
    return b.create<AllReduceOp>(loc, x.getType(), b.getStringAttr("sum"), x,
                                 axes, /*tied=*/UnitAttr());
  case Transition::Slice:
    return slice(x, step.dim, step.axes, n);
  case Transition::AllGather:
    return fromPieces(b.create<AllGatherOp>(loc, resized(x, true), x, 0, axes),
                      step.dim, n);
  case Transition::ReduceScatter:
    x = toPieces(x, step.dim, n);
    return b.create<ReduceScatterOp>(loc, resized(x, false), x, 0, axes);
  case Transition::AllToAll:
    x = toPieces(x, step.toDim, n);
    return fromPieces(b.create<AllToAllOp>(loc, x.getType(), x, axes), step.dim,
                      n);
  }
  return x;
}

} // namespace

FailureOr<Value> lmc::dist::lowerReshard(OpBuilder &builder,
                                         func::FuncOp function,
                                         ReshardOp reshard, Value local,
                                         MeshAttr mesh) {
  NoPath refusal;
  FailureOr<ReshardPath> path =
      findReshardPath(cast<RankedTensorType>(reshard.getType()),
                      reshard.getFrom(), reshard.getTo(), mesh, refusal);
  if (failed(path))
    return reshard.emitOpError() << refusal.reason;
  Lowering lowering(builder, reshard.getLoc(), function, mesh);
  for (const Transition &step : path->steps)
    local = lowering.apply(step, local);
  return local;
}
