// Registration and laws of the dist dialect.
#include "dialects/dist/Dist.h"

#include "mlir/IR/Builders.h"
#include "mlir/IR/DialectImplementation.h"
#include "mlir/IR/OpImplementation.h"
#include "llvm/ADT/StringSet.h"
#include "llvm/ADT/TypeSwitch.h"

using namespace mlir;
using namespace lmc::dist;

#include "dialects/dist/DistDialect.cpp.inc"

#define GET_ATTRDEF_CLASSES
#include "dialects/dist/DistAttrs.cpp.inc"

#define GET_OP_CLASSES
#include "dialects/dist/DistOps.cpp.inc"

void DistDialect::initialize() {
  addAttributes<
#define GET_ATTRDEF_LIST
#include "dialects/dist/DistAttrs.cpp.inc"
      >();
  addOperations<
#define GET_OP_LIST
#include "dialects/dist/DistOps.cpp.inc"
      >();
}

LogicalResult MeshAttr::verify(function_ref<InFlightDiagnostic()> emitError,
                               ArrayAttr axes, DenseI64ArrayAttr sizes) {
  if (static_cast<int64_t>(axes.size()) != sizes.size())
    return emitError() << "names " << axes.size() << " axes, sizes "
                       << sizes.size() << " (C1)";
  llvm::StringSet<> names;
  for (auto [axis, size] : llvm::zip(axes, sizes.asArrayRef())) {
    auto name = llvm::dyn_cast<StringAttr>(axis);
    if (!name || !names.insert(name.getValue()).second)
      return emitError() << "axis " << axis << " is no unique name (C2)";
    if (size < 1)
      return emitError() << "axis " << axis << " has size " << size << " (C3)";
  }
  return success();
}

int64_t MeshAttr::getSize(StringRef axis) const {
  for (auto [name, size] : llvm::zip(getAxes(), getSizes().asArrayRef()))
    if (llvm::cast<StringAttr>(name).getValue() == axis)
      return size;
  return 1;
}

int64_t MeshAttr::getNumRanks() const {
  int64_t ranks = 1;
  for (int64_t size : getSizes().asArrayRef())
    ranks *= size;
  return ranks;
}

static SmallVector<StringRef> namesOf(ArrayAttr list) {
  SmallVector<StringRef> names;
  for (Attribute name : list)
    names.push_back(cast<StringAttr>(name).getValue());
  return names;
}

LogicalResult ShardingAttr::verify(function_ref<InFlightDiagnostic()> emitError,
                                   ArrayAttr dims, ArrayAttr partial) {
  llvm::StringSet<> seen;
  auto check = [&](Attribute list) -> LogicalResult {
    auto names = llvm::dyn_cast<ArrayAttr>(list);
    if (!names)
      return emitError() << "a dim needs a list of axes, has " << list;
    for (Attribute name : names) {
      auto text = llvm::dyn_cast<StringAttr>(name);
      if (!text || !seen.insert(text.getValue()).second)
        return emitError() << "axis " << name << " occurs twice (C1)";
    }
    return success();
  };
  for (Attribute dim : dims)
    if (failed(check(dim)))
      return failure();
  return check(partial);
}

SmallVector<StringRef> ShardingAttr::getAxes(unsigned dim) const {
  return namesOf(llvm::cast<ArrayAttr>(getDims()[dim]));
}

SmallVector<StringRef> ShardingAttr::getPartialAxes() const {
  return namesOf(getPartial());
}

LogicalResult MarkAttr::verify(function_ref<InFlightDiagnostic()> emitError,
                               int64_t result, int64_t dim, ArrayAttr axes,
                               int64_t priority, StringAttr origin) {
  if (result < 0 || dim < 0 || priority < 0)
    return emitError() << "marks dim " << dim << " of result " << result
                       << " with priority " << priority
                       << "; none may be negative (C1)";
  return success();
}

LogicalResult PiecesAttr::verify(function_ref<InFlightDiagnostic()> emitError,
                                 ArrayAttr parameters, ArrayAttr gradients,
                                 ArrayAttr moments) {
  llvm::SmallDenseSet<Attribute> seen;
  for (Attribute axis : moments)
    if (!mlir::isa<StringAttr>(axis) || !seen.insert(axis).second)
      return emitError() << "moments are cut by axes, each once, not by "
                         << axis << " again (C1)";
  for (auto [name, axes] :
       {std::pair("parameters", parameters), std::pair("gradients", gradients)})
    if (axes.size() > moments.size() ||
        axes.getValue() != moments.getValue().take_front(axes.size()))
      return emitError() << name << " are cut by " << axes << ", moments by "
                         << moments << "; these must begin with those (C2)";
  return success();
}

LogicalResult BucketRuleOp::verify() {
  if (getPatterns().empty())
    return emitOpError("needs a pattern (C1)");
  return success();
}

LogicalResult RuleOp::verify() {
  if (getKind() != "parameter" && getKind() != "input" &&
      getKind() != "activation")
    return emitOpError() << "is for a '" << getKind()
                         << "', expected 'parameter', 'input' or "
                            "'activation' (C1)";
  if (getPatterns().empty() || getAxes().empty())
    return emitOpError("needs a pattern and an axis (C2)");
  if (getProducer() && getKind() != "activation")
    return emitOpError() << "names the producer '" << *getProducer()
                         << "', but a " << getKind() << " has none (C3)";
  if (int64_t(getPriority()) < 0)
    return emitOpError() << "has the priority " << int64_t(getPriority())
                         << "; 0 is the first (C4)";
  return success();
}

LogicalResult AllReduceOp::verify() {
  if (getKind() != "sum" && getKind() != "max")
    return emitOpError() << "kind is '" << getKind()
                         << "', expected 'sum' or 'max' (C1)";
  if (getAxes().empty())
    return emitOpError() << "names no axis (C2)";
  return success();
}

using Effects = SmallVectorImpl<MemoryEffects::EffectInstance>;

// What the stages of a pipeline meet in must stay in each of them.
static void addEffects(ArrayAttr axes, Effects &effects) {
  for (Attribute axis : axes)
    if (cast<StringAttr>(axis).getValue() == "pp")
      effects.emplace_back(MemoryEffects::Write::get());
}

void AllReduceOp::getEffects(Effects &effects) {
  addEffects(getAxes(), effects);
}

void AllGatherOp::getEffects(Effects &effects) {
  addEffects(getAxes(), effects);
}

void ReduceScatterOp::getEffects(Effects &effects) {
  addEffects(getAxes(), effects);
}

// `whole` is `piece` several times over in `dim`.
static LogicalResult verifyPieces(Operation *op, ArrayAttr axes, int64_t dim,
                                  Value piece, Value whole) {
  auto pieceType = cast<RankedTensorType>(piece.getType());
  auto wholeType = cast<RankedTensorType>(whole.getType());
  if (axes.empty())
    return op->emitOpError() << "names no axis (C1)";
  if (dim < 0 || dim >= pieceType.getRank())
    return op->emitOpError() << "has dim " << dim << ", the tensors have "
                             << pieceType.getRank() << " dims (C2)";
  SmallVector<int64_t> shape(wholeType.getShape());
  bool divides = dim < wholeType.getRank() && pieceType.getDimSize(dim) > 0 &&
                 shape[dim] % pieceType.getDimSize(dim) == 0;
  if (divides)
    shape[dim] = pieceType.getDimSize(dim);
  if (!divides || pieceType != wholeType.clone(shape))
    return op->emitOpError()
           << "makes " << op->getResult(0).getType() << " of "
           << op->getOperand(0).getType() << ": not whole pieces along dim "
           << dim << " (C3)";
  return success();
}

LogicalResult AllGatherOp::verify() {
  // C1, C2, C3
  return verifyPieces(*this, getAxes(), getDim(), getInput(), getOutput());
}

LogicalResult ReduceScatterOp::verify() {
  // C1, C2, C3
  return verifyPieces(*this, getAxes(), getDim(), getOutput(), getInput());
}

// all_to_all C1
LogicalResult AllToAllOp::verify() {
  if (getAxes().empty())
    return emitOpError("names no axis (C1)");
  return success();
}

void AllToAllOp::getEffects(Effects &effects) {
  addEffects(getAxes(), effects);
}

LogicalResult ReshardOp::verify() {
  size_t numDims = cast<RankedTensorType>(getInput().getType()).getRank();
  for (ShardingAttr sharding : {getFrom(), getTo()})
    if (sharding.getDims().size() != numDims)
      return emitOpError() << "has a sharding of " << sharding.getDims().size()
                           << " dims, the tensor has " << numDims << " (C1)";
  for (Attribute axis : getTo().getPartial())
    if (!llvm::is_contained(getFrom().getPartial(), axis))
      return emitOpError() << "makes a value partial on " << axis << " (C2)";
  return success();
}

LogicalResult ReshardedOp::verify() {
  auto type = dyn_cast<RankedTensorType>(getTensor());
  for (ShardingAttr sharding : {getFrom(), getTo()})
    if (!type || int64_t(sharding.getDims().size()) != type.getRank())
      return emitOpError() << "has a sharding of " << sharding.getDims().size()
                           << " dims for " << getTensor() << " (C1)";
  for (int64_t value : {getNumber(), getChunk(), getBytes()})
    if (value < 0)
      return emitOpError() << "has the negative number " << value << " (C2)";
  return success();
}

// Of the locations of what a reshard became.
static constexpr llvm::StringLiteral kReshardedAttr = "dist.resharded";

Location lmc::dist::atReshard(Location loc, int64_t number) {
  Builder b(loc.getContext());
  return FusedLoc::get({loc},
                       b.getDictionaryAttr(b.getNamedAttr(
                           kReshardedAttr, b.getI64IntegerAttr(number))),
                       loc.getContext());
}

std::optional<int64_t> lmc::dist::reshardAt(Location loc) {
  auto fused = dyn_cast<FusedLoc>(loc);
  auto metadata =
      fused ? dyn_cast_or_null<DictionaryAttr>(fused.getMetadata()) : nullptr;
  auto number =
      metadata ? metadata.getAs<IntegerAttr>(kReshardedAttr) : nullptr;
  return number ? std::optional(number.getInt()) : std::nullopt;
}

void SendOp::getEffects(Effects &effects) {
  effects.emplace_back(MemoryEffects::Write::get());
}

void ReceiveOp::getEffects(Effects &effects) {
  effects.emplace_back(MemoryEffects::Write::get());
}

LogicalResult SendOp::verify() {
  if (getStageOffset() == 0)
    return emitOpError("goes to its own stage (C1)");
  return success();
}

LogicalResult ReceiveOp::verify() {
  if (getStageOffset() == 0)
    return emitOpError("comes from its own stage (C1)");
  return success();
}

int64_t lmc::dist::localSize(int64_t globalSize, ArrayRef<StringRef> axes,
                             MeshAttr mesh) {
  int64_t parts = 1;
  for (StringRef axis : axes)
    parts *= mesh.getSize(axis);
  return (globalSize + parts - 1) / parts;
}

RankedTensorType lmc::dist::localType(RankedTensorType type,
                                      ShardingAttr sharding, MeshAttr mesh) {
  SmallVector<int64_t> shape(type.getShape());
  for (unsigned i = 0; i < shape.size(); ++i)
    shape[i] = localSize(shape[i], sharding.getAxes(i), mesh);
  return RankedTensorType::get(shape, type.getElementType());
}
