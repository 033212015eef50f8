// See AssignHomes.h. A program is walked once, in order: each operation either
// gives its results a place or, for a launch, also makes a step. The results of
// the program come last: where a value's home can be taken into its
// destination it is, elsewhere a copy follows.
#include "passes/plan/AssignHomes.h"
#include "dialects/dist/Dist.h"
#include "dialects/lm/Lm.h"

#include "mlir/IR/BuiltinOps.h"
#include "llvm/ADT/DenseMap.h"
#include "llvm/ADT/DenseSet.h"
#include "llvm/ADT/TypeSwitch.h"

using namespace mlir;
using namespace lmc::plan;
namespace dist = lmc::dist;
namespace lm = lmc::lm;

namespace {

class HomeFinder {
public:
  HomeFinder(func::FuncOp function, const HomesContext &context)
      : function(function), context(context) {
    result.function = function;
  }

  FailureOr<ProgramHomes> run() {
    FailureOr<RowSizes> sizes = RowSizes::infer(function, context.symbols);
    if (failed(sizes))
      return failure();
    result.sizes = std::move(*sizes);
    if (failed(numberOperations()) || failed(placeArguments()))
      return failure();
    for (Operation &op : function.getBody().front().without_terminator())
      if (failed(placeOperation(&op)))
        return failure();
    if (failed(placeResults()))
      return failure();
    finish();
    return std::move(result);
  }

private:
  // A value that lies in a home; kept at the home's root.
  struct Resident {
    Value value;
    Place place;
  };

  LogicalResult numberOperations();
  void findUpdatedInPlace(Value value, StringRef state, int64_t offset);

  LogicalResult placeArguments();
  LogicalResult placeSavedArgument(BlockArgument argument, StringRef name);
  LogicalResult placeOperation(Operation *op);
  LogicalResult placeLaunch(LaunchOp op);
  LogicalResult placeConcatenation(lm::ConcatRowsOp op);
  LogicalResult placeResults();
  LogicalResult placeResult(Value value, Home::Kind kind, StringRef name);
  void finish();

  int addHome(Home::Kind kind, StringRef name, int64_t bytes);
  int getFixedHome(Home::Kind kind, StringRef name, int64_t bytes);
  void settle(Value value, Place place);
  void takeInto(int child, Place parent);
  bool isWholeScratch(Value value) const;
  bool mayOverwrite(Operation *op, Value operand, Value updated);
  LogicalResult placeCollective(Operation *op);
  void markWritten(Place place, Operation *op);
  Place copyTo(Location loc, Place source, Place target, int64_t bytes);

  int64_t bytesOf(Value value) const { return result.sizes.bytesOf(value); }
  Place placeOf(Value value) const {
    return result.resolve(places.lookup(value));
  }

  func::FuncOp function;
  const HomesContext &context;
  ProgramHomes result;
  DenseMap<Value, Place> places;
  DenseMap<Operation *, int64_t> indices;
  int64_t endIndex = 0;              // of the terminator
  DenseMap<Value, int64_t> lastRead; // by a launch, a concatenation, the end
  // Values on a state's way, with their offset in it.
  DenseMap<Value, std::pair<StringRef, int64_t>> updatedInPlace;
  std::vector<SmallVector<Resident>> residents; // of each root
  llvm::StringMap<int> fixed;
  SmallVector<std::pair<Step::Use, Step::Use>> lastCopies; // to states
};

} // namespace

// The launch result that `value` is, with its kernel's tie; -1 where not tied.
static int64_t tiedOperand(SymbolTable &symbols, Value value) {
  auto launch = value.getDefiningOp<LaunchOp>();
  if (!launch)
    return -1;
  auto kernel = symbols.lookup<KernelOp>(launch.getKernel());
  return kernel.getTied()[cast<OpResult>(value).getResultNumber()];
}

// Numbers operations, checks what later code relies on, finds each value's
// last reader and the ties that lead from a state's argument to its result.
LogicalResult HomeFinder::numberOperations() {
  if (!function.getBody().hasOneBlock())
    return function.emitOpError() << "is a program of several blocks";
  int64_t index = 0;
  for (Operation &op : function.getBody().front()) {
    indices[&op] = endIndex = index++;
    if (auto launch = dyn_cast<LaunchOp>(op)) {
      auto kernel = context.symbols.lookup<KernelOp>(launch.getKernel());
      if (!kernel)
        return launch.emitOpError()
               << "launches @" << launch.getKernel() << ", which is no kernel";
      if (kernel.getFunctionType() != FunctionType::get(op.getContext(),
                                                        op.getOperandTypes(),
                                                        op.getResultTypes()))
        return launch.emitOpError()
               << "has the type "
               << FunctionType::get(op.getContext(), op.getOperandTypes(),
                                    op.getResultTypes())
               << ", its kernel " << kernel.getFunctionType();
    }
    for (Value value : op.getResults())
      if (failed(getTensorBytes(&op, value.getType(),
                                result.sizes.nameOf(value).empty() ? 0 : 1)))
        return failure();
    if (isa<lm::ReshapeOp, lm::SliceRowsOp>(op))
      continue; // a view reads nothing itself
    for (Value operand : op.getOperands())
      lastRead[operand] = indices[&op];
  }
  for (Value argument : function.getArguments())
    if (failed(getTensorBytes(function, argument.getType(),
                              result.sizes.nameOf(argument).empty() ? 0 : 1)))
      return failure();
  Operation *end = function.getBody().front().getTerminator();
  for (auto [number, value] : llvm::enumerate(end->getOperands()))
    if (auto state = function.getResultAttrOfType<FlatSymbolRefAttr>(
            number, lm::kStateAttr))
      findUpdatedInPlace(value, state.getValue(), 0);
  return success();
}

// Marks the values on the way back from a new state to its argument, if ties
// and views lead all the way; of a concatenation, for each of its operands.
void HomeFinder::findUpdatedInPlace(Value value, StringRef state,
                                    int64_t offset) {
  SmallVector<Value> way;
  while (Operation *op = value.getDefiningOp()) {
    way.push_back(value);
    int64_t tied = tiedOperand(context.symbols, value);
    if (auto concatenation = dyn_cast<lm::ConcatRowsOp>(op)) {
      for (Value operand : concatenation.getInputs()) {
        findUpdatedInPlace(operand, state, offset);
        offset += bytesOf(operand);
      }
      return;
    }
    if (isa<lm::ReshapeOp, lm::SliceRowsOp>(op))
      value = op->getOperand(0);
    else if (tied >= 0)
      value = op->getOperand(tied);
    else
      return;
  }
  auto argument = cast<BlockArgument>(value);
  auto attr = function.getArgAttrOfType<FlatSymbolRefAttr>(
      argument.getArgNumber(), lm::kStateAttr);
  if (!attr || attr.getValue() != state)
    return;
  for (Value step : way)
    updatedInPlace[step] = {state, offset};
}

int HomeFinder::addHome(Home::Kind kind, StringRef name, int64_t bytes) {
  Home home;
  home.kind = kind;
  home.name = name.str();
  home.bytes = bytes;
  result.homes.push_back(home);
  residents.emplace_back();
  return result.homes.size() - 1;
}

int HomeFinder::getFixedHome(Home::Kind kind, StringRef name, int64_t bytes) {
  auto [entry, isNew] =
      fixed.insert({(Twine(int(kind)) + ":" + name).str(), -1});
  if (isNew)
    entry->second = addHome(kind, name, bytes);
  return entry->second;
}

void HomeFinder::settle(Value value, Place place) {
  places[value] = place;
  place = result.resolve(place);
  residents[place.home].push_back({value, place});
}

void HomeFinder::takeInto(int child, Place parent) {
  parent = result.resolve(parent);
  Home &home = result.homes[child];
  home.parent = parent.home;
  home.offset = parent.offset;
  for (Resident &resident : residents[child])
    residents[parent.home].push_back(
        {resident.value, {parent.home, resident.place.offset + parent.offset}});
  residents[child].clear();
  Home &root = result.homes[parent.home];
  if (home.firstWrite >= 0 &&
      (root.firstWrite < 0 || home.firstWrite < root.firstWrite))
    root.firstWrite = home.firstWrite;
}

// True if `value` is all of a home that has no place outside the program.
bool HomeFinder::isWholeScratch(Value value) const {
  Place place = placeOf(value);
  const Home &home = result.homes[place.home];
  return home.kind == Home::Scratch && place.offset == 0 &&
         home.bytes == bytesOf(value);
}

Place HomeFinder::copyTo(Location loc, Place source, Place target,
                         int64_t bytes) {
  Step step{loc, nullptr, {}};
  step.uses.push_back({source, bytes, Step::Use::Read});
  step.uses.push_back({target, bytes, Step::Use::Write});
  result.steps.push_back(std::move(step));
  ++result.numCopies;
  return target;
}

//===----------------------------------------------------------------------===//
// Arguments
//===----------------------------------------------------------------------===//

LogicalResult HomeFinder::placeArguments() {
  for (BlockArgument argument : function.getArguments()) {
    unsigned number = argument.getArgNumber();
    int64_t bytes = bytesOf(argument);
    auto text = [&](StringRef name) {
      return function.getArgAttrOfType<StringAttr>(number, name);
    };
    if (auto state = function.getArgAttrOfType<FlatSymbolRefAttr>(
            number, lm::kStateAttr))
      settle(argument, {getFixedHome(Home::State, state.getValue(), bytes), 0});
    else if (auto name = text(lm::kInputAttr))
      settle(argument, {getFixedHome(Home::Input, name, bytes), 0});
    else if (auto name = text(lm::kScalarAttr))
      settle(argument, {getFixedHome(Home::Scalar, name, bytes), 0});
    else if (auto name = text(kSavedAttr)) {
      if (failed(placeSavedArgument(argument, name)))
        return failure();
    } else
      return function.emitOpError()
             << "has argument " << number
             << " with none of lm.state, lm.input, lm.scalar, lm.saved: its "
                "bytes are unknown";
  }
  return success();
}

LogicalResult HomeFinder::placeSavedArgument(BlockArgument argument,
                                             StringRef name) {
  auto writer = context.savedBy.find(name);
  if (writer == context.savedBy.end())
    return function.emitOpError() << "reads the saved value \"" << name
                                  << "\", which no program before it saves";
  int program = writer->second;
  const ProgramHomes &saver = context.homesOf(program);
  Place place = saver.resolve(saver.saved.lookup(name));
  const Home &owner = saver.homes[place.home];
  if (place.offset + bytesOf(argument) > owner.bytes)
    return function.emitOpError()
           << "reads " << bytesOf(argument) << " bytes of the saved value \""
           << name << "\", which has " << owner.bytes - place.offset;
  int home;
  if (owner.kind == Home::Saved) {
    // What the saver only hands on belongs to whoever wrote it.
    int root = owner.owner >= 0 ? owner.owner : place.home;
    if (owner.owner >= 0)
      program = owner.ownerProgram;
    home = getFixedHome(Home::Saved, (Twine(program) + "." + Twine(root)).str(),
                        owner.bytes);
    result.homes[home].ownerProgram = program;
    result.homes[home].owner = root;
  } else {
    home = getFixedHome(owner.kind, owner.name, owner.bytes);
  }
  settle(argument, {home, place.offset});
  return success();
}

//===----------------------------------------------------------------------===//
// Operations
//===----------------------------------------------------------------------===//

LogicalResult HomeFinder::placeOperation(Operation *op) {
  return TypeSwitch<Operation *, LogicalResult>(op)
      .Case([&](LaunchOp launch) { return placeLaunch(launch); })
      .Case<dist::AllReduceOp, dist::AllGatherOp, dist::ReduceScatterOp>(
          [&](Operation *collective) { return placeCollective(collective); })
      .Case([&](dist::SendOp send) {
        result.steps.push_back({send.getLoc(), send, {}});
        result.steps.back().uses.push_back({places.lookup(send.getInput()),
                                            bytesOf(send.getInput()),
                                            Step::Use::Read});
        return success();
      })
      .Case([&](dist::ReceiveOp receive) {
        int64_t bytes = bytesOf(receive.getOutput());
        Place place{addHome(Home::Scratch, "", bytes), 0};
        settle(receive.getOutput(), place);
        markWritten(place, receive);
        result.steps.push_back({receive.getLoc(), receive, {}});
        result.steps.back().uses.push_back({place, bytes, Step::Use::Write});
        return success();
      })
      .Case([&](lm::ReshapeOp reshape) {
        settle(reshape.getOutput(), places.lookup(reshape.getInput()));
        return success();
      })
      .Case([&](lm::SliceRowsOp slice) {
        auto type = cast<RankedTensorType>(slice.getOutput().getType());
        int64_t rowBytes =
            type.getDimSize(0) == 0
                ? 0
                : bytesOf(slice.getOutput()) / type.getDimSize(0);
        Place place = places.lookup(slice.getInput());
        place.offset += rowBytes * static_cast<int64_t>(slice.getOffset());
        settle(slice.getOutput(), place);
        return success();
      })
      .Case([&](lm::ConcatRowsOp concatenation) {
        return placeConcatenation(concatenation);
      })
      .Default([](Operation *other) {
        return other->emitOpError()
               << "is no launch, collective, transfer or view; a "
                  "program that is assigned bytes "
                  "holds nothing else";
      });
}

// May `op` write its tied result `updated` over `operand`? Not if the
// bytes belong to somebody else or if any value in them is read later.
bool HomeFinder::mayOverwrite(Operation *op, Value operand, Value updated) {
  Place place = placeOf(operand);
  const Home &home = result.homes[place.home];
  if (home.kind == Home::Input || home.kind == Home::Scalar ||
      home.kind == Home::Output)
    return false;
  if (home.kind == Home::Saved && home.owner >= 0 &&
      context.isReadLater(home.ownerProgram, home.owner))
    return false;
  if (home.kind == Home::State) {
    auto state = updatedInPlace.find(updated);
    bool isNewState =
        state != updatedInPlace.end() &&
        state->second == std::pair(StringRef(home.name), place.offset);
    bool mayEnd = isa<dist::AllReduceOp>(op) && op->hasAttr("tied");
    if (!isNewState && !mayEnd)
      return false;
  }
  int64_t now = indices.lookup(op), bytes = bytesOf(operand);
  for (const Resident &resident : residents[place.home]) {
    if (resident.place.offset >= place.offset + bytes ||
        place.offset >= resident.place.offset + bytesOf(resident.value))
      continue;
    auto last = lastRead.find(resident.value);
    if (last != lastRead.end() && last->second > now)
      return false;
  }
  // The same bytes given twice to one kernel, once to be written.
  unsigned timesGiven = 0;
  for (Value other : op->getOperands()) {
    Place otherPlace = placeOf(other);
    timesGiven += otherPlace.home == place.home &&
                  otherPlace.offset < place.offset + bytes &&
                  place.offset < otherPlace.offset + bytesOf(other);
  }
  return timesGiven == 1;
}

void HomeFinder::markWritten(Place place, Operation *op) {
  Home &home = result.homes[result.resolve(place).home];
  if (home.firstWrite < 0)
    home.firstWrite = indices.lookup(op);
}

// An all-reduce is in place where the operand's bytes may go.
LogicalResult HomeFinder::placeCollective(Operation *op) {
  auto mesh =
      function->getParentOfType<ModuleOp>()->getAttrOfType<dist::MeshAttr>(
          dist::kMeshAttr);
  for (Attribute axis : dist::axesOf(op))
    if (!mesh || !llvm::is_contained(mesh.getAxes(), axis))
      return op->emitOpError()
             << "goes over " << axis << ", which is no axis of the mesh";
  if (auto dim = op->getAttrOfType<IntegerAttr>("dim"); dim && dim.getInt())
    return op->emitOpError() << "lays pieces along dim " << dim.getInt()
                             << "; their bytes are one behind the other along "
                                "dim 0 alone";
  Value input = op->getOperand(0), output = op->getResult(0);
  Place source = places.lookup(input);
  Step step{op->getLoc(), op, {}};
  if (isa<dist::AllReduceOp>(op) && mayOverwrite(op, input, output)) {
    ++result.numInPlace;
    settle(output, source);
    step.uses.push_back({source, bytesOf(input), Step::Use::ReadWrite});
    markWritten(source, op);
  } else {
    int home = addHome(Home::Scratch, "", bytesOf(output));
    settle(output, {home, 0});
    step.uses.push_back({source, bytesOf(input), Step::Use::Read});
    step.uses.push_back({{home, 0}, bytesOf(output), Step::Use::Write});
    markWritten({home, 0}, op);
  }
  result.steps.push_back(std::move(step));
  return success();
}

LogicalResult HomeFinder::placeLaunch(LaunchOp op) {
  auto kernel = context.symbols.lookup<KernelOp>(op.getKernel());
  Step step{op.getLoc(), op, {}};
  for (Value operand : op.getInputs())
    step.uses.push_back(
        {places.lookup(operand), bytesOf(operand), Step::Use::Read});
  for (auto [output, tied] : llvm::zip(op.getOutputs(), kernel.getTied())) {
    if (tied < 0) {
      int home = addHome(Home::Scratch, "", bytesOf(output));
      settle(output, {home, 0});
      step.uses.push_back({{home, 0}, bytesOf(output), Step::Use::Write});
      markWritten({home, 0}, op);
      continue;
    }
    Value operand = op.getInputs()[tied];
    Place place = places.lookup(operand);
    if (mayOverwrite(op, operand, output)) {
      ++result.numInPlace;
    } else {
      int home = addHome(Home::Scratch, "", bytesOf(operand));
      place = copyTo(op.getLoc(), place, {home, 0}, bytesOf(operand));
    }
    settle(output, place);
    markWritten(place, op);
    step.uses[tied] = {place, bytesOf(operand), Step::Use::ReadWrite};
  }
  result.steps.push_back(std::move(step));
  return success();
}

LogicalResult HomeFinder::placeConcatenation(lm::ConcatRowsOp op) {
  int64_t total = 0;
  Place first = placeOf(op.getInputs().front());
  bool inPlace = true;
  for (Value operand : op.getInputs()) {
    Place place = placeOf(operand);
    inPlace &= place.home == first.home && place.offset == first.offset + total;
    total += bytesOf(operand);
  }
  if (total != bytesOf(op.getOutput()))
    return op.emitOpError() << "lays " << total << " bytes of operands into "
                            << bytesOf(op.getOutput()) << " of the result";
  if (inPlace) {
    settle(op.getOutput(), first);
    return success();
  }
  int whole = addHome(Home::Scratch, "", total);
  int64_t offset = 0;
  for (Value operand : op.getInputs()) {
    Place target{whole, offset};
    Place source = placeOf(operand);
    if (isWholeScratch(operand) && source.home != whole) {
      takeInto(source.home, target);
      ++result.numInPlace;
    } else {
      copyTo(op.getLoc(), source, target, bytesOf(operand));
      if (result.homes[whole].firstWrite < 0)
        result.homes[whole].firstWrite = indices.lookup(op);
    }
    offset += bytesOf(operand);
  }
  settle(op.getOutput(), {whole, 0});
  return success();
}

//===----------------------------------------------------------------------===//
// Results
//===----------------------------------------------------------------------===//

LogicalResult HomeFinder::placeResults() {
  Operation *end = function.getBody().front().getTerminator();
  struct Wanted {
    Value value;
    Home::Kind kind;
    StringRef name;
  };
  // States first: they are never read through a saved value or an output, so
  // that one value that is both is stored once.
  SmallVector<Wanted> states, outputs, saved;
  for (auto [number, value] : llvm::enumerate(end->getOperands())) {
    auto text = [&, number = number](StringRef name) {
      return function.getResultAttrOfType<StringAttr>(number, name);
    };
    if (auto state = function.getResultAttrOfType<FlatSymbolRefAttr>(
            number, lm::kStateAttr))
      states.push_back({value, Home::State, state.getValue()});
    else if (auto name = text(lm::kOutputAttr))
      outputs.push_back({value, Home::Output, name.getValue()});
    else if (auto name = text(kSavedAttr))
      saved.push_back({value, Home::Saved, name.getValue()});
    else
      return function.emitOpError()
             << "has result " << number
             << " with none of lm.state, lm.output, lm.saved: nobody would "
                "read it";
  }
  for (auto &list : {states, outputs, saved})
    for (const Wanted &wanted : list)
      if (failed(placeResult(wanted.value, wanted.kind, wanted.name)))
        return failure();

  // Copies to states come last; one whose source is itself overwritten by
  // another goes through scratch.
  DenseSet<int> overwritten;
  for (auto &[source, target] : lastCopies)
    overwritten.insert(result.resolve(target.place).home);
  for (auto &[source, target] : lastCopies)
    if (overwritten.contains(result.resolve(source.place).home))
      source.place =
          copyTo(function.getLoc(), source.place,
                 {addHome(Home::Scratch, "", source.bytes), 0}, source.bytes);
  for (auto &[source, target] : lastCopies)
    copyTo(function.getLoc(), source.place, target.place, source.bytes);
  return success();
}

LogicalResult HomeFinder::placeResult(Value value, Home::Kind kind,
                                      StringRef name) {
  Place source = placeOf(value);
  Home &root = result.homes[source.home];
  int64_t bytes = bytesOf(value);
  Location loc = value.getLoc();

  if (kind == Home::Saved) {
    bool isStable = root.kind == Home::Input || root.kind == Home::Scalar ||
                    root.kind == Home::Output || root.kind == Home::Saved ||
                    (root.kind == Home::State &&
                     !context.unstableStates.contains(root.name));
    if (root.kind == Home::Scratch)
      root.kind = Home::Saved;
    else if (!isStable)
      source = copyTo(loc, source, {addHome(Home::Saved, "", bytes), 0}, bytes);
    if (!result.saved.insert({name, source}).second)
      return function.emitOpError() << "saves two values as \"" << name << "\"";
    return success();
  }

  bool isNew = !fixed.count((Twine(int(kind)) + ":" + name).str());
  int target = getFixedHome(kind, name, bytes);
  if (result.homes[target].bytes != bytes)
    return function.emitOpError()
           << "returns " << bytes << " bytes as \"" << name << "\", which has "
           << result.homes[target].bytes;
  if (source.home == target && source.offset == 0)
    return success();
  if (kind == Home::Output && !isNew)
    return function.emitOpError()
           << "returns two values as output \"" << name << "\"";

  // The old bytes must have had their last reader before the home's first
  // writer, and nothing else may have been put there.
  bool isFree = result.homes[target].firstWrite < 0;
  for (const Resident &resident : residents[target]) {
    auto last = lastRead.find(resident.value);
    if (last != lastRead.end() &&
        last->second >= result.homes[source.home].firstWrite)
      isFree = false;
  }
  if (isFree && isWholeScratch(value)) {
    takeInto(source.home, {target, 0});
    ++result.numInPlace;
    return success();
  }
  if (kind == Home::State) {
    lastCopies.push_back({{source, bytes, Step::Use::Read},
                          {{target, 0}, bytes, Step::Use::Write}});
    return success();
  }
  copyTo(loc, source, {target, 0}, bytes);
  return success();
}

// Resolves every use to its root and finds the roots' lifetimes.
void HomeFinder::finish() {
  for (auto [index, step] : llvm::enumerate(result.steps))
    for (Step::Use &use : step.uses) {
      use.place = result.resolve(use.place);
      Home &home = result.homes[use.place.home];
      if (home.begin < 0)
        home.begin = index;
      home.end = index;
    }
}

FailureOr<ProgramHomes> lmc::plan::findHomes(func::FuncOp function,
                                             const HomesContext &context) {
  return HomeFinder(function, context).run();
}
