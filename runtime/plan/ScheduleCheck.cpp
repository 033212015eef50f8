// See ScheduleCheck.h. Ranks that differ on other axes than pp run the same
// programs, so that one rank of each stage stands for all.
#include "runtime/plan/ScheduleCheck.h"

#include <algorithm>
#include <deque>
#include <limits>
#include <map>
#include <set>
#include <tuple>
#include <vector>

namespace lmc::runtime {

// More than any sane schedule exchanges in a step.
static constexpr int64_t maxExchanges = int64_t(1) << 26;

/// A program runs once, or once for each micro-batch.
static Status checkMicroBatches(const plan::Plan &plan,
                                const plan::Schedule &schedule) {
  std::map<uint32_t, std::set<int64_t>> microBatches; // of programs
  for (const plan::Call &call : schedule.calls())
    if (!microBatches[call.program()].insert(call.micro_batch()).second)
      return corrupt("schedule {} of stage {} runs {} twice for micro-batch {}",
                     schedule.name(), schedule.stage(),
                     plan.programs(int(call.program())).name(),
                     call.micro_batch());
  for (const auto &[program, called] : microBatches)
    if (called.size() > 1 && int64_t(called.size()) != plan.micro_batches())
      return corrupt("schedule {} of stage {} runs {} for {} of {} "
                     "micro-batches",
                     schedule.name(), schedule.stage(),
                     plan.programs(int(program)).name(), called.size(),
                     plan.micro_batches());
  return Status();
}

StatusOr<std::vector<ProgramUse>> checkCalls(const plan::Plan &plan,
                                             const std::vector<Range> &ranges,
                                             int64_t stages) {
  Range microBatches{0, std::max<int64_t>(plan.micro_batches(), 1) - 1};
  std::vector<Range> slots; // of the SLOT symbols
  for (int i = 0; i < plan.symbols_size(); ++i) {
    const Range &range = ranges[size_t(i)];
    if (plan.symbols(i).kind() == plan::Symbol::MICRO_BATCH)
      microBatches = {std::max(microBatches.minimum, range.minimum),
                      std::min(microBatches.maximum, range.maximum)};
    if (plan.symbols(i).kind() == plan::Symbol::SLOT)
      slots.push_back(range);
  }
  std::vector<ProgramUse> uses(size_t(plan.programs_size()));
  std::set<std::pair<std::string, int64_t>> names;
  for (const plan::Schedule &schedule : plan.schedules()) {
    if (schedule.name().empty() || schedule.stage() < 0 ||
        schedule.stage() >= stages ||
        !names.insert({schedule.name(), schedule.stage()}).second)
      return corrupt("schedule \"{}\" is unnamed, given twice for stage {}, or "
                     "for a stage beyond the {} of the mesh",
                     schedule.name(), schedule.stage(), stages);
    for (int i = 0; i < schedule.calls_size(); ++i) {
      const plan::Call &call = schedule.calls(i);
      if (call.program() >= uint32_t(plan.programs_size()))
        return corrupt("schedule {}, call {}: program {} of {}",
                       schedule.name(), i, call.program(),
                       plan.programs_size());
      if (call.micro_batch() < microBatches.minimum ||
          call.micro_batch() > microBatches.maximum)
        return corrupt("schedule {}, call {}: micro-batch {} is beyond "
                       "[{}, {}]",
                       schedule.name(), i, call.micro_batch(),
                       microBatches.minimum, microBatches.maximum);
      if (call.slots_size() != int(slots.size()))
        return corrupt("schedule {}, call {}: {} slots for {} symbols",
                       schedule.name(), i, call.slots_size(), slots.size());
      for (size_t s = 0; s < slots.size(); ++s)
        if (call.slots(int(s)) < slots[s].minimum ||
            call.slots(int(s)) > slots[s].maximum)
          return corrupt("schedule {}, call {}: slot {} is {}, beyond [{}, {}]",
                         schedule.name(), i, s, call.slots(int(s)),
                         slots[s].minimum, slots[s].maximum);
      ProgramUse &use = uses[call.program()];
      if (use.stage < 0) {
        use.stage = schedule.stage();
        for (int64_t slot : call.slots())
          use.slots.push_back({slot, slot});
      }
      if (use.stage != schedule.stage())
        return corrupt("program {} is called on stages {} and {}",
                       plan.programs(int(call.program())).name(), use.stage,
                       schedule.stage());
      for (size_t s = 0; s < slots.size(); ++s) {
        Range &range = use.slots[s];
        range.minimum = std::min(range.minimum, call.slots(int(s)));
        range.maximum = std::max(range.maximum, call.slots(int(s)));
      }
    }
    LMC_RETURN_IF_ERROR(checkMicroBatches(plan, schedule));
  }
  return uses;
}

namespace {

// One instruction that has to do with other stages.
struct Exchange {
  const plan::Instruction *instruction;
  uint32_t program;
  int index; // in the program
};

// What a stage has still to do.
struct StageRun {
  const plan::Schedule *schedule = nullptr;
  int call = 0;
  size_t next = 0; // exchange of the call's program
};

class StageChecker {
public:
  StageChecker(const plan::Plan &plan, int64_t stages)
      : plan(plan), stages(stages) {}
  Status run();

private:
  void findExchanges();
  Status checkSchedule(const std::string &name);
  const Exchange *current(StageRun &run) const;
  StatusOr<bool> advance(int64_t stage);
  StatusOr<bool> meetCollective();
  Status stuck();
  std::string describe(int64_t stage, const Exchange &exchange) const;

  // (from, to, channel)
  using Channel = std::tuple<int64_t, int64_t, uint32_t>;

  const plan::Plan &plan;
  int64_t stages;
  std::vector<std::vector<Exchange>> exchanges; // of each program
  std::vector<StageRun> runs;
  struct Message {
    int64_t bytes, microBatch;
  };
  std::map<Channel, std::deque<Message>> waiting;
};

} // namespace

void StageChecker::findExchanges() {
  int pp = -1;
  for (int i = 0; i < plan.mesh().axes_size(); ++i)
    if (plan.mesh().axes(i).name() == "pp")
      pp = i;
  exchanges.resize(size_t(plan.programs_size()));
  for (int p = 0; p < plan.programs_size(); ++p)
    for (int i = 0; i < plan.programs(p).instructions_size(); ++i) {
      const plan::Instruction &instruction = plan.programs(p).instructions(i);
      bool matters = instruction.has_send() || instruction.has_receive();
      for (uint32_t axis : instruction.collective().axes())
        matters = matters || int(axis) == pp;
      if (matters)
        exchanges[size_t(p)].push_back({&instruction, uint32_t(p), i});
    }
}

std::string StageChecker::describe(int64_t stage,
                                   const Exchange &exchange) const {
  const char *kind = exchange.instruction->has_send()      ? "send"
                     : exchange.instruction->has_receive() ? "receive"
                                                           : "collective";
  return fmt::format("stage {}, program {}, instruction {} ({})", stage,
                     plan.programs(int(exchange.program)).name(),
                     exchange.index, kind);
}

// The exchange that a stage stands before; null at its end.
const Exchange *StageChecker::current(StageRun &run) const {
  while (run.schedule && run.call < run.schedule->calls_size()) {
    const auto &list = exchanges[run.schedule->calls(run.call).program()];
    if (run.next < list.size())
      return &list[run.next];
    ++run.call;
    run.next = 0;
  }
  return nullptr;
}

// Does what `stage` can do alone, up to a collective or a receive without its
// send. True if it did something.
StatusOr<bool> StageChecker::advance(int64_t stage) {
  StageRun &run = runs[size_t(stage)];
  bool moved = false;
  for (const Exchange *at; (at = current(run)); ++run.next, moved = true) {
    const plan::Instruction &instruction = *at->instruction;
    if (instruction.has_collective())
      break;
    const plan::Transfer &transfer =
        instruction.has_send() ? instruction.send() : instruction.receive();
    int64_t peer = stage + transfer.stage_offset();
    if (peer < 0 || peer >= stages)
      return corrupt("{}: there is no stage {}", describe(stage, *at), peer);
    int64_t bytes = transfer.slice().bytes();
    int64_t microBatch = run.schedule->calls(run.call).micro_batch();
    if (instruction.has_send()) {
      waiting[{stage, peer, transfer.channel()}].push_back({bytes, microBatch});
      continue;
    }
    auto &box = waiting[{peer, stage, transfer.channel()}];
    if (box.empty())
      break;
    if (box.front().bytes != bytes)
      return corrupt("{}: {} bytes are expected on channel {}, {} were sent",
                     describe(stage, *at), bytes, transfer.channel(),
                     box.front().bytes);
    if (box.front().microBatch != microBatch)
      return corrupt("{}: micro-batch {} is expected on channel {}, {} was "
                     "sent",
                     describe(stage, *at), microBatch, transfer.channel(),
                     box.front().microBatch);
    box.pop_front();
  }
  return moved;
}

// Takes all stages past a collective if all of them stand before one.
StatusOr<bool> StageChecker::meetCollective() {
  const Exchange *first = current(runs[0]);
  for (StageRun &run : runs)
    if (const Exchange *at = current(run);
        !at || !at->instruction->has_collective())
      return false;
  const plan::Collective &a = first->instruction->collective();
  for (int64_t stage = 1; stage < stages; ++stage) {
    const Exchange *at = current(runs[size_t(stage)]);
    const plan::Collective &b = at->instruction->collective();
    if (a.kind() != b.kind() || a.reduction() != b.reduction() ||
        a.dtype() != b.dtype() || a.source().bytes() != b.source().bytes() ||
        a.target().bytes() != b.target().bytes() ||
        !std::equal(a.axes().begin(), a.axes().end(), b.axes().begin(),
                    b.axes().end()))
      return corrupt("{} meets {}, which is another collective",
                     describe(0, *first), describe(stage, *at));
  }
  for (StageRun &run : runs)
    ++run.next;
  return true;
}

Status StageChecker::stuck() {
  Status status = corrupt("the stages wait for each other for ever");
  for (int64_t stage = 0; stage < stages; ++stage)
    if (const Exchange *at = current(runs[size_t(stage)]))
      status = std::move(status).note("{}", describe(stage, *at));
  return status;
}

Status StageChecker::checkSchedule(const std::string &name) {
  runs.assign(size_t(stages), {});
  waiting.clear();
  int64_t total = 0;
  for (const plan::Schedule &schedule : plan.schedules())
    if (schedule.name() == name) {
      runs[size_t(schedule.stage())].schedule = &schedule;
      for (const plan::Call &call : schedule.calls())
        total += int64_t(exchanges[call.program()].size());
    }
  if (total > maxExchanges)
    return corrupt("{} exchanges in a step; at most {} are allowed", total,
                   maxExchanges);
  for (;;) {
    bool moved = false, done = true;
    for (int64_t stage = 0; stage < stages; ++stage) {
      LMC_ASSIGN_OR_RETURN(bool did, advance(stage));
      moved = moved || did;
      done = done && !current(runs[size_t(stage)]);
    }
    if (done)
      break;
    if (moved)
      continue;
    LMC_ASSIGN_OR_RETURN(bool met, meetCollective());
    if (!met)
      return stuck();
  }
  for (const auto &[channel, box] : waiting)
    if (!box.empty())
      return corrupt("stage {} sends {} values to stage {} on channel {} that "
                     "nobody receives",
                     std::get<0>(channel), box.size(), std::get<1>(channel),
                     std::get<2>(channel));
  return Status();
}

Status StageChecker::run() {
  findExchanges();
  std::set<std::string> names;
  for (const plan::Schedule &schedule : plan.schedules())
    names.insert(schedule.name());
  for (const std::string &name : names)
    if (Status status = checkSchedule(name); !status.ok())
      return std::move(status).prepend("schedule " + name);
  return Status();
}

Status checkStages(const plan::Plan &plan, int64_t stages) {
  return StageChecker(plan, stages).run();
}

} // namespace lmc::runtime
