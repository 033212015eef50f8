// Head and loss by chunks of rows.
//
//     x [B,T,D] --head--> logits [B,T,V] --loss--> loss [B,T]
//                             |
//     dx <--contract-- dlogits --contract--> dw
//
// becomes, for each chunk c of the B*T rows,
//
//     logits_c = head(x_c); loss_c = loss(logits_c); dlogits_c; dx_c; dw += ..
//
// and losses and input gradients are the chunks' rows one behind the other.
#include "passes/lm/Passes.h"

#include "dialects/lm/ProgramSignature.h"
#include "dialects/lm/TensorMath.h"

#include "mlir/Analysis/SliceAnalysis.h"
#include "mlir/IR/IRMapping.h"

namespace lmc::lm {
#define GEN_PASS_DEF_CHUNKLOSS
#include "passes/lm/Passes.h.inc"
} // namespace lmc::lm

using namespace mlir;
using namespace lmc::lm;

namespace {

RankedTensorType typeOf(Value value) {
  return cast<RankedTensorType>(value.getType());
}

// The operations around one loss.
struct LossRegion {
  Operation *head; // produces the logits from `input`
  CrossEntropyOp loss;
  CrossEntropyGradOp gradient;       // null in a program without backward
  SmallVector<Operation *> products; // of dlogits, in order
};

// The operand that carries the rows of the logits: the first one.
Value headInput(Operation *head) { return head->getOperand(0); }

// A product of dlogits is by rows (its result keeps them: dx), or sums over
// them (dw, dbias).
bool keepsRows(Operation *op, Value dLogits, int64_t numRowDims) {
  auto contract = dyn_cast<ContractOp>(op);
  return contract && contract.getLhs() == dLogits &&
         contract.getLhsDims().front() >= numRowDims;
}

bool sumsRows(Operation *op, Value dLogits, int64_t numRowDims) {
  SmallVector<int64_t> rows = dimRange(0, numRowDims);
  if (auto contract = dyn_cast<ContractOp>(op))
    return contract.getLhsDims() == ArrayRef<int64_t>(rows) &&
           contract.getRhsDims() == ArrayRef<int64_t>(rows);
  if (auto reduce = dyn_cast<ReduceOp>(op))
    return reduce.getKind() == "sum" &&
           reduce.getDims() == ArrayRef<int64_t>(rows);
  return false;
}

// Finds the region around `loss`; fails if it has another form.
FailureOr<LossRegion> findRegion(CrossEntropyOp loss) {
  LossRegion region{loss.getLogits().getDefiningOp(), loss, {}, {}};
  if (!isa_and_nonnull<LinearOp, ContractOp>(region.head))
    return failure();
  int64_t numRowDims = typeOf(loss.getLogits()).getRank() - 1;
  if (auto contract = dyn_cast<ContractOp>(region.head))
    if (contract.getLhsDims().front() < numRowDims)
      return failure();
  for (Operation *user : loss.getLogits().getUsers()) {
    if (user == loss)
      continue;
    if (region.gradient || !isa<CrossEntropyGradOp>(user))
      return failure();
    region.gradient = cast<CrossEntropyGradOp>(user);
  }
  for (Operation *user : loss.getLogsumexp().getUsers())
    if (user != region.gradient)
      return failure();
  if (!region.gradient)
    return region;
  Value dLogits = region.gradient.getOutput();
  for (Operation *user : dLogits.getUsers())
    if (keepsRows(user, dLogits, numRowDims) ||
        sumsRows(user, dLogits, numRowDims))
      region.products.push_back(user);
    else
      return failure();
  llvm::sort(region.products,
             [](Operation *a, Operation *b) { return a->isBeforeInBlock(b); });
  return region;
}

// Repeats a region chunk by chunk.
class Chunker {
public:
  Chunker(LossRegion region, int64_t rowsPerChunk)
      : region(region), rowsPerChunk(rowsPerChunk),
        builder(region.gradient ? region.gradient.getOperation()
                                : region.loss.getOperation()),
        numRowDims(typeOf(region.loss.getLogits()).getRank() - 1) {}

  void run() {
    int64_t rows =
        product(typeOf(region.loss.getLogits()).getShape().drop_back());
    SmallVector<Value> losses;
    SmallVector<SmallVector<Value>> kept(region.products.size());
    SmallVector<Value> sums(region.products.size());
    for (int64_t offset = 0; offset < rows; offset += rowsPerChunk)
      addChunk(offset, std::min(rowsPerChunk, rows - offset), losses, kept,
               sums);
    replace(region.loss.getLoss(), losses);
    for (auto [index, op] : llvm::enumerate(region.products))
      if (!kept[index].empty())
        replace(op->getResult(0), kept[index]);
    finishSums(sums);
    eraseOld();
  }

private:
  // Rows [offset, offset + count) of `value`, flattened to one leading dim.
  Value slice(Value value, int64_t offset, int64_t count) {
    RankedTensorType type = typeOf(value);
    SmallVector<int64_t> shape{count};
    llvm::append_range(shape, type.getShape().drop_front(numRowDims));
    return builder.create<SliceRowsOp>(
        value.getLoc(), RankedTensorType::get(shape, type.getElementType()),
        value, builder.getI64IntegerAttr(offset));
  }

  RankedTensorType chunkType(Value value, int64_t count) {
    RankedTensorType type = typeOf(value);
    SmallVector<int64_t> shape{count};
    llvm::append_range(shape, type.getShape().drop_front(numRowDims));
    return RankedTensorType::get(shape, type.getElementType());
  }

  // `dims` of a tensor whose leading `numRowDims` dims became one.
  DenseI64ArrayAttr shifted(ArrayRef<int64_t> dims) {
    SmallVector<int64_t> result;
    for (int64_t dim : dims)
      result.push_back(dim - numRowDims + 1);
    return builder.getDenseI64ArrayAttr(result);
  }

  Value chunkHead(Value x, int64_t count) {
    Operation *head = builder.clone(*region.head);
    head->setOperand(0, x);
    head->getResult(0).setType(chunkType(region.loss.getLogits(), count));
    if (auto contract = dyn_cast<ContractOp>(head))
      contract.setLhsDimsAttr(shifted(contract.getLhsDims()));
    return head->getResult(0);
  }

  void addChunk(int64_t offset, int64_t count, SmallVectorImpl<Value> &losses,
                SmallVectorImpl<SmallVector<Value>> &kept,
                SmallVectorImpl<Value> &sums) {
    CrossEntropyOp loss = region.loss;
    Value x = slice(headInput(region.head), offset, count);
    Value logits = chunkHead(x, count);
    Value targets = slice(loss.getTargets(), offset, count);
    Value weights = slice(loss.getWeights(), offset, count);
    // Made before the loss, so that loss and gradient can be one kernel.
    Value coefficient;
    if (region.gradient)
      coefficient = slice(region.gradient.getCoefficient(), offset, count);
    auto lossChunk = builder.create<CrossEntropyOp>(
        loss.getLoc(), TypeRange{weights.getType(), weights.getType()},
        ValueRange{logits, targets, weights});
    losses.push_back(lossChunk.getLoss());
    if (!region.gradient)
      return;
    Value dLogits = builder.create<CrossEntropyGradOp>(
        region.gradient.getLoc(), logits.getType(), logits, targets,
        lossChunk.getLogsumexp(), coefficient);
    for (auto [index, op] : llvm::enumerate(region.products))
      addProduct(op, dLogits, offset, count, kept[index], sums[index]);
  }

  void addProduct(Operation *op, Value dLogits, int64_t offset, int64_t count,
                  SmallVectorImpl<Value> &kept, Value &sum) {
    Value old = region.gradient.getOutput();
    Operation *chunk = builder.clone(*op);
    if (keepsRows(op, old, numRowDims)) {
      auto contract = cast<ContractOp>(chunk);
      contract.getLhsMutable().assign(dLogits);
      contract.setLhsDimsAttr(shifted(contract.getLhsDims()));
      chunk->getResult(0).setType(chunkType(op->getResult(0), count));
      kept.push_back(chunk->getResult(0));
      return;
    }
    auto row = builder.getDenseI64ArrayAttr({0});
    OpBuilder::InsertionGuard guard(builder);
    builder.setInsertionPoint(chunk);
    for (OpOperand &operand : chunk->getOpOperands())
      operand.set(operand.get() == old ? dLogits
                                       : slice(operand.get(), offset, count));
    if (auto contract = dyn_cast<ContractOp>(chunk)) {
      contract.setLhsDimsAttr(row);
      contract.setRhsDimsAttr(row);
    } else {
      cast<ReduceOp>(chunk).setDimsAttr(row);
    }
    builder.setInsertionPointAfter(chunk);
    sum = addToSum(op, sum, chunk->getResult(0));
  }

  // The sum over chunks starts from what the whole product would be added
  // to, so that no sum of its own has to be kept.
  Value addToSum(Operation *op, Value sum, Value part) {
    Operation *user = op->hasOneUse() ? *op->user_begin() : nullptr;
    if (!sum && isa_and_nonnull<AccumulateOp>(user) &&
        cast<AccumulateOp>(user).getAccumulator() != op->getResult(0) &&
        !cast<AccumulateOp>(user).getAccumulator().getDefiningOp())
      return builder.create<AccumulateOp>(
          part.getLoc(), cast<AccumulateOp>(user).getAccumulator(), part);
    if (!sum)
      return part;
    return builder.create<arith::AddFOp>(part.getLoc(), sum, part);
  }

  void finishSums(ArrayRef<Value> sums) {
    for (auto [index, op] : llvm::enumerate(region.products)) {
      if (!sums[index])
        continue;
      Operation *user = op->hasOneUse() ? *op->user_begin() : nullptr;
      bool started = isa_and_nonnull<AccumulateOp>(user) &&
                     !cast<AccumulateOp>(user).getAccumulator().getDefiningOp();
      Value whole = started ? user->getResult(0) : op->getResult(0);
      whole.replaceAllUsesWith(sums[index]);
      if (started)
        user->erase();
    }
  }

  void replace(Value whole, ArrayRef<Value> chunks) {
    Value rows =
        builder.create<ConcatRowsOp>(whole.getLoc(), whole.getType(), chunks);
    whole.replaceAllUsesWith(rows);
  }

  void eraseOld() {
    for (Operation *op : llvm::reverse(region.products))
      op->erase();
    if (region.gradient)
      region.gradient.erase();
    region.loss.erase();
    region.head->erase();
  }

  LossRegion region;
  int64_t rowsPerChunk;
  OpBuilder builder;
  int64_t numRowDims;
};

struct ChunkLoss : lmc::lm::impl::ChunkLossBase<ChunkLoss> {
  using ChunkLossBase::ChunkLossBase;

  void runOnOperation() override {
    SmallVector<CrossEntropyOp> losses;
    getOperation().walk([&](CrossEntropyOp op) { losses.push_back(op); });
    for (CrossEntropyOp loss : losses)
      chunk(loss);
  }

  void chunk(CrossEntropyOp loss) {
    FailureOr<LossRegion> region = findRegion(loss);
    if (failed(region)) {
      ++numMissed;
      loss.emitRemark("the loss is computed whole: its logits are not the "
                      "result of one linear layer");
      return;
    }
    if (region->gradient)
      sinkUsers(*region);
    RankedTensorType type = typeOf(loss.getLogits());
    int64_t rows = product(type.getShape().drop_back());
    int64_t rowBytes = type.getShape().back() *
                       type.getElementType().getIntOrFloatBitWidth() / 8;
    int64_t chunks = std::max<int64_t>(
        1, llvm::divideCeil(rows * rowBytes, static_cast<int64_t>(chunkBytes)));
    int64_t rowsPerChunk = std::min<int64_t>(
        rows, llvm::alignTo(llvm::divideCeil(rows, chunks), 16));
    numChunks += llvm::divideCeil(rows, rowsPerChunk);
    Chunker(*region, rowsPerChunk).run();
  }

  // Moves what the forward computes from the loss to the end of the program.
  void sinkUsers(LossRegion &region) {
    Block *block = region.loss->getBlock();
    SetVector<Operation *> users;
    getForwardSlice(region.loss.getLoss(), &users);
    SmallVector<Operation *> ordered;
    for (Operation &op : *block)
      if (users.contains(&op))
        ordered.push_back(&op);
    for (Operation *op : ordered)
      op->moveBefore(block->getTerminator());
  }
};

} // namespace
