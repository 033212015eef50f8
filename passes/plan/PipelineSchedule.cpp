// See PipelineSchedule.h. ZeroBubble.cpp holds the generator that searches,
// PipelineText.cpp the form of a user's file.
#include "passes/plan/PipelineSchedule.h"

#include <algorithm>
#include <set>

using namespace lmc::plan;
using Work = PipelineTask::Work;

bool PipelineSchedule::isSplit() const {
  for (const auto &tasks : stages)
    for (const PipelineTask &task : tasks)
      if (task.work == PipelineTask::WeightHalf)
        return true;
  return false;
}

double ChunkCost::of(Work work) const {
  switch (work) {
  case PipelineTask::Forward:
    return forward;
  case PipelineTask::Backward:
    return inputHalf + weightHalf;
  case PipelineTask::InputHalf:
    return inputHalf;
  case PipelineTask::WeightHalf:
    return weightHalf;
  }
  return 0;
}

//===----------------------------------------------------------------------===//
// Generators
//===----------------------------------------------------------------------===//

PipelineSchedule lmc::plan::makeGpipe(const PipelineShape &shape) {
  PipelineSchedule schedule{shape, {}, 0};
  for (int64_t stage = 0; stage < shape.stages; ++stage) {
    auto &tasks = schedule.stages.emplace_back();
    for (int64_t v = 0; v < shape.virtualStages; ++v)
      for (int64_t m = 0; m < shape.microBatches; ++m)
        tasks.push_back({PipelineTask::Forward, m, v * shape.stages + stage});
    for (int64_t v = shape.virtualStages; v-- > 0;)
      for (int64_t m = 0; m < shape.microBatches; ++m)
        tasks.push_back({PipelineTask::Backward, m, v * shape.stages + stage});
  }
  return schedule;
}

// A stage's forwards and backwards in two rows, `ahead` forwards first and then
// in turns.
static std::vector<PipelineTask>
takeTurns(const std::vector<PipelineTask> &forwards,
          const std::vector<PipelineTask> &backwards, int64_t ahead) {
  std::vector<PipelineTask> tasks(
      forwards.begin(),
      forwards.begin() + std::min<int64_t>(ahead, int64_t(forwards.size())));
  size_t next = tasks.size();
  for (const PipelineTask &backward : backwards) {
    if (next < forwards.size())
      tasks.push_back(forwards[next++]);
    tasks.push_back(backward);
  }
  return tasks;
}

PipelineSchedule
lmc::plan::makeOneForwardOneBackward(const PipelineShape &shape) {
  PipelineSchedule schedule{shape, {}, 0};
  for (int64_t stage = 0; stage < shape.stages; ++stage) {
    std::vector<PipelineTask> forwards, backwards;
    for (int64_t m = 0; m < shape.microBatches; ++m) {
      forwards.push_back({PipelineTask::Forward, m, stage});
      backwards.push_back({PipelineTask::Backward, m, stage});
    }
    schedule.stages.push_back(
        takeTurns(forwards, backwards, shape.stages - 1 - stage));
  }
  return schedule;
}

PipelineSchedule lmc::plan::makeInterleaved(const PipelineShape &shape) {
  if (shape.virtualStages == 1)
    return makeOneForwardOneBackward(shape);
  PipelineSchedule schedule{shape, {}, 0};
  int64_t p = shape.stages, v = shape.virtualStages;
  for (int64_t stage = 0; stage < p; ++stage) {
    std::vector<PipelineTask> forwards, backwards;
    for (int64_t k = 0; k < shape.microBatches * v; ++k) {
      int64_t m = k / (p * v) * p + k % p, pass = k / p % v;
      forwards.push_back({PipelineTask::Forward, m, pass * p + stage});
      backwards.push_back(
          {PipelineTask::Backward, m, (v - 1 - pass) * p + stage});
    }
    // Until the first backward comes back: v - 1 whole rounds, and twice the
    // way to the last stage.
    int64_t ahead = 2 * (p - 1 - stage) + (v - 1) * p;
    schedule.stages.push_back(takeTurns(forwards, backwards, ahead));
  }
  return schedule;
}

bool lmc::plan::isNamedSchedule(std::string_view name) {
  return name == "gpipe" || name == "1f1b" || name == "interleaved" ||
         name == "zb";
}

std::string lmc::plan::checkSettings(std::string_view name,
                                     const PipelineShape &shape) {
  int64_t p = shape.stages, m = shape.microBatches;
  if (name == "interleaved" && p > 1 && shape.virtualStages == 1)
    return "the schedule interleaved is for several chunks on a stage; help: "
           "--virtual-stages=2, or --pipeline-schedule=1f1b";
  if (name == "interleaved" && m % p != 0)
    return "the schedule interleaved takes micro-batches by " +
           std::to_string(p) + ", the number of stages; a step has " +
           std::to_string(m);
  if ((name == "1f1b" || name == "zb") && shape.virtualStages > 1)
    return "the schedule " + std::string(name) +
           " is for one chunk on a stage, not " +
           std::to_string(shape.virtualStages) +
           "; help: --pipeline-schedule=interleaved, or --virtual-stages=1";
  return "";
}

//===----------------------------------------------------------------------===//
// What holds of a schedule
//===----------------------------------------------------------------------===//

namespace {

// Runs a schedule: tasks start in the order of their stage, as soon as what
// they wait for has ended.
class Clock {
public:
  Clock(const PipelineSchedule &schedule, const std::vector<ChunkCost> &costs)
      : schedule(schedule), costs(costs), forwardEnd(ends()),
        backwardEnd(ends()), next(schedule.stages.size(), 0) {}

  // False if the stages wait for each other for ever.
  bool run();
  // Of each stage: the index of the task it stands before.
  const std::vector<size_t> &positions() const { return next; }
  PipelineTiming timing;

private:
  std::vector<double> ends() const {
    return std::vector<double>(
        size_t(schedule.shape.chunks() * schedule.shape.microBatches), -1);
  }
  size_t indexOf(int64_t chunk, int64_t microBatch) const {
    return size_t(chunk * schedule.shape.microBatches + microBatch);
  }
  double readyAt(const PipelineTask &task) const;

  const PipelineSchedule &schedule;
  const std::vector<ChunkCost> &costs;
  std::vector<double> forwardEnd, backwardEnd; // -1: not yet
  std::vector<size_t> next;
};

// When the task's input is there; -1 if that is not known yet.
double Clock::readyAt(const PipelineTask &task) const {
  size_t here = indexOf(task.chunk, task.microBatch);
  switch (task.work) {
  case PipelineTask::Forward:
    return task.chunk == 0
               ? 0
               : forwardEnd[indexOf(task.chunk - 1, task.microBatch)];
  case PipelineTask::Backward:
  case PipelineTask::InputHalf:
    if (forwardEnd[here] < 0)
      return -1;
    return task.chunk + 1 == schedule.shape.chunks()
               ? forwardEnd[here]
               : backwardEnd[indexOf(task.chunk + 1, task.microBatch)];
  case PipelineTask::WeightHalf:
    return backwardEnd[here];
  }
  return -1;
}

bool Clock::run() {
  size_t left = 0;
  std::vector<double> free(schedule.stages.size(), 0);
  for (const auto &tasks : schedule.stages) {
    left += tasks.size();
    timing.starts.emplace_back(tasks.size(), 0.0);
  }
  for (bool moved = true; moved && left > 0;) {
    moved = false;
    for (size_t stage = 0; stage < schedule.stages.size(); ++stage) {
      const auto &tasks = schedule.stages[stage];
      for (size_t &i = next[stage]; i < tasks.size(); ++i, --left) {
        const PipelineTask &task = tasks[i];
        double ready = readyAt(task);
        if (ready < 0)
          break;
        double start = std::max(free[stage], ready);
        double end = start + costs[size_t(task.chunk)].of(task.work);
        timing.starts[stage][i] = start;
        free[stage] = end;
        size_t here = indexOf(task.chunk, task.microBatch);
        if (task.work == PipelineTask::Forward)
          forwardEnd[here] = end;
        else if (task.work != PipelineTask::WeightHalf)
          backwardEnd[here] = end;
        moved = true;
      }
    }
  }
  for (size_t stage = 0; stage < schedule.stages.size(); ++stage) {
    double work = 0;
    for (const PipelineTask &task : schedule.stages[stage])
      work += costs[size_t(task.chunk)].of(task.work);
    timing.work = std::max(timing.work, work);
    timing.length = std::max(timing.length, free[stage]);
  }
  return left == 0;
}

} // namespace

std::optional<PipelineTiming>
lmc::plan::timeSchedule(const PipelineSchedule &schedule,
                        const std::vector<ChunkCost> &costs) {
  Clock clock(schedule, costs);
  if (!clock.run())
    return std::nullopt;
  return clock.timing;
}

namespace {

// How far a stage is with the micro-batches of a chunk.
struct Progress {
  int64_t forward = 0, backward = 0, weight = 0;
  bool isSplit = false;
};

// The laws of one stage.
class StageLaws {
public:
  StageLaws(const PipelineSchedule &schedule, int64_t stage)
      : schedule(schedule), stage(stage),
        progress(size_t(schedule.shape.chunks())) {}

  std::string check();

private:
  std::string checkTask(const PipelineTask &task);
  bool hasForward(const PipelineTask &task) const;
  std::string where() const { return "stage " + std::to_string(stage); }

  const PipelineSchedule &schedule;
  int64_t stage;
  std::vector<Progress> progress;
};

// Whether the stage has, anywhere, the forward that `task` is the backward of.
bool StageLaws::hasForward(const PipelineTask &task) const {
  const auto &tasks = schedule.stages[size_t(stage)];
  return std::any_of(
      tasks.begin(), tasks.end(), [&](const PipelineTask &other) {
        return other.work == PipelineTask::Forward &&
               other.chunk == task.chunk && other.microBatch == task.microBatch;
      });
}

std::string StageLaws::checkTask(const PipelineTask &task) {
  const PipelineShape &shape = schedule.shape;
  auto says = [&](const std::string &what) {
    return where() + ": " + printTask(schedule.shape, task) + " " + what;
  };
  if (task.chunk < 0 || task.chunk >= shape.chunks())
    return says("names chunk " + std::to_string(task.chunk) + " of " +
                std::to_string(shape.chunks()));
  if (shape.stageOf(task.chunk) != stage)
    return says("is of chunk " + std::to_string(task.chunk) +
                ", which is on stage " +
                std::to_string(shape.stageOf(task.chunk)));
  if (task.microBatch < 0 || task.microBatch >= shape.microBatches)
    return says("names micro-batch " + std::to_string(task.microBatch) +
                " of " + std::to_string(shape.microBatches));
  Progress &at = progress[size_t(task.chunk)];
  int64_t &count = task.work == PipelineTask::Forward      ? at.forward
                   : task.work == PipelineTask::WeightHalf ? at.weight
                                                           : at.backward;
  if (task.microBatch < count)
    return says("is there twice");
  if (task.microBatch > count)
    return says("comes before that of micro-batch " + std::to_string(count) +
                "; each chunk takes micro-batches in ascending order");
  if (task.work != PipelineTask::Forward && at.forward <= task.microBatch)
    return says("comes before the forward of its micro-batch" +
                std::string(hasForward(task) ? "" : ", which is missing"));
  if (task.work == PipelineTask::WeightHalf && at.backward <= task.microBatch)
    return says("comes before the input half of its micro-batch");
  ++count;
  int64_t done = at.isSplit ? at.weight : at.backward;
  if (schedule.slots > 0 && at.forward - done > schedule.slots)
    return says("needs slot " + std::to_string(at.forward - done) +
                " of its chunk; the schedule allows " +
                std::to_string(schedule.slots));
  return "";
}

std::string StageLaws::check() {
  const auto &tasks = schedule.stages[size_t(stage)];
  for (const PipelineTask &task : tasks)
    if (task.work == PipelineTask::WeightHalf && task.chunk >= 0 &&
        task.chunk < schedule.shape.chunks())
      progress[size_t(task.chunk)].isSplit = true;
  for (const PipelineTask &task : tasks)
    if (std::string complaint = checkTask(task); !complaint.empty())
      return complaint;
  for (int64_t chunk = stage; chunk < schedule.shape.chunks();
       chunk += schedule.shape.stages) {
    const Progress &at = progress[size_t(chunk)];
    auto missing = [&](int64_t count, Work work) {
      return where() + ": " + printTask(schedule.shape, {work, count, chunk}) +
             " is missing";
    };
    if (at.forward < schedule.shape.microBatches)
      return missing(at.forward, PipelineTask::Forward);
    if (at.backward < schedule.shape.microBatches)
      return missing(at.backward, PipelineTask::Backward);
    if (at.isSplit && at.weight < schedule.shape.microBatches)
      return missing(at.weight, PipelineTask::WeightHalf);
  }
  return "";
}

} // namespace

std::string lmc::plan::checkSchedule(const PipelineSchedule &schedule) {
  if (int64_t(schedule.stages.size()) != schedule.shape.stages)
    return "a schedule of " + std::to_string(schedule.stages.size()) +
           " stages for a pipeline of " + std::to_string(schedule.shape.stages);
  for (int64_t stage = 0; stage < schedule.shape.stages; ++stage)
    if (std::string complaint = StageLaws(schedule, stage).check();
        !complaint.empty())
      return complaint;
  std::vector<ChunkCost> costs(size_t(schedule.shape.chunks()));
  Clock clock(schedule, costs);
  if (clock.run())
    return "";
  std::string text = "the stages wait for each other for ever:";
  for (size_t stage = 0; stage < schedule.stages.size(); ++stage)
    if (size_t at = clock.positions()[stage];
        at < schedule.stages[stage].size())
      text += " stage " + std::to_string(stage) + " before " +
              printTask(schedule.shape, schedule.stages[stage][at]) + ",";
  text.pop_back();
  return text;
}

std::vector<int64_t>
lmc::plan::countUnderWay(const PipelineSchedule &schedule) {
  std::vector<int64_t> most;
  for (const auto &tasks : schedule.stages) {
    std::set<int64_t> split;
    for (const PipelineTask &task : tasks)
      if (task.work == PipelineTask::WeightHalf)
        split.insert(task.chunk);
    int64_t now = 0;
    most.push_back(0);
    for (const PipelineTask &task : tasks) {
      if (task.work == PipelineTask::Forward)
        most.back() = std::max(most.back(), ++now);
      else if (task.work == PipelineTask::WeightHalf ||
               !split.count(task.chunk))
        --now;
    }
  }
  return most;
}
