// One program becomes one program per model chunk. Worked example, two chunks:
//
//     @step                               @step.0                @step.1
//     %x = embedding ...    chunk 0       %x = embedding ...
//     %y = linear %x, %w    chunk 1       send %x to 1           receive %x
//     begin_backward                      begin_backward         %y = linear
//     ... %dx = contract ...    chunk 1 begin_backward %de = scatter %dx chunk
//     0       receive %dx            %dx = ...
//                                         %de = scatter %dx      send %dx to -1
//
// A value is sent behind its producer and received where its side (forward or
// backward) begins. What no state reaches (positions, masks) is cheap, and is
// computed again by every chunk that needs it.
#include "passes/dist/Passes.h"

#include "dialects/dist/Dist.h"
#include "dialects/lm/ProgramSignature.h"
#include "dialects/plan/Plan.h"

#include "mlir/IR/IRMapping.h"
#include "llvm/ADT/DenseSet.h"
#include "llvm/ADT/SetVector.h"

namespace lmc::dist {
#define GEN_PASS_DEF_CUTSTAGES
#include "passes/dist/Passes.h.inc"
} // namespace lmc::dist

using namespace mlir;
using namespace lmc;
using namespace lmc::dist;

namespace {

// A value on its way to another chunk.
struct Crossing {
  Value value;
  int64_t from = 0, to = 0, channel = 0;
  bool inBackward = false; // where it is produced
};

class ProgramCutter {
public:
  ProgramCutter(func::FuncOp function, int64_t chunks, int64_t stages,
                int64_t firstChannel)
      : function(function), chunks(chunks), stages(stages),
        firstChannel(firstChannel) {}

  LogicalResult run();
  size_t getNumCrossings() const { return crossings.size(); }

private:
  LogicalResult readChunks();
  LogicalResult findCrossings();
  LogicalResult checkStates();
  void need(Value value, int64_t chunk);
  int64_t chunkOf(Value value);
  int64_t nearestSource(Operation &op);
  int64_t chunkOfResult(unsigned index);
  void buildChunk(int64_t chunk);
  int64_t stageOf(int64_t chunk) const { return chunk % stages; }

  func::FuncOp function;
  int64_t chunks, stages, firstChannel;
  llvm::DenseMap<Operation *, int64_t> chunkOfOp; // not of what is repeated
  llvm::DenseSet<Operation *> backward;
  // Repeated operations that each chunk needs.
  std::vector<llvm::DenseSet<Operation *>> repeated;
  SmallVector<Crossing> crossings;
};

// What depends on inputs and run-time numbers alone is repeated.
LogicalResult ProgramCutter::readChunks() {
  llvm::DenseSet<Value> stateful;
  for (BlockArgument argument : function.getArguments())
    if (function.getArgAttr(argument.getArgNumber(), lm::kStateAttr))
      stateful.insert(argument);
  bool behind = false;
  for (Operation &op : function.getBody().front().without_terminator()) {
    if (isa<lm::BeginBackwardOp>(op)) {
      behind = true;
      continue;
    }
    if (behind)
      backward.insert(&op);
    // In the backward, a constant seed leads to gradients.
    if (llvm::none_of(op.getOperands(),
                      [&](Value v) { return stateful.contains(v); }) &&
        isMemoryEffectFree(&op) && !(behind && op.getNumOperands() > 0))
      continue;
    stateful.insert(op.result_begin(), op.result_end());
    auto chunk = op.getAttrOfType<IntegerAttr>(kChunkAttr);
    if (!chunk || chunk.getInt() < 0 || chunk.getInt() >= chunks)
      return op.emitOpError() << "belongs to no chunk of the " << chunks
                              << "; run dist-mark-stages before the program "
                                 "is differentiated";
    chunkOfOp[&op] = chunk.getInt();
    if (behind)
      chunkOfOp[&op] = nearestSource(op);
  }
  return success();
}

// The chunk that makes `op` of the backward. Where later chunks make all of
// several operands, the nearest of them does, so that one value crosses each
// border. Such is the gradient of a chunk's last value, the sum of what its
// uses give. A residual around the whole next chunk gives what the chunk
// behind that one made; it is added on the way.
int64_t ProgramCutter::nearestSource(Operation &op) {
  int64_t chunk = chunkOfOp[&op];
  if (op.getNumOperands() < 2)
    return chunk;
  int64_t nearest = chunks;
  for (Value operand : op.getOperands())
    nearest = std::min(nearest, chunkOf(operand));
  return std::max(nearest, chunk);
}

// The chunk that makes `value`; -1 if every chunk makes its own.
int64_t ProgramCutter::chunkOf(Value value) {
  auto found = chunkOfOp.find(value.getDefiningOp());
  return found == chunkOfOp.end() ? -1 : found->second;
}

int64_t ProgramCutter::chunkOfResult(unsigned index) {
  Value value = function.getBody().front().getTerminator()->getOperand(index);
  return std::max<int64_t>(0, chunkOf(value));
}

// Chunk `chunk` uses `value`, which no chunk alone makes.
void ProgramCutter::need(Value value, int64_t chunk) {
  Operation *producer = value.getDefiningOp();
  if (!producer || !repeated[chunk].insert(producer).second)
    return;
  for (Value operand : producer->getOperands())
    need(operand, chunk);
}

LogicalResult ProgramCutter::findCrossings() {
  repeated.resize(chunks);
  llvm::DenseSet<std::pair<Value, int64_t>> known;
  for (Operation &op : function.getBody().front().without_terminator()) {
    auto found = chunkOfOp.find(&op);
    if (found == chunkOfOp.end())
      continue;
    int64_t chunk = found->second;
    for (Value operand : op.getOperands()) {
      int64_t from = chunkOf(operand);
      if (from < 0) {
        need(operand, chunk);
        continue;
      }
      if (from == chunk || !known.insert({operand, chunk}).second)
        continue;
      bool inBackward = backward.contains(operand.getDefiningOp());
      if (stageOf(from) == stageOf(chunk))
        return op.emitOpError()
               << "of chunk " << chunk << " uses a value of chunk " << from
               << ", which is on the same stage; only neighbours exchange "
                  "values";
      if (inBackward ? from < chunk : from > chunk)
        return op.emitOpError()
               << "of chunk " << chunk << " uses a value of chunk " << from
               << (inBackward ? " in the backward" : "")
               << ", against the flow of the pipeline";
      crossings.push_back({operand, from, chunk,
                           firstChannel + int64_t(crossings.size()),
                           inBackward});
    }
  }
  Operation *terminator = function.getBody().front().getTerminator();
  for (auto [index, value] : llvm::enumerate(terminator->getOperands()))
    if (chunkOf(value) < 0)
      need(value, chunkOfResult(index));
  return checkStates();
}

// The first micro-batch of a program overwrites what it accumulates, so that
// two programs of one stage cannot share an accumulator.
LogicalResult ProgramCutter::checkStates() {
  llvm::DenseMap<std::pair<Attribute, int64_t>, int64_t> chunkOfState;
  for (unsigned i = 0, e = function.getNumResults(); i < e; ++i) {
    auto state =
        function.getResultAttrOfType<FlatSymbolRefAttr>(i, lm::kStateAttr);
    if (!state)
      continue;
    int64_t chunk = chunkOfResult(i);
    auto [known, isNew] = chunkOfState.insert({{state, stageOf(chunk)}, chunk});
    if (!isNew && known->second != chunk) {
      InFlightDiagnostic error = function.emitError()
                                 << "chunks " << known->second << " and "
                                 << chunk << " of stage " << stageOf(chunk)
                                 << " both write " << state;
      error.attachNote()
          << "help: one virtual stage, or another number of stages";
      return error;
    }
  }
  return success();
}

void ProgramCutter::buildChunk(int64_t chunk) {
  OpBuilder builder(function);
  StringRef program =
      function->getAttrOfType<StringAttr>(lm::kProgramAttr).getValue();
  auto part = builder.create<func::FuncOp>(function.getLoc(),
                                           (program + "." + Twine(chunk)).str(),
                                           builder.getFunctionType({}, {}));
  part->setAttr(lm::kProgramAttr, builder.getStringAttr(program));
  part->setAttr(plan::kChunkAttr, builder.getI64IntegerAttr(chunk));
  part->setAttr(plan::kStageAttr, builder.getI64IntegerAttr(stageOf(chunk)));
  builder.setInsertionPointToStart(part.addEntryBlock());
  Operation *terminator = builder.create<func::ReturnOp>(function.getLoc());
  builder.setInsertionPoint(terminator);

  IRMapping mapping;
  lm::ProgramArguments arguments(part);
  auto receive = [&](bool inBackward) {
    for (const Crossing &crossing : crossings)
      if (crossing.to == chunk && crossing.inBackward == inBackward)
        mapping.map(crossing.value,
                    builder.create<ReceiveOp>(
                        crossing.value.getLoc(), crossing.value.getType(),
                        stageOf(crossing.from) - stageOf(chunk),
                        crossing.channel));
  };
  auto use = [&](Value value) {
    if (auto argument = dyn_cast<BlockArgument>(value))
      if (!mapping.contains(value))
        mapping.map(value, arguments.add(
                               value.getType(),
                               function.getArgAttrDict(argument.getArgNumber()),
                               value.getLoc()));
  };
  receive(/*inBackward=*/false);
  for (Operation &op : function.getBody().front().without_terminator()) {
    if (isa<lm::BeginBackwardOp>(op)) {
      builder.clone(op);
      receive(/*inBackward=*/true);
      continue;
    }
    auto found = chunkOfOp.find(&op);
    if (found == chunkOfOp.end() ? !repeated[chunk].contains(&op)
                                 : found->second != chunk)
      continue;
    for (Value operand : op.getOperands())
      use(operand);
    builder.clone(op, mapping)->removeAttr(kChunkAttr);
    for (const Crossing &crossing : crossings)
      if (crossing.from == chunk && crossing.value.getDefiningOp() == &op)
        builder.create<SendOp>(op.getLoc(), mapping.lookup(crossing.value),
                               stageOf(crossing.to) - stageOf(chunk),
                               crossing.channel);
  }
  Operation *end = function.getBody().front().getTerminator();
  SmallVector<lm::TiedResult> results;
  for (auto [index, value] : llvm::enumerate(end->getOperands())) {
    if (chunkOfResult(index) != chunk)
      continue;
    use(value);
    NamedAttribute tie = *function.getResultAttrs(index).begin();
    results.push_back({mapping.lookup(value), tie.getName(), tie.getValue()});
  }
  arguments.finish();
  lm::setResults(part, results);
}

LogicalResult ProgramCutter::run() {
  if (failed(readChunks()) || failed(findCrossings()))
    return failure();
  for (int64_t chunk = 0; chunk < chunks; ++chunk)
    buildChunk(chunk);
  return success();
}

struct CutStages : lmc::dist::impl::CutStagesBase<CutStages> {
  using CutStagesBase::CutStagesBase;

  void runOnOperation() override {
    ModuleOp module = getOperation();
    auto chunks = module->getAttrOfType<IntegerAttr>(kChunksAttr);
    auto stages = module->getAttrOfType<IntegerAttr>(kStagesAttr);
    if (!chunks || !stages)
      return;
    int64_t channels = 0;
    SmallVector<func::FuncOp> programs;
    for (auto function : module.getOps<func::FuncOp>())
      if (function->hasAttr(lm::kProgramAttr))
        programs.push_back(function);
    for (func::FuncOp function : programs) {
      ProgramCutter cutter(function, chunks.getInt(), stages.getInt(),
                           channels);
      if (failed(cutter.run()))
        return signalPassFailure();
      channels += cutter.getNumCrossings();
      function.erase();
    }
    numTransfers += channels;
  }
};

} // namespace
