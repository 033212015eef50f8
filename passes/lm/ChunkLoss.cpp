// Head and loss by chunks of rows.
//
//     x [B,T,D] --head--> logits [B,T,V] --row by row--> loss, dlogits
//     dx <--contract-- dlogits --contract--> dw
//
// becomes, for each chunk c of the B*T rows,
//
//     logits_c = head(x_c); loss_c, dlogits_c; dx_c; dw += ...
//
// The *region* is what is computed row by row from the logits: the loss and its
// gradient, whole or as primitives with the collectives of a sharded
// vocabulary between them. Its *products* leave the logits behind: a product
// either keeps the rows (dx: the chunks' rows one behind the other) or sums
// over them (dw, the loss's sum: added chunk by chunk).
#include "passes/lm/Passes.h"

#include "dialects/dist/Dist.h"
#include "dialects/lm/ProgramSignature.h"
#include "dialects/lm/TensorMath.h"

#include "mlir/Analysis/SliceAnalysis.h"
#include "mlir/IR/IRMapping.h"
#include "llvm/ADT/SetVector.h"

namespace lmc::lm {
#define GEN_PASS_DEF_CHUNKLOSS
#include "passes/lm/Passes.h.inc"
} // namespace lmc::lm

using namespace mlir;
using namespace lmc;
using namespace lmc::lm;

namespace {

RankedTensorType typeOf(Value value) {
  return cast<RankedTensorType>(value.getType());
}

struct LossRegion {
  Operation *head = nullptr;
  int64_t numRowDims = 0;
  SmallVector<int64_t> logitsShape;
  SmallVector<Operation *> ops;      // row by row, in order; the head first
  SmallVector<Operation *> products; // in order

  ArrayRef<int64_t> rowShape() const {
    return ArrayRef(logitsShape).take_front(numRowDims);
  }
  // Whether `value` has the logits' rows as its leading dims.
  bool hasRows(Value value) const {
    ArrayRef<int64_t> shape = typeOf(value).getShape();
    return static_cast<int64_t>(shape.size()) >= numRowDims &&
           shape.take_front(numRowDims) == rowShape();
  }
  bool isLogits(Value value) const {
    return typeOf(value).getShape() == ArrayRef<int64_t>(logitsShape);
  }
};

bool keepsRows(Operation *op, Value operand, int64_t numRowDims) {
  auto contract = dyn_cast<ContractOp>(op);
  return contract && contract.getLhs() == operand &&
         contract.getRhs() != operand &&
         contract.getLhsDims().front() >= numRowDims;
}

bool sumsRows(Operation *op, int64_t numRowDims) {
  SmallVector<int64_t> rows = dimRange(0, numRowDims);
  if (auto contract = dyn_cast<ContractOp>(op))
    return contract.getLhsDims() == ArrayRef<int64_t>(rows) &&
           contract.getRhsDims() == ArrayRef<int64_t>(rows);
  if (auto reduce = dyn_cast<ReduceOp>(op))
    return reduce.getKind() == "sum" &&
           reduce.getDims() == ArrayRef<int64_t>(rows);
  return false;
}

// Whether each row of the results depends on the same row of the operands.
bool isRowWise(Operation *op, int64_t numRowDims) {
  if (auto reduce = dyn_cast<ReduceOp>(op))
    return reduce.getDims().front() >= numRowDims;
  return isa<CrossEntropyOp, CrossEntropyGradOp, BroadcastOp, IotaOp,
             dist::AllReduceOp>(op) ||
         op->hasTrait<OpTrait::ConstantLike>() ||
         op->hasTrait<OpTrait::Elementwise>() ||
         op->hasTrait<OpTrait::SameOperandsAndResultType>();
}

// The region that starts at `head`; fails if logits leave it.
FailureOr<LossRegion> findRegion(Operation *head) {
  LossRegion region;
  region.head = head;
  RankedTensorType type = typeOf(head->getResult(0));
  region.numRowDims = type.getRank() - 1;
  llvm::append_range(region.logitsShape, type.getShape());
  llvm::SetVector<Operation *> ops, products;
  ops.insert(head);
  for (size_t i = 0; i < ops.size(); ++i) {
    // What it reads of the logits' shape is made again for each chunk.
    if (ops[i] != head)
      for (Value operand : ops[i]->getOperands()) {
        Operation *producer = operand.getDefiningOp();
        if (!region.isLogits(operand) || (producer && ops.contains(producer)))
          continue;
        if (!producer || !isRowWise(producer, region.numRowDims))
          return failure();
        ops.insert(producer);
      }
    for (Value result : ops[i]->getResults())
      for (Operation *user : result.getUsers()) {
        if (ops.contains(user) || !region.hasRows(result))
          continue;
        if (keepsRows(user, result, region.numRowDims) ||
            sumsRows(user, region.numRowDims))
          products.insert(user);
        else if (isRowWise(user, region.numRowDims) &&
                 region.hasRows(user->getResult(0)))
          ops.insert(user);
        else if (region.isLogits(result))
          return failure();
      }
  }
  auto inOrder = [](Operation *a, Operation *b) {
    return a->isBeforeInBlock(b);
  };
  region.ops.assign(ops.begin(), ops.end());
  region.products.assign(products.begin(), products.end());
  llvm::sort(region.ops, inOrder);
  llvm::sort(region.products, inOrder);
  return region;
}

// Repeats a region chunk by chunk, where its last operation stands.
class Chunker {
public:
  Chunker(const LossRegion &region, int64_t rowsPerChunk)
      : region(region), rowsPerChunk(rowsPerChunk), builder(region.ops.back()),
        numRowDims(region.numRowDims) {
    inside.insert(region.ops.begin(), region.ops.end());
    inside.insert(region.products.begin(), region.products.end());
  }

  void run() {
    int64_t rows = product(region.rowShape());
    for (int64_t first = 0; first < rows; first += rowsPerChunk)
      addChunk(first, std::min(rowsPerChunk, rows - first));
    for (auto &[whole, parts] : kept) {
      Value joined =
          builder.create<ConcatRowsOp>(whole.getLoc(), whole.getType(), parts);
      whole.replaceUsesWithIf(joined, [&](OpOperand &use) {
        return !inside.contains(use.getOwner());
      });
    }
    for (auto &[op, sum] : sums)
      finishSum(op, sum);
    for (Operation *op : llvm::reverse(region.products))
      op->erase();
    for (Operation *op : llvm::reverse(region.ops))
      if (op->use_empty())
        op->erase();
  }

private:
  RankedTensorType chunkType(Value value) {
    RankedTensorType type = typeOf(value);
    SmallVector<int64_t> shape{count};
    llvm::append_range(shape, type.getShape().drop_front(numRowDims));
    return RankedTensorType::get(shape, type.getElementType());
  }

  // What stands for `value` in this chunk.
  Value chunkOf(Value value, bool byRows = true) {
    if (Value known = mapping.lookupOrNull(value))
      return known;
    if (!byRows || !region.hasRows(value))
      return value;
    Value rows =
        builder.create<SliceRowsOp>(value.getLoc(), chunkType(value), value,
                                    builder.getI64IntegerAttr(first));
    mapping.map(value, rows);
    return rows;
  }

  // Dims of a tensor whose leading `numRowDims` dims became one.
  DenseI64ArrayAttr shifted(ArrayRef<int64_t> dims) {
    SmallVector<int64_t> result;
    for (int64_t dim : dims) {
      int64_t chunkDim = std::max<int64_t>(0, dim - numRowDims + 1);
      if (result.empty() || result.back() != chunkDim)
        result.push_back(chunkDim);
    }
    return builder.getDenseI64ArrayAttr(result);
  }

  void addChunk(int64_t offset, int64_t size) {
    first = offset;
    count = size;
    mapping.clear();
    // Slices before everything, so that what follows can become one kernel.
    for (Operation *op : region.ops)
      for (Value operand : op->getOperands())
        if (readsRows(op, operand))
          chunkOf(operand);
    for (Operation *op : region.ops)
      cloneOp(op);
    for (Operation *op : region.products)
      addProduct(op);
    for (Operation *op : region.ops)
      for (Value result : op->getResults())
        if (llvm::any_of(result.getUsers(), [&](Operation *user) {
              return !inside.contains(user);
            }))
          kept[result].push_back(mapping.lookup(result));
  }

  // A factor of the head has no rows, even where its shape looks like it.
  bool readsRows(Operation *op, Value operand) {
    Operation *producer = operand.getDefiningOp();
    if ((producer && inside.contains(producer)) || !region.hasRows(operand))
      return false;
    return op != region.head || operand == op->getOperand(0);
  }

  void cloneOp(Operation *op) {
    Operation *clone = op->clone();
    for (OpOperand &operand : clone->getOpOperands()) {
      Value old = op->getOperand(operand.getOperandNumber());
      operand.set(chunkOf(old, mapping.contains(old) || readsRows(op, old)));
    }
    builder.insert(clone);
    for (auto [old, result] :
         llvm::zip(op->getResults(), clone->getResults())) {
      if (region.hasRows(old))
        result.setType(chunkType(old));
      mapping.map(old, result);
    }
    if (auto contract = dyn_cast<ContractOp>(clone))
      contract.setLhsDimsAttr(shifted(contract.getLhsDims()));
    else if (auto reduce = dyn_cast<ReduceOp>(clone))
      reduce.setDimsAttr(shifted(reduce.getDims()));
    else if (auto broadcast = dyn_cast<BroadcastOp>(clone))
      broadcast.setDimsAttr(shifted(broadcast.getDims()));
    else if (auto iota = dyn_cast<IotaOp>(clone))
      iota.setDim(iota.getDim() - numRowDims + 1);
    else if (auto constant = dyn_cast<arith::ConstantOp>(clone))
      constant.setValueAttr(
          DenseElementsAttr::get(cast<RankedTensorType>(constant.getType()),
                                 cast<DenseElementsAttr>(constant.getValue())
                                     .getSplatValue<Attribute>()));
  }

  void addProduct(Operation *op) {
    Operation *clone = op->clone();
    auto contract = dyn_cast<ContractOp>(clone);
    bool summed = sumsRows(op, numRowDims);
    for (OpOperand &operand : clone->getOpOperands()) {
      Value old = op->getOperand(operand.getOperandNumber());
      operand.set(chunkOf(old, summed || operand.getOperandNumber() == 0));
    }
    builder.insert(clone);
    Value result = clone->getResult(0);
    if (!summed) {
      contract.setLhsDimsAttr(shifted(contract.getLhsDims()));
      result.setType(chunkType(op->getResult(0)));
      kept[op->getResult(0)].push_back(result);
      return;
    }
    auto row = builder.getDenseI64ArrayAttr({0});
    if (contract) {
      contract.setLhsDimsAttr(row);
      contract.setRhsDimsAttr(row);
      // Its operand is a chunk of the logits' gradient.
      clone->setAttr(kAtOnceAttr, builder.getUnitAttr());
    } else {
      cast<ReduceOp>(clone).setDimsAttr(row);
    }
    Value &sum = sums[op];
    if (sum)
      sum = builder.create<arith::AddFOp>(op->getLoc(), sum, result);
    else if (AccumulateOp user = accumulated(op))
      // Starts from what the whole product would be added to, so that no sum
      // of its own has to be kept.
      sum = builder.create<AccumulateOp>(op->getLoc(), user.getAccumulator(),
                                         result);
    else
      sum = result;
  }

  // What alone adds the whole product to an accumulator that stands ready.
  static AccumulateOp accumulated(Operation *op) {
    auto user = op->hasOneUse() ? dyn_cast<AccumulateOp>(*op->user_begin())
                                : AccumulateOp();
    bool ready = user && user.getValue() == op->getResult(0) &&
                 !user.getAccumulator().getDefiningOp();
    return ready ? user : AccumulateOp();
  }

  void finishSum(Operation *op, Value sum) {
    if (AccumulateOp user = accumulated(op)) {
      user.getOutput().replaceAllUsesWith(sum);
      user.erase();
    } else {
      op->getResult(0).replaceAllUsesWith(sum);
    }
  }

  const LossRegion &region;
  int64_t rowsPerChunk;
  OpBuilder builder;
  int64_t numRowDims;
  SmallPtrSet<Operation *, 32> inside;
  // Of this chunk.
  int64_t first = 0, count = 0;
  IRMapping mapping;
  // Over chunks.
  llvm::MapVector<Value, SmallVector<Value>> kept;
  llvm::MapVector<Operation *, Value> sums;
};

// The product whose rows the loss is computed from.
Operation *findHead(Operation *loss) {
  Value logits = loss->getOperand(0);
  while (Operation *producer = logits.getDefiningOp()) {
    if (isa<LinearOp, ContractOp>(producer)) {
      auto contract = dyn_cast<ContractOp>(producer);
      int64_t rows = typeOf(logits).getRank() - 1;
      return !contract || contract.getLhsDims().front() >= rows ? producer
                                                                : nullptr;
    }
    // A bias, or the mask of padding.
    Value next;
    for (Value operand : producer->getOperands()) {
      Operation *from = operand.getDefiningOp();
      if (from && !isa<BroadcastOp, IotaOp>(from) &&
          !from->hasTrait<OpTrait::ConstantLike>() &&
          isa<FloatType>(typeOf(operand).getElementType()) &&
          operand.getType() == logits.getType())
        next = operand;
    }
    if (!next)
      return nullptr;
    logits = next;
  }
  return nullptr;
}

struct ChunkLoss : lmc::lm::impl::ChunkLossBase<ChunkLoss> {
  using ChunkLossBase::ChunkLossBase;

  void runOnOperation() override {
    isTold = false;
    llvm::SetVector<Operation *> heads;
    getOperation().walk([&](Operation *op) {
      // The maximum of the logits is what a loss made of primitives reads.
      auto reduce = dyn_cast<ReduceOp>(op);
      if (!isa<CrossEntropyOp>(op) && !(reduce && reduce.getKind() == "max"))
        return;
      if (Operation *head = findHead(op))
        heads.insert(head);
      else
        missed(op);
    });
    for (Operation *head : heads)
      chunk(head);
  }

  void missed(Operation *op) {
    ++numMissed;
    if (std::exchange(isTold, true))
      return; // training's and the evaluation's are one to a reader
    op->emitRemark("the loss is computed whole: its logits are not the result "
                   "of one linear layer");
  }

  void chunk(Operation *head) {
    FailureOr<LossRegion> region = findRegion(head);
    if (failed(region))
      return missed(head);
    sinkUsers(*region);
    RankedTensorType type = typeOf(head->getResult(0));
    int64_t rows = product(region->rowShape());
    int64_t rowBytes = type.getShape().back() *
                       type.getElementType().getIntOrFloatBitWidth() / 8;
    int64_t chunks = std::max<int64_t>(
        1, llvm::divideCeil(rows * rowBytes, static_cast<int64_t>(chunkBytes)));
    int64_t rowsPerChunk = std::min<int64_t>(
        rows, llvm::alignTo(llvm::divideCeil(rows, chunks), 16));
    numChunks += llvm::divideCeil(rows, rowsPerChunk);
    Chunker(*region, rowsPerChunk).run();
  }

  // Moves behind the region what uses it and stands before its end.
  void sinkUsers(LossRegion &region) {
    Operation *last = region.ops.back();
    SmallPtrSet<Operation *, 32> inside(region.ops.begin(), region.ops.end());
    llvm::SetVector<Operation *> users;
    for (Operation *op : region.ops)
      getForwardSlice(op, &users);
    SmallVector<Operation *> early;
    for (Operation &op : *last->getBlock())
      if (users.contains(&op) && !inside.contains(&op) &&
          op.isBeforeInBlock(last))
        early.push_back(&op);
    for (Operation *op : llvm::reverse(early))
      op->moveAfter(last);
  }

  bool isTold = false;
};

} // namespace
