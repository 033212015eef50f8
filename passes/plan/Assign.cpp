// The pass Assign: programs on tensors become instructions on slices.
//
// Three ideas, in the order of this file: what the schedules say of the
// programs (which run for each micro-batch, how many micro-batches are under
// way at once); bytes for what has a fixed place (states, ports, scalars) and,
// packed by lifetime, for what lives within a step; the instructions.
// AssignHomes decides which values share bytes, AssignPack packs them.
//
// The stages of a pipeline run different programs over different bytes. Each
// is packed for itself; an allocation has one name and a size for each stage.
#include "dialects/plan/Matmul.h"
#include "passes/plan/Assigner.h"
#include "passes/plan/Passes.h"

#include "llvm/ADT/StringSwitch.h"

namespace lmc::plan {
#define GEN_PASS_DEF_ASSIGN
#include "passes/plan/Passes.h.inc"
} // namespace lmc::plan

using namespace mlir;
using namespace lmc::plan;
namespace dist = lmc::dist;
namespace lm = lmc::lm;

//===----------------------------------------------------------------------===//
// What the schedules say
//===----------------------------------------------------------------------===//

LogicalResult Assigner::readSchedules() {
  struct Called {
    llvm::SmallDenseSet<int64_t> microBatches;
    int64_t stage = 0;
  };
  llvm::MapVector<StringRef, Called> calledPrograms;
  for (auto schedule : module.getOps<ScheduleOp>()) {
    schedules.emplace_back();
    int64_t stage = schedule.getStage();
    stages = std::max(stages, stage + 1);
    for (auto call : schedule.getBody().getOps<CallOp>()) {
      schedules.back().push_back(call);
      auto [entry, isNew] = calledPrograms.insert({call.getProgram(), {}});
      Called &called = entry->second;
      if (isNew)
        called.stage = stage;
      if (called.stage != stage)
        return call.emitOpError()
               << "calls @" << call.getProgram() << " on stage " << stage
               << ", another schedule on stage " << called.stage;
      called.microBatches.insert(call.getMicroBatch());
      microBatches = std::max<int64_t>(microBatches, call.getMicroBatch() + 1);
    }
  }
  for (auto &[name, called] : calledPrograms) {
    auto function = symbols.lookup<func::FuncOp>(name);
    if (!function || !function->hasAttr(kProgramAttr))
      return module.emitError()
             << "a schedule calls @" << name << ", which is no program";
    AssignedProgram program;
    program.function = function;
    program.stage = called.stage;
    if (auto chunk = function->getAttrOfType<IntegerAttr>(kChunkAttr))
      program.chunk = chunk.getInt();
    program.isPerMicroBatch = called.microBatches.size() > 1;
    indices[name] = int(programs.size());
    programs.push_back(std::move(program));
  }
  for (auto function : module.getOps<func::FuncOp>())
    if (function->hasAttr(kProgramAttr) &&
        !calledPrograms.count(function.getName()))
      return function.emitOpError()
             << "is a program that no schedule calls; run plan-schedule first";
  return success();
}

LogicalResult Assigner::findAllHomes() {
  // A state that a program of a micro-batch returns may change between that
  // micro-batch's forward and backward.
  llvm::StringSet<> unstable;
  for (AssignedProgram &program : programs) {
    func::FuncOp function = program.function;
    bool touchesSaved = false;
    for (unsigned i = 0, e = function.getNumArguments(); i < e; ++i)
      touchesSaved |= !!function.getArgAttr(i, kSavedAttr);
    for (unsigned i = 0, e = function.getNumResults(); i < e; ++i)
      touchesSaved |= !!function.getResultAttr(i, kSavedAttr);
    if (program.isPerMicroBatch || touchesSaved)
      for (unsigned i = 0, e = function.getNumResults(); i < e; ++i)
        if (auto state = function.getResultAttrOfType<FlatSymbolRefAttr>(
                i, lm::kStateAttr))
          unstable.insert(state.getValue());
  }

  auto savedName = [](func::FuncOp function, unsigned argument) {
    return function.getArgAttrOfType<StringAttr>(argument, kSavedAttr);
  };
  llvm::StringMap<int> lastReader; // of a saved value: a program
  for (auto [index, program] : llvm::enumerate(programs))
    for (unsigned i = 0, e = program.function.getNumArguments(); i < e; ++i)
      if (StringAttr name = savedName(program.function, i))
        lastReader[name.getValue()] = index;

  int64_t time = 0;
  llvm::StringMap<int> savedBy; // the last program so far that returns a value
  llvm::DenseMap<std::pair<int, int>, int> lastReaderOfRoot;
  for (auto [index, program] : llvm::enumerate(programs)) {
    int now = index;
    auto homesOf = [&](int other) -> const ProgramHomes & {
      return programs[other].homes;
    };
    auto isReadLater = [&](int other, int root) {
      return lastReaderOfRoot.lookup({other, root}) > now;
    };
    HomesContext context{symbols, unstable, homesOf, savedBy, isReadLater};
    for (unsigned i = 0, e = program.function.getNumArguments(); i < e; ++i)
      if (StringAttr name = savedName(program.function, i))
        if (auto writer = savedBy.find(name.getValue());
            writer != savedBy.end())
          program.savers.insert(writer->second);
    FailureOr<ProgramHomes> homes = findHomes(program.function, context);
    if (failed(homes))
      return failure();
    for (auto &entry : homes->saved) {
      savedBy[entry.getKey()] = now;
      Place place = homes->resolve(entry.getValue());
      const Home &home = homes->homes[place.home];
      int &last =
          lastReaderOfRoot[home.owner >= 0
                               ? std::pair(home.ownerProgram, home.owner)
                               : std::pair(now, place.home)];
      last = std::max(last, lastReader.lookup(entry.getKey()));
    }
    program.homes = std::move(*homes);
    program.base = time;
    time += program.homes.steps.size() + 1;
    numCopies += program.homes.numCopies;
    numInPlace += program.homes.numInPlace;
  }
  return success();
}

LogicalResult Assigner::addPort(AssignedProgram &program, Ports &ports,
                                StringRef name, Value value) {
  Type type = value.getType();
  AssignedPort port{type, program.isPerMicroBatch ? microBatches : 1, 0, 0};
  if (&ports == &scalars)
    port.microBatches = 1;
  auto [entry, isNew] = ports.insert({name, port});
  if (!isNew && entry->second.type != type)
    return program.function.emitOpError()
           << "gives \"" << name << "\" the type " << type
           << ", another program " << entry->second.type;
  if (!isNew && entry->second.microBatches != port.microBatches)
    return program.function.emitOpError()
           << "uses \"" << name << "\" " << port.microBatches
           << " times in a step, another program " << entry->second.microBatches
           << " times";
  entry->second.bytes = program.homes.sizes.bytesOf(value) * port.microBatches;
  return success();
}

LogicalResult Assigner::collectPorts() {
  for (AssignedProgram &program : programs) {
    func::FuncOp function = program.function;
    for (auto [i, value] : llvm::enumerate(function.getArguments())) {
      if (auto name = function.getArgAttrOfType<StringAttr>(i, lm::kInputAttr))
        if (failed(addPort(program, inputs, name.getValue(), value)))
          return failure();
      if (auto name = function.getArgAttrOfType<StringAttr>(i, lm::kScalarAttr))
        if (failed(addPort(program, scalars, name.getValue(), value)))
          return failure();
    }
    Operation *end = function.getBody().front().getTerminator();
    for (auto [i, value] : llvm::enumerate(end->getOperands()))
      if (auto name =
              function.getResultAttrOfType<StringAttr>(i, lm::kOutputAttr))
        if (failed(addPort(program, outputs, name.getValue(), value)))
          return failure();
    for (unsigned i = 0, e = function.getNumArguments(); i < e; ++i)
      if (auto state =
              function.getArgAttrOfType<FlatSymbolRefAttr>(i, lm::kStateAttr))
        if (!symbols.lookup(state.getValue()))
          return function.emitOpError()
                 << "takes the state @" << state.getValue()
                 << ", which is not declared";
  }
  // How exact products are is decided when a plan is loaded.
  for (auto kernel : module.getOps<KernelOp>())
    if (kernel.getKind() == kMatmulKind)
      scalars.insert(
          {kTf32, {RankedTensorType::get({}, builder.getF32Type()), 1, 0, 4}});
  return success();
}

// May all programs of a stage stand on one line of time, each once? They may if
// between the writer and the last reader of saved values only programs run that
// stand between the two on the line.
bool Assigner::fitsOneLineOfTime(int64_t stage) {
  for (std::vector<CallOp> &calls : schedules) {
    llvm::DenseMap<int64_t, SmallVector<size_t>> callsOf; // by micro-batch
    for (auto [i, call] : llvm::enumerate(calls))
      callsOf[call.getMicroBatch()].push_back(i);
    for (size_t i = 0; i < calls.size(); ++i) {
      int writer = indexOf(calls[i].getProgram());
      if (programs[writer].stage != stage)
        break;
      size_t lastReader = i;
      for (size_t j : callsOf[calls[i].getMicroBatch()]) {
        int reader = indexOf(calls[j].getProgram());
        if (j > i && programs[reader].savers.contains(writer))
          lastReader = j;
      }
      for (size_t j = i + 1; j < lastReader; ++j) {
        int between = indexOf(calls[j].getProgram());
        if (between <= writer ||
            between >= indexOf(calls[lastReader].getProgram()))
          return false;
      }
    }
  }
  return true;
}

//===----------------------------------------------------------------------===//
// Bytes
//===----------------------------------------------------------------------===//

FlatSymbolRefAttr Assigner::allocate(StringRef name, StringRef contents,
                                     const StageBytes &bytes) {
  StageBytes aligned;
  for (int64_t size : bytes)
    aligned.push_back(alignBytes(size));
  int64_t most = *std::max_element(aligned.begin(), aligned.end());
  bool alike = llvm::all_equal(aligned);
  auto op = builder.create<AllocationOp>(
      module.getLoc(), name, contents, most,
      alike ? DenseI64ArrayAttr() : builder.getDenseI64ArrayAttr(aligned));
  symbols.insert(op);
  return FlatSymbolRefAttr::get(op.getSymNameAttr());
}

// Of one rank: a state is declared with its global shape.
static int64_t localBytes(Operation *op, dist::MeshAttr mesh) {
  auto parameter = dyn_cast<lm::ParameterOp>(op);
  RankedTensorType type = parameter ? parameter.getTensorType()
                                    : cast<lm::StateOp>(op).getTensorType();
  auto sharding = op->getAttrOfType<dist::ShardingAttr>(dist::kShardingAttr);
  if (mesh && sharding)
    type = dist::localType(type, sharding, mesh);
  return type.getNumElements() * type.getElementTypeBitWidth() / 8;
}

// The bucket that holds a state, if one does.
static FlatSymbolRefAttr bucketOf(Operation *state) {
  return state->getAttrOfType<FlatSymbolRefAttr>(dist::kBucketAttr);
}

// Which group of states one belongs to: parameters, moments, gradients, caches,
// constants.
static unsigned groupOf(lm::StateOp state) {
  StringRef kind = state.getKind();
  if (kind == "bucket")
    return llvm::StringSwitch<unsigned>(*state.getRole())
        .Case("parameter", 0)
        .Case("gradient", 2)
        .Default(1);
  return llvm::StringSwitch<unsigned>(kind)
      .Case("moment", 1)
      .Case("accumulator", 2)
      .Case("constant", 4)
      .Default(3);
}

// Pieces and members lie where their buckets do.
void Assigner::placeInBuckets() {
  auto mesh = module->getAttrOfType<dist::MeshAttr>(dist::kMeshAttr);
  auto axesOf = [&](Operation *op) {
    auto sharding = op->getAttrOfType<dist::ShardingAttr>(dist::kShardingAttr);
    return sharding ? sharding.getAxes(0) : SmallVector<StringRef>();
  };
  auto place = [&](Operation *op, Operation *bucket, SliceAttr where) {
    op->setAttr(kSliceAttr, where);
    states[SymbolTable::getSymbolName(op)] = where;
    if (Attribute stages = bucket->getAttr(kStagesAttr))
      op->setAttr(kStagesAttr, stages);
  };
  for (auto piece : module.getOps<lm::StateOp>()) {
    if (piece.getKind() != "piece")
      continue;
    Operation *bucket = symbols.lookup(bucketOf(piece).getValue());
    SliceAttr whole = states.lookup(bucketOf(piece).getValue());
    LinearAttr offset = whole.getOffset();
    int64_t bytes = whole.getBytes();
    SmallVector<StringRef> axes = axesOf(piece);
    for (StringRef axis : ArrayRef(axes).drop_front(axesOf(bucket).size())) {
      bytes /= mesh.getSize(axis);
      offset = offset.plus(bytes, ("coordinate." + axis).str());
    }
    place(piece, bucket, slice(whole.getAllocation(), offset, bytes));
  }
  for (Operation &op : *module.getBody()) {
    auto offset = op.getAttrOfType<IntegerAttr>(dist::kBucketOffsetAttr);
    if (!offset)
      continue;
    auto bucket = symbols.lookup<lm::StateOp>(bucketOf(&op).getValue());
    SliceAttr whole = states.lookup(bucket.getSymName());
    // A rank's part of the member is not a linear expression; all of the piece
    // is given then.
    if (axesOf(bucket).empty())
      whole = slice(whole.getAllocation(),
                    whole.getOffset().plus(
                        offset.getInt() *
                        bucket.getTensorType().getElementTypeBitWidth() / 8),
                    localBytes(&op, mesh));
    place(&op, bucket, whole);
  }
}

// States that several stages hold come first, at the same offset on all, so
// that a state has one slice. Every rank fills all constants, whichever its
// stage uses.
void Assigner::placeStates() {
  llvm::StringMap<llvm::SmallSetVector<int64_t, 2>> stagesOf;
  for (AssignedProgram &program : programs)
    for (unsigned i = 0, e = program.function.getNumArguments(); i < e; ++i)
      if (auto state = program.function.getArgAttrOfType<FlatSymbolRefAttr>(
              i, lm::kStateAttr)) {
        // Who uses a piece holds the bucket.
        FlatSymbolRefAttr bucket = bucketOf(symbols.lookup(state.getValue()));
        stagesOf[(bucket ? bucket : state).getValue()].insert(program.stage);
      }

  struct Group {
    StringRef name, contents;
    SmallVector<Operation *> members;
  };
  Group groups[] = {{"parameters", "state", {}},
                    {"moments", "state", {}},
                    {"gradients", "state", {}},
                    {"caches", "state", {}},
                    {"constants", "constant", {}}};
  for (Operation &op : *module.getBody()) {
    auto state = dyn_cast<lm::StateOp>(op);
    if (bucketOf(&op) || (!state && !isa<lm::ParameterOp>(op)))
      continue;
    groups[state ? groupOf(state) : 0].members.push_back(&op);
  }
  auto mesh = module->getAttrOfType<dist::MeshAttr>(dist::kMeshAttr);
  for (Group &group : groups) {
    if (group.members.empty())
      continue;
    StageBytes bytes(stages, 0);
    SmallVector<std::pair<Operation *, int64_t>> placed; // with offset
    for (bool shared : {true, false})
      for (Operation *op : group.members) {
        auto &users = stagesOf[SymbolTable::getSymbolName(op)];
        if (users.empty()) // nobody's, and yet declared
          for (int64_t stage = 0; stage < stages; ++stage)
            users.insert(stage);
        if ((users.size() > 1 || group.contents == "constant") != shared)
          continue;
        placed.push_back({op, bytes[users.front()]});
        int64_t end = bytes[users.front()] + alignBytes(localBytes(op, mesh));
        if (!shared)
          bytes[users.front()] = end;
        else
          bytes.assign(stages, end);
        if (stages > 1)
          op->setAttr(kStagesAttr,
                      builder.getDenseI64ArrayAttr(users.getArrayRef()));
      }
    FlatSymbolRefAttr allocation = allocate(group.name, group.contents, bytes);
    for (auto [op, offset] : placed) {
      SliceAttr where = slice(allocation, linear(offset), localBytes(op, mesh));
      op->setAttr(kSliceAttr, where);
      states[SymbolTable::getSymbolName(op)] = where;
    }
  }
  placeInBuckets();
}

void Assigner::placePorts(Ports &ports, StringRef allocation,
                          StringRef contents) {
  int64_t bytes = 0;
  for (auto &[name, port] : ports) {
    port.offset = bytes;
    bytes += alignBytes(port.bytes);
  }
  if (!ports.empty())
    allocations[allocation] =
        allocate(allocation, contents, StageBytes(stages, bytes));
}

void Assigner::placeFixedHomes() {
  for (AssignedProgram &program : programs) {
    program.slices.resize(program.homes.homes.size());
    for (auto [home, where] : llvm::zip(program.homes.homes, program.slices)) {
      auto atPort = [&, &home = home](Ports &ports, StringRef allocation) {
        AssignedPort &port = ports.find(home.name)->second;
        LinearAttr offset = linear(port.offset);
        if (port.microBatches > 1)
          offset = offset.plus(home.bytes, kMicroBatch);
        return slice(allocations[allocation], offset, home.bytes);
      };
      if (home.parent >= 0)
        continue;
      if (home.kind == Home::State)
        where = states.lookup(home.name);
      else if (home.kind == Home::Input)
        where = atPort(inputs, "inputs");
      else if (home.kind == Home::Output)
        where = atPort(outputs, "outputs");
      else if (home.kind == Home::Scalar)
        where = atPort(scalars, "scalars");
    }
  }
}

LogicalResult Assigner::run() {
  if (failed(readSchedules()) || failed(findAllHomes()) ||
      failed(collectPorts()))
    return failure();
  // Declarations stand before the first program.
  builder.setInsertionPointToEnd(module.getBody());
  for (auto function : module.getOps<func::FuncOp>())
    if (function->hasAttr(kProgramAttr)) {
      builder.setInsertionPoint(function);
      break;
    }
  placeStates();
  placePorts(scalars, "scalars", "input");
  placePorts(inputs, "inputs", "input");
  placePorts(outputs, "outputs", "output");
  placeFixedHomes();
  packStages();
  buildDeclarations();
  for (AssignedProgram &program : programs)
    buildProgram(program);
  return success();
}

namespace {

struct AssignPass : lmc::plan::impl::AssignBase<AssignPass> {
  using AssignBase::AssignBase;

  void runOnOperation() override {
    Assigner assigner(getOperation());
    if (failed(assigner.run()))
      return signalPassFailure();
    numInstructions += assigner.numInstructions;
    numInPlace += assigner.numInPlace;
    numCopies += assigner.numCopies;
    arenaBytes += assigner.arenaBytes;
    liveBytes += assigner.liveBytes;
  }
};

} // namespace
