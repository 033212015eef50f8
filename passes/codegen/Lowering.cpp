// Builds a kernel's functions and lowers them to LLVM IR.
//
// A kernel becomes two functions. The entry has the C signature that the plan
// promises: it loads the pointers and calls the body, whose pointer parameters
// carry `noalias`, so that loads and stores of different tensors may pass each
// other. A result tied to an argument shares that argument's parameter.
#include "passes/codegen/Lowering.h"
#include "passes/codegen/cuda/Kernels.h"

#include "mlir/Conversion/ArithToLLVM/ArithToLLVM.h"
#include "mlir/Conversion/ControlFlowToLLVM/ControlFlowToLLVM.h"
#include "mlir/Conversion/MathToLLVM/MathToLLVM.h"
#include "mlir/Conversion/ReconcileUnrealizedCasts/ReconcileUnrealizedCasts.h"
#include "mlir/Conversion/SCFToControlFlow/SCFToControlFlow.h"
#include "mlir/Conversion/VectorToLLVM/ConvertVectorToLLVMPass.h"
#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/ControlFlow/IR/ControlFlow.h"
#include "mlir/Dialect/Math/IR/Math.h"
#include "mlir/Dialect/Math/Transforms/Passes.h"
#include "mlir/Dialect/SCF/IR/SCF.h"
#include "mlir/Dialect/Vector/IR/VectorOps.h"
#include "mlir/Pass/PassManager.h"
#include "mlir/Target/LLVMIR/Dialect/Builtin/BuiltinToLLVMIRTranslation.h"
#include "mlir/Target/LLVMIR/Dialect/LLVMIR/LLVMToLLVMIRTranslation.h"
#include "mlir/Target/LLVMIR/Export.h"
#include "mlir/Transforms/GreedyPatternRewriteDriver.h"
#include "llvm/ADT/StringExtras.h"
#include "llvm/IR/Module.h"

using namespace mlir;
using namespace lmc;
using namespace lmc::codegen;

namespace {
struct KernelKind {
  StringRef name;
  decltype(&planRow) plan;
  decltype(&emitRow) emit;
  // On a GPU, where the nests differ too much to be shared.
  decltype(&cuda::planContraction) planBlock = nullptr;
  decltype(&emitRow) emitBlock = nullptr;
};
} // namespace

static const KernelKind kinds[] = {
    {"flat", planRow, emitRow},
    {"row", planRow, emitRow},
    {"column_reduce", planColumnReduce, emitColumnReduce},
    {"contraction", planContraction, emitContraction, cuda::planContraction,
     cuda::emitContraction},
    {"scatter", planScatter, emitScatter},
    {"attention", planAttention, emitAttention, cuda::planAttention,
     cuda::emitAttention},
    {"attention_grad", planAttentionGrad, emitAttentionGrad,
     cuda::planAttentionGrad, cuda::emitAttentionGrad},
    {"rope", planRope, emitRope},
    {"cache_write", planCacheWrite, emitCacheWrite},
    {"paged_attention", planPagedAttention, emitPagedAttention,
     cuda::planPagedAttention, cuda::emitPagedAttention},
};

SmallVector<StringRef> codegen::kernelKinds() {
  return llvm::map_to_vector(kinds,
                             [](const KernelKind &kind) { return kind.name; });
}

static const KernelKind *lookUpKind(plan::KernelOp kernel) {
  const auto *kind = llvm::find_if(kinds, [&](const KernelKind &kind) {
    return kind.name == kernel.getKind();
  });
  return kind == std::end(kinds) ? nullptr : kind;
}

LogicalResult codegen::planKernel(plan::KernelOp kernel, const Machine &machine,
                                  KernelFacts &facts) {
  const KernelKind *kind = lookUpKind(kernel);
  if (!kind)
    return kernel.emitOpError() << "has kind '" << kernel.getKind()
                                << "', but there are emitters for "
                                << llvm::join(kernelKinds(), ", ");
  if (machine.gpu && kind->planBlock)
    return kind->planBlock(kernel, facts);
  return kind->plan(kernel, machine, facts);
}

LogicalResult codegen::emitKernel(EmitContext &context) {
  const KernelKind *kind = lookUpKind(context.kernel); // planned before
  return context.block && kind->emitBlock ? kind->emitBlock(context)
                                          : kind->emit(context);
}

Share EmitContext::overThreads() {
  if (!block)
    return {b.i64(0), b.lanes};
  return {b.mul(block->thread, b.lanes), block->threads * b.lanes};
}
Share EmitContext::overLanes() {
  if (!block)
    return {b.i64(0), b.lanes};
  return {b.mul(block->lane(), b.lanes), ThreadBlock::kWarp * b.lanes};
}
Share EmitContext::overWarps() {
  if (!block)
    return {b.i64(0), 1};
  return {block->warp(), block->warps()};
}
void EmitContext::overUnits(const std::function<void(Value)> &body) {
  if (block)
    body(begin);
  else
    b.forLoop(begin, end, 1, body);
}

int64_t codegen::lanesDividing(std::initializer_list<int64_t> counts) {
  int64_t lanes = 4;
  for (int64_t count : counts)
    while (count % lanes)
      lanes /= 2;
  return lanes;
}

static OwningOpRef<ModuleOp> buildBlockModule(plan::KernelOp kernel,
                                              const Machine &machine) {
  MLIRContext *context = kernel.getContext();
  Location loc = UnknownLoc::get(context);
  OpBuilder builder(context);
  OwningOpRef<ModuleOp> module = ModuleOp::create(loc);
  auto facts = getKernelFacts(kernel, machine);
  if (failed(facts))
    return {};
  unsigned pointers = facts->pointers;
  SmallVector<Type> types(pointers, LLVM::LLVMPointerType::get(context));
  types.append(facts->integers() + 1, builder.getI64Type());
  builder.setInsertionPointToEnd(module->getBody());
  auto entry = builder.create<LLVM::LLVMFuncOp>(
      loc, kernel.getSymName(),
      LLVM::LLVMFunctionType::get(LLVM::LLVMVoidType::get(context), types));
  llvm::SmallDenseSet<unsigned> written;
  for (unsigned i = 0; i < kernel.getTied().size(); ++i)
    written.insert(resultPointerOf(kernel, i));
  for (unsigned i = 0; i < pointers; ++i) {
    entry.setArgAttr(i, LLVM::LLVMDialect::getNoAliasAttrName(),
                     builder.getUnitAttr());
    if (!written.contains(i))
      entry.setArgAttr(i, LLVM::LLVMDialect::getReadonlyAttrName(),
                       builder.getUnitAttr());
  }
  Block *body = entry.addEntryBlock(builder);
  builder.setInsertionPointToStart(body);
  auto ret = builder.create<LLVM::ReturnOp>(loc, ValueRange());
  builder.setInsertionPoint(ret);
  LoopBuilder loops(builder, loc, facts->lanes, /*aligned=*/true);
  ThreadBlock block(loops, facts->threads);
  auto arguments = body->getArguments();
  unsigned next = pointers;
  Value microBatch = facts->takesMicroBatch ? arguments[next++] : Value();
  Value rows = facts->takesRows ? arguments[next++] : Value();
  EmitContext emit{kernel,
                   loops,
                   machine,
                   arguments.take_front(pointers),
                   microBatch,
                   rows,
                   arguments.slice(next, 2 * facts->randoms),
                   block.unit,
                   loops.add(block.unit, 1),
                   &block};
  if (failed(emitKernel(emit)))
    return {};
  if (block.sharedBytes() != facts->sharedBytes) {
    kernel.emitOpError() << "shares " << block.sharedBytes()
                         << " bytes in a block, but its plan says "
                         << facts->sharedBytes;
    return {};
  }
  return module;
}

OwningOpRef<ModuleOp> codegen::buildKernelModule(plan::KernelOp kernel,
                                                 const Machine &machine) {
  if (machine.gpu)
    return buildBlockModule(kernel, machine);
  // The loops carry no source locations: the same kernel of two layers, or of
  // two files, is the same text.
  MLIRContext *context = kernel.getContext();
  Location loc = UnknownLoc::get(context);
  OpBuilder builder(context);
  OwningOpRef<ModuleOp> module = ModuleOp::create(loc);
  Type ptr = LLVM::LLVMPointerType::get(context);
  Type i64 = builder.getI64Type();
  Type nothing = LLVM::LLVMVoidType::get(context);

  unsigned pointers = countPointers(kernel);
  bool microBatch = takesMicroBatch(kernel), rows = takesRows(kernel);
  unsigned numRandoms = randomsWithoutId(kernel).size();
  unsigned integers = unsigned(microBatch) + unsigned(rows) + 2 * numRandoms;

  // The body.
  SmallVector<Type> types(pointers, ptr);
  types.append(integers + 2, i64);
  builder.setInsertionPointToEnd(module->getBody());
  auto body = builder.create<LLVM::LLVMFuncOp>(
      loc, (kernel.getSymName() + ".body").str(),
      LLVM::LLVMFunctionType::get(nothing, types), LLVM::Linkage::Internal);
  for (unsigned i = 0; i < pointers; ++i) {
    body.setArgAttr(i, LLVM::LLVMDialect::getNoAliasAttrName(),
                    builder.getUnitAttr());
    body.setArgAttr(i, LLVM::LLVMDialect::getNoCaptureAttrName(),
                    builder.getUnitAttr());
  }
  Block *block = body.addEntryBlock(builder);
  builder.setInsertionPointToStart(block);
  // What precedes the return; the stack arrays go to the front of the block.
  auto ret = builder.create<LLVM::ReturnOp>(loc, ValueRange());
  builder.setInsertionPoint(ret);
  LoopBuilder loops(builder, loc, 16);
  auto arguments = block->getArguments();
  unsigned next = pointers;
  Value microBatchValue = microBatch ? arguments[next++] : Value();
  Value rowsValue = rows ? arguments[next++] : Value();
  ValueRange randoms = arguments.slice(next, 2 * numRandoms);
  next += 2 * numRandoms;
  EmitContext emit{kernel,
                   loops,
                   machine,
                   arguments.take_front(pointers),
                   microBatchValue,
                   rowsValue,
                   randoms,
                   arguments[next],
                   arguments[next + 1]};
  if (failed(emitKernel(emit)))
    return {};

  // The entry.
  builder.setInsertionPointToEnd(module->getBody());
  auto entry = builder.create<LLVM::LLVMFuncOp>(
      loc, kernel.getSymName(),
      LLVM::LLVMFunctionType::get(nothing, {ptr, ptr, i64, i64}));
  Block *entryBlock = entry.addEntryBlock(builder);
  builder.setInsertionPointToStart(entryBlock);
  SmallVector<Value> operands;
  for (unsigned i = 0; i < pointers; ++i)
    operands.push_back(loops.loadScalar(
        loops.at(entryBlock->getArgument(0), int64_t(i), ptr), ptr));
  for (unsigned i = 0; i < integers; ++i)
    operands.push_back(loops.loadScalar(
        loops.at(entryBlock->getArgument(1), int64_t(i), i64), i64));
  operands.push_back(entryBlock->getArgument(2));
  operands.push_back(entryBlock->getArgument(3));
  builder.create<LLVM::CallOp>(loc, body, operands);
  builder.create<LLVM::ReturnOp>(loc, ValueRange());
  return module;
}

namespace {
// Replaces exp, tanh, erf, log, ... by polynomials: the object must not need
// a mathematics library.
struct ApproximateMath : PassWrapper<ApproximateMath, OperationPass<ModuleOp>> {
  MLIR_DEFINE_EXPLICIT_INTERNAL_INLINE_TYPE_ID(ApproximateMath)
  StringRef getArgument() const override { return "codegen-approximate-math"; }
  void getDependentDialects(DialectRegistry &registry) const override {
    registry.insert<arith::ArithDialect, math::MathDialect,
                    vector::VectorDialect>();
  }
  void runOnOperation() override {
    RewritePatternSet patterns(&getContext());
    populateMathPolynomialApproximationPatterns(patterns);
    if (failed(
            applyPatternsAndFoldGreedily(getOperation(), std::move(patterns))))
      return signalPassFailure();
  }
};
} // namespace

// What would become a call of a mathematics library.
static LogicalResult refuseCalls(ModuleOp module) {
  Operation *found = nullptr;
  module.walk([&](Operation *op) {
    if (isa<math::AcoshOp, math::AsinhOp, math::AtanhOp, math::CoshOp,
            math::Exp2Op, math::FPowIOp, math::IPowIOp, math::Log10Op,
            math::PowFOp, math::SinhOp, math::TanOp>(op))
      found = op;
  });
  if (!found)
    return success();
  return found->emitError()
         << found->getName()
         << " has no expansion; kernels have exp, expm1, log, log1p, log2, "
            "tanh, erf, sin, cos, asin, acos, atan, atan2, cbrt, sqrt and "
            "rsqrt";
}

LogicalResult codegen::lowerToLLVM(ModuleOp module) {
  if (failed(refuseCalls(module)))
    return failure();
  PassManager passes(module.getContext());
  passes.enableVerifier(false);
  bool hasMath = false;
  module.walk([&](Operation *op) {
    hasMath |= isa<math::MathDialect>(op->getDialect()) &&
               !isa<math::FmaOp, math::SqrtOp, math::AbsFOp>(op);
  });
  if (hasMath)
    passes.addPass(std::make_unique<ApproximateMath>());
  passes.addPass(createConvertSCFToCFPass());
  ConvertVectorToLLVMPassOptions vectors;
  vectors.force32BitVectorIndices = false;
  passes.addPass(createConvertVectorToLLVMPass(vectors));
  passes.addPass(createConvertMathToLLVMPass());
  passes.addPass(createArithToLLVMConversionPass());
  passes.addPass(createConvertControlFlowToLLVMPass());
  passes.addPass(createReconcileUnrealizedCastsPass());
  return passes.run(module);
}

void codegen::registerCodegenDialects(DialectRegistry &registry) {
  registry.insert<lm::LmDialect, plan::PlanDialect, arith::ArithDialect,
                  math::MathDialect, scf::SCFDialect, vector::VectorDialect,
                  cf::ControlFlowDialect, LLVM::LLVMDialect>();
  registerBuiltinDialectTranslation(registry);
  registerLLVMDialectTranslation(registry);
}

std::unique_ptr<llvm::Module>
codegen::translateToLLVMIR(ModuleOp module, llvm::LLVMContext &context) {
  return translateModuleToLLVMIR(module, context);
}
