// The program that ends a step, and the one that ends an evaluation; in a
// pipeline, one of each for every stage.
//
// Stages meet in sums over pp: of the losses, of the weights, of the gradients'
// squares. A parameter that several stages use is held by each of them; the
// first of them, its owner, adds up the gradients and sends the sum to the
// others, so that all update it alike.
#include "passes/lm/Passes.h"

#include "dialects/dist/Dist.h"
#include "dialects/lm/ProgramSignature.h"
#include "dialects/lm/TensorMath.h"
#include "dialects/plan/Plan.h"

#include "llvm/ADT/SetVector.h"

#include <optional>
#include <utility>

namespace lmc::lm {
#define GEN_PASS_DEF_BUILDUPDATE
#include "passes/lm/Passes.h.inc"
} // namespace lmc::lm

using namespace mlir;
using namespace lmc;
using namespace lmc::lm;

namespace {

// A parameter, what belongs to it, and the stages that use it.
struct Trained {
  ParameterOp parameter;
  StateOp gradient, m, v;
  llvm::SmallSetVector<int64_t, 2> stages;
  int64_t firstChannel = 0; // of what its stages exchange

  int64_t owner() const { return stages.front(); }
};

// Builds one function, argument by argument.
class ProgramBuilder {
public:
  // `stage` is -1 where there is no pipeline.
  ProgramBuilder(ModuleOp module, StringRef name, int64_t stage)
      : builder(OpBuilder::atBlockEnd(module.getBody())), loc(module.getLoc()) {
    std::string symbol =
        stage < 0 ? name.str() : (name + "." + Twine(stage)).str();
    function = builder.create<func::FuncOp>(loc, symbol,
                                            builder.getFunctionType({}, {}));
    function->setAttr(kProgramAttr, builder.getStringAttr(name));
    if (stage >= 0)
      function->setAttr(plan::kStageAttr, builder.getI64IntegerAttr(stage));
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

// The sum of scalars that come one by one. Sixteen at a time are added by one
// kernel, the same for all; the first one and those that are left over are
// added as they come, so that no depth has a kernel of its own.
class ScalarSum {
public:
  ScalarSum(TensorMath &m, Value zero, size_t count)
      : m(m), sum(zero), inKernels(count > 0 ? (count - 1) / 16 * 16 : 0) {}

  void add(Value value) {
    if (index > 0 && index <= inKernels) {
      waiting.push_back(value);
      if (waiting.size() == 16)
        for (Value each : std::exchange(waiting, {}))
          sum = m.add(sum, each);
    } else {
      sum = m.add(sum, value);
    }
    ++index;
  }
  Value get() const { return sum; }

private:
  TensorMath &m;
  Value sum;
  size_t inKernels, index = 0;
  SmallVector<Value> waiting;
};

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
    auto pipeline = module->getAttrOfType<IntegerAttr>(dist::kStagesAttr);
    stages = pipeline ? pipeline.getInt() : 1;
    SmallVector<Trained> trained;
    for (StateOp state : module.getOps<StateOp>())
      if (state.getRole() == "gradient")
        trained.push_back({symbols.lookup<ParameterOp>(*state.getParameter()),
                           state,
                           {},
                           {},
                           {},
                           0});
    for (Trained &t : trained) {
      t.m = addMoment(t.parameter, "m");
      t.v = addMoment(t.parameter, "v");
    }
    findStages(trained);
    for (int64_t stage = 0; stage < stages; ++stage) {
      buildUpdate(trained, pipeline ? stage : -1);
      buildEvaluateFinish(pipeline ? stage : -1);
    }
  }

  // Which stages use which accumulators, by the arguments of the programs that
  // fill them; channels behind those of the programs.
  void findStages(MutableArrayRef<Trained> trained) {
    llvm::DenseMap<Attribute, llvm::SmallSetVector<int64_t, 2>> users;
    int64_t channel = 0;
    for (auto function : getOperation().getOps<func::FuncOp>()) {
      auto stage = function->getAttrOfType<IntegerAttr>(plan::kStageAttr);
      for (unsigned i = 0, e = function.getNumArguments(); i < e; ++i)
        if (Attribute state = function.getArgAttr(i, kStateAttr))
          users[state].insert(stage ? stage.getInt() : 0);
      function.walk([&](dist::SendOp send) {
        channel = std::max<int64_t>(channel, send.getChannel() + 1);
      });
    }
    auto usersOf = [&](StateOp state) {
      return users.lookup(FlatSymbolRefAttr::get(state.getSymNameAttr()));
    };
    for (Trained &t : trained) {
      t.stages = usersOf(t.gradient);
      if (t.stages.empty())
        t.stages.insert(0);
      t.firstChannel = channel;
      channel += 2 * (t.stages.size() - 1);
    }
    SymbolTable symbols(getOperation());
    lossStages = usersOf(symbols.lookup<StateOp>("loss_sum"));
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

  // The sum over all stages.
  Value sumOverStages(ProgramBuilder &program, Value value) {
    if (stages == 1)
      return value;
    OpBuilder &b = program.builder;
    return b.create<dist::AllReduceOp>(program.loc, value.getType(),
                                       b.getStringAttr("sum"), value,
                                       b.getStrArrayAttr({"pp"}),
                                       /*tied=*/UnitAttr());
  }

  // A sum of the step's losses or weights, which some stages hold.
  Value totalOf(ProgramBuilder &program, TensorMath &m, StringRef name,
                int64_t stage) {
    bool isHere = stage < 0 || lossStages.contains(stage);
    return sumOverStages(program,
                         isHere ? program.state(name, program.scalarType())
                                : m.constant(program.scalarType(), 0.0));
  }

  // The gradient of `t` on `stage`, with what other stages contribute.
  Value wholeGradient(ProgramBuilder &program, TensorMath &m, Trained &t,
                      int64_t stage) {
    RankedTensorType type = t.gradient.getTensorType();
    Value gradient = program.state(t.gradient.getSymName(), type);
    if (t.stages.size() == 1)
      return gradient;
    OpBuilder &b = program.builder;
    Location loc = t.parameter.getLoc();
    auto channel = [&](int64_t other, bool back) {
      return t.firstChannel +
             2 * (llvm::find(t.stages, other) - t.stages.begin() - 1) + back;
    };
    if (stage != t.owner()) {
      int64_t offset = t.owner() - stage;
      b.create<dist::SendOp>(loc, gradient, offset, channel(stage, false));
      gradient =
          b.create<dist::ReceiveOp>(loc, type, offset, channel(stage, true));
    } else {
      for (int64_t other : ArrayRef(t.stages.getArrayRef()).drop_front())
        gradient =
            m.add(gradient, b.create<dist::ReceiveOp>(loc, type, other - stage,
                                                      channel(other, false)));
      for (int64_t other : ArrayRef(t.stages.getArrayRef()).drop_front())
        b.create<dist::SendOp>(loc, gradient, other - stage,
                               channel(other, true));
    }
    program.returnState(gradient, t.gradient.getSymName());
    return gradient;
  }

  void buildUpdate(MutableArrayRef<Trained> trained, int64_t stage) {
    ProgramBuilder program(getOperation(), "update", stage);
    TensorMath m(program.builder, program.loc);
    RankedTensorType scalarType = program.scalarType();
    Value one = m.constant(scalarType, 1.0);
    Value zero = m.constant(scalarType, 0.0);
    Value lossSum = totalOf(program, m, "loss_sum", stage);
    Value weightSum = totalOf(program, m, "weight_sum", stage);
    Value loss = m.div(lossSum, weightSum);
    Value scale = m.div(m.constant(scalarType, 1.0 / seed), weightSum);

    SmallVector<std::pair<Trained *, Value>> gradients;
    // Each parameter counts once.
    auto isCounted = [&](const Trained &t) {
      return stage < 0 || stage == t.owner();
    };
    ScalarSum sum(m, zero, llvm::count_if(trained, isCounted));
    for (Trained &t : trained) {
      if (stage >= 0 && !t.stages.contains(stage))
        continue;
      Value gradient = wholeGradient(program, m, t, stage);
      gradients.push_back({&t, gradient});
      if (isCounted(t))
        sum.add(sumOfSquares(m, gradient));
    }
    Value squares = sumOverStages(program, sum.get());
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

    for (auto [t, gradient] : gradients)
      updateParameter(program, m, *t, gradient, multiplier, finite, zero);
    program.output(loss, "loss");
    program.output(norm, "grad_norm");
    program.output(finite, "finite");
    program.output(scale, "gradient_scale");
    program.finish();
  }

  void updateParameter(ProgramBuilder &program, TensorMath &m, Trained &t,
                       Value gradient, Value multiplier, Value finite,
                       Value zero) {
    StringRef group = t.parameter.getGroup();
    Value decay = zero;
    if (group == "decay")
      decay = program.scalar("weight_decay");
    else if (group != "no_decay")
      decay = program.scalar(("weight_decay." + group).str());
    Value rate = program.scalar("lr");
    auto factors = getOperation()->getAttrOfType<DictionaryAttr>(
        "lm.learning_rate_factors");
    if (auto factor = factors ? factors.getAs<FloatAttr>(group) : FloatAttr())
      rate = m.mul(rate, factor.getValueAsDouble());
    RankedTensorType type = t.parameter.getTensorType();
    auto update = program.builder.create<AdamwUpdateOp>(
        t.parameter.getLoc(), TypeRange{type, type, type},
        ValueRange{program.state(t.parameter.getSymName(), type),
                   program.state(t.m.getSymName(), type),
                   program.state(t.v.getSymName(), type), gradient, rate,
                   program.scalar("beta1"), program.scalar("beta2"),
                   program.scalar("eps"), decay,
                   program.scalar("bias_correction1"),
                   program.scalar("bias_correction2"), multiplier, finite});
    program.returnState(update.getNewParameter(), t.parameter.getSymName());
    program.returnState(update.getNewM(), t.m.getSymName());
    program.returnState(update.getNewV(), t.v.getSymName());
    ++numUpdated;
  }

  void buildEvaluateFinish(int64_t stage) {
    ProgramBuilder program(getOperation(), "evaluate_finish", stage);
    TensorMath m(program.builder, program.loc);
    Value lossSum = totalOf(program, m, "loss_sum", stage);
    Value weightSum = totalOf(program, m, "weight_sum", stage);
    program.output(m.div(lossSum, weightSum), "loss");
    program.finish();
  }

  int64_t stages = 1;
  llvm::SmallSetVector<int64_t, 2> lossStages;
};

} // namespace
