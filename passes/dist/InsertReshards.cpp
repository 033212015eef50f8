// From what the tensors should be to what they are. Propagation says how each
// value should lie and which axes split each factor of an operation; this pass
// follows in program order how each value does lie, and makes every difference
// an operation of its own. Worked example, tp = 2, T tokens split between
// layers (sequence parallelism):
//
//     %h = norm %x                 x, h [T:tp, D]
//     %u = linear %h, %w           factor F has tp, so that h is needed whole:
//                                  reshard [T:tp, D] -> [T, D]     all_gather
//     %y = linear %u, %v           factor F is summed: y is partial on tp
//     %z = add %x, %y              x and y should be [T:tp, D]:
//                                  reshard partial -> [T:tp, D] reduce_scatter
//
// Sums pass through additions as they are, so that two partial values that are
// added are reduced once. A value that lies otherwise than it should is first
// brought there, right behind its producer, and from there to whoever needs it
// otherwise still; each of the two is done once.
#include "passes/dist/Passes.h"

#include "passes/dist/DimNames.h"
#include "passes/dist/ReshardPath.h"
#include "passes/dist/ShardingTable.h"

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "llvm/ADT/MapVector.h"
#include "llvm/ADT/SetVector.h"
#include "llvm/ADT/StringExtras.h"

#include <map>

namespace lmc::dist {
#define GEN_PASS_DEF_INSERTRESHARDS
#include "passes/dist/Passes.h.inc"
} // namespace lmc::dist

using namespace mlir;
using namespace lmc;
using namespace lmc::dist;

namespace {

using Kind = lm::ShardingRule::Kind;

// Prices of what was asked for before: layers are alike.
class Prices {
public:
  explicit Prices(MeshAttr mesh) : mesh(mesh) {}

  FailureOr<int64_t> of(RankedTensorType type, ShardingAttr from,
                        ShardingAttr to, NoPath &refusal) {
    auto [entry, isNew] =
        known.try_emplace({type.getAsOpaquePointer(), from.getAsOpaquePointer(),
                           to.getAsOpaquePointer()},
                          0);
    if (!isNew)
      return entry->second;
    FailureOr<ReshardPath> path =
        findReshardPath(type, from, to, mesh, refusal);
    if (failed(path)) {
      known.erase(entry);
      return failure();
    }
    return entry->second = path->bytes;
  }

  // The mesh's order, so that values that are partial alike say so alike.
  void sort(Axes &axes) const {
    llvm::sort(axes, [&](StringRef a, StringRef b) {
      auto index = [&](StringRef axis) {
        return llvm::find(mesh.getAxes(),
                          StringAttr::get(mesh.getContext(), axis));
      };
      return index(a) < index(b);
    });
  }

private:
  MeshAttr mesh;
  std::map<std::array<const void *, 3>, int64_t> known;
};

using StateShardings = llvm::MapVector<Attribute, ShardingAttr>;

class ProgramReshards {
public:
  ProgramReshards(func::FuncOp function, const StateIndex &states,
                  Prices &prices, StateShardings &accumulators)
      : function(function), context(function.getContext()), states(states),
        prices(prices), accumulators(accumulators) {}

  LogicalResult run();
  // Once all programs ran.
  LogicalResult settleAccumulators();
  int64_t reshards = 0, bytes = 0;

private:
  ShardingAttr whole(Value value) const {
    return makeSharding(
        context, DimAxes(cast<RankedTensorType>(value.getType()).getRank()));
  }
  void readShardings();
  LogicalResult visit(Operation *op);
  LogicalResult visitWithoutRule(Operation *op);
  LogicalResult joinAccumulated(Operation *op);
  ShardingAttr openInBoth(ShardingAttr sum, ShardingAttr other);
  LogicalResult addAs(lm::AccumulateOp add, ShardingAttr to);
  bool passesSums(Operation *op, const lm::ShardingRule &rule);
  SmallVector<Axes> readFactors(Operation *op, const lm::ShardingRule &rule);
  void addOrigins(Value value, llvm::SetVector<StringAttr> &rules);
  LogicalResult finishResults();
  LogicalResult give(OpOperand &operand, ShardingAttr needed);
  FailureOr<Value> reshard(Value value, ShardingAttr to, Operation *user,
                           bool behindProducer);

  func::FuncOp function;
  MLIRContext *context;
  const StateIndex &states;
  Prices &prices;
  StateShardings &accumulators;
  llvm::DenseMap<Value, ShardingAttr> wanted, actual;
  llvm::DenseMap<std::pair<Value, Attribute>, Value> made;
  llvm::DenseSet<Value> accumulated; // sums that go on in the next micro-batch
};

void ProgramReshards::readShardings() {
  for (BlockArgument argument : function.getArguments()) {
    auto sharding = function.getArgAttrOfType<ShardingAttr>(
        argument.getArgNumber(), kShardingAttr);
    wanted[argument] = actual[argument] = sharding ? sharding : whole(argument);
  }
  for (Operation &op : function.getBody().front()) {
    auto shardings = op.getAttrOfType<ArrayAttr>(kShardingsAttr);
    for (auto [index, result] : llvm::enumerate(op.getResults()))
      wanted[result] = actual[result] =
          shardings ? cast<ShardingAttr>(shardings[index]) : whole(result);
  }
}

// Adds the rules that say how `value` should lie.
void ProgramReshards::addOrigins(Value value,
                                 llvm::SetVector<StringAttr> &rules) {
  Attribute list;
  if (auto result = dyn_cast<OpResult>(value)) {
    auto all = result.getOwner()->getAttrOfType<ArrayAttr>(kOriginsAttr);
    list = all ? all[result.getResultNumber()] : Attribute();
  } else if (Operation *state = states.speaker(function.getArgAttr(
                 cast<BlockArgument>(value).getArgNumber(), lm::kStateAttr))) {
    list = state->getAttr(kOriginsAttr);
  }
  if (list)
    for (StringAttr origin : cast<ArrayAttr>(list).getAsRange<StringAttr>())
      if (!origin.empty())
        rules.insert(origin);
}

// `value` lying as `to`; made once.
FailureOr<Value> ProgramReshards::reshard(Value value, ShardingAttr to,
                                          Operation *user,
                                          bool behindProducer) {
  if (actual[value] == to)
    return value;
  Value &known = made[{value, to}];
  if (known)
    return known;
  OpBuilder b(user);
  if (behindProducer)
    b.setInsertionPointAfterValue(value);
  // A constant lies as one likes.
  if (Operation *constant = value.getDefiningOp();
      constant && constant->hasTrait<OpTrait::ConstantLike>()) {
    Operation *copy = b.clone(*constant);
    copy->setAttr(kShardingsAttr, b.getArrayAttr(to));
    wanted[copy->getResult(0)] = actual[copy->getResult(0)] = to;
    return made[{value, to}] = copy->getResult(0);
  }
  NoPath refusal;
  FailureOr<int64_t> price = prices.of(cast<RankedTensorType>(value.getType()),
                                       actual[value], to, refusal);
  // Of a sum, in the layer whose term completes it.
  Location loc = behindProducer ? lastTerm(value).getLoc() : user->getLoc();
  if (failed(price)) {
    InFlightDiagnostic error = emitError(loc) << refusal.reason;
    llvm::SetVector<StringAttr> rules;
    addOrigins(value, rules);
    for (Value result : user->getResults())
      addOrigins(result, rules);
    for (StringAttr rule : rules)
      error.attachNote() << "the rule at " << rule.getValue()
                         << " has a part in it";
    error.attachNote() << "help: " << refusal.help;
    return error;
  }
  auto op = b.create<ReshardOp>(loc, value.getType(), value, actual[value], to,
                                *price);
  op->setAttr(kShardingsAttr, b.getArrayAttr(to));
  ++reshards;
  bytes += *price;
  wanted[op] = actual[op] = to;
  return made[{value, to}] = op.getOutput();
}

// Gives `operand` a value that lies as `needed`.
LogicalResult ProgramReshards::give(OpOperand &operand, ShardingAttr needed) {
  Value value = operand.get();
  if (actual[value] == needed)
    return success();
  FailureOr<Value> there = reshard(value, wanted[value], operand.getOwner(),
                                   /*behindProducer=*/true);
  if (failed(there))
    return failure();
  there = reshard(*there, needed, operand.getOwner(), /*behindProducer=*/false);
  if (failed(there))
    return failure();
  operand.set(*there);
  return success();
}

// An operation without a rule computes right on whole tensors alone.
LogicalResult ProgramReshards::visitWithoutRule(Operation *op) {
  for (ValueRange values :
       {ValueRange(op->getOperands()), ValueRange(op->getResults())})
    for (Value value : values) {
      Axes axes;
      for (const Axes &each : readDims(wanted[value]))
        llvm::append_range(axes, each);
      if (op->getNumOperands() > 0 && !axes.empty()) {
        InFlightDiagnostic error =
            op->emitOpError()
            << "has no sharding rule, and one of its tensors is split by "
            << llvm::join(axes, ", ");
        error.attachNote() << "help: implement Shardable, or give an "
                              "elementwise operation the trait "
                              "SameOperandsAndResultType";
        return error;
      }
    }
  for (OpOperand &operand : op->getOpOperands())
    if (failed(give(operand, wanted[operand.get()])))
      return failure();
  return success();
}

// Whether all operands that a sum passes through are partial, and lie alike.
bool ProgramReshards::passesSums(Operation *op, const lm::ShardingRule &rule) {
  if (rule.sumOperands.empty())
    return false;
  ShardingAttr first = actual[op->getOperand(rule.sumOperands.front())];
  return !first.getPartial().empty() &&
         llvm::all_of(rule.sumOperands, [&](int64_t index) {
           return actual[op->getOperand(index)] == first;
         });
}

// `sum`, partial on no axis but those on which `other` is partial, too.
ShardingAttr ProgramReshards::openInBoth(ShardingAttr sum, ShardingAttr other) {
  SmallVector<StringRef> partial = sum.getPartialAxes();
  llvm::erase_if(partial, [&](StringRef axis) {
    return !llvm::is_contained(other.getPartialAxes(), axis);
  });
  return makeSharding(context, readDims(sum), partial);
}

// What is added comes to `to`, and with it the sum.
LogicalResult ProgramReshards::addAs(lm::AccumulateOp add, ShardingAttr to) {
  FailureOr<Value> there =
      reshard(add.getValue(), to, add, /*behindProducer=*/true);
  if (failed(there))
    return failure();
  add.getValueMutable().assign(*there);
  actual[add.getOutput()] = to;
  add->setAttr(kShardingsAttr, ArrayAttr::get(context, Attribute(to)));
  return success();
}

// Notes what goes on in the next micro-batch: an accumulator with something
// added, and more added to that. Such a sum cannot be taken over ranks and then
// added to; what is added has to come to where the sum lies.
LogicalResult ProgramReshards::joinAccumulated(Operation *op) {
  if (isa<lm::AccumulateOp>(op))
    accumulated.insert(op->getResult(0));
  for (OpOperand &operand : op->getOpOperands()) {
    if (!isa<arith::AddFOp>(op) || !accumulated.contains(operand.get()))
      continue;
    accumulated.insert(op->getResult(0));
    ShardingAttr sum = actual[operand.get()];
    OpOperand &other = op->getOpOperand(1 - operand.getOperandNumber());
    ShardingAttr added = actual[other.get()];
    if (sum.getPartial().empty() || added == sum)
      continue;
    // Of both, what both leave open.
    ShardingAttr common = openInBoth(sum, added);
    auto first = operand.get().getDefiningOp<lm::AccumulateOp>();
    if (common != sum && !first) {
      InFlightDiagnostic error = op->emitOpError()
                                 << "adds gradients that lie otherwise, " << sum
                                 << " and " << added << ", to one accumulator";
      error.attachNote() << "help: a rule that splits the uses of this "
                            "parameter alike";
      return error;
    }
    if (common != sum && failed(addAs(first, common)))
      return failure();
    sum = common;
    FailureOr<Value> there = reshard(other.get(), sum, op, true);
    if (failed(there))
      return failure();
    other.set(*there);
  }
  return success();
}

SmallVector<Axes> ProgramReshards::readFactors(Operation *op,
                                               const lm::ShardingRule &rule) {
  SmallVector<Axes> factors(rule.factors.size());
  if (auto list = op->getAttrOfType<ArrayAttr>(kFactorsAttr))
    for (auto [factor, axes] : llvm::zip(factors, list))
      for (Attribute axis : cast<ArrayAttr>(axes))
        factor.push_back(cast<StringAttr>(axis).getValue());
  return factors;
}

LogicalResult ProgramReshards::visit(Operation *op) {
  if (auto send = dyn_cast<SendOp>(op))
    return give(send.getInputMutable(), wanted[send.getInput()]);
  std::optional<lm::ShardingRule> rule = lm::ruleOf(op);
  if (!rule)
    return visitWithoutRule(op);
  SmallVector<Axes> factors = readFactors(op, *rule);
  Axes sums;
  bool isAccumulate = isa<lm::AccumulateOp>(op);
  if (failed(joinAccumulated(op)))
    return failure();
  bool isPassed = passesSums(op, *rule);
  if (isPassed) {
    ShardingAttr through = actual[op->getOperand(rule->sumOperands.front())];
    sums = Axes(through.getPartialAxes());
    // An accumulator stays where it is; what is added comes there.
    if (isAccumulate)
      llvm::erase_if(sums, [&](StringRef axis) {
        return llvm::any_of(factors, [&](const Axes &axes) {
          return llvm::is_contained(axes, axis);
        });
      });
    else
      for (auto [dim, factor] :
           llvm::enumerate(rule->operands[rule->sumOperands.front()]))
        if (factor >= 0)
          factors[factor] = Axes(through.getAxes(dim));
  }
  // How a tensor with these factors lies; a dim of no factor is whole.
  auto layOut = [&](Value value, const lm::ShardingRule::Dims &dims,
                    ArrayRef<StringRef> partial) {
    DimAxes axes = readDims(wanted[value]);
    for (auto [dim, factor] : llvm::enumerate(dims))
      axes[dim] = factor >= 0 ? factors[factor] : Axes();
    return makeSharding(context, axes, partial);
  };
  for (OpOperand &operand : op->getOpOperands()) {
    unsigned index = operand.getOperandNumber();
    if (isAccumulate && index == 0)
      continue;
    bool carriesSum =
        isPassed && llvm::is_contained(rule->sumOperands, int64_t(index));
    ShardingAttr needed =
        layOut(operand.get(), rule->operands[index],
               carriesSum ? ArrayRef<StringRef>(sums) : ArrayRef<StringRef>());
    if (carriesSum) {
      FailureOr<Value> there = reshard(operand.get(), needed, op, true);
      if (failed(there))
        return failure();
      operand.set(*there);
    } else if (failed(give(operand, needed))) {
      return failure();
    }
  }
  Axes maxima;
  for (auto [factor, axes] : llvm::zip(rule->factors, factors))
    if (factor.kind == Kind::Sum || factor.kind == Kind::Max)
      llvm::append_range(factor.kind == Kind::Sum ? sums : maxima, axes);
  prices.sort(sums);
  prices.sort(maxima);
  SmallVector<Attribute> shardings, split;
  for (auto [index, result] : llvm::enumerate(op->getResults())) {
    actual[result] = layOut(result, rule->results[index], sums);
    shardings.push_back(actual[result]);
  }
  for (const Axes &axes : factors)
    split.push_back(Builder(context).getStrArrayAttr(axes));
  op->setAttr(kShardingsAttr, ArrayAttr::get(context, shardings));
  op->setAttr(kFactorsAttr, ArrayAttr::get(context, split));
  if (maxima.empty())
    return success();
  // Nothing passes maxima on: they are taken at once.
  OpBuilder b(context);
  b.setInsertionPointAfter(op);
  for (Value result : op->getResults()) {
    auto maximum = b.create<AllReduceOp>(
        op->getLoc(), result.getType(), b.getStringAttr("max"), result,
        b.getStrArrayAttr(maxima), /*tied=*/UnitAttr());
    // Copies: the maps may grow, and move what they hold.
    ShardingAttr asWanted = wanted[result], asIs = actual[result];
    wanted[maximum] = asWanted;
    actual[maximum] = asIs;
    maximum->setAttr(kShardingsAttr, b.getArrayAttr(asIs));
    result.replaceAllUsesExcept(maximum, maximum);
  }
  return success();
}

// What leaves the program lies as it should. An accumulator may stay partial:
// its sharding says on which axes.
LogicalResult ProgramReshards::finishResults() {
  Operation *terminator = function.getBody().front().getTerminator();
  for (OpOperand &operand : terminator->getOpOperands()) {
    Attribute state =
        function.getResultAttr(operand.getOperandNumber(), lm::kStateAttr);
    auto owned = dyn_cast_or_null<lm::StateOp>(states.lookup(state));
    if (!accumulated.contains(operand.get()) || !owned ||
        owned.getKind() != "accumulator") {
      if (failed(give(operand, wanted[operand.get()])))
        return failure();
      continue;
    }
    auto [entry, isNew] = accumulators.insert({state, actual[operand.get()]});
    if (!isNew)
      entry->second = openInBoth(actual[operand.get()], entry->second);
  }
  return success();
}

// Brings what is added to an accumulator to where all programs have it. A
// forward without dropout may split its loss otherwise than one with it.
LogicalResult ProgramReshards::settleAccumulators() {
  Operation *terminator = function.getBody().front().getTerminator();
  for (OpOperand &operand : terminator->getOpOperands()) {
    Attribute state =
        function.getResultAttr(operand.getOperandNumber(), lm::kStateAttr);
    auto found = accumulators.find(state);
    Value sum = operand.get();
    if (found == accumulators.end() || actual[sum] == found->second)
      continue;
    auto add = sum.getDefiningOp<lm::AccumulateOp>();
    if (!add || found->second.getDims() != actual[sum].getDims())
      return function.emitError()
             << "two programs leave " << state
             << " lying otherwise: " << found->second << " and " << actual[sum];
    if (failed(addAs(add, found->second)))
      return failure();
  }
  return success();
}

LogicalResult ProgramReshards::run() {
  readShardings();
  SmallVector<Operation *> ops;
  for (Operation &op : function.getBody().front().without_terminator())
    ops.push_back(&op);
  for (Operation *op : ops)
    if (failed(visit(op)))
      return failure();
  return finishResults();
}

bool isSplitOver(ShardingAttr sharding, unsigned dim, StringRef axis) {
  return llvm::is_contained(sharding.getAxes(dim), axis);
}

// A rule by which an activation's samples, its first dim, lie otherwise than
// over `axis`: it takes this dim, or a data axis from it. Null if there is
// none.
StringAttr ruleAgainstSamples(ModuleOp module, StringRef axis) {
  for (auto function : module.getOps<func::FuncOp>())
    for (Operation &op : function.getBody().front()) {
      if (isa<lm::BeginBackwardOp>(op))
        break;
      auto origins = op.getAttrOfType<ArrayAttr>(kOriginsAttr);
      auto shardings = op.getAttrOfType<ArrayAttr>(kShardingsAttr);
      if (!origins || !shardings)
        continue;
      for (auto [sharding, dims] : llvm::zip(shardings, origins))
        for (auto [dim, origin] : llvm::enumerate(cast<ArrayAttr>(dims))) {
          auto lies = cast<ShardingAttr>(sharding);
          bool takes = dim > 0 ? isSplitOver(lies, dim, "dp") ||
                                     isSplitOver(lies, dim, "fsdp")
                               : !isSplitOver(lies, dim, axis);
          if (takes && !cast<StringAttr>(origin).empty())
            return cast<StringAttr>(origin);
        }
    }
  return {};
}

// Gradients of a bucket that is shared out over an axis are sums over it.
LogicalResult checkIsSum(lm::ParameterOp parameter, ShardingAttr sharding) {
  auto pieces = parameter->getAttrOfType<PiecesAttr>(kPiecesAttr);
  if (!pieces)
    return success();
  for (StringAttr name : pieces.getMoments().getAsRange<StringAttr>()) {
    StringRef axis = name.getValue();
    bool splitsDim = llvm::any_of(sharding.getDims(), [&](Attribute dim) {
      return llvm::is_contained(cast<ArrayAttr>(dim), name);
    });
    if (splitsDim || llvm::is_contained(sharding.getPartialAxes(), axis))
      continue;
    InFlightDiagnostic error = parameter.emitError();
    error << "every rank of " << axis << " computes the whole gradient of "
          << parameter.getSymName() << ", which " << axis
          << " shares out: it must be a sum over samples of its ranks";
    if (StringAttr rule =
            ruleAgainstSamples(parameter->getParentOfType<ModuleOp>(), axis))
      error.attachNote() << "the rule at " << rule.getValue()
                         << " splits activations otherwise";
    error.attachNote()
        << "help: " << (axis == "dp" ? "--zero=0, or " : "")
        << "a bucket for it without " << axis
        << ", or split samples, and nothing else, over dp and fsdp";
    return error;
  }
  return success();
}

struct InsertReshards : lmc::dist::impl::InsertReshardsBase<InsertReshards> {
  using InsertReshardsBase::InsertReshardsBase;

  void runOnOperation() override {
    ModuleOp module = getOperation();
    auto mesh = module->getAttrOfType<MeshAttr>(kMeshAttr);
    if (!mesh)
      return;
    StateIndex states(module);
    Prices prices(mesh);
    StateShardings accumulators;
    std::vector<ProgramReshards> programs;
    for (auto function : module.getOps<func::FuncOp>()) {
      programs.emplace_back(function, states, prices, accumulators);
      if (failed(programs.back().run()))
        return signalPassFailure();
    }
    for (ProgramReshards &program : programs) {
      if (failed(program.settleAccumulators()))
        return signalPassFailure();
      numReshards += program.reshards;
      numBytes += program.bytes;
    }
    for (auto &[state, sharding] : accumulators)
      states.lookup(state)->setAttr(kShardingAttr, sharding);
    for (auto &[state, sharding] : accumulators)
      if (auto parameter =
              dyn_cast_or_null<lm::ParameterOp>(states.speaker(state));
          parameter && failed(checkIsSum(parameter, sharding)))
        return signalPassFailure();
  }
};

} // namespace
