// Local shapes and collectives: every value becomes one rank's part of it,
// every reshard the collectives of its path, indices count from the rank's
// first row. What goes where was settled before; this pass decides nothing.
#include "passes/dist/Passes.h"

#include "dialects/lm/ProgramSignature.h"
#include "dialects/plan/Plan.h"
#include "passes/dist/LocalIndex.h"
#include "passes/dist/LowerReshard.h"
#include "passes/dist/ShardingTable.h"

#include "llvm/ADT/SetVector.h"

namespace lmc::dist {
#define GEN_PASS_DEF_PARTITION
#include "passes/dist/Passes.h.inc"
} // namespace lmc::dist

using namespace mlir;
using namespace lmc;
using namespace lmc::dist;

namespace {

class ProgramPartition {
public:
  // Notes of reshards are built by `notes`, from number `reshards` on.
  ProgramPartition(func::FuncOp function, MeshAttr mesh, OpBuilder &notes,
                   int64_t reshards)
      : function(function), mesh(mesh), notes(notes), reshards(reshards) {}

  LogicalResult run();
  int64_t getNumReshards() const { return reshards; }

private:
  LogicalResult visit(Operation *op);
  void shiftIota(lm::IotaOp iota, const Axes &axes, int64_t localSize);
  LogicalResult noteReshard(ReshardOp reshard, bool inBackward);
  DimAxes dimsOf(Value value);
  LogicalResult placeRandom(lm::Drawing op);
  void noteIndices(Operation *op);
  void shiftIndexOperand(Operation *op);
  LogicalResult localize(Value value, const DimAxes &dims);

  func::FuncOp function;
  MeshAttr mesh;
  // Of an operation with indices into a sharded factor.
  struct Indices {
    int64_t operand = 0;
    Axes axes;
    int64_t localSize = 0; // of the factor
  };
  llvm::DenseMap<Operation *, Indices> indicesOf;
  struct Reshard {
    ReshardPath path;
    int64_t number = 0; // of its note
  };
  llvm::DenseMap<Operation *, Reshard> reshardOf;
  OpBuilder &notes;
  int64_t reshards;
};

// How a value lies, while the shardings are there.
DimAxes ProgramPartition::dimsOf(Value value) {
  if (auto argument = dyn_cast<BlockArgument>(value)) {
    auto sharding = function.getArgAttrOfType<ShardingAttr>(
        argument.getArgNumber(), kShardingAttr);
    return sharding ? readDims(sharding) : DimAxes();
  }
  auto result = cast<OpResult>(value);
  auto list = result.getOwner()->getAttrOfType<ArrayAttr>(kShardingsAttr);
  return list ? readDims(cast<ShardingAttr>(list[result.getResultNumber()]))
              : DimAxes();
}

// While shapes are global: random numbers are counted in the tensor of the
// whole step. Data ranks share out samples, and a part of a sample has to know
// what it is a part of.
LogicalResult ProgramPartition::placeRandom(lm::Drawing op) {
  Value value = op.getDrawnFor();
  DimAxes dims = dimsOf(value);
  Axes data;
  for (StringRef axis : {"dp", "fsdp"})
    if (mesh.getSize(axis) > 1)
      data.push_back(axis);
  if (dims.empty() || dims[0] != data) {
    InFlightDiagnostic error = emitError(op.getLoc());
    error << op->getName() << " draws random numbers for samples over "
          << (data.empty() ? "no axis" : llvm::join(data, ", "))
          << ", but its samples are split over "
          << (dims.empty() || dims[0].empty() ? "no axis"
                                              : llvm::join(dims[0], ", "));
    llvm::SetVector<StringRef> rules;
    if (auto origins = op->getAttrOfType<ArrayAttr>(kOriginsAttr))
      for (ArrayAttr each : origins.getAsRange<ArrayAttr>())
        for (StringAttr origin : each.getAsRange<StringAttr>())
          if (!origin.empty())
            rules.insert(origin.getValue());
    for (StringRef rule : rules)
      error.attachNote() << "the rule at " << rule << " splits it";
    error.attachNote() << "help: a dropout rate of 0, or leave the data axes "
                          "to samples in these rules";
    return error;
  }
  bool isPart = false;
  SmallVector<int64_t> whole;
  SmallVector<Attribute> axes;
  Builder b(op->getContext());
  auto shape = cast<RankedTensorType>(value.getType()).getShape();
  for (auto [dim, split] : llvm::enumerate(dims)) {
    isPart |= dim > 0 && !split.empty();
    whole.push_back(dim ? shape[dim] : localSize(shape[dim], split, mesh));
    axes.push_back(b.getStrArrayAttr(split));
  }
  if (isPart) {
    op->setAttr("whole", b.getDenseI64ArrayAttr(whole));
    op->setAttr("axes", b.getArrayAttr(axes));
  }
  return success();
}

LogicalResult ProgramPartition::localize(Value value, const DimAxes &dims) {
  auto type = cast<RankedTensorType>(value.getType());
  SmallVector<int64_t> shape(type.getShape());
  for (auto [size, axes] : llvm::zip(shape, dims)) {
    int64_t local = localSize(size, axes, mesh);
    int64_t parts = 1;
    for (StringRef axis : axes)
      parts *= mesh.getSize(axis);
    if (size % parts != 0) {
      InFlightDiagnostic error =
          emitError(value.getLoc())
          << "a dim of size " << size << " cannot be split into " << parts
          << " equal parts over axis " << llvm::join(axes, ", ");
      error.attachNote() << "help: choose a size of the axis that divides "
                         << size;
      return error;
    }
    size = local;
  }
  auto local = RankedTensorType::get(shape, type.getElementType());
  value.setType(local);
  if (auto constant = value.getDefiningOp<arith::ConstantOp>())
    constant.setValueAttr(DenseElementsAttr::get(
        local, cast<DenseElementsAttr>(constant.getValue())
                   .getSplatValue<Attribute>()));
  return success();
}

// While shapes are global: a rule tells the size of a factor by them.
void ProgramPartition::noteIndices(Operation *op) {
  std::optional<lm::ShardingRule> rule = lm::ruleOf(op);
  auto factors = op->getAttrOfType<ArrayAttr>(kFactorsAttr);
  if (!rule || !factors || rule->indexOperand < 0)
    return;
  Indices indices;
  indices.operand = rule->indexOperand;
  for (Attribute axis : cast<ArrayAttr>(factors[rule->indexFactor]))
    indices.axes.push_back(cast<StringAttr>(axis).getValue());
  indices.localSize =
      localSize(rule->factors[rule->indexFactor].size, indices.axes, mesh);
  if (!indices.axes.empty())
    indicesOf[op] = indices;
}

// Indices into a sharded factor count from the rank's first row.
void ProgramPartition::shiftIndexOperand(Operation *op) {
  auto found = indicesOf.find(op);
  if (found == indicesOf.end())
    return;
  OpBuilder b(op);
  const Indices &indices = found->second;
  OpOperand &operand = op->getOpOperand(indices.operand);
  operand.set(shiftIndices(b, op->getLoc(), function, operand.get(),
                           indices.axes, indices.localSize, mesh));
}

// The first operation that takes what `reshard` makes, and is none itself.
Operation *firstUser(ReshardOp reshard) {
  Operation *first = nullptr;
  for (Operation *user : reshard->getUsers())
    if (!first || user->isBeforeInBlock(first))
      first = user;
  auto next = dyn_cast_or_null<ReshardOp>(first);
  return next ? firstUser(next) : first;
}

// What is resharded, before any reshard.
Value sourceOf(ReshardOp reshard) {
  auto before = reshard.getInput().getDefiningOp<ReshardOp>();
  return before ? sourceOf(before) : lastTerm(reshard.getInput());
}

// Where the rules stand that gave a value the axes which `to` has and `from`
// has not.
SmallVector<StringRef> rulesOf(OpResult value, ShardingAttr from,
                               ShardingAttr to) {
  SmallVector<StringRef> rules;
  auto origins = value.getOwner()->getAttrOfType<ArrayAttr>(kOriginsAttr);
  if (!origins)
    return rules;
  auto ofDims = cast<ArrayAttr>(origins[value.getResultNumber()]);
  for (auto [dim, origin] : llvm::enumerate(ofDims.getAsRange<StringAttr>()))
    if (to.getAxes(dim) != from.getAxes(dim) && !to.getAxes(dim).empty() &&
        !origin.empty() && !llvm::is_contained(rules, origin.getValue()))
      rules.push_back(origin.getValue());
  return rules;
}

// While the operations around it are as they were.
LogicalResult ProgramPartition::noteReshard(ReshardOp reshard,
                                            bool inBackward) {
  NoPath refusal;
  FailureOr<ReshardPath> path =
      findReshardPath(cast<RankedTensorType>(reshard.getType()),
                      reshard.getFrom(), reshard.getTo(), mesh, refusal);
  if (failed(path))
    return reshard.emitOpError() << refusal.reason;
  SmallVector<std::string> steps;
  for (const Transition &step : path->steps)
    steps.push_back(describe(step));
  SmallVector<StringRef> texts(steps.begin(), steps.end());
  Value source = sourceOf(reshard);
  Operation *user = firstUser(reshard);
  SmallVector<StringRef> rules;
  if (auto result = dyn_cast<OpResult>(reshard.getInput()))
    rules = rulesOf(result, reshard.getFrom(), reshard.getTo());
  auto nameOf = [](Operation *op) {
    return op ? op->getName().getStringRef() : StringRef();
  };
  auto chunk = function->getAttrOfType<IntegerAttr>(plan::kChunkAttr);
  auto program = function->getAttrOfType<StringAttr>(lm::kProgramAttr);
  StringRef name = program ? program.getValue() : function.getName();
  if (name == "step") // which lm-split-programs cuts
    name = inBackward ? "backward" : "forward";
  notes.create<ReshardedOp>(
      CallSiteLoc::get(source.getLoc(),
                       user ? user->getLoc() : reshard.getLoc()),
      reshards, name, chunk ? chunk.getInt() : 0, reshard.getType(),
      reshard.getFrom(), reshard.getTo(), notes.getStrArrayAttr(texts),
      path->bytes, nameOf(source.getDefiningOp()), nameOf(user),
      notes.getStrArrayAttr(rules));
  reshardOf[reshard] = {std::move(*path), reshards++};
  return success();
}

// An index along a sharded dim counts from the first of all ranks.
void ProgramPartition::shiftIota(lm::IotaOp iota, const Axes &axes,
                                 int64_t localSize) {
  OpBuilder b(iota);
  b.setInsertionPointAfter(iota);
  lm::TensorMath m(b, iota.getLoc());
  Value first = firstRow(b, iota.getLoc(), function, axes, localSize, mesh);
  auto shifted = b.create<arith::AddIOp>(
      iota.getLoc(), iota.getOutput(),
      m.broadcastScalar(first, lm::TensorMath::typeOf(iota.getOutput())));
  iota.getOutput().replaceAllUsesExcept(shifted, shifted);
}

LogicalResult ProgramPartition::visit(Operation *op) {
  if (auto reshard = dyn_cast<ReshardOp>(op)) {
    const Reshard &known = reshardOf.find(op)->second;
    OpBuilder b(op);
    reshard.replaceAllUsesWith(
        lowerReshard(b, function, reshard, known.path, known.number, mesh));
    reshard.erase();
    return success();
  }
  auto shardings = op->getAttrOfType<ArrayAttr>(kShardingsAttr);
  shiftIndexOperand(op);
  for (auto [index, result] : llvm::enumerate(op->getResults()))
    if (shardings && failed(localize(result, readDims(cast<ShardingAttr>(
                                                 shardings[index])))))
      return failure();
  if (auto iota = dyn_cast<lm::IotaOp>(op); iota && shardings) {
    Axes axes(cast<ShardingAttr>(shardings[0]).getAxes(iota.getDim()));
    if (!axes.empty())
      shiftIota(
          iota, axes,
          lm::TensorMath::typeOf(iota.getOutput()).getDimSize(iota.getDim()));
  }
  for (StringRef spent : {kShardingsAttr, kFactorsAttr, kOriginsAttr})
    op->removeAttr(spent);
  return success();
}

LogicalResult ProgramPartition::run() {
  SmallVector<Operation *> ops;
  for (Operation &op : function.getBody().front())
    ops.push_back(&op);
  bool inBackward = false;
  for (Operation *op : ops) {
    inBackward |= isa<lm::BeginBackwardOp>(op);
    if (auto reshard = dyn_cast<ReshardOp>(op);
        reshard && failed(noteReshard(reshard, inBackward)))
      return failure();
    noteIndices(op);
    auto random = dyn_cast<lm::Drawing>(op);
    if (random && random.draws() && op->hasAttr(kShardingsAttr) &&
        failed(placeRandom(random)))
      return failure();
  }
  for (BlockArgument argument : function.getArguments())
    if (auto sharding = function.getArgAttrOfType<ShardingAttr>(
            argument.getArgNumber(), kShardingAttr))
      if (failed(localize(argument, readDims(sharding))))
        return failure();
  for (Operation *op : ops)
    if (failed(visit(op)))
      return failure();
  Operation *terminator = function.getBody().front().getTerminator();
  function.setFunctionType(FunctionType::get(
      function.getContext(), function.getBody().front().getArgumentTypes(),
      terminator->getOperandTypes()));
  return success();
}

struct Partition : lmc::dist::impl::PartitionBase<Partition> {
  using PartitionBase::PartitionBase;

  void runOnOperation() override {
    ModuleOp module = getOperation();
    auto mesh = module->getAttrOfType<MeshAttr>(kMeshAttr);
    if (!mesh)
      return;
    OpBuilder notes = OpBuilder::atBlockEnd(module.getBody());
    int64_t reshards = 0;
    for (auto function : module.getOps<func::FuncOp>()) {
      ProgramPartition program(function, mesh, notes, reshards);
      if (failed(program.run()))
        return signalPassFailure();
      reshards = program.getNumReshards();
    }
    numReshards += reshards;
    for (Operation &op : *module.getBody())
      op.removeAttr(kOriginsAttr);
  }
};

} // namespace
