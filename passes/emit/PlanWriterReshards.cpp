// PlanWriter's reshards: what they were, for people.
#include "passes/emit/PlanWriter.h"

#include "llvm/ADT/StringExtras.h"

using namespace mlir;
using namespace lmc::emit;
namespace plan = lmc::plan;
namespace dist = lmc::dist;

// "dp, –, –; partial on tp", as far as the mesh has more than one rank on an
// axis.
static std::string describe(dist::ShardingAttr sharding, dist::MeshAttr mesh) {
  auto join = [&](ArrayRef<StringRef> axes) {
    SmallVector<StringRef> split;
    for (StringRef axis : axes)
      if (mesh.getSize(axis) > 1)
        split.push_back(axis);
    return llvm::join(split, " ");
  };
  std::string text;
  for (unsigned dim = 0; dim < sharding.getDims().size(); ++dim) {
    std::string axes = join(sharding.getAxes(dim));
    text += (dim ? ", " : "") + (axes.empty() ? "–" : axes);
  }
  std::string partial = join(sharding.getPartialAxes());
  if (partial.empty())
    return text;
  return text + (text.empty() ? "" : "; ") + "partial on " + partial;
}

// Of several collectives that were the same one is left: the others' reshards
// are not done.
void PlanWriter::writeReshards() {
  auto mesh = module->getAttrOfType<dist::MeshAttr>(dist::kMeshAttr);
  llvm::StringMap<int> known; // by all that is not the place
  for (auto op : module.getOps<dist::ReshardedOp>()) {
    auto moves = [](Attribute step) {
      return !cast<StringAttr>(step).getValue().starts_with("slice");
    };
    if (llvm::any_of(op.getBy(), moves) && !reshards.contains(op.getNumber()))
      continue;
    plan::Reshard message;
    auto type = cast<RankedTensorType>(op.getTensor());
    llvm::raw_string_ostream(*message.mutable_dtype()) << type.getElementType();
    for (int64_t size : type.getShape())
      message.add_global_shape(size);
    message.set_from(describe(op.getFrom(), mesh));
    message.set_to(describe(op.getTo(), mesh));
    for (Attribute step : op.getBy())
      message.add_steps(cast<StringAttr>(step).str());
    message.set_received_bytes(op.getBytes());
    message.set_source(op.getOf().str());
    message.set_user(op.getForOp().str());
    for (Attribute rule : op.getRules())
      message.add_rules(cast<StringAttr>(rule).str());
    auto [entry, isNew] =
        known.try_emplace(message.SerializeAsString(), plan.reshards_size());
    if (isNew)
      *plan.add_reshards() = message;
    plan::Reshard::Place *place =
        plan.mutable_reshards(entry->second)->add_places();
    place->set_chunk(op.getChunk());
    place->set_program(op.getProgram().str());
    place->set_location(getLocation(op.getLoc()));
    if (auto places = dyn_cast<CallSiteLoc>(op.getLoc()))
      place->set_user_location(getLocation(places.getCaller()));
  }
}
