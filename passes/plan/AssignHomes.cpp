// See AssignHomes.h. A program is walked once, in order: each operation either
// gives its results a place or, for a launch, also makes a step. The results of
// the program come last: where a value's home can be taken into its
// destination it is, elsewhere a copy follows.
#include "passes/plan/HomeFinder.h"

#include "mlir/IR/BuiltinOps.h"
#include "llvm/ADT/DenseSet.h"

using namespace mlir;
using namespace lmc::plan;
namespace dist = lmc::dist;
namespace lm = lmc::lm;

FailureOr<ProgramHomes> HomeFinder::run() {
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

// Resolves every use to its root.
void HomeFinder::finish() {
  for (Step &step : result.steps)
    for (Step::Use &use : step.uses)
      use.place = result.resolve(use.place);
}

FailureOr<ProgramHomes> lmc::plan::findHomes(func::FuncOp function,
                                             const HomesContext &context) {
  return HomeFinder(function, context).run();
}
