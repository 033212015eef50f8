// See Executor.h.
#include "runtime/exec/Executor.h"
#include "runtime/plan/PlanFacts.h"
#include "runtime/plan/StepTime.h"

#include <cmath>
#include <map>

namespace lmc::runtime {

StatusOr<std::unique_ptr<Executor>>
Executor::create(const plan::Plan &plan, Device &device, Communicator *comm,
                 int64_t rank, Options options) {
  std::unique_ptr<Executor> executor(
      new Executor(plan, device, comm, rank, options));
  LMC_RETURN_IF_ERROR(executor->prepare());
  return executor;
}

Status Executor::prepare() {
  theCoordinates = rankCoordinates(thePlan.mesh(), theRank);
  for (int i = 0; i < thePlan.mesh().axes_size(); ++i)
    if (thePlan.mesh().axes(i).name() == "pp")
      theStage = theCoordinates[size_t(i)];
  for (int i = 0; i < thePlan.symbols_size(); ++i) {
    const plan::Symbol &symbol = thePlan.symbols(i);
    values.push_back(symbol.kind() == plan::Symbol::COORDINATE
                         ? theCoordinates[symbol.axis()]
                     : symbol.kind() == plan::Symbol::SIZE ? symbol.maximum()
                                                           : symbol.minimum());
    if (symbol.kind() == plan::Symbol::MICRO_BATCH)
      microBatchSymbols.push_back(uint32_t(i));
    if (symbol.kind() == plan::Symbol::SLOT)
      slotSymbols.push_back(uint32_t(i));
    if (symbol.kind() == plan::Symbol::SIZE)
      sizeSymbols.push_back(uint32_t(i));
  }

  std::vector<CodeObject> code;
  for (const plan::Code &one : thePlan.code())
    code.push_back({one.target_cpu(),
                    {one.cpu_features().begin(), one.cpu_features().end()},
                    one.object()});
  std::vector<KernelRequest> wanted;
  for (const plan::Kernel &kernel : thePlan.kernels())
    wanted.push_back({kernel.symbol(), kernel.operands(), kernel.integers(),
                      kernel.threads(), kernel.shared_bytes(), kernel.name()});
  LMC_ASSIGN_OR_RETURN(std::vector<KernelHandle> kernels,
                       theDevice.loadKernels(code, wanted));

  std::vector<AllocationRequest> blocks;
  for (const plan::Allocation &allocation : thePlan.allocations())
    blocks.push_back({allocation.name(), bytesOnStage(allocation, theStage),
                      allocation.memory() == plan::HOST});
  LMC_RETURN_IF_ERROR(theDevice.allocate(blocks));

  for (const plan::Constant &constant : thePlan.constants())
    theDevice.write(address(constant.slice()), constant.data().data(),
                    int64_t(constant.data().size()));
  for (const plan::Scalar &scalar : thePlan.scalars())
    setScalar(scalar.name(), scalar.default_value());
  for (int i = 0; i < thePlan.mesh().axes_size(); ++i)
    setScalar("coordinate." + thePlan.mesh().axes(i).name(),
              double(theCoordinates[size_t(i)]));

  std::vector<std::pair<std::vector<uint32_t>, int>> groups;
  PrepareContext context{thePlan, theDevice,      theComm, kernels,
                         values,  theCoordinates, groups,  matmuls};
  std::vector<bool> isOurs(size_t(thePlan.programs_size()));
  for (const plan::Schedule &schedule : thePlan.schedules())
    for (const plan::Call &call : schedule.calls())
      isOurs[call.program()] =
          isOurs[call.program()] || schedule.stage() == theStage;
  for (int i = 0; i < thePlan.programs_size(); ++i) {
    LMC_RETURN_IF_ERROR(
        openGroups(thePlan.programs(i), isOurs[size_t(i)], context));
    PreparedProgram prepared;
    if (isOurs[size_t(i)]) {
      LMC_ASSIGN_OR_RETURN(prepared,
                           prepareProgram(thePlan.programs(i), context));
    }
    times.emplace_back(prepared.ops.size());
    programs.push_back(std::move(prepared));
  }
  LMC_RETURN_IF_ERROR(theDevice.prepareMatmuls(matmuls, tf32));
  for (const plan::Schedule &schedule : thePlan.schedules()) {
    if (schedule.stage() != theStage)
      continue;
    PreparedSchedule prepared;
    prepared.name = schedule.name();
    for (const plan::Call &call : schedule.calls()) {
      for (const Op &op : programs[call.program()].ops) {
        bool isTransfer =
            op.kind == Op::Kind::Send || op.kind == Op::Kind::Receive;
        if (isTransfer && (op.peer < 0 || !theComm))
          return corrupt("schedule {} of stage {} calls program {}, which "
                         "exchanges with a stage that is not there",
                         schedule.name(), theStage,
                         thePlan.programs(int(call.program())).name());
        ++prepared.numOps;
        prepared.exchanges |= isTransfer || op.kind == Op::Kind::Collective;
      }
      prepared.calls.push_back({call.program(),
                                call.micro_batch(),
                                {call.slots().begin(), call.slots().end()}});
    }
    schedules.push_back(std::move(prepared));
  }
  return setProfile(options.profile);
}

int Executor::findSchedule(std::string_view name) const {
  for (size_t i = 0; i < schedules.size(); ++i)
    if (schedules[i].name == name)
      return int(i);
  return -1;
}

std::byte *Executor::address(const plan::Slice &slice) const {
  return theDevice.base(slice.allocation()) +
         evaluateLinear(slice.offset(), values);
}

bool Executor::setScalar(std::string_view name, double value) {
  for (const plan::Scalar &scalar : thePlan.scalars()) {
    if (scalar.name() != name)
      continue;
    if (scalar.dtype() == plan::F32) {
      float number = float(value);
      theDevice.write(address(scalar.slice()), &number, 4);
    } else {
      // Halves of 64-bit numbers use all 32 bits.
      uint32_t number = uint32_t(int64_t(std::llround(value)));
      theDevice.write(address(scalar.slice()), &number, 4);
    }
    if (name == "tf32" && (value != 0) != tf32) {
      tf32 = value != 0;
      recordings.clear();
      matmulsPrepared = theDevice.prepareMatmuls(matmuls, tf32);
    }
    return true;
  }
  return false;
}

Status Executor::setSize(std::string_view name, int64_t value) {
  for (int i = 0; i < thePlan.symbols_size(); ++i) {
    const plan::Symbol &symbol = thePlan.symbols(i);
    if (symbol.kind() != plan::Symbol::SIZE || symbol.name() != name)
      continue;
    if (value < symbol.minimum() || value > symbol.maximum())
      return wrongInput("{} = {} is outside of the plan's [{}, {}]", name,
                        value, symbol.minimum(), symbol.maximum());
    values[size_t(i)] = value;
    return Status();
  }
  return wrongInput("the plan has no size {}", name);
}

Status Executor::run(int schedule) {
  Progress::Scope scope(progress, Progress::Instruction);
  LMC_RETURN_IF_ERROR(matmulsPrepared);
  PreparedSchedule &prepared = schedules[size_t(schedule)];
  Trace *told = trace && trace->wants(++prepared.runs) ? trace : nullptr;
  measure(options.profile || told);
  if (told)
    told->begin(size_t(schedule), prepared.runs);
  bool isRecorded = theDevice.canRecord() && prepared.numOps > 0 &&
                    !prepared.exchanges && options.secondsPerFlop == 0;
  Status status = isRecorded ? runRecorded(schedule) : walk(prepared);
  if (status.ok()) {
    pace.wait();
    status = theDevice.synchronize();
  }
  int64_t endNs = told ? Trace::now() : 0;
  // Of a run that failed, a device that is done when it returns tells them.
  if (measuring)
    addTimes(prepared,
             status.ok()             ? prepared.numOps
             : theDevice.canRecord() ? 0
                                     : nextMark - 1,
             told);
  if (told)
    told->end(endNs, !status.ok() && !theDevice.canRecord());
  return status;
}

Status Executor::walk(const PreparedSchedule &schedule) {
  if (measuring)
    theDevice.mark(0);
  nextMark = 1;
  for (const PreparedCall &call : schedule.calls) {
    for (uint32_t symbol : microBatchSymbols)
      values[symbol] = call.microBatch;
    for (size_t i = 0; i < slotSymbols.size(); ++i)
      values[slotSymbols[i]] = call.slots[i];
    if (Status status = runProgram(call.program); !status.ok())
      return status;
  }
  return Status();
}

Status Executor::runRecorded(int number) {
  const PreparedSchedule &schedule = schedules[size_t(number)];
  Recordings::Entry &entry = recordings.find(number, values, sizeSymbols);
  if (entry.runs++ == 0)
    return walk(schedule);
  if (entry.recording) {
    uint64_t done = progress.instructions.load(std::memory_order_relaxed);
    progress.begin(uint64_t(schedule.calls.front().program) << 32);
    theDevice.replay(*entry.recording);
    progress.instructions.store(done + schedule.numOps,
                                std::memory_order_relaxed);
    return Status();
  }
  LMC_RETURN_IF_ERROR(theDevice.beginRecording());
  Status walked = walk(schedule);
  StatusOr<std::unique_ptr<Recording>> recording = theDevice.endRecording();
  LMC_RETURN_IF_ERROR(walked);
  LMC_RETURN_IF_ERROR(recording.status());
  entry.recording = *std::move(recording);
  theDevice.replay(*entry.recording);
  return Status();
}

Status Executor::execute(PreparedProgram &program, const Op &op) {
  void *const *pointers = program.pointers.data() + op.firstPointer;
  auto slice = [&](int i) { return static_cast<std::byte *>(pointers[i]); };
  switch (op.kind) {
  case Op::Kind::Launch:
    theDevice.launch(op.kernel, pointers,
                     program.integers.data() + op.firstInteger, op.units,
                     op.parts);
    return Status();
  case Op::Kind::Matmul: {
    const int64_t *integers = program.integers.data() + op.firstInteger;
    theDevice.matmul(op.matmul, pointers, integers[0], integers[1] != 0);
    return Status();
  }
  case Op::Kind::Fill:
    theDevice.fillZero(slice(0), op.bytes);
    return Status();
  case Op::Kind::Copy:
    if (slice(0) != slice(1))
      theDevice.copy(slice(0), slice(1), op.bytes);
    return Status();
  case Op::Kind::Collective:
    return theComm->collective(program.collectives[op.collective], slice(0),
                               slice(1));
  case Op::Kind::Send:
    return theComm->send(op.peer, op.channel, slice(0), op.bytes);
  case Op::Kind::Receive:
    return theComm->receive(op.peer, op.channel, slice(0), op.bytes);
  }
  return Status();
}

// What leaves or enters the rank waits for what was computed before.
void Executor::keepPace(uint32_t program, const Op &op) {
  if (op.kind == Op::Kind::Collective || op.kind == Op::Kind::Send ||
      op.kind == Op::Kind::Receive)
    pace.wait();
  else
    pace.compute(
        options.secondsPerFlop *
        plannedFlops(
            thePlan.programs(int(program)).instructions(int(op.instruction))));
}

Status Executor::runProgram(uint32_t index) {
  PreparedProgram &program = programs[index];
  if (!program.patches.empty())
    program.patch(values);
  for (size_t i = 0; i < program.ops.size(); ++i) {
    const Op &op = program.ops[i];
    progress.begin(uint64_t(index) << 32 | op.instruction);
    if (options.secondsPerFlop > 0)
      keepPace(index, op);
    if (Status status = execute(program, op); !status.ok())
      return std::move(status).note(
          "in {}", describeInstruction(thePlan, index, op.instruction));
    if (measuring)
      theDevice.mark(nextMark++);
    Progress::count(progress.instructions);
  }
  return Status();
}

std::string describeInstruction(const plan::Plan &plan, uint32_t index,
                                uint32_t number) {
  if (index >= uint32_t(plan.programs_size()) ||
      number >= uint32_t(plan.programs(int(index)).instructions_size()))
    return fmt::format("program {}, instruction {}", index, number);
  const plan::Program &program = plan.programs(int(index));
  const plan::Instruction &instruction = program.instructions(int(number));
  std::string text = fmt::format("program {} (chunk {}), instruction {}",
                                 program.name(), program.chunk(), number);
  if (instruction.location() < uint32_t(plan.locations_size())) {
    const plan::Location &location =
        plan.locations(int(instruction.location()));
    text += fmt::format(", {} at {}:{}:{}", location.layer(), location.file(),
                        location.line(), location.column());
  }
  return text;
}

int64_t Executor::scheduleFlops(int schedule) const {
  int64_t flops = 0;
  for (const PreparedCall &call : schedules[size_t(schedule)].calls)
    for (const plan::Instruction &instruction :
         thePlan.programs(int(call.program)).instructions())
      flops += instruction.flops();
  return flops;
}

// Marks are in the order of the walk, also when it was another run's.
void Executor::addTimes(const PreparedSchedule &schedule, uint64_t numDone,
                        Trace *told) {
  size_t mark = 0;
  for (const PreparedCall &call : schedule.calls)
    for (OpTime &time : times[call.program]) {
      if (mark == numDone)
        return;
      int64_t ns = theDevice.nanoseconds(mark, mark + 1);
      time.ns += uint64_t(ns);
      ++time.calls;
      ++mark;
      if (told)
        told->add(ns);
    }
}

Status Executor::reserveMarks() {
  size_t most = 0;
  for (const PreparedSchedule &schedule : schedules)
    most = std::max(most, size_t(schedule.numOps));
  return theDevice.reserveMarks(most + 1);
}

void Executor::measure(bool on) {
  if (on != measuring)
    recordings.clear(); // with marks or without
  measuring = on;
}

Status Executor::setProfile(bool on) {
  options.profile = on;
  return on ? reserveMarks() : Status();
}

Status Executor::setTrace(Trace *wanted) {
  trace = wanted;
  if (!trace)
    return Status();
  std::vector<Trace::Schedule> all;
  for (PreparedSchedule &schedule : schedules) {
    schedule.runs = 0;
    Trace::Schedule &one = all.emplace_back();
    one.name = schedule.name;
    for (uint32_t i = 0; i < schedule.calls.size(); ++i)
      for (const Op &op : programs[schedule.calls[i].program].ops)
        one.spans.push_back({i, schedule.calls[i].program, op.instruction,
                             schedule.calls[i].microBatch});
  }
  LMC_RETURN_IF_ERROR(trace->reserve(theDevice.name(), std::move(all)));
  return reserveMarks();
}

void Executor::resetProfile() {
  for (std::vector<OpTime> &program : times)
    std::fill(program.begin(), program.end(), OpTime());
}

std::string Executor::profileReport(ProfileLines lines) const {
  bool kinds = lines == ProfileLines::Kinds;
  struct Row {
    uint64_t ns = 0, calls = 0;
    double flops = 0, bytes = 0;
  };
  std::map<std::string, Row> rows;
  uint64_t total = 0;
  for (size_t p = 0; p < programs.size(); ++p)
    for (size_t i = 0; i < times[p].size(); ++i) {
      const OpTime &time = times[p][i];
      if (time.calls == 0)
        continue;
      const plan::Instruction &instruction =
          thePlan.programs(int(p)).instructions(
              int(programs[p].ops[i].instruction));
      std::string name = instructionName(thePlan, instruction);
      if (instruction.has_launch())
        name = kinds
                   ? thePlan.kernels(int(instruction.launch().kernel())).kind()
                   : name;
      else if (instruction.has_matmul())
        name = kinds ? "matmul" : name;
      else
        name = "(" + name + ")";
      if (!kinds)
        name = thePlan.programs(int(p)).name() + " " + name;
      Row &row = rows[name];
      row.ns += time.ns;
      row.calls += time.calls;
      row.flops += double(instruction.flops()) * double(time.calls);
      row.bytes += double(instruction.bytes_moved()) * double(time.calls);
      total += time.ns;
    }
  std::vector<std::pair<std::string, Row>> sorted(rows.begin(), rows.end());
  std::sort(sorted.begin(), sorted.end(), [](const auto &a, const auto &b) {
    return a.second.ns > b.second.ns;
  });
  std::string text =
      fmt::format("{:>6} {:>10} {:>8} {:>9} {:>9}  {}\n", "%", "ms", "calls",
                  "GFLOP/s", "GB/s", kinds ? "kind" : "kernel");
  for (const auto &[name, row] : sorted)
    text += fmt::format(
        "{:6.2f} {:10.2f} {:8} {:9.1f} {:9.1f}  {}\n",
        100.0 * double(row.ns) / double(std::max<uint64_t>(total, 1)),
        double(row.ns) / 1e6, row.calls,
        row.flops / double(std::max<uint64_t>(row.ns, 1)),
        row.bytes / double(std::max<uint64_t>(row.ns, 1)), name);
  return text;
}

} // namespace lmc::runtime
