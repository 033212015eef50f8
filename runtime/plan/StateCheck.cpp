// Checks of a plan's states: their shapes, where they lie, and what of them
// files hold.
#include "runtime/plan/PlanChecker.h"
#include "runtime/plan/PlanFacts.h"

#include <algorithm>
#include <cmath>
#include <set>
#include <tuple>
#include <unordered_map>
#include <unordered_set>

namespace lmc::runtime {

Status Checker::checkBox(const plan::State &state,
                         const plan::State::Box &box) {
  if (box.names_size() == 0)
    return corrupt("a box has no name in files");
  for (const std::string &name : box.names())
    if (name.empty())
      return corrupt("a box has an empty name in files");
  for (const auto *shape :
       {&box.file_shape(), &box.split_shape(), &box.box_shape()}) {
    LMC_ASSIGN_OR_RETURN(int64_t bytes,
                         checkedBytes(*shape, plan::F64, int64_t(1)));
    (void)bytes;
  }
  std::optional<int64_t> elements = checkedElements(box.file_shape());
  if (checkedElements(box.split_shape()) != elements ||
      checkedElements(box.box_shape()) != elements)
    return corrupt("box {}: file shape [{}], split shape [{}] and box shape "
                   "[{}] differ in elements",
                   box.names(0), fmt::join(box.file_shape(), ", "),
                   fmt::join(box.split_shape(), ", "),
                   fmt::join(box.box_shape(), ", "));
  std::set<int64_t> seen(box.permutation().begin(), box.permutation().end());
  if (box.permutation_size() != box.split_shape_size() ||
      int(seen.size()) != box.permutation_size() ||
      (!seen.empty() &&
       (*seen.begin() != 0 || *seen.rbegin() != box.permutation_size() - 1)))
    return corrupt("box {}: [{}] is no permutation of {} dims", box.names(0),
                   fmt::join(box.permutation(), ", "), box.split_shape_size());
  if (box.box_shape_size() != state.global_shape_size() ||
      box.box_offset_size() != state.global_shape_size())
    return corrupt("box {} has {} dims and {} offsets; the tensor has {} dims",
                   box.names(0), box.box_shape_size(), box.box_offset_size(),
                   state.global_shape_size());
  for (int d = 0; d < box.box_shape_size(); ++d)
    if (box.box_offset(d) < 0 || box.box_offset(d) > state.global_shape(d) ||
        box.box_shape(d) > state.global_shape(d) - box.box_offset(d))
      return corrupt("box {}: [{}, {}+{}) exceeds dim {} of size {}",
                     box.names(0), box.box_offset(d), box.box_offset(d),
                     box.box_shape(d), d, state.global_shape(d));
  return Status();
}

// A bucket holds all of the local tensor, and the slice is its piece.
Status Checker::checkPiece(const plan::State &state, int64_t localBytes) {
  if (!state.has_piece())
    return Status();
  const plan::State::Piece &piece = state.piece();
  int64_t elementBytes = lookUpDataType(state.dtype())->sizeBytes;
  int64_t pieces = 1;
  std::set<uint32_t> axes;
  for (uint32_t axis : piece.axes()) {
    if (axis >= uint32_t(plan.mesh().axes_size()) || !axes.insert(axis).second)
      return corrupt("its piece names mesh axis {} of {}, or names it twice",
                     axis, plan.mesh().axes_size());
    pieces *= plan.mesh().axes(int(axis)).size();
  }
  if (piece.elements() < 0 || piece.offset() < 0 ||
      piece.elements() > maxBytes / elementBytes / pieces ||
      piece.elements() * elementBytes != state.slice().bytes())
    return corrupt("its piece of {} elements is not its slice of {} bytes",
                   piece.elements(), state.slice().bytes());
  if (piece.offset() > pieces * piece.elements() - localBytes / elementBytes)
    return corrupt("its {} bytes from element {} on exceed {} pieces of {}",
                   localBytes, piece.offset(), pieces, piece.elements());
  return Status();
}

Status Checker::checkStates() {
  std::unordered_map<std::string, const plan::State *> parameters;
  std::unordered_set<std::string> names, tensors;
  for (const plan::State &state : plan.states()) {
    auto fail = [&](Status status) {
      return std::move(status).prepend("state " + state.name());
    };
    if (state.name().empty() || !names.insert(state.name()).second)
      return corrupt("state \"{}\" is unnamed or named twice", state.name());
    if (state.kind() == plan::State::KIND_INVALID)
      return fail(corrupt("it has no kind"));
    if (state.kind() == plan::State::PARAMETER)
      parameters[state.name()] = &state;
    int numDims = state.global_shape_size();
    if (state.local_shape_size() != numDims ||
        state.local_offset_size() != numDims)
      return fail(corrupt("{} global dims, {} local dims and {} offsets",
                          numDims, state.local_shape_size(),
                          state.local_offset_size()));
    auto global = checkedBytes(state.global_shape(), state.dtype(), 1);
    if (!global.ok())
      return fail(global.status());
    auto local = checkedBytes(state.local_shape(), state.dtype(), 1);
    if (!local.ok())
      return fail(local.status());
    for (int i = 0; i < state.stages_size(); ++i)
      if (state.stages(i) <= (i > 0 ? state.stages(i - 1) : -1) ||
          state.stages(i) >= stages)
        return fail(corrupt("stages [{}] of {} do not ascend",
                            fmt::join(state.stages(), ", "), stages));
    for (int i = 0; i < std::max(state.stages_size(), 1); ++i) {
      stage = state.stages_size() > 0 ? state.stages(i) : -1;
      if (Status status = checkSlice(state.slice(), Use::Fixed); !status.ok())
        return fail(status);
    }
    stage = -1;
    if (Status status = checkPiece(state, *local); !status.ok())
      return fail(status);
    if (!state.has_piece() && *local > state.slice().bytes())
      return fail(corrupt("local shape [{}] takes {} bytes, its slice has {}",
                          fmt::join(state.local_shape(), ", "), *local,
                          state.slice().bytes()));
    for (int d = 0; d < numDims; ++d) {
      std::optional<Range> offset = boundLinear(state.local_offset(d), ranges);
      if (!offset || offset->minimum < 0 || offset->maximum > maxBytes)
        return fail(corrupt("offset of dim {} is negative or too large", d));
      for (const plan::Linear::Term &term : state.local_offset(d).terms())
        if (plan.symbols(int(term.symbol())).kind() != plan::Symbol::COORDINATE)
          return fail(corrupt("offset of dim {} depends on more than the "
                              "rank's coordinates",
                              d));
    }
    if (!std::isfinite(state.initialization().scale()))
      return fail(corrupt("its initialisation is not finite"));
    for (const plan::State::Box &box : state.boxes())
      if (Status status = checkBox(state, box); !status.ok())
        return fail(status);
    // Those of moments and accumulators are their parameters'.
    if (state.kind() == plan::State::PARAMETER)
      for (const plan::State::Box &box : state.boxes())
        if (!tensors.insert(box.names(0)).second)
          return fail(corrupt("{} is stored twice", box.names(0)));
  }
  for (const plan::State &state : plan.states()) {
    if (state.kind() != plan::State::MOMENT &&
        state.kind() != plan::State::ACCUMULATOR)
      continue;
    auto parameter = parameters.find(state.parameter());
    if (parameter == parameters.end())
      return corrupt("state {} belongs to parameter \"{}\", which is not there",
                     state.name(), state.parameter());
    const auto &shape = parameter->second->global_shape();
    if (!std::equal(shape.begin(), shape.end(), state.global_shape().begin(),
                    state.global_shape().end()))
      return corrupt("state {} has global shape [{}], its parameter [{}]",
                     state.name(), fmt::join(state.global_shape(), ", "),
                     fmt::join(shape, ", "));
  }
  return Status();
}

namespace {
// Bytes that belong to something of a plan from its first to its last step.
struct Held {
  std::string_view name;
  uint32_t allocation;
  int64_t begin, end;
  bool isPiece;
  int64_t first, last; // elements of a bucket, if it is a piece of one
};
} // namespace

// On a stage no two things of a plan share bytes, but for tensors that are
// different parts of one bucket.
Status Checker::checkApart(int64_t stage) {
  std::vector<Range> here = ranges;
  for (int i = 0; i < plan.symbols_size(); ++i)
    if (const plan::Symbol &symbol = plan.symbols(i);
        symbol.kind() == plan::Symbol::COORDINATE &&
        plan.mesh().axes(int(symbol.axis())).name() == "pp")
      here[size_t(i)] = {stage, stage};
  std::vector<Held> all;
  auto hold = [&](std::string_view name, const plan::Slice &slice,
                  const plan::State *piece) {
    std::optional<Range> offset = boundLinear(slice.offset(), here);
    // What lies elsewhere on each rank cannot be compared.
    if (!offset || offset->minimum != offset->maximum || slice.bytes() == 0)
      return;
    Held held{name,
              slice.allocation(),
              offset->minimum,
              offset->minimum + slice.bytes(),
              piece != nullptr,
              0,
              0};
    if (piece) {
      held.first = piece->piece().offset();
      held.last =
          held.first + checkedElements(piece->local_shape()).value_or(0);
    }
    all.push_back(held);
  };
  for (const plan::State &state : plan.states())
    if (isOnStage(state, stage))
      hold(state.name(), state.slice(), state.has_piece() ? &state : nullptr);
  for (const plan::Scalar &scalar : plan.scalars())
    hold(scalar.name(), scalar.slice(), nullptr);
  for (const plan::Port &port : plan.inputs())
    hold(port.name(), port.slice(), nullptr);
  for (const plan::Constant &constant : plan.constants())
    hold("a constant", constant.slice(), nullptr);
  std::sort(all.begin(), all.end(), [](const Held &a, const Held &b) {
    return std::tie(a.allocation, a.begin, a.end, a.first) <
           std::tie(b.allocation, b.begin, b.end, b.first);
  });
  for (size_t i = 1; i < all.size(); ++i) {
    const Held &before = all[i - 1], &held = all[i];
    if (before.allocation != held.allocation || before.end <= held.begin)
      continue;
    bool isOneBucket = before.isPiece && held.isPiece &&
                       before.begin == held.begin && before.end == held.end;
    if (!isOneBucket || before.last > held.first)
      return corrupt("{} and {} share bytes of allocation {} on stage {}",
                     before.name, held.name, held.allocation, stage);
  }
  return Status();
}

} // namespace lmc::runtime
