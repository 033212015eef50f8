// The operations of a program, one after the other: what reads and writes which
// bytes, what is done in place, and where a copy has to stand.
#include "dialects/plan/Matmul.h"
#include "passes/plan/HomeFinder.h"

#include "mlir/IR/BuiltinOps.h"
#include "llvm/ADT/TypeSwitch.h"

using namespace mlir;
using namespace lmc::plan;
namespace dist = lmc::dist;
namespace lm = lmc::lm;

LogicalResult HomeFinder::placeOperation(Operation *op) {
  if (dist::isCollective(op))
    return placeCollective(op);
  return TypeSwitch<Operation *, LogicalResult>(op)
      .Case([&](LaunchOp launch) { return placeLaunch(launch); })
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
  if (kernel.getKind() == kMatmulKind) {
    int64_t bytes = matmulWorkspaceBytes(kernel);
    int home = addHome(Home::Scratch, "", bytes);
    step.uses.push_back({{home, 0}, bytes, Step::Use::Write});
    markWritten({home, 0}, op);
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
