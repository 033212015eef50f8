// The pass Assign: programs on tensors become instructions on slices.
//
// Three ideas, in the order of this file: what the schedules say of the
// programs (which run for each micro-batch, how many micro-batches are under
// way at once); bytes for what has a fixed place (states, ports, scalars) and,
// packed by lifetime, for what lives within a step; the instructions.
// AssignHomes decides which values share bytes, AssignArena packs.
#include "dialects/dist/Dist.h"
#include "dialects/lm/Lm.h"
#include "dialects/plan/Plan.h"
#include "passes/plan/AssignArena.h"
#include "passes/plan/AssignHomes.h"
#include "passes/plan/Passes.h"

#include "mlir/IR/BuiltinOps.h"
#include "llvm/ADT/MapVector.h"
#include "llvm/ADT/StringSwitch.h"

namespace lmc::plan {
#define GEN_PASS_DEF_ASSIGN
#include "passes/plan/Passes.h.inc"
} // namespace lmc::plan

using namespace mlir;
using namespace lmc::plan;
namespace dist = lmc::dist;
namespace lm = lmc::lm;

namespace {

struct Program {
  func::FuncOp function;
  bool isPerMicroBatch = false;
  int64_t base = 0; // of its steps on the line of time
  int forward = -1; // index of the program that saves what this one reads
  ProgramHomes homes;
  std::vector<SliceAttr> slices; // of the root homes, whole
};

struct Port {
  Type type;
  int64_t microBatches = 1;
  int64_t offset = 0;
  int64_t bytes = 0; // of all micro-batches
};

// Names in the order of their first appearance.
using Ports = llvm::MapVector<StringRef, Port>;

class Assigner {
public:
  explicit Assigner(ModuleOp module)
      : module(module), symbols(module), builder(module.getContext()) {}

  LogicalResult run();

  unsigned numInstructions = 0, numInPlace = 0, numCopies = 0;
  int64_t arenaBytes = 0, liveBytes = 0;

private:
  LogicalResult readSchedules();
  LogicalResult findAllHomes();
  LogicalResult collectPorts();
  LogicalResult addPort(Program &program, Ports &ports, StringRef name,
                        Value value);
  bool fitsOneLineOfTime();

  void placeStates();
  void placePorts(Ports &ports, StringRef allocation, StringRef contents);
  void packTogether();
  void packApart();
  void placeFixedHomes();
  FlatSymbolRefAttr allocate(StringRef name, StringRef contents, int64_t bytes);

  void buildDeclarations();
  void buildProgram(Program &program);
  void buildRun(const Program &program, const Step &step, LaunchOp launch);
  void buildAllReduce(const Program &program, const Step &step,
                      dist::AllReduceOp op);
  SliceAttr sliceOf(const Program &program, const Step::Use &use);

  LinearAttr linear(int64_t constant) {
    return LinearAttr::get(module.getContext(), constant);
  }
  SliceAttr slice(FlatSymbolRefAttr allocation, LinearAttr offset,
                  int64_t bytes) {
    return SliceAttr::get(module.getContext(), allocation, offset, bytes);
  }

  ModuleOp module;
  SymbolTable symbols;
  OpBuilder builder;
  std::vector<Program> programs; // in the order in which they are called first
  std::vector<std::vector<CallOp>> schedules;
  int64_t microBatches = 1, slots = 1;
  Ports inputs, outputs, scalars;
  llvm::StringMap<SliceAttr> states;
  llvm::StringMap<FlatSymbolRefAttr> allocations;
};

} // namespace

//===----------------------------------------------------------------------===//
// What the schedules say
//===----------------------------------------------------------------------===//

LogicalResult Assigner::readSchedules() {
  llvm::MapVector<StringRef, llvm::SmallDenseSet<int64_t>> calledWith;
  for (auto schedule : module.getOps<ScheduleOp>()) {
    schedules.emplace_back();
    for (auto call : schedule.getBody().getOps<CallOp>()) {
      schedules.back().push_back(call);
      calledWith[call.getProgram()].insert(call.getMicroBatch());
      microBatches = std::max<int64_t>(microBatches, call.getMicroBatch() + 1);
      slots = std::max<int64_t>(slots, call.getSlot() + 1);
    }
  }
  for (auto &[name, numbers] : calledWith) {
    auto function = symbols.lookup<func::FuncOp>(name);
    if (!function || !function->hasAttr(kProgramAttr))
      return module.emitError()
             << "a schedule calls @" << name << ", which is no program";
    Program program;
    program.function = function;
    program.isPerMicroBatch = numbers.size() > 1;
    programs.push_back(std::move(program));
  }
  for (auto function : module.getOps<func::FuncOp>())
    if (function->hasAttr(kProgramAttr) &&
        !calledWith.count(function.getName()))
      return function.emitOpError()
             << "is a program that no schedule calls; run plan-schedule first";
  return success();
}

// True if `function` returns the saved value `name`.
static bool saves(func::FuncOp function, StringRef name) {
  for (unsigned i = 0, e = function.getNumResults(); i < e; ++i)
    if (auto saved = function.getResultAttrOfType<StringAttr>(i, kSavedAttr))
      if (saved.getValue() == name)
        return true;
  return false;
}

LogicalResult Assigner::findAllHomes() {
  // A state that a program of a micro-batch returns may change between that
  // micro-batch's forward and backward.
  llvm::StringSet<> unstable;
  for (Program &program : programs) {
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

  int64_t time = 0;
  for (Program &program : programs) {
    HomesContext context{symbols, unstable, nullptr};
    for (unsigned i = 0, e = program.function.getNumArguments(); i < e; ++i) {
      auto name = program.function.getArgAttrOfType<StringAttr>(i, kSavedAttr);
      if (!name)
        continue;
      for (auto [index, other] : llvm::enumerate(programs)) {
        if (&other == &program)
          break;
        if (saves(other.function, name.getValue()))
          program.forward = index;
      }
    }
    if (program.forward >= 0)
      context.forward = &programs[program.forward].homes;
    FailureOr<ProgramHomes> homes = findHomes(program.function, context);
    if (failed(homes))
      return failure();
    program.homes = std::move(*homes);
    program.base = time;
    time += program.homes.steps.size() + 1;
    numCopies += program.homes.numCopies;
    numInPlace += program.homes.numInPlace;
  }
  return success();
}

LogicalResult Assigner::addPort(Program &program, Ports &ports, StringRef name,
                                Value value) {
  Type type = value.getType();
  Port port{type, program.isPerMicroBatch ? microBatches : 1, 0, 0};
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
  for (Program &program : programs) {
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
  return success();
}

// May all programs stand on one line of time, each once? They may if between
// the writer and the last reader of saved values only programs run that stand
// between the two on the line.
bool Assigner::fitsOneLineOfTime() {
  if (slots != 1)
    return false;
  llvm::StringMap<int> indices;
  for (auto [index, program] : llvm::enumerate(programs))
    indices[program.function.getName()] = index;
  for (std::vector<CallOp> &calls : schedules)
    for (size_t i = 0; i < calls.size(); ++i) {
      int writer = indices.lookup(calls[i].getProgram());
      size_t lastReader = i;
      for (size_t j = i + 1; j < calls.size(); ++j) {
        int reader = indices.lookup(calls[j].getProgram());
        if (programs[reader].forward == writer &&
            calls[j].getMicroBatch() == calls[i].getMicroBatch())
          lastReader = j;
      }
      for (size_t j = i + 1; j < lastReader; ++j) {
        int between = indices.lookup(calls[j].getProgram());
        if (between <= writer ||
            between >= indices.lookup(calls[lastReader].getProgram()))
          return false;
      }
    }
  return true;
}

//===----------------------------------------------------------------------===//
// Bytes
//===----------------------------------------------------------------------===//

FlatSymbolRefAttr Assigner::allocate(StringRef name, StringRef contents,
                                     int64_t bytes) {
  auto op = builder.create<AllocationOp>(module.getLoc(), name, contents,
                                         alignBytes(bytes));
  symbols.insert(op);
  return FlatSymbolRefAttr::get(op.getSymNameAttr());
}

void Assigner::placeStates() {
  struct Group {
    StringRef name, contents;
    int64_t bytes = 0;
    SmallVector<std::pair<Operation *, int64_t>> members; // with offset
  };
  Group groups[] = {{"parameters", "state", 0, {}},
                    {"moments", "state", 0, {}},
                    {"gradients", "state", 0, {}},
                    {"caches", "state", 0, {}},
                    {"constants", "constant", 0, {}}};
  // Of one rank: a state is declared with its global shape.
  auto mesh = module->getAttrOfType<dist::MeshAttr>(dist::kMeshAttr);
  auto typeOf = [&](Operation *op) {
    auto parameter = dyn_cast<lm::ParameterOp>(op);
    RankedTensorType type = parameter ? parameter.getTensorType()
                                      : cast<lm::StateOp>(op).getTensorType();
    auto sharding = op->getAttrOfType<dist::ShardingAttr>(dist::kShardingAttr);
    return mesh && sharding ? dist::localType(type, sharding, mesh) : type;
  };
  auto sizeOf = [&](Operation *op) {
    RankedTensorType type = typeOf(op);
    return type.getNumElements() * type.getElementTypeBitWidth() / 8;
  };
  for (Operation &op : *module.getBody()) {
    unsigned group = 0;
    if (auto state = dyn_cast<lm::StateOp>(op))
      group = llvm::StringSwitch<unsigned>(state.getKind())
                  .Case("moment", 1)
                  .Case("accumulator", 2)
                  .Case("constant", 4)
                  .Default(3);
    else if (!isa<lm::ParameterOp>(op))
      continue;
    groups[group].members.push_back({&op, groups[group].bytes});
    groups[group].bytes += alignBytes(sizeOf(&op));
  }
  for (Group &group : groups) {
    if (group.members.empty())
      continue;
    FlatSymbolRefAttr allocation =
        allocate(group.name, group.contents, group.bytes);
    for (auto [op, offset] : group.members) {
      SliceAttr where = slice(allocation, linear(offset), sizeOf(op));
      op->setAttr(kSliceAttr, where);
      states[SymbolTable::getSymbolName(op)] = where;
    }
  }
}

void Assigner::placePorts(Ports &ports, StringRef allocation,
                          StringRef contents) {
  int64_t bytes = 0;
  for (auto &[name, port] : ports) {
    port.offset = bytes;
    bytes += alignBytes(port.bytes);
  }
  if (!ports.empty())
    allocations[allocation] = allocate(allocation, contents, bytes);
}

void Assigner::placeFixedHomes() {
  for (Program &program : programs) {
    program.slices.resize(program.homes.homes.size());
    for (auto [home, where] : llvm::zip(program.homes.homes, program.slices)) {
      auto atPort = [&, &home = home](Ports &ports, StringRef allocation) {
        Port &port = ports.find(home.name)->second;
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

// One arena for everything that lives within a step.
void Assigner::packTogether() {
  struct Owner {
    size_t program;
    int home;
  };
  std::vector<ArenaBlock> blocks;
  std::vector<Owner> owners;
  llvm::DenseMap<std::pair<size_t, int>, size_t> blockOf;
  bool holdsSaved = false;
  for (auto [index, program] : llvm::enumerate(programs))
    for (auto [number, home] : llvm::enumerate(program.homes.homes)) {
      if (home.parent >= 0 || home.begin < 0)
        continue;
      if (home.kind == Home::Saved && home.owner >= 0) {
        auto known = blockOf.find({size_t(program.forward), home.owner});
        if (known != blockOf.end())
          blocks[known->second].end = program.base + home.end;
        continue;
      }
      if (home.kind != Home::Scratch && home.kind != Home::Saved)
        continue;
      holdsSaved |= home.kind == Home::Saved;
      blockOf[{index, int(number)}] = blocks.size();
      blocks.push_back(
          {program.base + home.begin, program.base + home.end, home.bytes, 0});
      owners.push_back({index, int(number)});
    }
  arenaBytes = packArena(blocks);
  liveBytes = largestLiveBytes(blocks);
  if (blocks.empty())
    return;
  FlatSymbolRefAttr arena =
      allocate(holdsSaved ? "activations" : "scratch",
               holdsSaved ? "saved" : "scratch", arenaBytes);
  for (auto [block, owner] : llvm::zip(blocks, owners))
    programs[owner.program].slices[owner.home] =
        slice(arena, linear(block.offset), block.bytes);
}

// Saved values at slot * stride, and scratch that every program uses anew.
void Assigner::packApart() {
  int64_t stride = 0, savedBytes = 0, scratchBytes = 0, scratchLive = 0;
  for (Program &program : programs)
    for (Home &home : program.homes.homes)
      if (home.parent < 0 && home.kind == Home::Saved && home.owner < 0)
        stride += alignBytes(home.bytes);
  FlatSymbolRefAttr saved, scratch;
  savedBytes = stride * slots;
  if (savedBytes > 0)
    saved = allocate("saved", "saved", savedBytes);
  int64_t offset = 0;
  std::vector<std::vector<std::pair<int, ArenaBlock>>> packed(programs.size());
  for (auto [index, program] : llvm::enumerate(programs)) {
    std::vector<ArenaBlock> blocks;
    std::vector<int> numbers;
    for (auto [number, home] : llvm::enumerate(program.homes.homes)) {
      if (home.parent >= 0)
        continue;
      if (home.kind == Home::Saved && home.owner < 0) {
        program.slices[number] =
            slice(saved, linear(offset).plus(stride, kSlot), home.bytes);
        offset += alignBytes(home.bytes);
      } else if (home.kind == Home::Scratch && home.begin >= 0) {
        blocks.push_back({home.begin, home.end, home.bytes, 0});
        numbers.push_back(number);
      }
    }
    scratchBytes = std::max(scratchBytes, packArena(blocks));
    scratchLive = std::max(scratchLive, largestLiveBytes(blocks));
    for (auto [number, block] : llvm::zip(numbers, blocks))
      packed[index].push_back({number, block});
  }
  if (scratchBytes > 0)
    scratch = allocate("scratch", "scratch", scratchBytes);
  for (auto [index, program] : llvm::enumerate(programs))
    for (auto &[number, block] : packed[index])
      program.slices[number] =
          slice(scratch, linear(block.offset), block.bytes);
  arenaBytes = savedBytes + scratchBytes;
  liveBytes = savedBytes + scratchLive;
}

//===----------------------------------------------------------------------===//
// Instructions
//===----------------------------------------------------------------------===//

void Assigner::buildDeclarations() {
  Location loc = module.getLoc();
  auto integer = [&](int64_t value) {
    return builder.getI64IntegerAttr(value);
  };
  for (auto [name, count] :
       {std::pair(kMicroBatch, microBatches), std::pair(kSlot, slots)})
    if (count > 1)
      builder.create<SymbolOp>(loc, name, name, 0, count - 1, IntegerAttr());
  if (auto sizes = module->getAttrOfType<DictionaryAttr>(lm::kSizesAttr))
    for (NamedAttribute size : sizes)
      builder.create<SymbolOp>(loc, size.getName().getValue(), "size", 0,
                               cast<IntegerAttr>(size.getValue()).getInt(),
                               IntegerAttr());
  for (auto &[name, port] : scalars)
    builder.create<ScalarOp>(
        loc, name, port.type,
        slice(allocations["scalars"], linear(port.offset), port.bytes));
  for (auto &[name, port] : inputs)
    builder.create<InputOp>(
        loc, builder.getStringAttr(name), TypeAttr::get(port.type),
        slice(allocations["inputs"], linear(port.offset), port.bytes),
        integer(port.microBatches));
  for (auto &[name, port] : outputs)
    builder.create<OutputOp>(
        loc, builder.getStringAttr(name), TypeAttr::get(port.type),
        slice(allocations["outputs"], linear(port.offset), port.bytes),
        integer(port.microBatches));
}

SliceAttr Assigner::sliceOf(const Program &program, const Step::Use &use) {
  const Home &home = program.homes.homes[use.place.home];
  SliceAttr whole = home.kind == Home::Saved && home.owner >= 0
                        ? programs[program.forward].slices[home.owner]
                        : program.slices[use.place.home];
  return slice(whole.getAllocation(), whole.getOffset().plus(use.place.offset),
               use.bytes);
}

void Assigner::buildRun(const Program &program, const Step &step,
                        LaunchOp launch) {
  SmallVector<Attribute> operands, integers;
  for (const Step::Use &use : step.uses) {
    static constexpr StringLiteral names[] = {"read", "write", "read_write"};
    operands.push_back(OperandAttr::get(
        module.getContext(), builder.getStringAttr(names[use.access]),
        sliceOf(program, use)));
  }
  auto kernel = symbols.lookup<KernelOp>(launch.getKernel());
  bool accumulates =
      kernel.getBody()
          .walk([](lm::AccumulateOp) { return WalkResult::interrupt(); })
          .wasInterrupted();
  if (accumulates)
    integers.push_back(microBatches > 1 ? linear(0).plus(1, kMicroBatch)
                                        : linear(0));
  LinearAttr rows;
  if (StringRef size = program.homes.sizes.rowsOf(launch); !size.empty()) {
    rows = linear(0).plus(1, size);
    integers.push_back(rows);
  }
  for (int64_t id : launch.getRandomIds().value_or(ArrayRef<int64_t>()))
    integers.push_back(linear(id));
  builder.create<RunOp>(
      step.loc, launch.getKernelAttr(), builder.getArrayAttr(operands),
      integers.empty() ? nullptr : builder.getArrayAttr(integers), rows);
}

// Axes are indices into the mesh, slowest first.
void Assigner::buildAllReduce(const Program &program, const Step &step,
                              dist::AllReduceOp op) {
  SmallVector<int64_t> axes;
  auto mesh = module->getAttrOfType<dist::MeshAttr>(dist::kMeshAttr);
  for (Attribute axis : op.getAxes())
    axes.push_back(llvm::find(mesh.getAxes(), axis) - mesh.getAxes().begin());
  llvm::sort(axes);
  auto type = cast<RankedTensorType>(op.getInput().getType());
  builder.create<CollectiveOp>(
      step.loc, builder.getStringAttr("all_reduce"), op.getKindAttr(),
      TypeAttr::get(type.getElementType()), builder.getDenseI64ArrayAttr(axes),
      sliceOf(program, step.uses.front()), sliceOf(program, step.uses.back()));
}

void Assigner::buildProgram(Program &program) {
  OpBuilder::InsertionGuard guard(builder);
  func::FuncOp function = program.function;
  builder.setInsertionPoint(function);
  auto op = builder.create<ProgramOp>(function.getLoc(), function.getName(), 0);
  builder.setInsertionPointToEnd(&op.getBody().front());
  for (Step &step : program.homes.steps) {
    ++numInstructions;
    if (auto launch = dyn_cast_or_null<LaunchOp>(step.op))
      buildRun(program, step, launch);
    else if (auto reduce = dyn_cast_or_null<dist::AllReduceOp>(step.op))
      buildAllReduce(program, step, reduce);
    else
      builder.create<CopyOp>(step.loc, sliceOf(program, step.uses[0]),
                             sliceOf(program, step.uses[1]));
  }
  function.erase();
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
  if (fitsOneLineOfTime())
    packTogether();
  else
    packApart();
  buildDeclarations();
  for (Program &program : programs)
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
