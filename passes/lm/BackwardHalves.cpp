// See BackwardHalves.h. Five steps:
//
//   1. What the sends are made of: the chunk before waits for it.
//   2. What must run at once: products of the loss, whose operand, the logits'
//      gradient, is too large to keep.
//   3. What follows of these without a contraction: the gradients of norms and
//      biases. It costs little, and the values need not be kept.
//   4. The rest of a sum that one of these begins: a state is read and written
//      by one program, or another micro-batch would come between.
//   5. Contractions that make the rest keep less, as long as the weight half
//      keeps more than a whole backward would: so the schedules with halves
//      have the memory of those without.
//
// Worked example, y = x w with the gradient dy: the send needs dx = dy w'. For
// dw = x' dy, the weight half keeps x, as a whole backward does, and dy. Bytes
// that only the input half reads (what the activation function was given, say)
// make room for dy.
#include "passes/lm/BackwardHalves.h"

#include "dialects/dist/Dist.h"
#include "dialects/lm/Lm.h"

#include "mlir/Dialect/Func/IR/FuncOps.h"
#include "llvm/ADT/SetVector.h"

using namespace mlir;
using namespace lmc;
using namespace lmc::lm;

namespace {

using Ops = llvm::DenseSet<Operation *>;

// A weight gradient that could run in the input half.
struct Candidate {
  llvm::SetVector<Operation *> ops; // with all that only it needs
  int64_t flops = 0;
  int64_t bytes = 0; // that need not be kept then
  size_t number = 0;
};

class HalfFinder {
public:
  HalfFinder(ArrayRef<Operation *> forward, ArrayRef<Operation *> backward)
      : backward(backward), isForward(forward.begin(), forward.end()),
        isBackward(backward.begin(), backward.end()) {}

  Ops run();

private:
  bool isInWeightHalf(Operation *op) const {
    return isBackward.contains(op) && !half.contains(op);
  }
  void addProducers();
  void addCheapEnds();
  void addSums();
  void addUntilItFits();
  Candidate buildCandidate(Operation *root) const;
  int64_t countKept(llvm::function_ref<bool(Operation *)> reads,
                    llvm::function_ref<bool(Operation *)> makes) const;

  ArrayRef<Operation *> backward;
  Ops isForward, isBackward, half;
};

// The value whose bytes `value` shows.
Value rootOf(Value value) {
  while (auto reshape = value.getDefiningOp<ReshapeOp>())
    value = reshape.getInput();
  return value;
}

int64_t bytesOf(Value value) {
  auto type = cast<RankedTensorType>(value.getType());
  return type.getNumElements() * type.getElementTypeBitWidth() / 8;
}

bool isConstant(Operation *op) { return op->hasTrait<OpTrait::ConstantLike>(); }

} // namespace

// The bytes of what some operations make and others read.
int64_t
HalfFinder::countKept(llvm::function_ref<bool(Operation *)> reads,
                      llvm::function_ref<bool(Operation *)> makes) const {
  llvm::DenseSet<Value> counted;
  int64_t bytes = 0;
  for (Operation *op : backward) {
    if (!reads(op))
      continue;
    for (Value operand : op->getOperands()) {
      Value root = rootOf(operand);
      Operation *producer = root.getDefiningOp();
      if (producer && makes(producer) && !isConstant(producer) &&
          counted.insert(root).second)
        bytes += bytesOf(root);
    }
  }
  return bytes;
}

// Adds what the half is made of.
void HalfFinder::addProducers() {
  for (Operation *op : llvm::reverse(backward))
    if (llvm::any_of(op->getUsers(),
                     [&](Operation *user) { return half.contains(user); }))
      half.insert(op);
}

void HalfFinder::addCheapEnds() {
  Ops before, behind; // contractions of the weight half, with these
  auto isIn = [&](const Ops &ops, Operation *op) {
    return op && isInWeightHalf(op) && ops.contains(op);
  };
  for (Operation *op : llvm::reverse(backward))
    if (isa<Costed>(op) || llvm::any_of(op->getUsers(), [&](Operation *user) {
          return isIn(before, user);
        }))
      before.insert(op);
  for (Operation *op : backward)
    if (isa<Costed>(op) || llvm::any_of(op->getOperands(), [&](Value operand) {
          return isIn(behind, operand.getDefiningOp());
        }))
      behind.insert(op);
  for (Operation *op : backward)
    if (!half.contains(op) && !before.contains(op) && !behind.contains(op) &&
        llvm::any_of(op->getOperands(), [&](Value operand) {
          return half.contains(operand.getDefiningOp());
        }))
      half.insert(op);
  addProducers();
}

void HalfFinder::addSums() {
  auto function = backward.front()->getParentOfType<func::FuncOp>();
  llvm::DenseSet<Attribute> written;
  for (unsigned i = 0, e = function.getNumResults(); i < e; ++i)
    if (Attribute state = function.getResultAttr(i, kStateAttr))
      written.insert(state);
  auto isOld = [&](Value value) {
    auto argument = dyn_cast<BlockArgument>(value);
    Attribute state =
        argument ? function.getArgAttr(argument.getArgNumber(), kStateAttr)
                 : Attribute();
    return state && written.contains(state);
  };
  for (size_t size = 0; size != half.size();) {
    size = half.size();
    Ops sums;
    for (Operation *op : backward)
      if (llvm::any_of(op->getOperands(), [&](Value operand) {
            Operation *producer = operand.getDefiningOp();
            return producer ? sums.contains(producer)
                            : half.contains(op) && isOld(operand);
          }))
        sums.insert(op);
    half.insert(sums.begin(), sums.end());
    addProducers();
  }
}

// A contraction of the weight half with what it is made of there and with what
// follows of it.
Candidate HalfFinder::buildCandidate(Operation *root) const {
  Candidate candidate;
  llvm::SetVector<Operation *> &ops = candidate.ops;
  ops.insert(root);
  for (size_t i = 0; i < ops.size(); ++i) {
    for (Value operand : ops[i]->getOperands())
      if (Operation *producer = operand.getDefiningOp();
          producer && isInWeightHalf(producer))
        ops.insert(producer);
    for (Operation *user : ops[i]->getUsers())
      if (isInWeightHalf(user))
        ops.insert(user);
  }
  llvm::DenseSet<Value> counted;
  for (Operation *op : ops) {
    if (auto costed = dyn_cast<Costed>(op))
      candidate.flops += costed.getFlops();
    for (Value operand : op->getOperands()) {
      Value kept = rootOf(operand);
      Operation *producer = kept.getDefiningOp();
      if (!producer || isInWeightHalf(producer) || isConstant(producer) ||
          !counted.insert(kept).second)
        continue;
      // Through views, too.
      llvm::SmallVector<Value> views = {kept};
      bool isAlone = true;
      for (size_t i = 0; i < views.size(); ++i)
        for (Operation *user : views[i].getUsers()) {
          if (auto view = dyn_cast<ReshapeOp>(user))
            views.push_back(view.getOutput());
          else
            isAlone = isAlone && (!isInWeightHalf(user) || ops.contains(user));
        }
      if (isAlone)
        candidate.bytes += bytesOf(kept);
    }
  }
  return candidate;
}

void HalfFinder::addUntilItFits() {
  int64_t allowed =
      countKept([](Operation *) { return true; },
                [&](Operation *op) { return isForward.contains(op); });
  int64_t kept = countKept([&](Operation *op) { return isInWeightHalf(op); },
                           [&](Operation *op) { return !isInWeightHalf(op); });
  if (kept <= allowed)
    return;
  std::vector<Candidate> candidates;
  Ops known;
  for (Operation *op : backward)
    if (isInWeightHalf(op) && isa<Costed>(op) && !known.contains(op)) {
      candidates.push_back(buildCandidate(op));
      candidates.back().number = candidates.size();
      known.insert(candidates.back().ops.begin(), candidates.back().ops.end());
    }
  // The most bytes for a FLOP first.
  llvm::sort(candidates, [](const Candidate &a, const Candidate &b) {
    double priceOfA = double(a.flops) * double(b.bytes);
    double priceOfB = double(b.flops) * double(a.bytes);
    return priceOfA != priceOfB ? priceOfA < priceOfB : a.number < b.number;
  });
  std::vector<Candidate *> taken;
  for (Candidate &candidate : candidates) {
    if (kept <= allowed)
      break;
    kept -= candidate.bytes;
    taken.push_back(&candidate);
  }
  // The last one may have made others needless.
  for (Candidate *candidate : llvm::reverse(taken)) {
    if (kept + candidate->bytes <= allowed)
      kept += candidate->bytes;
    else
      half.insert(candidate->ops.begin(), candidate->ops.end());
  }
}

Ops HalfFinder::run() {
  bool sends = false;
  for (Operation *op : backward) {
    sends |= isa<dist::SendOp>(op);
    if (isa<dist::SendOp>(op) || op->hasAttr(kAtOnceAttr))
      half.insert(op);
  }
  if (!sends)
    return {};
  addProducers();
  addCheapEnds();
  addSums();
  addUntilItFits();
  if (half.size() == backward.size())
    return {}; // nothing is left to run later
  return std::move(half);
}

llvm::DenseSet<Operation *>
lmc::lm::findInputHalf(ArrayRef<Operation *> forward,
                       ArrayRef<Operation *> backward) {
  return HalfFinder(forward, backward).run();
}
