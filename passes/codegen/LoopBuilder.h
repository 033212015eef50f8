// The vocabulary in which all kernels are written: loops whose index is an
// i64, 1-D vectors of `lanes` elements, and memory as a pointer plus an offset
// in elements. A 2-D vector never exists: carried by a loop it would be
// spilled as a whole.
//
// Addresses are `llvm` operations and arithmetic is `arith` and `math`; both
// meet on i64, f32 and 1-D vectors, which the two share.
#ifndef LMC_PASSES_CODEGEN_LOOPBUILDER_H
#define LMC_PASSES_CODEGEN_LOOPBUILDER_H

#include "mlir/Dialect/LLVMIR/LLVMDialect.h"
#include "mlir/IR/Builders.h"

#include <functional>

namespace lmc::codegen {

using Values = llvm::SmallVector<mlir::Value, 8>;

class LoopBuilder {
public:
  LoopBuilder(mlir::OpBuilder &builder, mlir::Location loc, int64_t lanes,
              bool aligned = false)
      : builder(builder), loc(loc), lanes(lanes), aligned(aligned) {}

  mlir::OpBuilder &builder;
  mlir::Location loc;
  int64_t lanes; // elements of a vector
  // A vector begins at a multiple of its size and is read whole: a GPU has no
  // masked access.
  bool aligned;

  // Types.
  mlir::Type ptrType();
  mlir::VectorType vectorOf(mlir::Type element, int64_t count = 0);
  mlir::VectorType floats() { return vectorOf(builder.getF32Type()); }

  // Constants.
  mlir::Value i64(int64_t value);
  mlir::Value i32(int64_t value);
  mlir::Value f32(double value);
  mlir::Value boolean(bool value);
  mlir::Value zeros(mlir::Type type); // scalar or vector
  mlir::Value splat(mlir::Value scalar, int64_t count = 0);
  mlir::Value splatF32(double value);
  mlir::Value iota32(); // <0, 1, ..., lanes - 1> : i32
  // Static value of an i64, if it is one.
  static std::optional<int64_t> constantOf(mlir::Value value);

  // i64 arithmetic, folded where both sides are constant.
  mlir::Value add(mlir::Value a, mlir::Value b);
  mlir::Value sub(mlir::Value a, mlir::Value b);
  mlir::Value mul(mlir::Value a, mlir::Value b);
  mlir::Value div(mlir::Value a, mlir::Value b); // of non-negative numbers
  mlir::Value rem(mlir::Value a, mlir::Value b);
  mlir::Value min(mlir::Value a, mlir::Value b);
  mlir::Value max(mlir::Value a, mlir::Value b);
  mlir::Value ceilDiv(mlir::Value a, int64_t b);
  mlir::Value add(mlir::Value a, int64_t b) { return add(a, i64(b)); }
  mlir::Value sub(mlir::Value a, int64_t b) { return sub(a, i64(b)); }
  mlir::Value mul(mlir::Value a, int64_t b) { return mul(a, i64(b)); }
  mlir::Value div(mlir::Value a, int64_t b) { return div(a, i64(b)); }
  mlir::Value rem(mlir::Value a, int64_t b) { return rem(a, i64(b)); }
  mlir::Value min(mlir::Value a, int64_t b) { return min(a, i64(b)); }
  mlir::Value less(mlir::Value a, mlir::Value b); // signed, i1
  mlir::Value equal(mlir::Value a, mlir::Value b);
  mlir::Value toI32(mlir::Value i64Value);
  mlir::Value toI64(mlir::Value i32Value);

  // f32 arithmetic on scalars or vectors alike.
  mlir::Value addf(mlir::Value a, mlir::Value b);
  mlir::Value subf(mlir::Value a, mlir::Value b);
  mlir::Value mulf(mlir::Value a, mlir::Value b);
  mlir::Value fma(mlir::Value a, mlir::Value b, mlir::Value c);
  mlir::Value maxf(mlir::Value a, mlir::Value b); // b where a is NaN
  mlir::Value select(mlir::Value mask, mlir::Value a, mlir::Value b);
  mlir::Value shuffle(mlir::Value a, mlir::Value b,
                      llvm::ArrayRef<int64_t> lanes);
  mlir::Value andMask(mlir::Value a, mlir::Value b);
  // Sum or maximum of all lanes in a fixed tree: halves are folded.
  mlir::Value reduceLanes(mlir::Value vector, bool isMax);

  // Lanes below `count` (i64, may be negative or past the end).
  mlir::Value laneMask(mlir::Value count);

  // Memory. Offsets count elements of `element`.
  mlir::Value at(mlir::Value pointer, mlir::Value offset, mlir::Type element);
  mlir::Value at(mlir::Value pointer, int64_t offset, mlir::Type element);
  mlir::Value atF32(mlir::Value pointer, mlir::Value offset) {
    return at(pointer, offset, builder.getF32Type());
  }
  mlir::Value atF32(mlir::Value pointer, int64_t offset) {
    return at(pointer, offset, builder.getF32Type());
  }
  mlir::Value loadScalar(mlir::Value pointer, mlir::Type element);
  mlir::Value loadF32(mlir::Value pointer) {
    return loadScalar(pointer, builder.getF32Type());
  }
  // A null mask means all lanes; lanes that are masked out read as zero.
  mlir::Value loadVector(mlir::Value pointer, mlir::Type element,
                         mlir::Value mask = {});
  void store(mlir::Value value, mlir::Value pointer, mlir::Value mask = {},
             bool nonTemporal = false);
  void prefetch(mlir::Value pointer, int locality = 3);
  // `count` elements on the stack, aligned to a cache line.
  mlir::Value stackArray(mlir::Type element, int64_t count);

  // for (iv = begin; iv < end; iv += step), carrying values.
  using Body = std::function<Values(mlir::Value iv, mlir::ValueRange carried)>;
  Values forLoop(mlir::Value begin, mlir::Value end, int64_t step,
                 mlir::ValueRange initial, const Body &body);
  void forLoop(mlir::Value begin, mlir::Value end, int64_t step,
               const std::function<void(mlir::Value iv)> &body);
  void ifThen(mlir::Value condition, const std::function<void()> &body);
  void ifThenElse(mlir::Value condition, const std::function<void()> &thenBody,
                  const std::function<void()> &elseBody);

private:
  template <typename Op> mlir::Value binary(mlir::Value a, mlir::Value b);
  unsigned alignmentOf(mlir::Type type);
};

} // namespace lmc::codegen

#endif // LMC_PASSES_CODEGEN_LOOPBUILDER_H
