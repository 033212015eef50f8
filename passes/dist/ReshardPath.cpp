#include "passes/dist/ReshardPath.h"

#include "llvm/ADT/StringExtras.h"

#include <map>
#include <set>

using namespace mlir;
using namespace lmc;
using namespace lmc::dist;

namespace {

class PathFinder {
public:
  PathFinder(RankedTensorType type, ShardingAttr from, ShardingAttr to,
             MeshAttr mesh)
      : type(type), from(from), to(to), mesh(mesh) {
    for (Attribute axis : mesh.getAxes()) {
      StringRef name = cast<StringAttr>(axis).getValue();
      order.push_back(name);
      if (uses(from, name) || uses(to, name))
        relevant.push_back(name);
    }
  }

  FailureOr<ReshardPath> run();

private:
  using Cost = std::pair<int64_t, int64_t>; // bytes, transitions
  struct Known {
    Cost cost;
    ShardingAttr before; // null for `from`
    Transition step;
  };
  using Visit = llvm::function_ref<void(const Transition &)>;

  static bool uses(ShardingAttr sharding, StringRef axis) {
    for (unsigned dim = 0; dim < sharding.getDims().size(); ++dim)
      if (llvm::is_contained(sharding.getAxes(dim), axis))
        return true;
    return llvm::is_contained(sharding.getPartialAxes(), axis);
  }
  int64_t ranksOf(ArrayRef<StringRef> axes) const {
    int64_t ranks = 1;
    for (StringRef axis : axes)
      ranks *= mesh.getSize(axis);
    return ranks;
  }
  // The ranks of one group are numbered by the mesh, slowest axis first.
  bool isInMeshOrder(ArrayRef<StringRef> axes) const {
    for (size_t i = 1; i < axes.size(); ++i)
      if (llvm::find(order, axes[i - 1]) > llvm::find(order, axes[i]))
        return false;
    return true;
  }
  bool divides(ShardingAttr sharding, unsigned dim) const {
    return type.getDimSize(dim) % ranksOf(sharding.getAxes(dim)) == 0;
  }
  int64_t localBytes(ShardingAttr sharding) const {
    RankedTensorType local = localType(type, sharding, mesh);
    return local.getNumElements() * ((type.getElementTypeBitWidth() + 7) / 8);
  }
  int64_t priceOf(ShardingAttr at, ShardingAttr next,
                  const Transition &step) const;
  void forEachTransition(ShardingAttr at, Visit visit) const;

  RankedTensorType type;
  ShardingAttr from, to;
  MeshAttr mesh;
  SmallVector<StringRef> order;    // of the mesh's axes
  SmallVector<StringRef> relevant; // that a side uses, in mesh order
};

int64_t PathFinder::priceOf(ShardingAttr at, ShardingAttr next,
                            const Transition &step) const {
  int64_t ranks = ranksOf(step.axes);
  auto share = [&](int64_t bytes) { return bytes / ranks * (ranks - 1); };
  switch (step.kind) {
  case Transition::Slice:
    return 0;
  case Transition::AllGather:
    return share(localBytes(next));
  case Transition::AllReduce:
    return 2 * share(localBytes(at));
  case Transition::ReduceScatter:
  case Transition::AllToAll:
    return share(localBytes(at));
  }
  return 0;
}

void PathFinder::forEachTransition(ShardingAttr at, Visit visit) const {
  unsigned numDims = at.getDims().size();
  for (unsigned dim = 0; dim < numDims; ++dim) {
    SmallVector<StringRef> axes = at.getAxes(dim);
    for (size_t count = 1; count <= axes.size(); ++count) {
      ArrayRef<StringRef> last = ArrayRef(axes).take_back(count);
      if (!isInMeshOrder(last))
        continue;
      visit({Transition::AllGather, Axes(last), dim, 0});
      for (unsigned other = 0; count == 1 && other < numDims; ++other)
        if (other != dim)
          visit({Transition::AllToAll, Axes(last), dim, other});
    }
    for (StringRef axis : relevant)
      if (!uses(at, axis))
        visit({Transition::Slice, {axis}, dim, 0});
  }
  SmallVector<StringRef> partial;
  for (StringRef axis : relevant)
    if (llvm::is_contained(at.getPartialAxes(), axis) &&
        !llvm::is_contained(to.getPartialAxes(), axis))
      partial.push_back(axis);
  for (unsigned subset = 1; subset < 1u << partial.size(); ++subset) {
    Axes axes;
    for (auto [i, axis] : llvm::enumerate(partial))
      if (subset >> i & 1)
        axes.push_back(axis);
    visit({Transition::AllReduce, axes, 0, 0});
    for (unsigned dim = 0; dim < numDims; ++dim)
      visit({Transition::ReduceScatter, axes, dim, 0});
  }
}

FailureOr<ReshardPath> PathFinder::run() {
  // Layouts are told apart by their number, so that nothing depends on the
  // order of pointers.
  std::vector<ShardingAttr> layouts{from};
  llvm::DenseMap<ShardingAttr, size_t> numbers{{from, 0}};
  std::vector<Known> known{{{0, 0}, {}, {}}};
  std::set<std::pair<Cost, size_t>> waiting{{{0, 0}, 0}};
  std::set<size_t> done;
  while (!waiting.empty()) {
    auto [cost, number] = *waiting.begin();
    waiting.erase(waiting.begin());
    ShardingAttr at = layouts[number];
    if (at == to) {
      ReshardPath path;
      path.bytes = cost.first;
      for (size_t i = number; known[i].before; i = numbers[known[i].before])
        path.steps.insert(path.steps.begin(), known[i].step);
      return path;
    }
    done.insert(number);
    Cost here = cost;
    forEachTransition(at, [&](const Transition &step) {
      ShardingAttr next = applyTransition(at, step);
      // Unequal parts stay where they are.
      bool mayMove = true;
      if (step.kind != Transition::AllReduce)
        mayMove = divides(at, step.dim) && divides(next, step.dim);
      if (step.kind == Transition::AllToAll)
        mayMove &= divides(at, step.toDim) && divides(next, step.toDim);
      if (!mayMove)
        return;
      Cost reached{here.first + priceOf(at, next, step), here.second + 1};
      auto [entry, isNew] = numbers.try_emplace(next, layouts.size());
      size_t index = entry->second;
      if (isNew) {
        layouts.push_back(next);
        known.push_back({reached, at, step});
      } else if (reached < known[index].cost && !done.count(index)) {
        waiting.erase({known[index].cost, index});
        known[index] = {reached, at, step};
      } else {
        return;
      }
      waiting.insert({reached, index});
    });
  }
  return failure();
}

} // namespace

std::string lmc::dist::describe(const Transition &step) {
  static constexpr llvm::StringLiteral kNames[] = {
      "slice", "all_gather", "reduce_scatter", "all_reduce", "all_to_all"};
  std::string text = kNames[step.kind].str() + " " + llvm::join(step.axes, ",");
  if (step.kind != Transition::AllReduce)
    text += " dim " + std::to_string(step.dim);
  if (step.kind == Transition::AllToAll)
    text += " to " + std::to_string(step.toDim);
  return text;
}

ShardingAttr lmc::dist::applyTransition(ShardingAttr from,
                                        const Transition &step) {
  DimAxes dims = readDims(from);
  SmallVector<StringRef> partial = from.getPartialAxes();
  auto take = [&](Axes &axes) { axes.resize(axes.size() - step.axes.size()); };
  auto settle = [&] {
    llvm::erase_if(partial, [&](StringRef axis) {
      return llvm::is_contained(step.axes, axis);
    });
  };
  switch (step.kind) {
  case Transition::Slice:
    llvm::append_range(dims[step.dim], step.axes);
    break;
  case Transition::AllGather:
    take(dims[step.dim]);
    break;
  case Transition::ReduceScatter:
    settle();
    llvm::append_range(dims[step.dim], step.axes);
    break;
  case Transition::AllReduce:
    settle();
    break;
  case Transition::AllToAll:
    take(dims[step.dim]);
    llvm::append_range(dims[step.toDim], step.axes);
    break;
  }
  return makeSharding(from.getContext(), dims, partial);
}

FailureOr<ReshardPath>
lmc::dist::findReshardPath(RankedTensorType type, ShardingAttr from,
                           ShardingAttr to, MeshAttr mesh, NoPath &refusal) {
  FailureOr<ReshardPath> path = PathFinder(type, from, to, mesh).run();
  if (succeeded(path))
    return path;
  llvm::raw_string_ostream reason(refusal.reason);
  for (unsigned dim = 0; dim < to.getDims().size(); ++dim)
    for (ShardingAttr sharding : {from, to}) {
      int64_t parts = 1, size = type.getDimSize(dim);
      for (StringRef axis : sharding.getAxes(dim))
        parts *= mesh.getSize(axis);
      if (size % parts == 0 || !refusal.help.empty())
        continue;
      reason << "a dim of size " << size << " cannot be split into " << parts
             << " equal parts, and ";
      refusal.help = ("a size that " + Twine(parts) + " divides, such as " +
                      Twine(llvm::alignTo(size, parts)) +
                      ", or rules by which the dim stays whole")
                         .str();
    }
  reason << type << " is made as " << from << " and needed as " << to;
  return failure();
}
