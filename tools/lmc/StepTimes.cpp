// See StepTimes.h.
#include "tools/lmc/StepTimes.h"

#include <algorithm>

using namespace lmc;

// For equal stages; F, B and W as they are here on the average. `total` is what
// each program takes.
static void findFormula(const plan::Plan &plan,
                        const std::vector<double> &total, StepTimes &times) {
  auto setting = plan.settings().find("pipeline_schedule");
  double stages = double(times.busy.size());
  if (stages <= 1 || setting == plan.settings().end())
    return;
  times.scheduleName = setting->second;
  double m = double(std::max<int64_t>(plan.micro_batches(), 1));
  uint32_t chunks = 1;
  double forward = 0, input = 0, weight = 0;
  for (int i = 0; i < plan.programs_size(); ++i) {
    const std::string &name = plan.programs(i).name();
    chunks = std::max(chunks, plan.programs(i).chunk() + 1);
    if (name.rfind("forward", 0) == 0)
      forward += total[size_t(i)];
    else if (name.rfind("backward_weight", 0) == 0)
      weight += total[size_t(i)];
    else if (name.rfind("backward", 0) == 0)
      input += total[size_t(i)];
  }
  if (times.scheduleName == "gpipe" || times.scheduleName == "1f1b" ||
      times.scheduleName == "interleaved")
    times.formula = (stages - 1) / m / (double(chunks) / stages);
  else if (times.scheduleName.rfind("zb", 0) == 0 && weight > 0)
    times.formula = (stages - 1) / m * (forward + input - weight) /
                    (forward + input + weight);
}

StepTimes lmc::simulateStep(const plan::Plan &plan, const std::string &name,
                            const Rates &rates) {
  auto seconds = [&](const plan::Instruction &instruction) {
    return std::max(double(instruction.flops()) / rates.flopsPerSec,
                    double(instruction.bytes_moved()) / rates.bytesPerSec);
  };
  std::vector<double> total;
  for (const plan::Program &program : plan.programs()) {
    total.push_back(0);
    for (const plan::Instruction &instruction : program.instructions())
      total.back() += seconds(instruction);
  }
  StepTimes times;
  times.step = runtime::timeStep(plan, name, seconds);
  times.busy.resize(times.step.stages.size());
  double busy = 0;
  for (const plan::Schedule &schedule : plan.schedules()) {
    if (schedule.name() != name)
      continue;
    size_t stage = size_t(schedule.stage());
    for (int i = 0; i < schedule.calls_size(); ++i) {
      uint32_t program = schedule.calls(i).program();
      if (!isOfMicroBatch(plan.programs(int(program))))
        continue;
      times.busy[stage] += total[program];
      times.span =
          std::max(times.span, times.step.stages[stage].calls[size_t(i)].end);
    }
    busy += times.busy[stage];
  }
  if (busy > 0)
    times.bubble = double(times.busy.size()) * times.span / busy - 1;
  findFormula(plan, total, times);
  return times;
}

bool lmc::isOfMicroBatch(const plan::Program &program) {
  return program.name().rfind("forward", 0) == 0 ||
         program.name().rfind("backward", 0) == 0;
}
