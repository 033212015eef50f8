// The program that ends a step, and the one that ends an evaluation.
#include "passes/lm/Passes.h"

#include "dialects/lm/ProgramSignature.h"
#include "dialects/lm/TensorMath.h"

#include <optional>

namespace lmc::lm {
#define GEN_PASS_DEF_BUILDUPDATE
#include "passes/lm/Passes.h.inc"
} // namespace lmc::lm

using namespace mlir;
using namespace lmc::lm;

namespace {

// A parameter and what belongs to it.
struct Trained {
  ParameterOp parameter;
  StateOp gradient, m, v;
};

// Builds one function, argument by argument.
class ProgramBuilder {
public:
  ProgramBuilder(ModuleOp module, StringRef name)
      : builder(OpBuilder::atBlockEnd(module.getBody())), loc(module.getLoc()) {
    function = builder.create<func::FuncOp>(loc, name,
                                            builder.getFunctionType({}, {}));
    function->setAttr(kProgramAttr, builder.getStringAttr(name));
    builder.setInsertionPointToStart(function.addEntryBlock());
    builder.create<func::ReturnOp>(loc);
    builder.setInsertionPoint(function.getBody().front().getTerminator());
    arguments.emplace(function);
  }

  Value state(StringRef name, RankedTensorType type) {
    return arguments->getOrAdd(
        type, kStateAttr, FlatSymbolRefAttr::get(builder.getContext(), name),
        loc);
  }
  Value scalar(StringRef name) {
    return arguments->getOrAdd(scalarType(), kScalarAttr,
                               builder.getStringAttr(name), loc);
  }
  RankedTensorType scalarType() {
    return RankedTensorType::get({}, builder.getF32Type());
  }
  void returnState(Value value, StringRef name) {
    results.push_back({value, kStateAttr,
                       FlatSymbolRefAttr::get(builder.getContext(), name)});
  }
  void output(Value value, StringRef name) {
    results.push_back({value, kOutputAttr, builder.getStringAttr(name)});
  }
  void finish() {
    arguments->finish();
    setResults(function, results);
  }

  OpBuilder builder;
  Location loc;

private:
  func::FuncOp function;
  std::optional<ProgramArguments> arguments;
  SmallVector<TiedResult> results;
};

// The sum of squares: first over all dims but the leading one, then over it,
// so that rows are summed in parallel and the order never changes.
Value sumOfSquares(TensorMath &m, Value x) {
  Value squares = m.mul(x, x);
  int64_t numDims = TensorMath::typeOf(x).getRank();
  if (numDims > 1)
    squares = m.reduce("sum", squares, dimRange(1, numDims - 1));
  return numDims > 0 ? m.reduce("sum", squares, {0}) : squares;
}

struct BuildUpdate : lmc::lm::impl::BuildUpdateBase<BuildUpdate> {
  using BuildUpdateBase::BuildUpdateBase;

  void runOnOperation() override {
    ModuleOp module = getOperation();
    SymbolTable symbols(module);
    for (StringRef name : {"loss_sum", "weight_sum"})
      if (!symbols.lookup<StateOp>(name)) {
        module.emitError() << "no state @" << name
                           << "; lm-differentiate makes it of the output "
                              "with that name of @forward";
        return signalPassFailure();
      }
    SmallVector<Trained> trained;
    for (StateOp state : module.getOps<StateOp>())
      if (state.getRole() == "gradient")
        trained.push_back({symbols.lookup<ParameterOp>(*state.getParameter()),
                           state,
                           {},
                           {}});
    for (Trained &t : trained) {
      t.m = addMoment(t.parameter, "m");
      t.v = addMoment(t.parameter, "v");
    }
    buildUpdate(trained);
    buildEvaluateFinish();
  }

  StateOp addMoment(ParameterOp parameter, StringRef role) {
    OpBuilder b(parameter);
    b.setInsertionPointAfter(parameter);
    return b.create<StateOp>(
        parameter.getLoc(),
        b.getStringAttr(parameter.getSymName() + "." + role),
        b.getStringAttr("moment"), parameter.getTypeAttr(),
        FlatSymbolRefAttr::get(parameter.getSymNameAttr()),
        b.getStringAttr(role), /*values=*/nullptr);
  }

  void buildUpdate(ArrayRef<Trained> trained) {
    ProgramBuilder program(getOperation(), "update");
    TensorMath m(program.builder, program.loc);
    RankedTensorType scalarType = program.scalarType();
    Value one = m.constant(scalarType, 1.0);
    Value zero = m.constant(scalarType, 0.0);
    Value lossSum = program.state("loss_sum", scalarType);
    Value weightSum = program.state("weight_sum", scalarType);
    Value loss = m.div(lossSum, weightSum);
    Value scale = m.div(m.constant(scalarType, 1.0 / seed), weightSum);

    SmallVector<Value> gradients;
    Value squares = zero;
    for (Trained t : trained) {
      gradients.push_back(
          program.state(t.gradient.getSymName(), t.gradient.getTensorType()));
      squares = m.add(squares, sumOfSquares(m, gradients.back()));
    }
    Value norm = m.mul(m.sqrt(squares), scale);
    // x - x is 0 for every finite x.
    Value difference = m.sub(norm, norm);
    Value finite = m.select(
        m.compare(arith::CmpFPredicate::OEQ, difference, zero), one, zero);
    Value clipNorm = program.scalar("clip_norm");
    Value ratio = m.div(clipNorm, m.add(norm, 1e-6));
    Value smaller =
        m.select(m.compare(arith::CmpFPredicate::OLT, ratio, one), ratio, one);
    Value factor = m.select(
        m.compare(arith::CmpFPredicate::OGT, clipNorm, zero), smaller, one);
    Value multiplier = m.mul(scale, factor);

    for (auto [t, gradient] : llvm::zip(trained, gradients))
      updateParameter(program, m, t, gradient, multiplier, finite, zero);
    program.output(loss, "loss");
    program.output(norm, "grad_norm");
    program.output(finite, "finite");
    program.output(scale, "gradient_scale");
    program.finish();
  }

  void updateParameter(ProgramBuilder &program, TensorMath &m, Trained t,
                       Value gradient, Value multiplier, Value finite,
                       Value zero) {
    StringRef group = t.parameter.getGroup();
    Value decay = zero;
    if (group == "decay")
      decay = program.scalar("weight_decay");
    else if (group != "no_decay")
      decay = program.scalar(("weight_decay." + group).str());
    RankedTensorType type = t.parameter.getTensorType();
    auto update = program.builder.create<AdamwUpdateOp>(
        t.parameter.getLoc(), TypeRange{type, type, type},
        ValueRange{program.state(t.parameter.getSymName(), type),
                   program.state(t.m.getSymName(), type),
                   program.state(t.v.getSymName(), type), gradient,
                   program.scalar("lr"), program.scalar("beta1"),
                   program.scalar("beta2"), program.scalar("eps"), decay,
                   program.scalar("bias_correction1"),
                   program.scalar("bias_correction2"), multiplier, finite});
    program.returnState(update.getNewParameter(), t.parameter.getSymName());
    program.returnState(update.getNewM(), t.m.getSymName());
    program.returnState(update.getNewV(), t.v.getSymName());
    ++numUpdated;
  }

  void buildEvaluateFinish() {
    ProgramBuilder program(getOperation(), "evaluate_finish");
    TensorMath m(program.builder, program.loc);
    Value lossSum = program.state("loss_sum", program.scalarType());
    Value weightSum = program.state("weight_sum", program.scalarType());
    program.output(m.div(lossSum, weightSum), "loss");
    program.finish();
  }
};

} // namespace
