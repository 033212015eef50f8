// Buckets: the local tensors of one block, one behind the other.
//
//     elements  0            768        1536                    4096
//     bucket    | norm.weight | qkv.bias | ... | zeros, to the end |
//     dp=2      | rank 0's piece          | rank 1's piece         |
//
// Collectives over the data axes move buckets, not tensors: a gather or a
// reduce-scatter then needs no copy, and the optimizer is one kernel. Which
// axes cut parameters, accumulators and moments into pieces, the strategy says
// (#dist.pieces): ZeRO's levels and FSDP are such choices. A program that reads
// parameters of a bucket of pieces gathers it before the first of them is used;
// one that adds to accumulators of pieces lays the gradients into a bucket and
// reduce-scatters it.
//
// The programs know buckets alone afterwards. A parameter, like its accumulator
// and its moments, stays declared for the sake of checkpoints, and says in
// which bucket it lies and where. lm-build-update makes the program that works
// on pieces.
#include "passes/dist/Passes.h"

#include "passes/dist/ShardingTable.h"

#include "dialects/lm/ProgramSignature.h"
#include "dialects/lm/TensorMath.h"
#include "dialects/plan/Plan.h"

#include "llvm/ADT/MapVector.h"
#include "llvm/ADT/SetVector.h"

#include <set>
#include <tuple>

namespace lmc::dist {
#define GEN_PASS_DEF_PACKBUCKETS
#include "passes/dist/Passes.h.inc"
} // namespace lmc::dist

using namespace mlir;
using namespace lmc;
using namespace lmc::dist;

namespace {

// A tensor begins at a multiple of 64 bytes; a piece is a multiple of 256, and
// of the rows of 64 elements whose squares are summed apart.
constexpr int64_t kTensorElements = 16;
constexpr int64_t kPieceElements = 64;

// The axes that cut a bucket into pieces, from large pieces to small. The first
// two begin the third.
struct Cuts {
  std::vector<StringRef> parameters, accumulators, moments;

  bool operator<(const Cuts &other) const {
    return std::tie(parameters, accumulators, moments) <
           std::tie(other.parameters, other.accumulators, other.moments);
  }
};

// An axis that splits the dims of a parameter has cut its state already.
Cuts cutsOf(lm::ParameterOp parameter, const std::set<StringRef> &split) {
  Cuts cuts;
  auto pieces = parameter->getAttrOfType<PiecesAttr>(kPiecesAttr);
  if (!pieces)
    return cuts;
  for (auto [axes, list] :
       {std::pair(&cuts.parameters, pieces.getParameters()),
        std::pair(&cuts.accumulators, pieces.getGradients()),
        std::pair(&cuts.moments, pieces.getMoments())})
    for (StringAttr axis : list.getAsRange<StringAttr>())
      if (!split.count(axis.getValue()))
        axes->push_back(axis.getValue());
  return cuts;
}

struct Member {
  lm::ParameterOp parameter;
  lm::StateOp accumulator; // null: frozen
  RankedTensorType type;   // local
  int64_t offset = 0;
};

struct Bucket {
  SmallVector<Member> members;
  Cuts cuts;
  int64_t elements = 0; // with padding
  lm::StateOp parameters, accumulators;
  Axes partial; // axes of the accumulators that are not summed over
};

RankedTensorType localTypeOf(Operation *state, RankedTensorType type,
                             MeshAttr mesh) {
  auto sharding = state->getAttrOfType<ShardingAttr>(kShardingAttr);
  return mesh && sharding ? localType(type, sharding, mesh) : type;
}

RankedTensorType flat(Type elementType, int64_t elements) {
  return RankedTensorType::get({elements}, elementType);
}

Value flattened(OpBuilder &b, Value value) {
  auto type = cast<RankedTensorType>(value.getType());
  auto wanted = flat(type.getElementType(), type.getNumElements());
  return type == wanted
             ? value
             : b.create<lm::ReshapeOp>(value.getLoc(), wanted, value);
}

// Rewrites one program.
class ProgramPacking {
public:
  using Where = llvm::DenseMap<Attribute, std::pair<Bucket *, Member *>>;

  ProgramPacking(func::FuncOp function, MeshAttr mesh, const Where &parameters,
                 const Where &accumulators)
      : function(function), mesh(mesh), parameters(parameters),
        accumulators(accumulators), arguments(function) {}

  LogicalResult run();
  int64_t getNumCollectives() const { return collectives; }

private:
  struct Used {
    Member *member;
    BlockArgument argument;
  };
  void readFrom(Bucket &bucket, ArrayRef<Used> used);
  LogicalResult addTo(Bucket &bucket, ArrayRef<Used> used);
  LogicalResult sumInPlace(Bucket &bucket, ArrayRef<Used> used);
  LogicalResult sumPieces(Bucket &bucket, ArrayRef<Used> used);
  Value addState(lm::StateOp state, ArrayRef<StringRef> axes);
  Value view(OpBuilder &b, Value bucket, Member &member);

  func::FuncOp function;
  MeshAttr mesh;
  const Where &parameters, &accumulators;
  lm::ProgramArguments arguments;
  llvm::DenseMap<Attribute, Value> newStates; // accumulators, as they end
  SmallVector<lm::TiedResult> results;
  int64_t collectives = 0;
};

Value ProgramPacking::addState(lm::StateOp state, ArrayRef<StringRef> axes) {
  auto type = state.getTensorType();
  int64_t local = localSize(type.getDimSize(0), axes, mesh);
  Builder b(function.getContext());
  return arguments.add(
      flat(type.getElementType(), local),
      b.getDictionaryAttr(b.getNamedAttr(
          lm::kStateAttr, FlatSymbolRefAttr::get(state.getSymNameAttr()))),
      state.getLoc());
}

Value ProgramPacking::view(OpBuilder &b, Value bucket, Member &member) {
  Location loc = member.parameter.getLoc();
  auto type = flat(member.type.getElementType(), member.type.getNumElements());
  Value part = b.create<lm::SliceRowsOp>(loc, type, bucket, member.offset);
  if (type != member.type)
    part = b.create<lm::ReshapeOp>(loc, member.type, part);
  return part;
}

// Every use of a member becomes one of the bucket, which is gathered before the
// first of them.
void ProgramPacking::readFrom(Bucket &bucket, ArrayRef<Used> used) {
  Operation *first = nullptr;
  for (const Used &each : used)
    for (Operation *user : each.argument.getUsers())
      if (!first || user->isBeforeInBlock(first))
        first = user;
  if (!first)
    return;
  Value whole = addState(bucket.parameters, bucket.cuts.parameters);
  OpBuilder b(first);
  for (StringRef axis : llvm::reverse(bucket.cuts.parameters)) {
    auto type = cast<RankedTensorType>(whole.getType());
    whole = b.create<AllGatherOp>(
        bucket.parameters.getLoc(),
        flat(type.getElementType(), type.getDimSize(0) * mesh.getSize(axis)),
        whole, /*dim=*/0, b.getStrArrayAttr({axis}));
    ++collectives;
  }
  for (Used each : used)
    each.argument.replaceAllUsesWith(view(b, whole, *each.member));
}

// The accumulator that the program returns is the bucket, of which its new
// members and what lies between them are the rows. All of it is in place.
LogicalResult ProgramPacking::sumInPlace(Bucket &bucket, ArrayRef<Used> used) {
  Value old = addState(bucket.accumulators, {});
  llvm::DenseMap<Member *, Value> updated;
  OpBuilder b = OpBuilder::atBlockBegin(&function.getBody().front());
  for (Used each : used) {
    Attribute state =
        FlatSymbolRefAttr::get(each.member->accumulator.getSymNameAttr());
    Value before = view(b, old, *each.member);
    Value after = newStates.lookup(state);
    if (after && after != each.argument)
      updated[each.member] = after;
    each.argument.replaceAllUsesWith(before);
  }
  b.setInsertionPoint(function.getBody().front().getTerminator());
  Location loc = bucket.accumulators.getLoc();
  Type element = bucket.accumulators.getTensorType().getElementType();
  SmallVector<Value> rows;
  int64_t at = 0;
  auto keepUntil = [&](int64_t end) {
    if (end > at)
      rows.push_back(
          b.create<lm::SliceRowsOp>(loc, flat(element, end - at), old, at));
    at = end;
  };
  for (Member &member : bucket.members) {
    auto found = updated.find(&member);
    if (found == updated.end())
      continue;
    keepUntil(member.offset);
    at += member.type.getNumElements();
    rows.push_back(flattened(b, found->second));
  }
  keepUntil(bucket.elements);
  results.push_back(
      {b.create<lm::ConcatRowsOp>(loc, old.getType(), rows), lm::kStateAttr,
       FlatSymbolRefAttr::get(bucket.accumulators.getSymNameAttr())});
  return success();
}

// Gradients of this micro-batch, laid one behind the other behind the last of
// them; their sum over the axes is added to the piece.
LogicalResult ProgramPacking::sumPieces(Bucket &bucket, ArrayRef<Used> used) {
  llvm::DenseMap<Member *, Value> gradients;
  for (Used each : used) {
    Attribute state =
        FlatSymbolRefAttr::get(each.member->accumulator.getSymNameAttr());
    for (Operation *user : llvm::make_early_inc_range(each.argument.getUsers()))
      if (auto sum = dyn_cast<lm::AccumulateOp>(user);
          sum && sum.getAccumulator() == each.argument) {
        if (newStates.lookup(state) == sum.getOutput())
          newStates[state] = sum.getValue();
        sum.getOutput().replaceAllUsesWith(sum.getValue());
        sum.erase();
      }
    if (each.argument.use_empty())
      gradients[each.member] = newStates.lookup(state);
  }
  Operation *last = nullptr;
  for (Member &member : bucket.members) {
    Value gradient = gradients.lookup(&member);
    Operation *producer = gradient ? gradient.getDefiningOp() : nullptr;
    if (!producer) {
      InFlightDiagnostic error =
          member.parameter.emitError()
          << "has a gradient that @" << function.getName()
          << " does not compute, or reads before the step's end; it cannot be "
             "shared out with the others of its bucket";
      error.attachNote() << "help: no split_gradients for it in the sharding "
                            "file, --zero=1 or less and no fsdp";
      return error;
    }
    if (!last || last->isBeforeInBlock(producer))
      last = producer;
  }
  Value piece = addState(bucket.accumulators, bucket.cuts.accumulators);
  OpBuilder b(function.getContext());
  b.setInsertionPointAfter(last);
  Location loc = bucket.accumulators.getLoc();
  Type element = bucket.accumulators.getTensorType().getElementType();
  SmallVector<Value> rows;
  int64_t at = 0;
  auto zerosUntil = [&](int64_t end) {
    if (end > at)
      rows.push_back(
          lm::TensorMath(b, loc).constant(flat(element, end - at), 0.0));
    at = end;
  };
  for (Member &member : bucket.members) {
    zerosUntil(member.offset);
    at += member.type.getNumElements();
    rows.push_back(flattened(b, gradients.lookup(&member)));
  }
  zerosUntil(bucket.elements);
  int64_t elements = bucket.elements;
  Value sum = b.create<lm::ConcatRowsOp>(loc, flat(element, elements), rows);
  for (StringRef axis : bucket.cuts.accumulators) {
    elements /= mesh.getSize(axis);
    sum = b.create<ReduceScatterOp>(loc, flat(element, elements), sum,
                                    /*dim=*/0, b.getStrArrayAttr({axis}));
    ++collectives;
  }
  results.push_back(
      {b.create<lm::AccumulateOp>(loc, sum.getType(), piece, sum),
       lm::kStateAttr,
       FlatSymbolRefAttr::get(bucket.accumulators.getSymNameAttr())});
  return success();
}

LogicalResult ProgramPacking::addTo(Bucket &bucket, ArrayRef<Used> used) {
  return bucket.cuts.accumulators.empty() ? sumInPlace(bucket, used)
                                          : sumPieces(bucket, used);
}

LogicalResult ProgramPacking::run() {
  llvm::MapVector<Bucket *, SmallVector<Used>> read, added;
  unsigned numArguments = function.getNumArguments();
  llvm::BitVector gone(numArguments);
  for (unsigned i = 0; i < numArguments; ++i) {
    Attribute state = function.getArgAttr(i, lm::kStateAttr);
    for (auto [where, uses] :
         {std::pair(&parameters, &read), std::pair(&accumulators, &added)})
      if (auto found = where->find(state); found != where->end()) {
        (*uses)[found->second.first].push_back(
            {found->second.second, function.getArgument(i)});
        gone.set(i);
      }
  }
  if (gone.none())
    return success();
  Operation *terminator = function.getBody().front().getTerminator();
  for (unsigned i = 0, e = function.getNumResults(); i < e; ++i) {
    Value value = terminator->getOperand(i);
    for (NamedAttribute tie : function.getResultAttrs(i)) {
      if (tie.getName() == kShardingAttr)
        continue;
      if (accumulators.count(tie.getValue()))
        newStates[tie.getValue()] = value;
      else
        results.push_back({value, tie.getName(), tie.getValue()});
    }
  }
  // What is rewritten below may be a result.
  size_t kept = results.size();
  SmallVector<Value> keptValues;
  for (const lm::TiedResult &result : results)
    keptValues.push_back(result.value);
  terminator->setOperands(keptValues);
  for (auto &[bucket, used] : added)
    if (failed(addTo(*bucket, used)))
      return failure();
  for (auto &[bucket, used] : read)
    readFrom(*bucket, used);
  for (size_t i = 0; i < kept; ++i)
    results[i].value = terminator->getOperand(i);
  arguments.finish();
  lm::setResults(function, results);
  gone.resize(function.getNumArguments());
  function.eraseArguments(gone);
  return success();
}

struct PackBuckets : lmc::dist::impl::PackBucketsBase<PackBuckets> {
  using PackBucketsBase::PackBucketsBase;

  void runOnOperation() override {
    ModuleOp module = getOperation();
    mesh = module->getAttrOfType<MeshAttr>(kMeshAttr);
    auto functions = module.getOps<func::FuncOp>();
    if (functions.empty())
      return;
    firstProgram = *functions.begin();
    formBuckets();
    SymbolTable symbols(module);
    for (auto &[key, bucket] : buckets)
      if (failed(declare(bucket, symbols)))
        return signalPassFailure();
    ProgramPacking::Where parameters, accumulators;
    for (auto &[key, bucket] : buckets)
      for (Member &member : bucket.members) {
        parameters[FlatSymbolRefAttr::get(member.parameter.getSymNameAttr())] =
            {&bucket, &member};
        if (member.accumulator)
          accumulators[FlatSymbolRefAttr::get(
              member.accumulator.getSymNameAttr())] = {&bucket, &member};
      }
    for (auto function : module.getOps<func::FuncOp>()) {
      if (!function->hasAttr(lm::kProgramAttr))
        continue;
      ProgramPacking program(function, mesh, parameters, accumulators);
      if (failed(program.run()))
        return signalPassFailure();
      numCollectives += program.getNumCollectives();
    }
    numBuckets += buckets.size();
  }

  // What the members of a bucket have in common: the block (or they are alone),
  // the chunks that use them, whether the backward's input half (where it
  // has one) makes their gradients, the optimizer's group, the axes that split
  // them, those their gradients are partial on, those that cut them into
  // pieces, and the element type.
  using Key = std::tuple<std::string, std::set<int64_t>, bool, std::string,
                         std::set<StringRef>, std::vector<StringRef>, Cuts,
                         const void *>;

  void formBuckets() {
    ModuleOp module = getOperation();
    llvm::DenseMap<Attribute, lm::StateOp> accumulatorOf;
    for (auto state : module.getOps<lm::StateOp>())
      if (state.getKind() == "accumulator" && state.getParameter())
        accumulatorOf[state.getParameterAttr()] = state;
    llvm::DenseMap<Attribute, std::set<int64_t>> chunksOf;
    llvm::DenseSet<Attribute> madeEarly;
    for (auto function : module.getOps<func::FuncOp>()) {
      auto chunk = function->getAttrOfType<IntegerAttr>(plan::kChunkAttr);
      auto kind = function->getAttrOfType<StringAttr>(plan::kProgramAttr);
      StringRef program = kind ? kind.getValue() : "";
      for (unsigned i = 0, e = function.getNumArguments(); i < e; ++i)
        if (Attribute state = function.getArgAttr(i, lm::kStateAttr)) {
          chunksOf[state].insert(chunk ? chunk.getInt() : 0);
          if (program == "backward_input")
            madeEarly.insert(state);
        }
    }
    for (auto parameter : module.getOps<lm::ParameterOp>()) {
      auto symbol = FlatSymbolRefAttr::get(parameter.getSymNameAttr());
      Member member{parameter, accumulatorOf.lookup(symbol),
                    localTypeOf(parameter, parameter.getTensorType(), mesh), 0};
      std::string block = parameter.getSymName().str();
      if (auto number = parameter.getBlock())
        block = "block" + std::to_string(*number);
      std::set<StringRef> split;
      std::vector<StringRef> partial;
      if (auto sharding = parameter->getAttrOfType<ShardingAttr>(kShardingAttr))
        for (unsigned d = 0; d < sharding.getDims().size(); ++d)
          for (StringRef axis : sharding.getAxes(d))
            split.insert(axis);
      if (member.accumulator)
        if (auto sharding =
                member.accumulator->getAttrOfType<ShardingAttr>(kShardingAttr))
          llvm::append_range(partial, sharding.getPartialAxes());
      bool isEarly =
          member.accumulator && madeEarly.contains(FlatSymbolRefAttr::get(
                                    member.accumulator.getSymNameAttr()));
      std::string group =
          member.accumulator ? parameter.getGroup().str() : "frozen";
      Cuts cuts = cutsOf(parameter, split);
      parameter->removeAttr(kPiecesAttr);
      Bucket &bucket = buckets[{
          block, chunksOf.lookup(symbol), isEarly, group, split, partial, cuts,
          member.type.getElementType().getAsOpaquePointer()}];
      bucket.cuts = cuts;
      bucket.members.push_back(member);
    }
    for (auto &[key, bucket] : buckets)
      layOut(bucket);
  }

  // Tensors of an even size first, so that one gap at most lies between two.
  void layOut(Bucket &bucket) {
    llvm::stable_sort(bucket.members, [](const Member &a, const Member &b) {
      return a.type.getNumElements() % kTensorElements == 0 &&
             b.type.getNumElements() % kTensorElements != 0;
    });
    int64_t end = 0;
    for (Member &member : bucket.members) {
      member.offset = llvm::alignTo(end, kTensorElements);
      end = member.offset + member.type.getNumElements();
    }
    int64_t pieces = 1;
    for (StringRef axis : bucket.cuts.moments)
      pieces *= mesh.getSize(axis);
    bucket.elements = llvm::alignTo(end, kPieceElements * pieces);
  }

  lm::StateOp addState(SymbolTable &symbols, Location loc, const Twine &name,
                       StringRef kind, Type type, StringAttr parameter,
                       StringRef role, ArrayRef<StringRef> axes,
                       ArrayRef<StringRef> partial) {
    OpBuilder b(firstProgram);
    auto state = b.create<lm::StateOp>(
        loc, b.getStringAttr(name), b.getStringAttr(kind), TypeAttr::get(type),
        parameter ? FlatSymbolRefAttr::get(parameter) : FlatSymbolRefAttr(),
        b.getStringAttr(role), /*values=*/nullptr);
    symbols.insert(state);
    if (mesh)
      state->setAttr(kShardingAttr,
                     makeSharding(&getContext(), {Axes(axes)}, Axes(partial)));
    return state;
  }

  // A piece of `bucket` that the update works on, where that is not what is
  // kept; else the bucket.
  lm::StateOp addPiece(SymbolTable &symbols, lm::StateOp bucket,
                       ArrayRef<StringRef> kept, ArrayRef<StringRef> moments) {
    if (kept == moments)
      return bucket;
    lm::StateOp piece =
        addState(symbols, bucket.getLoc(), bucket.getSymName() + ".piece",
                 "piece", bucket.getType(), {}, *bucket.getRole(), moments, {});
    piece->setAttr(kBucketAttr,
                   FlatSymbolRefAttr::get(bucket.getSymNameAttr()));
    return piece;
  }

  LogicalResult declare(Bucket &bucket, SymbolTable &symbols) {
    Member &first = bucket.members.front();
    Location loc = first.parameter.getLoc();
    auto type = flat(first.type.getElementType(), bucket.elements);
    std::string name =
        first.parameter.getBlock()
            ? "block" + std::to_string(*first.parameter.getBlock()) + "." +
                  (first.accumulator ? first.parameter.getGroup().str()
                                     : "frozen")
            : first.parameter.getSymName().str();
    name += ".bucket";
    bucket.parameters = addState(symbols, loc, name, "bucket", type, {},
                                 "parameter", bucket.cuts.parameters, {});
    for (Member &member : bucket.members)
      place(member.parameter, bucket.parameters, member.offset);
    if (!first.accumulator)
      return success();
    addPiece(symbols, bucket.parameters, bucket.cuts.parameters,
             bucket.cuts.moments);
    SmallVector<StringRef> partial;
    if (auto sharding =
            first.accumulator->getAttrOfType<ShardingAttr>(kShardingAttr))
      partial = sharding.getPartialAxes();
    for (StringRef axis : bucket.cuts.moments)
      if (!llvm::is_contained(partial, axis)) {
        InFlightDiagnostic error =
            first.parameter.emitError()
            << "has a gradient that is whole on every rank of " << axis
            << "; to be shared out over the axis it must be a sum over it";
        error.attachNote() << "help: no split_moments for it in the sharding "
                              "file, --zero=0 and no fsdp";
        return error;
      }
    for (StringRef axis : partial)
      if (!llvm::is_contained(bucket.cuts.accumulators, axis))
        bucket.partial.push_back(axis);
    bucket.accumulators =
        addState(symbols, loc, name + ".gradient", "bucket", type,
                 bucket.parameters.getSymNameAttr(), "gradient",
                 bucket.cuts.accumulators, bucket.partial);
    lm::StateOp piece = addPiece(symbols, bucket.accumulators,
                                 bucket.cuts.accumulators, bucket.cuts.moments);
    for (Member &member : bucket.members)
      place(member.accumulator, piece, member.offset);
    return success();
  }

  void place(Operation *member, lm::StateOp bucket, int64_t offset) {
    Builder b(&getContext());
    member->setAttr(kBucketAttr,
                    FlatSymbolRefAttr::get(bucket.getSymNameAttr()));
    member->setAttr(kBucketOffsetAttr, b.getI64IntegerAttr(offset));
  }

  MeshAttr mesh;
  Operation *firstProgram; // states are declared before it
  llvm::MapVector<Key, Bucket, std::map<Key, unsigned>> buckets;
};

} // namespace
