// See StepTime.h. The checker has shown that no stage waits for ever.
#include "runtime/plan/StepTime.h"

#include <algorithm>
#include <deque>
#include <map>
#include <tuple>

namespace lmc::runtime {

namespace {

// What a program does from one exchange with other stages to the next.
struct Part {
  double work = 0;                             // up to the exchange's end
  const plan::Instruction *exchange = nullptr; // null: the program's end
  double receiving = 0; // of a receive, which waits before
};

struct Run {
  const plan::Schedule *schedule = nullptr;
  int call = 0;
  size_t part = 0;
  bool hasWorked = false; // on this part
  double clock = 0;
};

class Simulator {
public:
  Simulator(const plan::Plan &plan, const Cost &cost);
  StepTime run(const std::string &name);

private:
  bool advance(size_t number);
  bool meet();

  const plan::Plan &plan;
  std::vector<std::vector<Part>> programs;
  std::vector<Run> runs; // of each stage
  // (from, to, channel): when what is on its way was sent.
  std::map<std::tuple<int64_t, int64_t, uint32_t>, std::deque<double>> sent;
  StepTime step;
};

} // namespace

double plannedFlops(const plan::Instruction &instruction) {
  if (!instruction.has_launch() && !instruction.has_matmul() &&
      !instruction.has_fill() && !instruction.has_copy())
    return 0;
  return std::max(double(instruction.flops()),
                  10 * double(instruction.bytes_moved()));
}

Simulator::Simulator(const plan::Plan &plan, const Cost &cost) : plan(plan) {
  for (const plan::Program &program : plan.programs()) {
    auto &parts = programs.emplace_back(1);
    for (const plan::Instruction &each : program.instructions()) {
      Part &part = parts.back();
      (each.has_receive() ? part.receiving : part.work) += cost(each);
      bool meets = false;
      for (uint32_t axis : each.collective().axes())
        meets = meets || plan.mesh().axes(int(axis)).name() == "pp";
      if (meets || each.has_send() || each.has_receive()) {
        part.exchange = &each;
        parts.emplace_back();
      }
    }
  }
}

// Does what a stage can do alone; true if that was something.
bool Simulator::advance(size_t number) {
  Run &run = runs[number];
  StageTime &stage = step.stages[number];
  bool moved = false;
  while (run.schedule && run.call < run.schedule->calls_size()) {
    const std::vector<Part> &parts =
        programs[run.schedule->calls(run.call).program()];
    const Part &part = parts[run.part];
    CallTime &time = stage.calls[size_t(run.call)];
    if (!run.hasWorked) {
      if (run.part == 0)
        time.begin = run.clock;
      run.clock += part.work;
      stage.work += part.work + part.receiving;
      run.hasWorked = moved = true;
    }
    if (part.exchange && part.exchange->has_collective())
      return moved;
    int64_t me = int64_t(number);
    if (part.exchange && part.exchange->has_send()) {
      const plan::Transfer &send = part.exchange->send();
      sent[{me, me + send.stage_offset(), send.channel()}].push_back(run.clock);
    } else if (part.exchange) {
      const plan::Transfer &receive = part.exchange->receive();
      auto &waiting =
          sent[{me + receive.stage_offset(), me, receive.channel()}];
      if (waiting.empty())
        return moved;
      bool isFirst = time.begin == run.clock;
      run.clock = std::max(run.clock, waiting.front());
      waiting.pop_front();
      if (isFirst)
        time.begin = run.clock;
      run.clock += part.receiving;
    }
    run.hasWorked = false;
    moved = true;
    if (++run.part == parts.size()) {
      time.end = run.clock;
      run.part = 0;
      ++run.call;
    }
  }
  return moved;
}

// Takes all stages past a collective that they all stand before; false at the
// step's end.
bool Simulator::meet() {
  double latest = 0;
  for (const Run &run : runs) {
    if (!run.hasWorked)
      return false;
    latest = std::max(latest, run.clock);
  }
  for (Run &run : runs) {
    run.clock = latest;
    run.hasWorked = false;
    ++run.part; // behind an exchange there is always a part
  }
  return !runs.empty();
}

StepTime Simulator::run(const std::string &name) {
  for (const plan::Schedule &schedule : plan.schedules()) {
    if (schedule.name() != name)
      continue;
    size_t stage = size_t(schedule.stage());
    runs.resize(std::max(runs.size(), stage + 1));
    step.stages.resize(runs.size());
    runs[stage].schedule = &schedule;
    step.stages[stage].calls.resize(size_t(schedule.calls_size()));
  }
  for (bool moved = true; moved;) {
    moved = false;
    for (size_t stage = 0; stage < runs.size(); ++stage)
      moved = advance(stage) || moved;
    moved = moved || meet();
  }
  for (size_t stage = 0; stage < runs.size(); ++stage) {
    step.length = std::max(step.length, runs[stage].clock);
    step.work = std::max(step.work, step.stages[stage].work);
  }
  return std::move(step);
}

StepTime timeStep(const plan::Plan &plan, const std::string &schedule,
                  const Cost &cost) {
  return Simulator(plan, cost).run(schedule);
}

} // namespace lmc::runtime
