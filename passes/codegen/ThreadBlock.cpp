// A block of threads that share a unit's work; see ThreadBlock.h.
#include "passes/codegen/ThreadBlock.h"

using namespace mlir;
using namespace lmc::codegen;

ThreadBlock::ThreadBlock(LoopBuilder &b, int64_t threads)
    : threads(threads), b(b) {
  // Loops and branches are built before they are part of the module, so it is
  // found here and not where a call is made.
  OpBuilder &builder = b.builder;
  module =
      builder.getInsertionBlock()->getParentOp()->getParentOfType<ModuleOp>();
  Type i32 = builder.getI32Type();
  thread = b.toI64(call(kThreadFunction, i32));
  unit = b.toI64(call(kUnitFunction, i32));
  base = call(kSharedFunction, b.ptrType());
}

Value ThreadBlock::call(const char *name, Type result, ValueRange operands) {
  OpBuilder &builder = b.builder;
  Type type = result ? result : LLVM::LLVMVoidType::get(builder.getContext());
  auto function = module.lookupSymbol<LLVM::LLVMFuncOp>(name);
  if (!function) {
    OpBuilder::InsertionGuard guard(builder);
    builder.setInsertionPointToStart(module.getBody());
    function = builder.create<LLVM::LLVMFuncOp>(
        b.loc, name,
        LLVM::LLVMFunctionType::get(
            type, llvm::to_vector(TypeRange(operands.getTypes()))));
  }
  auto made = builder.create<LLVM::CallOp>(b.loc, function, operands);
  return result ? made.getResult() : Value();
}

void ThreadBlock::barrier() { call(kBarrierFunction, {}); }

Value ThreadBlock::shuffle(Value value, int64_t mask) {
  return call(kShuffleFunction, b.builder.getF32Type(),
              ValueRange{value, b.i32(mask)});
}

Value ThreadBlock::sharedFloats(int64_t count) {
  Value address = b.atF32(base, bytes / 4);
  bytes += (count * 4 + 15) / 16 * 16;
  return address;
}

void ThreadBlock::reserveReduce(int64_t count) {
  if (threads > kWarp)
    scratch = sharedFloats(warps() * count);
}

Value ThreadBlock::reduceWarp(Value value, bool isMax) {
  for (int64_t mask = kWarp / 2; mask >= 1; mask /= 2) {
    Value other = shuffle(value, mask);
    value = isMax ? b.maxf(value, other) : b.addf(value, other);
  }
  return value;
}

Values ThreadBlock::reduce(Values values, ArrayRef<bool> isMax) {
  for (auto [value, max] : llvm::zip(values, isMax))
    value = reduceWarp(value, max);
  if (threads == kWarp || values.empty())
    return values;
  int64_t count = values.size();
  // Whoever still reads what was reduced before comes first.
  barrier();
  Value row = b.mul(warp(), count);
  b.ifThen(b.equal(lane(), b.i64(0)), [&] {
    for (auto [index, value] : llvm::enumerate(values))
      b.store(value, b.atF32(scratch, b.add(row, index)));
  });
  barrier();
  for (auto [index, value] : llvm::enumerate(values)) {
    value = b.loadF32(b.atF32(scratch, index));
    for (int64_t w = 1; w < warps(); ++w) {
      Value other = b.loadF32(b.atF32(scratch, w * count + index));
      value = isMax[index] ? b.maxf(value, other) : b.addf(value, other);
    }
  }
  return values;
}
