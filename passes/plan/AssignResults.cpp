// The last step of HomeFinder: the results of a program. Where a value's home
// can be taken into its destination it is, elsewhere a copy follows.
#include "passes/plan/HomeFinder.h"

#include "mlir/IR/BuiltinOps.h"

using namespace mlir;
using namespace lmc::plan;
namespace lm = lmc::lm;

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
