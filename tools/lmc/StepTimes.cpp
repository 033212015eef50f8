// See StepTimes.h. The checker has shown that no stage waits for ever.
#include "tools/lmc/StepTimes.h"

#include <algorithm>
#include <deque>
#include <map>
#include <tuple>

using namespace lmc;

namespace {

// A program as the stages see each other: work, then an exchange, and so on.
struct Segment {
  double work = 0; // before the exchange
  const plan::Instruction *exchange = nullptr;
};
struct Outline {
  std::vector<Segment> segments;
  double tail = 0;
  double total = 0;
};

struct Run {
  const plan::Schedule *schedule = nullptr;
  int call = 0;
  size_t segment = 0;
  bool worked = false; // the segment's work is done
  double clock = 0;
};

class Simulator {
public:
  Simulator(const plan::Plan &plan, const Rates &rates)
      : plan(plan), rates(rates) {}
  StepTimes run(const std::string &name);

private:
  void outline();
  bool advance(size_t stage);
  bool meet();
  void findFormula();

  const plan::Plan &plan;
  const Rates &rates;
  std::vector<Outline> outlines; // of each program
  std::vector<Run> runs;         // of each stage
  std::map<std::tuple<int64_t, int64_t, uint32_t>, std::deque<double>> sent;
  StepTimes times;
};

} // namespace

void Simulator::outline() {
  for (const plan::Program &program : plan.programs()) {
    Outline outline;
    for (const plan::Instruction &instruction : program.instructions()) {
      double work =
          std::max(double(instruction.flops()) / rates.flopsPerSec,
                   double(instruction.bytes_moved()) / rates.bytesPerSec);
      outline.total += work;
      outline.tail += work;
      bool matters = instruction.has_send() || instruction.has_receive();
      for (uint32_t axis : instruction.collective().axes())
        matters = matters || (plan.mesh().axes(int(axis)).name() == "pp" &&
                              plan.mesh().axes(int(axis)).size() > 1);
      if (!matters)
        continue;
      outline.segments.push_back({outline.tail, &instruction});
      outline.tail = 0;
    }
    outlines.push_back(std::move(outline));
  }
}

// Does what `stage` can do alone. True if it did something.
bool Simulator::advance(size_t stage) {
  Run &run = runs[stage];
  bool moved = false;
  while (run.schedule && run.call < run.schedule->calls_size()) {
    const Outline &outline = outlines[run.schedule->calls(run.call).program()];
    CallTime &time = times.stages[stage].calls[size_t(run.call)];
    if (run.segment == 0 && !run.worked)
      time.begin = run.clock;
    if (run.segment == outline.segments.size()) {
      time.end = run.clock += outline.tail;
      ++run.call;
      run.segment = 0;
      moved = true;
      continue;
    }
    const Segment &segment = outline.segments[run.segment];
    const plan::Instruction &instruction = *segment.exchange;
    if (!run.worked) {
      // A receive's bytes are moved when they are there.
      if (!instruction.has_receive())
        run.clock += segment.work;
      run.worked = moved = true;
    }
    if (instruction.has_collective())
      return moved;
    const plan::Transfer &transfer =
        instruction.has_send() ? instruction.send() : instruction.receive();
    int64_t me = int64_t(stage), peer = me + transfer.stage_offset();
    if (instruction.has_send()) {
      sent[{me, peer, transfer.channel()}].push_back(run.clock);
    } else {
      auto &box = sent[{peer, me, transfer.channel()}];
      if (box.empty())
        return moved;
      bool isFirst = run.segment == 0 || time.begin == run.clock;
      run.clock = std::max(run.clock, box.front());
      box.pop_front();
      if (isFirst)
        time.begin = run.clock;
      run.clock += segment.work;
    }
    ++run.segment;
    run.worked = false;
    moved = true;
  }
  return moved;
}

// Takes all stages past a collective that they all stand before.
bool Simulator::meet() {
  double latest = 0;
  for (const Run &run : runs) {
    if (!run.worked)
      return false;
    latest = std::max(latest, run.clock);
  }
  for (Run &run : runs) {
    run.clock = latest;
    ++run.segment;
    run.worked = false;
  }
  return true;
}

// For equal stages; F, B and W as they are here on the average.
void Simulator::findFormula() {
  auto setting = plan.settings().find("pipeline_schedule");
  double stages = double(runs.size());
  if (stages == 1 || setting == plan.settings().end())
    return;
  times.scheduleName = setting->second;
  double m = double(std::max<int64_t>(plan.micro_batches(), 1));
  uint32_t chunks = 1;
  double forward = 0, input = 0, weight = 0;
  for (int i = 0; i < plan.programs_size(); ++i) {
    const std::string &name = plan.programs(i).name();
    chunks = std::max(chunks, plan.programs(i).chunk() + 1);
    double total = outlines[size_t(i)].total;
    if (name.rfind("forward", 0) == 0)
      forward += total;
    else if (name.rfind("backward_weight", 0) == 0)
      weight += total;
    else if (name.rfind("backward", 0) == 0)
      input += total;
  }
  if (times.scheduleName == "gpipe" || times.scheduleName == "1f1b" ||
      times.scheduleName == "interleaved")
    times.formula = (stages - 1) / m / (double(chunks) / stages);
  else if (times.scheduleName.rfind("zb", 0) == 0 && weight > 0)
    times.formula = (stages - 1) / m * (forward + input - weight) /
                    (forward + input + weight);
}

StepTimes Simulator::run(const std::string &name) {
  outline();
  size_t stages = 1;
  for (const plan::Mesh::Axis &axis : plan.mesh().axes())
    if (axis.name() == "pp")
      stages = size_t(axis.size());
  runs.resize(stages);
  times.stages.resize(stages);
  for (const plan::Schedule &schedule : plan.schedules())
    if (schedule.name() == name) {
      size_t stage = size_t(schedule.stage());
      runs[stage].schedule = &schedule;
      times.stages[stage].calls.resize(size_t(schedule.calls_size()));
    }
  for (bool moved = true; moved;) {
    moved = false;
    for (size_t stage = 0; stage < stages; ++stage)
      moved |= advance(stage);
    moved = moved || meet();
  }
  double busy = 0;
  for (size_t stage = 0; stage < stages; ++stage) {
    StageTimes &mine = times.stages[stage];
    times.end = std::max(times.end, runs[stage].clock);
    for (size_t i = 0; i < mine.calls.size(); ++i) {
      uint32_t program = runs[stage].schedule->calls(int(i)).program();
      if (!isOfMicroBatch(plan.programs(int(program))))
        continue;
      mine.busy += outlines[program].total;
      times.span = std::max(times.span, mine.calls[i].end);
    }
    busy += mine.busy;
  }
  if (busy > 0)
    times.bubble = double(stages) * times.span / busy - 1;
  findFormula();
  return std::move(times);
}

bool lmc::isOfMicroBatch(const plan::Program &program) {
  return program.name().rfind("forward", 0) == 0 ||
         program.name().rfind("backward", 0) == 0;
}

StepTimes lmc::simulateStep(const plan::Plan &plan, const std::string &name,
                            const Rates &rates) {
  return Simulator(plan, rates).run(name);
}
