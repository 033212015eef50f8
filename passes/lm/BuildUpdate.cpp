// The program that ends a step, and the one that ends an evaluation; in a
// pipeline, one of each for every stage. Both are one rank's: what they sum
// over ranks is explicit.
//
// A bucket's gradients are summed over the axes on which they are partial.
// Where an axis cuts the moments into pieces, the sum is a reduce-scatter, the
// rank updates its piece of the parameters, and what others need whole is
// gathered again. The squares of gradients count each element once: pieces and
// tensors that an axis splits are summed over it, what is the same on its ranks
// is not.
//
// Stages meet in sums over pp: of the losses, of the weights, of the gradients'
// squares. A bucket that several stages use is held by each of them; the first
// of them, its owner, adds up the gradients and sends the sum to the others, so
// that all update it alike.
#include "passes/lm/Passes.h"

#include "dialects/dist/Dist.h"
#include "dialects/lm/ProgramSignature.h"
#include "dialects/lm/TensorMath.h"
#include "dialects/plan/Plan.h"

#include "llvm/ADT/SetVector.h"

#include <map>
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

using Axes = SmallVector<StringRef>;

// A bucket of trained parameters, what belongs to it, and the stages that use
// it.
struct Trained {
  StateOp parameters, gradients, m, v;
  // What is updated: a piece of the above, or they themselves.
  StateOp ownParameters, ownGradients;
  SmallVector<ParameterOp> members;
  Axes split; // axes that split the parameters
  Axes cuts;  // axes that cut moments into pieces, from large to small
  llvm::SmallSetVector<int64_t, 2> stages;
  int64_t firstChannel = 0; // of what its stages exchange

  int64_t owner() const { return stages.front(); }
  Location getLoc() { return members.front().getLoc(); }
};

Axes axesOf(StateOp bucket) {
  auto sharding =
      bucket->getAttrOfType<dist::ShardingAttr>(dist::kShardingAttr);
  return sharding ? Axes(sharding.getAxes(0)) : Axes();
}

Axes partialAxesOf(StateOp state) {
  auto sharding = state->getAttrOfType<dist::ShardingAttr>(dist::kShardingAttr);
  return sharding ? Axes(sharding.getPartialAxes()) : Axes();
}

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

// The sum of the squares of a bucket: first over rows, which are summed in
// parallel, then over the rows; the order never changes. Rows are as long as
// divides the bucket, up to 16384: a row of 64 is a block of a GPU's threads
// for nothing.
Value sumOfSquares(TensorMath &m, OpBuilder &b, Value x) {
  constexpr int64_t unit = 64, mostUnits = 256;
  RankedTensorType type = TensorMath::typeOf(x);
  int64_t size = type.getDimSize(0), row = unit;
  for (int64_t units = mostUnits; units > 1 && row == unit; --units)
    if (size % (units * unit) == 0)
      row = units * unit;
  auto rows = RankedTensorType::get({size / row, row}, type.getElementType());
  x = b.create<ReshapeOp>(x.getLoc(), rows, x);
  return m.reduce("sum", m.reduce("sum", m.mul(x, x), {1}), {0});
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
    for (StateOp state : module.getOps<StateOp>())
      if (state.getKind() == "accumulator" && state.getParameter() &&
          !state->hasAttr(dist::kBucketAttr)) {
        state.emitOpError("lies in no bucket; run dist-pack-buckets first");
        return signalPassFailure();
      }
    mesh = module->getAttrOfType<dist::MeshAttr>(dist::kMeshAttr);
    std::vector<Trained> trained = findBuckets(symbols);
    findStages(trained);
    for (int64_t stage = 0; stage < stages; ++stage) {
      buildUpdate(trained, pipeline ? stage : -1);
      buildEvaluateFinish(pipeline ? stage : -1);
    }
  }

  std::vector<Trained> findBuckets(SymbolTable &symbols) {
    std::vector<Trained> trained;
    llvm::DenseMap<Attribute, StateOp> pieceOf;
    llvm::DenseMap<Attribute, SmallVector<ParameterOp>> membersOf;
    for (Operation &op : *getOperation().getBody()) {
      auto bucket = op.getAttrOfType<FlatSymbolRefAttr>(dist::kBucketAttr);
      if (auto state = dyn_cast<StateOp>(op);
          state && state.getKind() == "piece")
        pieceOf[bucket] = state;
      if (auto parameter = dyn_cast<ParameterOp>(op); parameter && bucket)
        membersOf[bucket].push_back(parameter);
    }
    auto own = [&](StateOp bucket) {
      StateOp piece =
          pieceOf.lookup(FlatSymbolRefAttr::get(bucket.getSymNameAttr()));
      return piece ? piece : bucket;
    };
    for (StateOp state : getOperation().getOps<StateOp>()) {
      if (state.getKind() != "bucket" || state.getRole() != "gradient")
        continue;
      Trained t;
      t.gradients = state;
      t.parameters = symbols.lookup<StateOp>(*state.getParameter());
      t.ownGradients = own(t.gradients);
      t.ownParameters = own(t.parameters);
      t.members = membersOf.lookup(state.getParameterAttr());
      if (auto sharding = t.members.front()->getAttrOfType<dist::ShardingAttr>(
              dist::kShardingAttr))
        for (unsigned d = 0; d < sharding.getDims().size(); ++d)
          t.split.append(sharding.getAxes(d));
      trained.push_back(t);
    }
    for (Trained &t : trained) {
      t.cuts = axesOf(t.ownGradients);
      t.m = addMoments(t, symbols, "m");
      t.v = addMoments(t, symbols, "v");
    }
    commonCuts = trained.empty() ? Axes() : trained.front().cuts;
    for (Trained &t : trained)
      llvm::erase_if(commonCuts, [&](StringRef axis) {
        return !llvm::is_contained(t.cuts, axis);
      });
    return trained;
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
      t.stages = usersOf(t.gradients);
      if (t.stages.empty())
        t.stages.insert(0);
      t.firstChannel = channel;
      channel += 2 * (t.stages.size() - 1);
    }
    SymbolTable symbols(getOperation());
    lossStages = usersOf(symbols.lookup<StateOp>("loss_sum"));
  }

  // The bucket of moments, and the moment of each parameter in it.
  StateOp addMoments(Trained &t, SymbolTable &symbols, StringRef role) {
    auto add = [&](Operation *behind, StringAttr parameter, StringRef kind,
                   Type type, Attribute sharding) {
      OpBuilder b(&getContext());
      b.setInsertionPointAfter(behind);
      auto state = b.create<StateOp>(
          behind->getLoc(), b.getStringAttr(parameter.getValue() + "." + role),
          b.getStringAttr(kind), TypeAttr::get(type),
          FlatSymbolRefAttr::get(parameter), b.getStringAttr(role),
          /*values=*/nullptr);
      if (sharding)
        state->setAttr(dist::kShardingAttr, sharding);
      symbols.insert(state);
      return state;
    };
    Attribute sharding;
    if (Builder b(&getContext()); mesh)
      sharding = dist::ShardingAttr::get(
          &getContext(), b.getArrayAttr({b.getStrArrayAttr(t.cuts)}),
          b.getArrayAttr({}));
    StateOp bucket = add(t.ownGradients, t.parameters.getSymNameAttr(),
                         "bucket", t.parameters.getType(), sharding);
    for (ParameterOp parameter : t.members) {
      StateOp moment =
          add(parameter, parameter.getSymNameAttr(), "moment",
              parameter.getType(), parameter->getAttr(dist::kShardingAttr));
      moment->setAttr(dist::kBucketAttr,
                      FlatSymbolRefAttr::get(bucket.getSymNameAttr()));
      moment->setAttr(dist::kBucketOffsetAttr,
                      parameter->getAttr(dist::kBucketOffsetAttr));
    }
    return bucket;
  }

  // The type that remains of a bucket on this rank.
  RankedTensorType localTypeOf(StateOp bucket) {
    return mesh ? dist::localType(bucket.getTensorType(),
                                  bucket->getAttrOfType<dist::ShardingAttr>(
                                      dist::kShardingAttr),
                                  mesh)
                : bucket.getTensorType();
  }

  // The sum over those of `axes` that have several ranks, in the mesh's order.
  Value sumOver(ProgramBuilder &program, Value value, ArrayRef<StringRef> axes,
                bool tied = false) {
    SmallVector<StringRef> ordered;
    if (mesh)
      for (Attribute axis : mesh.getAxes())
        if (StringRef name = cast<StringAttr>(axis);
            mesh.getSize(name) > 1 && llvm::is_contained(axes, name))
          ordered.push_back(name);
    if (ordered.empty())
      return value;
    OpBuilder &b = program.builder;
    return b.create<dist::AllReduceOp>(
        value.getLoc(), value.getType(), b.getStringAttr("sum"), value,
        b.getStrArrayAttr(ordered), tied ? b.getUnitAttr() : UnitAttr());
  }

  // A sum of the step's losses or weights, which some stages hold.
  Value totalOf(ProgramBuilder &program, TensorMath &m, StringRef name,
                int64_t stage) {
    auto state = getOperation().lookupSymbol<StateOp>(name);
    bool isHere = stage < 0 || lossStages.contains(stage);
    Axes axes = partialAxesOf(state);
    axes.push_back("pp");
    return sumOver(program,
                   isHere ? program.state(name, program.scalarType())
                          : m.constant(program.scalarType(), 0.0),
                   axes);
  }

  // This rank's sums of the gradients of `t` on `stage`.
  Value wholeGradients(ProgramBuilder &program, TensorMath &m, Trained &t,
                       int64_t stage) {
    OpBuilder &b = program.builder;
    Location loc = t.getLoc();
    Value old =
        program.state(t.gradients.getSymName(), localTypeOf(t.gradients));
    Value gradients = old;
    Axes partial = partialAxesOf(t.gradients);
    for (StringRef axis :
         ArrayRef(t.cuts).drop_front(axesOf(t.gradients).size())) {
      RankedTensorType type = TensorMath::typeOf(gradients);
      gradients = b.create<dist::ReduceScatterOp>(
          loc,
          RankedTensorType::get({type.getDimSize(0) / mesh.getSize(axis)},
                                type.getElementType()),
          gradients, /*dim=*/0, b.getStrArrayAttr({axis}));
      llvm::erase(partial, axis);
    }
    gradients = sumOver(program, gradients, partial, /*tied=*/true);
    if (t.stages.size() > 1)
      gradients = sumOverStages(program, m, t, stage, gradients);
    if (gradients != old)
      program.returnState(gradients, t.ownGradients.getSymName());
    return gradients;
  }

  // With what other stages contribute.
  Value sumOverStages(ProgramBuilder &program, TensorMath &m, Trained &t,
                      int64_t stage, Value gradients) {
    OpBuilder &b = program.builder;
    Location loc = t.getLoc();
    Type type = gradients.getType();
    auto channel = [&](int64_t other, bool back) {
      return t.firstChannel +
             2 * (llvm::find(t.stages, other) - t.stages.begin() - 1) + back;
    };
    ArrayRef<int64_t> others = ArrayRef(t.stages.getArrayRef()).drop_front();
    if (stage != t.owner()) {
      int64_t offset = t.owner() - stage;
      b.create<dist::SendOp>(loc, gradients, offset, channel(stage, false));
      return b.create<dist::ReceiveOp>(loc, type, offset, channel(stage, true));
    }
    for (int64_t other : others)
      gradients =
          m.add(gradients, b.create<dist::ReceiveOp>(loc, type, other - stage,
                                                     channel(other, false)));
    for (int64_t other : others)
      b.create<dist::SendOp>(loc, gradients, other - stage,
                             channel(other, true));
    return gradients;
  }

  void buildUpdate(MutableArrayRef<Trained> trained, int64_t stage) {
    ProgramBuilder program(getOperation(), "update", stage);
    TensorMath m(program.builder, program.loc);
    RankedTensorType scalarType = program.scalarType();
    Value one = m.constant(scalarType, 1.0);
    Value zero = m.constant(scalarType, 0.0);
    Value lossSum = totalOf(program, m, "loss_sum", stage);
    Value weightSum = totalOf(program, m, "weight_sum", stage);
    // A step without any weight has sums of zero, a loss of zero and no
    // gradient.
    weightSum = m.select(m.compare(arith::CmpFPredicate::OEQ, weightSum, zero),
                         one, weightSum);
    Value loss = m.div(lossSum, weightSum);
    Value scale = m.div(m.constant(scalarType, 1.0 / seed), weightSum);

    SmallVector<std::pair<Trained *, Value>> gradients;
    for (Trained &t : trained)
      if (stage < 0 || t.stages.contains(stage))
        gradients.push_back({&t, wholeGradients(program, m, t, stage)});
    Value squares = sumAllSquares(program, m, gradients, stage, zero);
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
      updateBucket(program, m, *t, gradient, multiplier, finite, zero);
    program.output(loss, "loss");
    program.output(norm, "grad_norm");
    program.output(finite, "finite");
    program.output(scale, "gradient_scale");
    program.finish();
  }

  // Each element of each parameter counts once.
  Value sumAllSquares(ProgramBuilder &program, TensorMath &m,
                      ArrayRef<std::pair<Trained *, Value>> gradients,
                      int64_t stage, Value zero) {
    auto isCounted = [&](const Trained &t) {
      return stage < 0 || stage == t.owner();
    };
    // The axes whose ranks hold different elements of a bucket, but for those
    // that all buckets have in common.
    auto axesOfSum = [&](const Trained &t) {
      Axes axes = t.split;
      for (StringRef axis : t.cuts)
        if (!llvm::is_contained(commonCuts, axis))
          axes.push_back(axis);
      return axes;
    };
    std::map<Axes, size_t> counts;
    for (auto [t, gradient] : gradients)
      counts[axesOfSum(*t)] += isCounted(*t);
    std::map<Axes, ScalarSum> sums;
    for (auto &[axes, count] : counts)
      sums.emplace(axes, ScalarSum(m, zero, count));
    for (auto [t, gradient] : gradients)
      if (isCounted(*t))
        sums.at(axesOfSum(*t)).add(sumOfSquares(m, program.builder, gradient));
    Value all = zero;
    for (auto &[axes, sum] : sums)
      all = m.add(all, sumOver(program, sum.get(), axes));
    Axes axes = commonCuts;
    axes.push_back("pp");
    return sumOver(program, all, axes);
  }

  void updateBucket(ProgramBuilder &program, TensorMath &m, Trained &t,
                    Value gradient, Value multiplier, Value finite,
                    Value zero) {
    StringRef group = t.members.front().getGroup();
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
    RankedTensorType type = localTypeOf(t.m);
    OpBuilder &b = program.builder;
    Location loc = t.getLoc();
    auto update = b.create<AdamwUpdateOp>(
        loc, TypeRange{type, type, type},
        ValueRange{program.state(t.ownParameters.getSymName(), type),
                   program.state(t.m.getSymName(), type),
                   program.state(t.v.getSymName(), type), gradient, rate,
                   program.scalar("beta1"), program.scalar("beta2"),
                   program.scalar("eps"), decay,
                   program.scalar("bias_correction1"),
                   program.scalar("bias_correction2"), multiplier, finite});
    Value parameters = update.getNewParameter();
    program.returnState(parameters, t.ownParameters.getSymName());
    program.returnState(update.getNewM(), t.m.getSymName());
    program.returnState(update.getNewV(), t.v.getSymName());
    for (StringRef axis : llvm::reverse(
             ArrayRef(t.cuts).drop_front(axesOf(t.parameters).size()))) {
      RankedTensorType piece = TensorMath::typeOf(parameters);
      parameters = b.create<dist::AllGatherOp>(
          loc,
          RankedTensorType::get({piece.getDimSize(0) * mesh.getSize(axis)},
                                piece.getElementType()),
          parameters, /*dim=*/0, b.getStrArrayAttr({axis}));
    }
    if (parameters != update.getNewParameter())
      program.returnState(parameters, t.parameters.getSymName());
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
  dist::MeshAttr mesh;
  Axes commonCuts; // the axes that cut the moments of all buckets
  llvm::SmallSetVector<int64_t, 2> lossStages;
};

} // namespace
