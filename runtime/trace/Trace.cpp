// See Trace.h.
#include "runtime/trace/Trace.h"
#include "runtime/base/Log.h"
#include "runtime/base/MappedFile.h"
#include "runtime/plan/PlanFacts.h"
#include "runtime/trace/TraceFile.h"

#include <algorithm>
#include <ctime>

namespace lmc::runtime {

static int64_t nanosecondsOf(clockid_t clock) {
  timespec now;
  ::clock_gettime(clock, &now);
  return int64_t(now.tv_sec) * 1000000000 + now.tv_nsec;
}

std::string traceFileOf(const TraceOptions &options, int64_t rank,
                        int64_t ranks) {
  return options.path.empty() || ranks == 1
             ? options.path
             : fmt::format("{}.{}", options.path, rank);
}

StatusOr<std::unique_ptr<Trace>> Trace::create(const plan::Plan &plan,
                                               const TraceOptions &options,
                                               int64_t rank) {
  if (options.path.empty())
    return std::unique_ptr<Trace>();
  std::unique_ptr<Trace> trace(new Trace(plan, options, rank));
  trace->options.path = traceFileOf(options, rank, worldSize(plan));
  LMC_RETURN_IF_ERROR(checkWritable(trace->options.path));
  return trace;
}

Status Trace::reserve(std::string_view name, std::vector<Schedule> all) {
  constexpr int64_t most = 1 << 25; // 256 MiB
  int64_t inStep = 1, steps = options.lastStep - options.firstStep + 1;
  for (const Schedule &schedule : all)
    inStep += int64_t(schedule.spans.size()) + 1;
  if (steps > most / inStep)
    return wrongInput("--trace-steps {}..{}: {} steps of up to {} instructions "
                      "are more than the {} that a trace holds",
                      options.firstStep, options.lastStep, steps, inStep, most)
        .help("--trace-steps {}..{}", options.firstStep,
              options.firstStep + std::max<int64_t>(most / inStep, 1) - 1);
  device = name;
  schedules = std::move(all);
  runs.resize(size_t(steps) * schedules.size());
  durations.reserve(size_t(steps * inStep));
  return Status();
}

int64_t Trace::now() { return nanosecondsOf(CLOCK_MONOTONIC); }

void Trace::begin(size_t schedule, int64_t step) {
  size_t number = begun.load(std::memory_order_relaxed);
  Run &run = runs[number];
  run.schedule = schedule;
  run.step = step;
  run.firstDuration = durations.size();
  run.beginNs = now();
  begun.store(number + 1, std::memory_order_release);
}

void Trace::end(int64_t endNs, bool underWay) {
  size_t number = ended.load(std::memory_order_relaxed);
  Run &run = runs[number];
  run.numDurations = durations.size() - run.firstDuration;
  run.underWay = underWay;
  run.endNs = endNs;
  ended.store(number + 1, std::memory_order_release);
}

static const char *categoryOf(const plan::Instruction &instruction) {
  switch (instruction.kind_case()) {
  case plan::Instruction::kFill:
  case plan::Instruction::kCopy:
  case plan::Instruction::kSend:
    return "copy";
  case plan::Instruction::kCollective:
    return "collective";
  case plan::Instruction::kReceive:
    return "wait"; // for the stage that sends
  default:
    return "compute";
  }
}

static TraceArguments argumentsOf(const plan::Plan &plan,
                                  const plan::Instruction &instruction,
                                  uint32_t number) {
  TraceArguments arguments;
  if (instruction.location() < uint32_t(plan.locations_size())) {
    const plan::Location &at = plan.locations(int(instruction.location()));
    arguments.emplace_back("layer", at.layer());
    arguments.emplace_back(
        "line", fmt::format("{}:{}:{}", at.file(), at.line(), at.column()));
  }
  arguments.emplace_back("instruction", int64_t(number));
  if (instruction.flops() > 0)
    arguments.emplace_back("flops", instruction.flops());
  if (instruction.bytes_moved() > 0)
    arguments.emplace_back("bytes", instruction.bytes_moved());
  return arguments;
}

// A device's clock and the host's may drift apart: a run that its instructions
// outlast is as long as they, and the next begins behind it.
int64_t Trace::writeRun(TraceFile &file, const Run &run, bool isOver,
                        int64_t beginNs, int64_t endNs) const {
  const Schedule &schedule = schedules[run.schedule];
  int64_t now = beginNs;
  file.begin(now, fmt::format("{} {}", schedule.name, run.step), "step",
             {{"step", run.step}});
  size_t numDone = isOver ? run.numDurations : 0;
  size_t count = numDone + (isOver && run.underWay);
  for (size_t i = 0; i < count; ++i) {
    const Span &span = schedule.spans[i];
    const plan::Program &program = plan.programs(int(span.program));
    if (i == 0 || schedule.spans[i - 1].call != span.call) {
      if (i > 0)
        file.end(now);
      file.begin(now, program.name(), "program",
                 {{"chunk", int64_t(program.chunk())},
                  {"micro_batch", span.microBatch}});
    }
    const plan::Instruction &instruction =
        program.instructions(int(span.instruction));
    file.begin(now, instructionName(plan, instruction), categoryOf(instruction),
               argumentsOf(plan, instruction, span.instruction));
    now = i < numDone ? now + durations[run.firstDuration + i]
                      : std::max(now, endNs);
    file.end(now);
  }
  if (count > 0)
    file.end(now);
  now = std::max(now, endNs);
  file.end(now);
  return now;
}

Status Trace::write(const Status &status) {
  std::lock_guard<std::mutex> lock(mutex);
  if (written)
    return Status();
  written = true;
  size_t numEnded = ended.load(std::memory_order_acquire);
  size_t numBegun = begun.load(std::memory_order_acquire);
  int64_t now = Trace::now();
  TraceFile::Track track{rank, fmt::format("instructions ({})", device), now,
                         nanosecondsOf(CLOCK_REALTIME)};
  std::unique_ptr<TraceFile> file =
      options.json ? makeJsonFile(track) : makePerfettoFile(track);
  int64_t last = 0;
  for (size_t i = 0; i < numBegun; ++i) {
    bool isOver = i < numEnded;
    last = writeRun(*file, runs[i], isOver, std::max(last, runs[i].beginNs),
                    isOver ? runs[i].endNs : now);
  }
  if (!status.ok())
    file->instant(std::max(last, now), status.message(),
                  {{"said", status.toString()}});
  else if (numBegun == 0 && rank == 0)
    logWarning("{} has no spans: no step of --trace-steps {}..{} was run",
               options.path, options.firstStep, options.lastStep);
  return writeWholeFile(options.path, file->take());
}

Status closeTrace(Trace *trace, Status ended) {
  Status written = trace ? trace->write(ended) : Status();
  if (ended.ok() || written.ok())
    return ended.ok() ? written : ended;
  return std::move(ended).note("{}", written.message());
}

} // namespace lmc::runtime
