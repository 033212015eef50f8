// Preparing programs. See Program.h.
#include "runtime/exec/Program.h"
#include "runtime/plan/Linear.h"

#include <limits>
#include <numeric>

namespace lmc::runtime {

std::vector<int64_t> rankCoordinates(const plan::Mesh &mesh, int64_t rank) {
  std::vector<int64_t> coordinates(size_t(mesh.axes_size()));
  for (int i = mesh.axes_size() - 1; i >= 0; --i) {
    coordinates[size_t(i)] = rank % mesh.axes(i).size();
    rank /= mesh.axes(i).size();
  }
  return coordinates;
}

static int rankOf(const plan::Mesh &mesh,
                  const std::vector<int64_t> &coordinates) {
  int64_t rank = 0;
  for (int i = 0; i < mesh.axes_size(); ++i)
    rank = rank * mesh.axes(i).size() + coordinates[size_t(i)];
  return int(rank);
}

std::vector<int> groupRanks(const plan::Mesh &mesh,
                            const std::vector<int64_t> &coordinates,
                            const std::vector<uint32_t> &axes) {
  int64_t members = 1;
  for (uint32_t axis : axes)
    members *= mesh.axes(int(axis)).size();
  std::vector<int> ranks;
  for (int64_t member = 0; member < members; ++member) {
    std::vector<int64_t> other = coordinates;
    int64_t rest = member;
    for (size_t i = axes.size(); i-- > 0;) {
      int64_t size = mesh.axes(int(axes[i])).size();
      other[axes[i]] = rest % size;
      rest /= size;
    }
    ranks.push_back(rankOf(mesh, other));
  }
  return ranks;
}

static int64_t groupSize(const plan::Mesh &mesh,
                         const plan::Collective &collective) {
  int64_t members = 1;
  for (uint32_t axis : collective.axes())
    members *= mesh.axes(int(axis)).size();
  return members;
}

/// Null where it is not open.
static const int *findGroup(const PrepareContext &context,
                            const plan::Collective &collective) {
  for (auto &[axes, group] : context.groups)
    if (std::equal(axes.begin(), axes.end(), collective.axes().begin(),
                   collective.axes().end()))
      return &group;
  return nullptr;
}

Status openGroups(const plan::Program &program, bool isOurs,
                  PrepareContext &context) {
  const plan::Mesh &mesh = context.plan.mesh();
  for (const plan::Instruction &instruction : program.instructions()) {
    const plan::Collective &collective = instruction.collective();
    bool isWanted = isOurs;
    for (uint32_t axis : collective.axes())
      isWanted = isWanted || mesh.axes(int(axis)).name() == "pp";
    if (!instruction.has_collective() || !isWanted ||
        groupSize(mesh, collective) == 1 || findGroup(context, collective))
      continue;
    // The largest slice over the whole plan, so that one group serves all.
    int64_t maxBytes = 0;
    for (const plan::Program &other : context.plan.programs())
      for (const plan::Instruction &each : other.instructions())
        if (each.has_collective())
          maxBytes = std::max({maxBytes, each.collective().source().bytes(),
                               each.collective().target().bytes()});
    std::vector<uint32_t> axes(collective.axes().begin(),
                               collective.axes().end());
    LMC_ASSIGN_OR_RETURN(
        int group, context.comm->openGroup(
                       groupRanks(mesh, context.coordinates, axes), maxBytes));
    context.groups.push_back({std::move(axes), group});
  }
  return Status();
}

namespace {

/// Builds one PreparedProgram.
class Preparer {
public:
  Preparer(const plan::Program &program, PrepareContext &context)
      : program(program), context(context), plan(context.plan) {}
  StatusOr<PreparedProgram> run();

private:
  bool isFixed(const plan::Linear &linear) const;
  Patch makePatch(Patch::Target target, size_t index,
                  const plan::Linear &linear);
  void addPointer(const plan::Slice &slice);
  void addInteger(const plan::Linear &integer);
  void addLaunch(const plan::Instruction &instruction, Op op);
  void addMatmul(const plan::Matmul &matmul, Op op);
  uint32_t alignmentOf(const plan::Slice &slice) const;
  void addCollective(const plan::Collective &collective, Op op);
  void addTransfer(const plan::Transfer &transfer, bool isSend, Op op);

  const plan::Program &program;
  PrepareContext &context;
  const plan::Plan &plan;
  PreparedProgram out;
};

} // namespace

/// Whether a linear expression is the same in every call of this rank.
bool Preparer::isFixed(const plan::Linear &linear) const {
  for (const plan::Linear::Term &term : linear.terms())
    if (term.coefficient() != 0 &&
        plan.symbols(int(term.symbol())).kind() != plan::Symbol::COORDINATE)
      return false;
  return true;
}

Patch Preparer::makePatch(Patch::Target target, size_t index,
                          const plan::Linear &linear) {
  Patch patch{target};
  patch.index = uint32_t(index);
  patch.constant = linear.constant();
  patch.firstTerm = uint32_t(out.terms.size());
  for (const plan::Linear::Term &term : linear.terms()) {
    if (plan.symbols(int(term.symbol())).kind() == plan::Symbol::COORDINATE) {
      patch.constant += term.coefficient() * context.values[term.symbol()];
      continue;
    }
    out.terms.push_back({term.symbol(), term.coefficient()});
    ++patch.numTerms;
    if (std::find(out.symbols.begin(), out.symbols.end(), term.symbol()) ==
        out.symbols.end())
      out.symbols.push_back(term.symbol());
  }
  return patch;
}

void Preparer::addPointer(const plan::Slice &slice) {
  std::byte *base = context.device.base(slice.allocation());
  if (!isFixed(slice.offset())) {
    Patch patch =
        makePatch(Patch::Target::Pointer, out.pointers.size(), slice.offset());
    patch.base = base;
    out.patches.push_back(patch);
  }
  out.pointers.push_back(base + evaluateLinear(slice.offset(), context.values));
}

void Preparer::addInteger(const plan::Linear &integer) {
  if (!isFixed(integer))
    out.patches.push_back(
        makePatch(Patch::Target::Integer, out.integers.size(), integer));
  out.integers.push_back(evaluateLinear(integer, context.values));
}

/// What a slice's address is a multiple of, whatever the symbols are.
uint32_t Preparer::alignmentOf(const plan::Slice &slice) const {
  auto base = uintptr_t(context.device.base(slice.allocation()));
  uint64_t alignment = std::gcd(
      uint64_t(256), uint64_t(base) + uint64_t(slice.offset().constant()));
  for (const plan::Linear::Term &term : slice.offset().terms())
    alignment = std::gcd(alignment, uint64_t(std::abs(term.coefficient())));
  return uint32_t(alignment);
}

void Preparer::addMatmul(const plan::Matmul &matmul, Op op) {
  MatmulRequest request;
  // The most rows are those for which the slices have room.
  request.columns = matmul.columns();
  request.depth = matmul.depth();
  request.rows = matmul.target().bytes() / 4 / matmul.columns();
  request.rowsVary = !isFixed(matmul.rows());
  request.leftTransposed = matmul.left_transposed();
  request.rightTransposed = matmul.right_transposed();
  request.hasBias = matmul.has_bias();
  request.workspaceBytes = matmul.workspace().bytes();
  std::array<const plan::Slice *, numMatmulPointers> slices{};
  slices[MatmulLeft] = &matmul.left();
  slices[MatmulRight] = &matmul.right();
  slices[MatmulTarget] = &matmul.target();
  slices[MatmulWorkspace] = &matmul.workspace();
  slices[MatmulBias] = matmul.has_bias() ? &matmul.bias() : nullptr;
  slices[MatmulAddend] = matmul.has_addend() ? &matmul.addend() : nullptr;
  for (size_t i = 0; i < slices.size(); ++i) {
    request.alignments[i] = slices[i] ? alignmentOf(*slices[i]) : 256;
    if (slices[i])
      addPointer(*slices[i]);
    else
      out.pointers.push_back(nullptr);
  }
  addInteger(matmul.rows());
  addInteger(matmul.adds());
  op.kind = Op::Kind::Matmul;
  op.matmul = uint32_t(context.matmuls.size());
  context.matmuls.push_back(request);
  out.ops.push_back(op);
}

void Preparer::addLaunch(const plan::Instruction &instruction, Op op) {
  const plan::Launch &launch = instruction.launch();
  const plan::Kernel &kernel = plan.kernels(int(launch.kernel()));
  op.kind = Op::Kind::Launch;
  for (const plan::Operand &operand : launch.operands())
    addPointer(operand.slice());
  for (const plan::Linear &integer : launch.integers())
    addInteger(integer);
  int64_t rows = evaluateLinear(launch.rows(), context.values);
  auto firstVariant = uint32_t(out.variants.size());
  auto addVariant = [&](int64_t mostRows, uint32_t number) {
    const plan::Kernel &one = plan.kernels(int(number));
    out.variants.push_back({mostRows, context.kernels[number],
                            one.rows_per_unit(), one.columns()});
  };
  for (const plan::Kernel::Variant &variant : kernel.variants())
    addVariant(variant.most_rows(), variant.kernel());
  addVariant(std::numeric_limits<int64_t>::max(), launch.kernel());
  out.setGrid(op, firstVariant, rows);
  if (!isFixed(launch.rows())) {
    Patch patch =
        makePatch(Patch::Target::Units, out.ops.size(), launch.rows());
    patch.firstVariant = firstVariant;
    out.patches.push_back(patch);
  }
  // Waking other threads costs some microseconds: as long as one thread needs
  // for this much.
  int64_t flops = instruction.flops(), bytes = instruction.bytes_moved();
  if (flops + bytes > 0 && flops <= 100000 && bytes <= 32768)
    op.parts = Parts::One;
  out.ops.push_back(op);
}

void Preparer::addCollective(const plan::Collective &collective, Op op) {
  CollectiveCall call;
  const DataTypeInfo *info = lookUpDataType(collective.dtype());
  call.dtype = info->type;
  call.reduction = collective.reduction() == plan::Collective::MAX
                       ? Reduction::Max
                       : Reduction::Sum;
  switch (collective.kind()) {
  case plan::Collective::REDUCE_SCATTER:
    call.kind = CollectiveKind::ReduceScatter;
    break;
  case plan::Collective::ALL_GATHER:
    call.kind = CollectiveKind::AllGather;
    break;
  case plan::Collective::ALL_TO_ALL:
    call.kind = CollectiveKind::AllToAll;
    break;
  case plan::Collective::BROADCAST:
    call.kind = CollectiveKind::Broadcast;
    break;
  default:
    call.kind = CollectiveKind::AllReduce;
  }
  int64_t bytes =
      std::max(collective.source().bytes(), collective.target().bytes());
  addPointer(collective.source());
  addPointer(collective.target());
  if (groupSize(plan.mesh(), collective) ==
      1) { // a group of one exchanges nothing
    op.kind = Op::Kind::Copy;
    op.bytes = bytes;
    out.ops.push_back(op);
    return;
  }
  call.elements = bytes / info->sizeBytes;
  call.group = *findGroup(context, collective);
  op.kind = Op::Kind::Collective;
  op.collective = uint32_t(out.collectives.size());
  out.collectives.push_back(call);
  out.ops.push_back(op);
}

void Preparer::addTransfer(const plan::Transfer &transfer, bool isSend, Op op) {
  op.kind = isSend ? Op::Kind::Send : Op::Kind::Receive;
  op.bytes = transfer.slice().bytes();
  op.channel = transfer.channel();
  op.peer = -1; // a stage without that neighbour never runs the program
  for (int axis = 0; axis < plan.mesh().axes_size(); ++axis)
    if (plan.mesh().axes(axis).name() == "pp") {
      std::vector<int64_t> peer = context.coordinates;
      peer[size_t(axis)] += transfer.stage_offset();
      if (peer[size_t(axis)] >= 0 &&
          peer[size_t(axis)] < plan.mesh().axes(axis).size())
        op.peer = rankOf(plan.mesh(), peer);
    }
  addPointer(transfer.slice());
  out.ops.push_back(op);
}

StatusOr<PreparedProgram> Preparer::run() {
  for (int i = 0; i < program.instructions_size(); ++i) {
    const plan::Instruction &instruction = program.instructions(i);
    Op op{};
    op.instruction = uint32_t(i);
    auto toLine = [](size_t entries) {
      return (entries + entriesPerLine - 1) / entriesPerLine * entriesPerLine;
    };
    out.pointers.resize(toLine(out.pointers.size()));
    out.integers.resize(toLine(out.integers.size()));
    op.firstPointer = uint32_t(out.pointers.size());
    op.firstInteger = uint32_t(out.integers.size());
    switch (instruction.kind_case()) {
    case plan::Instruction::kLaunch:
      addLaunch(instruction, op);
      break;
    case plan::Instruction::kMatmul:
      addMatmul(instruction.matmul(), op);
      break;
    case plan::Instruction::kFill:
      op.kind = Op::Kind::Fill;
      op.bytes = instruction.fill().slice().bytes();
      addPointer(instruction.fill().slice());
      out.ops.push_back(op);
      break;
    case plan::Instruction::kCopy:
      op.kind = Op::Kind::Copy;
      op.bytes = instruction.copy().source().bytes();
      addPointer(instruction.copy().source());
      addPointer(instruction.copy().target());
      out.ops.push_back(op);
      break;
    case plan::Instruction::kCollective:
      addCollective(instruction.collective(), op);
      break;
    case plan::Instruction::kSend:
      addTransfer(instruction.send(), true, op);
      break;
    case plan::Instruction::kReceive:
      addTransfer(instruction.receive(), false, op);
      break;
    case plan::Instruction::KIND_NOT_SET:
      return makeError(ErrorKind::Bug, "an unchecked plan was prepared");
    }
  }
  out.patchedFor.assign(out.symbols.size(), 0);
  return std::move(out);
}

StatusOr<PreparedProgram> prepareProgram(const plan::Program &program,
                                         PrepareContext &context) {
  return Preparer(program, context).run();
}

const Variant &PreparedProgram::setGrid(Op &op, uint32_t firstVariant,
                                        int64_t rows) const {
  const Variant *variant = &variants[firstVariant];
  while (rows > variant->mostRows)
    ++variant;
  op.kernel = variant->kernel;
  op.units = (rows + variant->rowsPerUnit - 1) / variant->rowsPerUnit *
             variant->columns;
  return *variant;
}

void PreparedProgram::patch(const std::vector<int64_t> &values) {
  bool same = patched;
  for (size_t i = 0; i < symbols.size(); ++i) {
    same = same && patchedFor[i] == values[symbols[i]];
    patchedFor[i] = values[symbols[i]];
  }
  if (same)
    return;
  patched = true;
  for (const Patch &patch : patches) {
    int64_t value = patch.constant;
    for (uint32_t t = 0; t < patch.numTerms; ++t)
      value += terms[patch.firstTerm + t].coefficient *
               values[terms[patch.firstTerm + t].symbol];
    switch (patch.target) {
    case Patch::Target::Pointer:
      pointers[patch.index] = patch.base + value;
      break;
    case Patch::Target::Integer:
      integers[patch.index] = value;
      break;
    case Patch::Target::Units: {
      Op &op = ops[patch.index];
      const Variant &variant = setGrid(op, patch.firstVariant, value);
      // A small part of a block of rows: what it is multiplied with is read
      // once.
      if (op.parts != Parts::One)
        op.parts = value * 16 <= variant.rowsPerUnit ? Parts::OnePerThread
                                                     : Parts::Many;
      break;
    }
    }
  }
}

} // namespace lmc::runtime
