// Where a pipeline cuts the model. Operations of @forward stand in a row, and
// chunks are pieces of that row:
//
//     embed | block 0 | block 1 | ... | block 5 | head, loss      12 TFLOP
//     \____ chunk 0: 6.1 _____/ \______ chunk 1: 5.9 _______/
//
// A cut goes where one value crosses: behind a block where the frontend says
// where blocks end, else anywhere. Among these, the cuts are taken whose
// dearest chunk is cheapest; of equal ones, those that are most even.
#include "passes/dist/Passes.h"

#include "dialects/dist/Dist.h"
#include "dialects/lm/Lm.h"

#include "mlir/Dialect/Func/IR/FuncOps.h"
#include "llvm/ADT/DenseSet.h"

#include <limits>
#include <tuple>
#include <vector>

namespace lmc::dist {
#define GEN_PASS_DEF_MARKSTAGES
#include "passes/dist/Passes.h.inc"
} // namespace lmc::dist

using namespace mlir;
using namespace lmc;
using namespace lmc::dist;

namespace {

// A place where the row may be cut: behind operation `end` - 1.
struct Place {
  size_t end = 0;
  double flops = 0; // of everything before it
  bool endsBlock = false;
};

// Values that no state reaches are computed again where they are needed.
llvm::DenseSet<Value> findStateful(func::FuncOp function) {
  llvm::DenseSet<Value> stateful;
  for (BlockArgument argument : function.getArguments())
    if (function.getArgAttr(argument.getArgNumber(), lm::kStateAttr))
      stateful.insert(argument);
  for (Operation &op : function.getBody().front())
    if (llvm::any_of(op.getOperands(),
                     [&](Value v) { return stateful.contains(v); }))
      stateful.insert(op.result_begin(), op.result_end());
  return stateful;
}

// The places that one value crosses.
SmallVector<Place> findPlaces(func::FuncOp function,
                              ArrayRef<Operation *> ops) {
  llvm::DenseSet<Value> stateful = findStateful(function);
  llvm::DenseMap<Operation *, size_t> indexOf;
  for (auto [index, op] : llvm::enumerate(ops))
    indexOf[op] = index;
  SmallVector<int64_t> change(ops.size() + 1); // of the number that crosses
  for (auto [index, op] : llvm::enumerate(ops))
    for (Value result : op->getResults()) {
      if (!stateful.contains(result))
        continue;
      size_t last = index;
      for (Operation *user : result.getUsers()) {
        auto found = indexOf.find(user);
        last = std::max(last, found == indexOf.end() ? ops.size() - 1
                                                     : found->second);
      }
      ++change[index];
      --change[last];
    }
  SmallVector<Place> places;
  int64_t crossing = 0;
  double flops = 0;
  for (auto [index, op] : llvm::enumerate(ops)) {
    crossing += change[index];
    if (auto costed = dyn_cast<lm::Costed>(op))
      flops += double(costed.getFlops());
    if (crossing == 1 && index + 1 < ops.size())
      places.push_back({index + 1, flops, op->hasAttr(lm::kBlockEndAttr)});
  }
  if (llvm::any_of(places, [](const Place &p) { return p.endsBlock; }))
    llvm::erase_if(places, [](const Place &p) { return !p.endsBlock; });
  places.push_back({ops.size(), flops, false});
  return places;
}

// The ends of `count` chunks: best[k][i] is the price of cutting what stands
// before place i into k + 1 chunks.
SmallVector<size_t> chooseEnds(ArrayRef<Place> places, size_t count) {
  struct Price {
    double dearest = std::numeric_limits<double>::infinity();
    double squares = 0;
    size_t before = 0;
  };
  size_t n = places.size();
  std::vector<std::vector<Price>> best(count, std::vector<Price>(n));
  for (size_t i = 0; i < n; ++i)
    best[0][i] = {places[i].flops, places[i].flops * places[i].flops, 0};
  for (size_t k = 1; k < count; ++k)
    for (size_t i = k; i < n; ++i)
      for (size_t j = k - 1; j < i; ++j) {
        double flops = places[i].flops - places[j].flops;
        Price price{std::max(best[k - 1][j].dearest, flops),
                    best[k - 1][j].squares + flops * flops, j};
        if (std::tie(price.dearest, price.squares) <
            std::tie(best[k][i].dearest, best[k][i].squares))
          best[k][i] = price;
      }
  SmallVector<size_t> ends(count);
  for (size_t k = count, i = n - 1; k-- > 0; i = best[k][i].before)
    ends[k] = places[i].end;
  return ends;
}

struct MarkStages : lmc::dist::impl::MarkStagesBase<MarkStages> {
  using MarkStagesBase::MarkStagesBase;

  void runOnOperation() override {
    ModuleOp module = getOperation();
    auto function = module.lookupSymbol<func::FuncOp>("forward");
    if (!function) {
      module.emitError("no function @forward to cut into stages");
      return signalPassFailure();
    }
    if (stages > 1 && failed(mark(function)))
      return signalPassFailure();
    function.walk([](Operation *op) { op->removeAttr(lm::kBlockEndAttr); });
  }

  LogicalResult mark(func::FuncOp function) {
    SmallVector<Operation *> ops;
    for (Operation &op : function.getBody().front().without_terminator())
      ops.push_back(&op);
    size_t count = stages * virtualStages;
    SmallVector<Place> places = findPlaces(function, ops);
    SmallVector<size_t> ends;
    if (blocks.empty()) {
      if (places.size() < count) {
        InFlightDiagnostic error = function.emitError()
                                   << "a model of " << places.size()
                                   << " pieces cannot be cut into " << count
                                   << " pipeline chunks";
        error.attachNote() << "help: use at most " << places.size();
        return error;
      }
      ends = chooseEnds(places, count);
    } else if (failed(endsOfBlocks(function, places, count, ends))) {
      return failure();
    }
    Builder b(&getContext());
    size_t chunk = 0;
    for (auto [index, op] : llvm::enumerate(ops)) {
      chunk += index == ends[chunk];
      op->setAttr(kChunkAttr, b.getI64IntegerAttr(chunk));
    }
    ModuleOp module = getOperation();
    module->setAttr(kStagesAttr, b.getI64IntegerAttr(stages));
    module->setAttr(kChunksAttr, b.getI64IntegerAttr(count));
    numChunks += count;
    return success();
  }

  // As the option says: so many blocks for each chunk. The last one has what is
  // behind the blocks, too, and may have that alone.
  LogicalResult endsOfBlocks(func::FuncOp function, ArrayRef<Place> places,
                             size_t count, SmallVectorImpl<size_t> &ends) {
    int64_t all = 0;
    for (int64_t number : blocks)
      all += number;
    ArrayRef<int64_t> numbers = blocks;
    if (numbers.size() != count ||
        all != static_cast<int64_t>(places.size()) - 1 || numbers.back() < 0 ||
        llvm::any_of(numbers.drop_back(),
                     [](int64_t number) { return number < 1; })) {
      InFlightDiagnostic error = function.emitError()
                                 << "the blocks of " << blocks.size()
                                 << " chunks are given, " << all << " in all";
      error.attachNote() << "help: the model has " << places.size() - 1
                         << " blocks and is cut into " << count
                         << " chunks of at least 1; the last may have 0";
      return error;
    }
    int64_t last = -1;
    for (int64_t number : blocks)
      ends.push_back(places[last += number].end);
    ends.back() = places.back().end;
    return success();
  }
};

} // namespace
