// The emulator finds what it promises to find.
#include "test/codegen/BlockEmulator.h"

#include "passes/codegen/Lowering.h"

#include "mlir/Dialect/Arith/IR/Arith.h"

#include <gtest/gtest-spi.h>
#include <gtest/gtest.h>

using namespace lmc;
using namespace lmc::test;
using codegen::LoopBuilder;
using codegen::ThreadBlock;

namespace {

class BlockEmulatorTest : public testing::Test {
protected:
  BlockEmulatorTest() {
    codegen::registerCodegenDialects(registry);
    context.appendDialectRegistry(registry);
    context.loadAllAvailableDialects();
  }
  mlir::DialectRegistry registry;
  mlir::MLIRContext context{mlir::MLIRContext::Threading::DISABLED};

  using Body =
      std::function<void(LoopBuilder &, ThreadBlock &, mlir::Value out)>;
  // 64 threads, one pointer to as many floats.
  std::vector<float> run(const Body &body) {
    mlir::OpBuilder builder(&context);
    mlir::Location loc = builder.getUnknownLoc();
    auto module =
        mlir::OwningOpRef<mlir::ModuleOp>(mlir::ModuleOp::create(loc));
    builder.setInsertionPointToEnd(module->getBody());
    auto ptr = mlir::LLVM::LLVMPointerType::get(&context);
    auto function = builder.create<mlir::LLVM::LLVMFuncOp>(
        loc, "k",
        mlir::LLVM::LLVMFunctionType::get(
            mlir::LLVM::LLVMVoidType::get(&context),
            {ptr, builder.getI64Type()}));
    builder.setInsertionPointToStart(function.addEntryBlock(builder));
    auto ret = builder.create<mlir::LLVM::ReturnOp>(loc, mlir::ValueRange());
    builder.setInsertionPoint(ret);
    LoopBuilder b(builder, loc, 1, true);
    ThreadBlock block(b, 64);
    body(b, block, function.getArgument(0));
    codegen::KernelFacts facts;
    facts.symbol = "k";
    facts.threads = 64;
    facts.sharedBytes = block.sharedBytes();
    EmulatedKernel kernel(*module, facts);
    std::vector<float> out(64, -1);
    void *pointer = out.data();
    kernel.run(&pointer, nullptr, 0, 1);
    return out;
  }
};

// Threads 0 to 63 give 0 to 63: shuffles and shared memory in one sum.
TEST_F(BlockEmulatorTest, SumsOverABlock) {
  auto out = run([](LoopBuilder &b, ThreadBlock &block, mlir::Value out) {
    block.reserveReduce(1);
    mlir::Value number = b.builder.create<mlir::arith::SIToFPOp>(
        b.loc, b.builder.getF32Type(), block.thread);
    mlir::Value sum = block.reduce({number}, {false})[0];
    b.store(sum, b.atF32(out, block.thread));
  });
  for (float value : out)
    EXPECT_EQ(63 * 32, value);
}

TEST_F(BlockEmulatorTest, FindsABarrierThatHalfTheThreadsReach) {
  EXPECT_NONFATAL_FAILURE(
      run([](LoopBuilder &b, ThreadBlock &block, mlir::Value) {
        b.ifThen(b.less(block.thread, b.i64(32)), [&] { block.barrier(); });
      }),
      "do not meet");
}

TEST_F(BlockEmulatorTest, FindsBarriersAtTwoPlaces) {
  EXPECT_NONFATAL_FAILURE(
      run([](LoopBuilder &b, ThreadBlock &block, mlir::Value out) {
        b.ifThenElse(
            b.less(block.thread, b.i64(32)),
            [&] {
              block.barrier();
              b.store(b.f32(1), out);
            },
            [&] { block.barrier(); });
      }),
      "do not meet");
}

TEST_F(BlockEmulatorTest, FindsAShuffleOfHalfAWarp) {
  EXPECT_NONFATAL_FAILURE(
      run([](LoopBuilder &b, ThreadBlock &block, mlir::Value out) {
        b.ifThen(b.less(block.thread, b.i64(16)), [&] {
          b.store(block.shuffle(b.f32(1), 1), b.atF32(out, block.thread));
        });
      }),
      "do not meet");
}

TEST_F(BlockEmulatorTest, FindsWritesPastSharedMemory) {
  EXPECT_NONFATAL_FAILURE(
      run([](LoopBuilder &b, ThreadBlock &block, mlir::Value) {
        mlir::Value shared = block.sharedFloats(4);
        b.ifThen(b.equal(block.thread, b.i64(0)),
                 [&] { b.store(b.f32(1), b.atF32(shared, 4)); });
      }),
      "past its shared memory");
}

} // namespace
