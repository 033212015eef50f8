// See StepTime.h. Ranks that differ on other axes than pp run the same
// programs, so that one rank of each stage stands for all.
#include "runtime/plan/StepTime.h"

#include <algorithm>
#include <deque>
#include <map>
#include <tuple>

namespace lmc::runtime {

namespace {

// What a program does from one exchange with other stages to the next.
struct Part {
  double work = 0;
  const plan::Instruction *exchange = nullptr; // behind it; null: the end
};

struct Stage {
  std::vector<const std::vector<Part> *> calls;
  size_t call = 0, part = 0;
  bool hasWorked = false; // on this part
  double clock = 0, work = 0;
};

class StepClock {
public:
  explicit StepClock(const plan::Plan &plan) : plan(plan) {}
  StepTime run(const std::string &schedule);

private:
  void readPrograms();
  bool advance(int64_t number, Stage &stage);
  bool meet();

  const plan::Plan &plan;
  std::vector<std::vector<Part>> programs;
  std::map<int64_t, Stage> stages;
  // (from, to, channel): when what is on its way was sent.
  std::map<std::tuple<int64_t, int64_t, uint32_t>, std::deque<double>> sent;
};

} // namespace

double plannedFlops(const plan::Instruction &instruction) {
  if (!instruction.has_launch() && !instruction.has_fill() &&
      !instruction.has_copy())
    return 0;
  return std::max(double(instruction.flops()),
                  10 * double(instruction.bytes_moved()));
}

void StepClock::readPrograms() {
  int pp = -1;
  for (int i = 0; i < plan.mesh().axes_size(); ++i)
    if (plan.mesh().axes(i).name() == "pp")
      pp = i;
  for (const plan::Program &program : plan.programs()) {
    auto &parts = programs.emplace_back(1);
    for (const plan::Instruction &each : program.instructions()) {
      parts.back().work += plannedFlops(each);
      bool meets = false;
      for (uint32_t axis : each.collective().axes())
        meets = meets || int(axis) == pp;
      if (meets || each.has_send() || each.has_receive()) {
        parts.back().exchange = &each;
        parts.emplace_back();
      }
    }
  }
}

// Does what a stage can do alone; true if that was something.
bool StepClock::advance(int64_t number, Stage &stage) {
  bool moved = false;
  while (stage.call < stage.calls.size()) {
    const std::vector<Part> &parts = *stage.calls[stage.call];
    const Part &part = parts[stage.part];
    if (!stage.hasWorked) {
      stage.clock += part.work;
      stage.work += part.work;
      stage.hasWorked = moved = true;
    }
    if (part.exchange && part.exchange->has_collective())
      return moved;
    if (part.exchange && part.exchange->has_send()) {
      const plan::Transfer &send = part.exchange->send();
      sent[{number, number + send.stage_offset(), send.channel()}].push_back(
          stage.clock);
    } else if (part.exchange) {
      const plan::Transfer &receive = part.exchange->receive();
      auto &waiting =
          sent[{number + receive.stage_offset(), number, receive.channel()}];
      if (waiting.empty())
        return moved;
      stage.clock = std::max(stage.clock, waiting.front());
      waiting.pop_front();
    }
    stage.hasWorked = false;
    moved = true;
    if (++stage.part == parts.size()) {
      stage.part = 0;
      ++stage.call;
    }
  }
  return moved;
}

// Takes all stages past a collective; false at the step's end.
bool StepClock::meet() {
  double latest = 0;
  for (auto &[number, stage] : stages) {
    if (stage.call == stage.calls.size())
      return false;
    latest = std::max(latest, stage.clock);
  }
  for (auto &[number, stage] : stages) {
    stage.clock = latest;
    stage.hasWorked = false;
    ++stage.part; // behind an exchange there is always a part
  }
  return true;
}

StepTime StepClock::run(const std::string &schedule) {
  readPrograms();
  for (const plan::Schedule &each : plan.schedules())
    if (each.name() == schedule)
      for (const plan::Call &call : each.calls())
        stages[each.stage()].calls.push_back(&programs[call.program()]);
  for (bool moved = true; moved;) {
    moved = false;
    for (auto &[number, stage] : stages)
      moved = advance(number, stage) || moved;
    moved = moved || (!stages.empty() && meet());
  }
  StepTime time;
  for (auto &[number, stage] : stages) {
    time.length = std::max(time.length, stage.clock);
    time.work = std::max(time.work, stage.work);
  }
  return time;
}

StepTime timeStep(const plan::Plan &plan, const std::string &schedule) {
  return StepClock(plan).run(schedule);
}

} // namespace lmc::runtime
