// The checks of PlanCheck.h, in the order in which one builds on another:
// mesh, symbols, allocations, tensors, kernels, programs, schedules.
#include "runtime/plan/ArenaCheck.h"
#include "runtime/plan/PlanChecker.h"
#include "runtime/plan/PlanFacts.h"

#include <cctype>
#include <cmath>
#include <set>
#include <unordered_map>
#include <unordered_set>

namespace lmc::runtime {

static bool isIdentifier(const std::string &name) {
  if (name.empty() || std::isdigit(uint8_t(name[0])))
    return false;
  for (char c : name)
    if (!std::isalnum(uint8_t(c)) && c != '_' && c != '.' && c != '$')
      return false;
  return true;
}

static std::string_view contentsName(plan::Allocation::Contents contents) {
  return plan::Allocation::Contents_Name(contents);
}

Status Checker::checkMesh() {
  std::set<std::string> names;
  int64_t ranks = 1;
  for (const plan::Mesh::Axis &axis : plan.mesh().axes()) {
    if (axis.name().empty() || !names.insert(axis.name()).second)
      return corrupt("mesh axis \"{}\" is unnamed or named twice", axis.name());
    auto product = checkedMultiply(ranks, axis.size());
    if (axis.size() < 1 || !product || *product > maxRanks)
      return corrupt("mesh axis {} has size {}; sizes are at least 1 and "
                     "multiply to at most {}",
                     axis.name(), axis.size(), maxRanks);
    ranks = *product;
    if (axis.name() == "pp")
      stages = axis.size();
  }
  return Status();
}

Status Checker::checkSymbols() {
  for (const plan::Symbol &symbol : plan.symbols()) {
    if (symbol.minimum() > symbol.maximum() || symbol.minimum() < -maxSymbol ||
        symbol.maximum() > maxSymbol)
      return corrupt("symbol {} has bounds [{}, {}]", symbol.name(),
                     symbol.minimum(), symbol.maximum());
    switch (symbol.kind()) {
    case plan::Symbol::COORDINATE: {
      if (symbol.axis() >= uint32_t(plan.mesh().axes_size()))
        return corrupt("symbol {} names mesh axis {} of {}", symbol.name(),
                       symbol.axis(), plan.mesh().axes_size());
      int64_t size = plan.mesh().axes(int(symbol.axis())).size();
      if (symbol.minimum() != 0 || symbol.maximum() != size - 1)
        return corrupt("symbol {} has bounds [{}, {}] on an axis of size {}",
                       symbol.name(), symbol.minimum(), symbol.maximum(), size);
      break;
    }
    case plan::Symbol::MICRO_BATCH:
    case plan::Symbol::SLOT:
    case plan::Symbol::SIZE:
      if (symbol.minimum() < 0)
        return corrupt("symbol {} has the negative bound {}", symbol.name(),
                       symbol.minimum());
      break;
    default:
      return corrupt("symbol {} has no kind", symbol.name());
    }
  }
  ranges = symbolRanges(plan);
  return Status();
}

Status Checker::checkAllocations() {
  int64_t total = 0;
  for (int i = 0; i < plan.allocations_size(); ++i) {
    const plan::Allocation &allocation = plan.allocations(i);
    if (allocation.bytes() < 0 || allocation.bytes() % 64 != 0 ||
        allocation.bytes() > maxBytes)
      return corrupt("allocation {} ({}) has {} bytes, which is no multiple of "
                     "64 between 0 and {}",
                     i, allocation.name(), allocation.bytes(), maxBytes);
    if (allocation.memory() == plan::MEMORY_INVALID)
      return corrupt("allocation {} ({}) names no memory", i,
                     allocation.name());
    total += allocation.bytes();
    if (total > maxBytes)
      return corrupt("the allocations sum to more than {} bytes", maxBytes);
    if (allocation.stage_bytes_size() == 0)
      continue;
    if (allocation.stage_bytes_size() != stages)
      return corrupt("allocation {} ({}) has sizes for {} stages of {}", i,
                     allocation.name(), allocation.stage_bytes_size(), stages);
    for (int64_t bytes : allocation.stage_bytes())
      if (bytes < 0 || bytes % 64 != 0 || bytes > allocation.bytes())
        return corrupt("allocation {} ({}) has {} bytes on a stage, which is "
                       "no multiple of 64 between 0 and {}",
                       i, allocation.name(), bytes, allocation.bytes());
  }
  return Status();
}

Status Checker::checkSlice(const plan::Slice &slice, Use use) {
  if (slice.allocation() >= uint32_t(plan.allocations_size()))
    return corrupt("slice names allocation {} of {}", slice.allocation(),
                   plan.allocations_size());
  const plan::Allocation &allocation =
      plan.allocations(int(slice.allocation()));
  if (use == Use::Fixed)
    for (const plan::Linear::Term &term : slice.offset().terms())
      if (term.symbol() < uint32_t(plan.symbols_size()) &&
          plan.symbols(int(term.symbol())).kind() != plan::Symbol::COORDINATE)
        return corrupt("offset in allocation {} depends on symbol {}, which is "
                       "no mesh coordinate",
                       slice.allocation(),
                       plan.symbols(int(term.symbol())).name());
  if (use == Use::Write &&
      (allocation.contents() == plan::Allocation::CONSTANT ||
       allocation.contents() == plan::Allocation::INPUT))
    return corrupt("an instruction writes allocation {} ({}), which is {}",
                   slice.allocation(), allocation.name(),
                   contentsName(allocation.contents()));
  std::optional<Range> offset = boundLinear(slice.offset(), ranges);
  if (!offset)
    return corrupt("offset of a slice of allocation {} overflows or names an "
                   "unknown symbol",
                   slice.allocation());
  int64_t bytes = allocation.bytes();
  if (stage >= 0)
    bytes = bytesOnStage(allocation, stage);
  else
    for (int64_t each : allocation.stage_bytes())
      bytes = std::min(bytes, each);
  if (slice.bytes() < 0 || slice.bytes() > bytes || offset->minimum < 0 ||
      offset->maximum > bytes - slice.bytes())
    return corrupt("slice [{}, {}+{}) exceeds allocation {} ({}) of {} bytes",
                   offset->minimum, offset->maximum, slice.bytes(),
                   slice.allocation(), allocation.name(), bytes);
  return Status();
}

StatusOr<int64_t>
Checker::checkedBytes(const google::protobuf::RepeatedField<int64_t> &shape,
                      int dtype, int64_t repeat) {
  const DataTypeInfo *info = lookUpDataType(dtype);
  if (!info)
    return corrupt("unknown element type {}", dtype);
  if (shape.size() > maxNumDims)
    return corrupt("{} dims; at most {} are allowed", shape.size(), maxNumDims);
  std::optional<int64_t> elements = checkedElements(shape);
  std::optional<int64_t> bytes =
      elements ? checkedMultiply(*elements, info->sizeBytes) : std::nullopt;
  if (bytes)
    bytes = checkedMultiply(*bytes, repeat);
  if (!bytes || *bytes > maxBytes)
    return corrupt("shape [{}] has a negative dim or too many elements",
                   fmt::join(shape, ", "));
  return *bytes;
}

Status Checker::checkScalars() {
  std::unordered_set<std::string> names;
  for (const plan::Scalar &scalar : plan.scalars()) {
    if (scalar.name().empty() || !names.insert(scalar.name()).second)
      return corrupt("scalar \"{}\" is unnamed or named twice", scalar.name());
    if (scalar.dtype() != plan::F32 && scalar.dtype() != plan::I32)
      return corrupt("scalar {} is neither float32 nor int32", scalar.name());
    if (Status status = checkSlice(scalar.slice(), Use::Fixed); !status.ok())
      return std::move(status).prepend("scalar " + scalar.name());
    if (scalar.slice().bytes() < 4)
      return corrupt("scalar {} has {} bytes of the 4 it needs", scalar.name(),
                     scalar.slice().bytes());
    if (!std::isfinite(scalar.default_value()))
      return corrupt("scalar {} has a default that is not finite",
                     scalar.name());
  }
  return Status();
}

Status Checker::checkPort(const plan::Port &port, bool isInput) {
  std::string context =
      fmt::format("{} {}", isInput ? "input" : "output", port.name());
  if (port.name().empty())
    return corrupt("{} without a name", isInput ? "an input" : "an output");
  if (port.micro_batches() < 1 || port.micro_batches() > maxSymbol ||
      port.vocabulary() < 0)
    return corrupt("{} has {} micro-batches and vocabulary {}", context,
                   port.micro_batches(), port.vocabulary());
  auto bytes = checkedBytes(port.shape(), port.dtype(), port.micro_batches());
  if (!bytes.ok())
    return std::move(bytes).status().prepend(context);
  if (Status status = checkSlice(port.slice(), Use::Fixed); !status.ok())
    return std::move(status).prepend(context);
  if (*bytes > port.slice().bytes())
    return corrupt("{}: shape [{}] in {} micro-batches takes {} bytes, its "
                   "slice has {}",
                   context, fmt::join(port.shape(), ", "), port.micro_batches(),
                   *bytes, port.slice().bytes());
  return Status();
}

Status Checker::checkConstants() {
  for (const plan::Constant &constant : plan.constants()) {
    if (Status status = checkSlice(constant.slice(), Use::Fixed); !status.ok())
      return std::move(status).prepend("constant");
    if (uint64_t(constant.slice().bytes()) != constant.data().size())
      return corrupt("constant of {} bytes has a slice of {}",
                     constant.data().size(), constant.slice().bytes());
  }
  return Status();
}

Status Checker::checkKernels() {
  for (const plan::Kernel &kernel : plan.kernels()) {
    if (!isIdentifier(kernel.symbol()))
      return corrupt("kernel {} has the symbol \"{}\", which is no identifier",
                     kernel.name(), kernel.symbol());
    if (kernel.rows_per_unit() < 1 || kernel.rows_per_unit() > maxSymbol ||
        kernel.columns() < 1 || kernel.columns() > maxSymbol)
      return corrupt("kernel {} has {} rows per unit and {} columns",
                     kernel.name(), kernel.rows_per_unit(), kernel.columns());
    if (kernel.operands() > 4096 || kernel.integers() > 4096)
      return corrupt("kernel {} wants {} operands and {} integers",
                     kernel.name(), kernel.operands(), kernel.integers());
    if (kernel.stack_bytes() < 0 || kernel.stack_bytes() > maxStackBytes)
      return corrupt("kernel {} wants {} bytes of stack; at most {} are "
                     "allowed",
                     kernel.name(), kernel.stack_bytes(), maxStackBytes);
    LMC_RETURN_IF_ERROR(checkBlock(kernel));
    LMC_RETURN_IF_ERROR(checkVariants(kernel));
  }
  for (const plan::Code &code : plan.code()) {
    if (code.object().empty())
      return corrupt("the code for {} is empty", code.target_cpu());
    if (isCuda())
      LMC_RETURN_IF_ERROR(checkDeviceCode(code));
  }
  return Status();
}

Status Checker::checkVariants(const plan::Kernel &kernel) {
  int64_t fewer = 0;
  for (const plan::Kernel::Variant &variant : kernel.variants()) {
    if (variant.kernel() >= uint32_t(plan.kernels_size()))
      return corrupt("kernel {} has variant {} of {} kernels", kernel.name(),
                     variant.kernel(), plan.kernels_size());
    const plan::Kernel &other = plan.kernels(int(variant.kernel()));
    if (variant.most_rows() <= fewer || variant.most_rows() > maxSymbol)
      return corrupt("kernel {} has a variant for {} rows behind one for {}",
                     kernel.name(), variant.most_rows(), fewer);
    fewer = variant.most_rows();
    if (other.operands() != kernel.operands() ||
        other.integers() != kernel.integers() || other.variants_size() > 0)
      return corrupt("kernel {} of {} operands and {} integers has a variant "
                     "of {} and {}, with {} variants of its own",
                     kernel.name(), kernel.operands(), kernel.integers(),
                     other.operands(), other.integers(), other.variants_size());
  }
  return Status();
}

Status Checker::checkLaunch(const plan::Launch &launch) {
  if (launch.kernel() >= uint32_t(plan.kernels_size()))
    return corrupt("launch names kernel {} of {}", launch.kernel(),
                   plan.kernels_size());
  const plan::Kernel &kernel = plan.kernels(int(launch.kernel()));
  auto run = [&]() -> Status {
    if (uint32_t(launch.operands_size()) != kernel.operands() ||
        uint32_t(launch.integers_size()) != kernel.integers())
      return corrupt("{} operands and {} integers are given, {} and {} wanted",
                     launch.operands_size(), launch.integers_size(),
                     kernel.operands(), kernel.integers());
    for (const plan::Operand &operand : launch.operands())
      LMC_RETURN_IF_ERROR(checkSlice(
          operand.slice(),
          operand.access() == plan::Operand::READ ? Use::Read : Use::Write));
    if (isCuda())
      LMC_RETURN_IF_ERROR(checkAlignment(launch));
    for (const plan::Linear &integer : launch.integers())
      if (!boundLinear(integer, ranges))
        return corrupt("an integer overflows or names an unknown symbol");
    std::optional<Range> rows = boundLinear(launch.rows(), ranges);
    if (!rows || rows->minimum < 0 || rows->maximum > maxBytes)
      return corrupt("its rows are negative, too many, or name an unknown "
                     "symbol");
    // Each row and each unit is there for some byte.
    int64_t mostBytes = 0;
    for (const plan::Operand &operand : launch.operands())
      mostBytes = std::max(mostBytes, operand.slice().bytes());
    auto checkGrid = [&](const plan::Kernel &one, int64_t most) -> Status {
      int64_t blocks = (most + one.rows_per_unit() - 1) / one.rows_per_unit();
      auto units = checkedMultiply(blocks, one.columns());
      if (!units || *units > (isCuda() ? maxBlocks : maxBytes))
        return corrupt("its grid of {} x {} units is too large", blocks,
                       one.columns());
      if (most > mostBytes || *units > mostBytes)
        return corrupt("{} rows and {} units are more than the {} bytes of its "
                       "largest operand",
                       most, *units, mostBytes);
      return Status();
    };
    for (const plan::Kernel::Variant &variant : kernel.variants())
      LMC_RETURN_IF_ERROR(
          checkGrid(plan.kernels(int(variant.kernel())),
                    std::min(rows->maximum, variant.most_rows())));
    return checkGrid(kernel, rows->maximum);
  };
  if (Status status = run(); !status.ok())
    return std::move(status).prepend("kernel " + kernel.name());
  return Status();
}

Status Checker::checkCollective(const plan::Collective &collective) {
  const DataTypeInfo *info = lookUpDataType(collective.dtype());
  if (!info)
    return corrupt("collective has no element type");
  int64_t members = 1;
  std::set<uint32_t> axes;
  for (uint32_t axis : collective.axes()) {
    if (axis >= uint32_t(plan.mesh().axes_size()) || !axes.insert(axis).second)
      return corrupt("collective names mesh axis {} of {}, or names it twice",
                     axis, plan.mesh().axes_size());
    members *= plan.mesh().axes(int(axis)).size();
  }
  LMC_RETURN_IF_ERROR(checkSlice(collective.source(), Use::Read));
  LMC_RETURN_IF_ERROR(checkSlice(collective.target(), Use::Write));
  int64_t source = collective.source().bytes();
  int64_t target = collective.target().bytes();
  if (source % info->sizeBytes != 0 || target % info->sizeBytes != 0)
    return corrupt("collective over {} and {} bytes cuts elements of {}",
                   source, target, info->sizeBytes);
  int64_t elements = source / info->sizeBytes;
  bool fits = false;
  switch (collective.kind()) {
  case plan::Collective::ALL_REDUCE:
  case plan::Collective::BROADCAST:
    fits = source == target;
    break;
  case plan::Collective::ALL_TO_ALL:
    fits = source == target && elements % members == 0;
    break;
  case plan::Collective::REDUCE_SCATTER:
    fits = elements % members == 0 && source / members == target;
    break;
  case plan::Collective::ALL_GATHER:
    fits = target % members == 0 && target / members == source;
    break;
  default:
    return corrupt("collective has no kind");
  }
  if (!fits)
    return corrupt("{} over {} ranks cannot go from {} to {} bytes",
                   plan::Collective::Kind_Name(collective.kind()), members,
                   source, target);
  return Status();
}

Status Checker::checkTransfer(const plan::Transfer &transfer, bool writes) {
  if (transfer.stage_offset() == 0 || transfer.stage_offset() >= stages ||
      transfer.stage_offset() <= -stages)
    return corrupt("transfer over {} stages in a pipeline of {}",
                   transfer.stage_offset(), stages);
  if (transfer.channel() >= (1u << 20))
    return corrupt("transfer on channel {}", transfer.channel());
  return checkSlice(transfer.slice(), writes ? Use::Write : Use::Read);
}

Status Checker::checkInstruction(const plan::Instruction &instruction) {
  if (instruction.location() != 0 &&
      instruction.location() >= uint32_t(plan.locations_size()))
    return corrupt("location {} of {}", instruction.location(),
                   plan.locations_size());
  if (instruction.flops() < 0 || instruction.bytes_moved() < 0)
    return corrupt("negative costs");
  switch (instruction.kind_case()) {
  case plan::Instruction::kLaunch:
    return checkLaunch(instruction.launch());
  case plan::Instruction::kMatmul:
    return checkMatmul(instruction.matmul());
  case plan::Instruction::kFill:
    return checkSlice(instruction.fill().slice(), Use::Write);
  case plan::Instruction::kCopy:
    if (instruction.copy().source().bytes() !=
        instruction.copy().target().bytes())
      return corrupt("copy of {} to {} bytes",
                     instruction.copy().source().bytes(),
                     instruction.copy().target().bytes());
    LMC_RETURN_IF_ERROR(checkSlice(instruction.copy().source(), Use::Read));
    return checkSlice(instruction.copy().target(), Use::Write);
  case plan::Instruction::kCollective:
    return checkCollective(instruction.collective());
  case plan::Instruction::kSend:
    return checkTransfer(instruction.send(), false);
  case plan::Instruction::kReceive:
    return checkTransfer(instruction.receive(), true);
  case plan::Instruction::KIND_NOT_SET:
    break;
  }
  return corrupt("it has no kind");
}

Status Checker::checkPrograms() {
  std::vector<Range> all = ranges;
  for (int p = 0; p < plan.programs_size(); ++p) {
    const plan::Program &program = plan.programs(p);
    // A program's slices fit the stage and the slots that it is called with.
    stage = uses[size_t(p)].stage;
    ranges = all;
    auto slot = uses[size_t(p)].slots.begin();
    for (int i = 0; i < plan.symbols_size() && stage >= 0; ++i)
      if (plan.symbols(i).kind() == plan::Symbol::SLOT)
        ranges[size_t(i)] = *slot++;
    for (int i = 0; i < program.instructions_size(); ++i) {
      const plan::Instruction &instruction = program.instructions(i);
      Status status = checkInstruction(instruction);
      if (status.ok())
        continue;
      std::string where = fmt::format("program {} (chunk {}), instruction {}",
                                      program.name(), program.chunk(), i);
      if (instruction.location() < uint32_t(plan.locations_size())) {
        const plan::Location &location =
            plan.locations(int(instruction.location()));
        where +=
            fmt::format(" ({} at {}:{}:{})", location.layer(), location.file(),
                        location.line(), location.column());
      }
      return std::move(status).prepend(where);
    }
  }
  return Status();
}

Status Checker::checkReshards() {
  for (const plan::Reshard &reshard : plan.reshards()) {
    if (reshard.received_bytes() < 0 || reshard.received_bytes() > maxBytes)
      return corrupt("a reshard receives {} bytes", reshard.received_bytes());
    for (const plan::Reshard::Place &place : reshard.places())
      for (uint32_t location : {place.location(), place.user_location()})
        if (location != 0 && location >= uint32_t(plan.locations_size()))
          return corrupt("a reshard names location {} of {}", location,
                         plan.locations_size());
  }
  return Status();
}

Status Checker::checkSizes() {
  for (int64_t size :
       {plan.sequence_length(), plan.micro_batch(), plan.micro_batches(),
        plan.global_batch(), plan.vocabulary(), plan.max_positions()})
    if (size < 0 || size > maxSymbol)
      return corrupt("a batch, sequence or vocabulary size is {}", size);
  const plan::Training &training = plan.training();
  if (training.warmup_steps() < 0 || training.warmup_steps() > maxSymbol ||
      training.decay_steps() < 0 || training.decay_steps() > maxSymbol ||
      !std::isfinite(training.minimum_factor()) ||
      training.minimum_factor() < 0)
    return corrupt(
        "the learning rate's schedule has {} steps of warm-up, {} of "
        "decay and ends at {} times the peak",
        training.warmup_steps(), training.decay_steps(),
        training.minimum_factor());
  return Status();
}

Status Checker::run() {
  LMC_RETURN_IF_ERROR(checkSizes());
  LMC_RETURN_IF_ERROR(checkMesh());
  LMC_RETURN_IF_ERROR(checkSymbols());
  LMC_RETURN_IF_ERROR(checkAllocations());
  LMC_RETURN_IF_ERROR(checkStates());
  LMC_RETURN_IF_ERROR(checkScalars());
  for (const plan::Port &port : plan.inputs())
    LMC_RETURN_IF_ERROR(checkPort(port, true));
  for (const plan::Port &port : plan.outputs())
    LMC_RETURN_IF_ERROR(checkPort(port, false));
  LMC_RETURN_IF_ERROR(checkConstants());
  LMC_RETURN_IF_ERROR(checkKernels());
  LMC_ASSIGN_OR_RETURN(uses, checkCalls(plan, ranges, stages));
  LMC_RETURN_IF_ERROR(checkPrograms());
  LMC_RETURN_IF_ERROR(checkReshards());
  LMC_RETURN_IF_ERROR(checkArenas(plan));
  if (stages > 1)
    LMC_RETURN_IF_ERROR(checkStages(plan, stages));
  for (int64_t each = 0; each < stages; ++each)
    LMC_RETURN_IF_ERROR(checkApart(each));
  return Status();
}

Status checkPlan(const plan::Plan &plan) {
  if (Status status = Checker(plan).run(); !status.ok())
    return std::move(status).prepend("the plan is inconsistent");
  return Status();
}

} // namespace lmc::runtime
