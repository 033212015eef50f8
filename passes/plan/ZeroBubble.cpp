// The zero-bubble generator: list scheduling by a few policies, the best of
// which is improved by moving single tasks.
//
// A stage that is free takes, of what is there: an input half (the stage before
// waits for it), else a forward (the stage behind waits for it), else a weight
// half. Policies differ in how far a stage runs ahead before its first
// backward, in whether forwards or backwards go first, and in how long a stage
// rather waits for what it knows to come than begins a weight half. What is
// best depends on the costs; the clock decides.
#include "passes/plan/PipelineSchedule.h"

#include <algorithm>
#include <limits>
#include <optional>
#include <tuple>

using namespace lmc::plan;

namespace {

// Tasks timed while improving: a fifth of a second.
constexpr int64_t kWork = 10'000'000;
// Pairs (stage, micro-batch) from which on policies are tried on a part.
constexpr int64_t kLarge = 4096;
constexpr double kNever = std::numeric_limits<double>::infinity();

struct Policy {
  int64_t ahead = 0; // forwards before the first backward, beyond 1F1B's
  bool forwardFirst = false;
  double patience = 0; // in weight halves
};

class ListScheduler {
public:
  ListScheduler(const PipelineShape &shape, const std::vector<ChunkCost> &costs,
                const Policy &policy)
      : shape(shape), costs(costs), policy(policy),
        stages(size_t(shape.stages)),
        limit(std::min(shape.microBatches, shape.stages)) {
    for (Stage &stage : stages)
      stage.forwardEnd.reserve(size_t(shape.microBatches)),
          stage.backwardEnd.reserve(size_t(shape.microBatches));
  }

  PipelineSchedule run();

private:
  struct Stage {
    double free = 0;
    int64_t weights = 0;
    bool lastWasForward = false;
    std::vector<double> forwardEnd, backwardEnd; // of those begun
    std::vector<PipelineTask> tasks;

    int64_t forwards() const { return int64_t(forwardEnd.size()); }
    int64_t backwards() const { return int64_t(backwardEnd.size()); }
  };
  struct Choice {
    double start = kNever;
    PipelineTask::Work work = PipelineTask::Forward;
  };

  double forwardReady(int64_t index) const;
  double backwardReady(int64_t index) const;
  Choice choose(int64_t index) const;
  void take(int64_t index, const Choice &choice);

  const PipelineShape &shape;
  const std::vector<ChunkCost> &costs;
  const Policy &policy;
  std::vector<Stage> stages;
  int64_t limit;
};

double ListScheduler::forwardReady(int64_t index) const {
  const Stage &stage = stages[size_t(index)];
  int64_t m = stage.forwards();
  if (m == shape.microBatches || m - stage.weights >= limit)
    return kNever;
  if (stage.backwards() == 0 && m >= shape.stages - index + policy.ahead)
    return kNever;
  if (index == 0)
    return 0;
  const Stage &before = stages[size_t(index - 1)];
  return m < before.forwards() ? before.forwardEnd[size_t(m)] : kNever;
}

double ListScheduler::backwardReady(int64_t index) const {
  const Stage &stage = stages[size_t(index)];
  int64_t m = stage.backwards();
  if (m >= stage.forwards())
    return kNever;
  if (index + 1 == shape.stages)
    return stage.forwardEnd[size_t(m)];
  const Stage &behind = stages[size_t(index + 1)];
  return m < behind.backwards() ? behind.backwardEnd[size_t(m)] : kNever;
}

ListScheduler::Choice ListScheduler::choose(int64_t index) const {
  const Stage &stage = stages[size_t(index)];
  double forward = std::max(stage.free, forwardReady(index));
  double backward = std::max(stage.free, backwardReady(index));
  bool forwardWins =
      forward < backward || (forward == backward && forward != kNever &&
                             (policy.forwardFirst && !stage.lastWasForward));
  Choice choice = forwardWins ? Choice{forward, PipelineTask::Forward}
                              : Choice{backward, PipelineTask::InputHalf};
  if (stage.weights < stage.backwards() &&
      choice.start - stage.free >
          policy.patience * costs[size_t(index)].weightHalf)
    return {stage.free, PipelineTask::WeightHalf};
  return choice;
}

void ListScheduler::take(int64_t index, const Choice &choice) {
  Stage &stage = stages[size_t(index)];
  stage.free = choice.start + costs[size_t(index)].of(choice.work);
  stage.lastWasForward = choice.work == PipelineTask::Forward;
  int64_t m = stage.weights;
  if (choice.work == PipelineTask::Forward) {
    m = stage.forwards();
    stage.forwardEnd.push_back(stage.free);
  } else if (choice.work == PipelineTask::InputHalf) {
    m = stage.backwards();
    stage.backwardEnd.push_back(stage.free);
  } else {
    ++stage.weights;
  }
  stage.tasks.push_back({choice.work, m, index});
}

// Tasks are begun in the order of their starts, so that a stage knows what runs
// elsewhere when it chooses.
PipelineSchedule ListScheduler::run() {
  std::vector<Choice> choices;
  for (int64_t i = 0; i < shape.stages; ++i)
    choices.push_back(choose(i));
  for (int64_t left = 3 * shape.stages * shape.microBatches; left > 0; --left) {
    auto first = std::min_element(
        choices.begin(), choices.end(),
        [](const Choice &a, const Choice &b) { return a.start < b.start; });
    int64_t index = first - choices.begin();
    take(index, *first);
    // Its neighbours may have something new to do.
    for (int64_t i = std::max<int64_t>(0, index - 1);
         i <= std::min(index + 1, shape.stages - 1); ++i)
      choices[size_t(i)] = choose(i);
  }
  PipelineSchedule schedule{shape, {}, 0};
  for (Stage &stage : stages)
    schedule.stages.push_back(std::move(stage.tasks));
  return schedule;
}

// Moves single tasks of a schedule to other places of their stage, as long as
// that makes the step shorter; of equal lengths, the one whose stages end
// earlier is taken.
class Improver {
public:
  Improver(const PipelineShape &shape, const std::vector<ChunkCost> &costs,
           int64_t tries)
      : costs(costs), limit(std::min(shape.microBatches, shape.stages)),
        triesLeft(tries) {}

  void improve(PipelineSchedule &schedule, double &length);

private:
  using Price = std::pair<double, double>;

  std::optional<Price> priceOf(const PipelineSchedule &schedule);
  bool isLegal(const std::vector<PipelineTask> &tasks) const;

  const std::vector<ChunkCost> &costs;
  int64_t limit, triesLeft;
};

// The length of the step and the sum of the stages' ends.
std::optional<Improver::Price>
Improver::priceOf(const PipelineSchedule &schedule) {
  --triesLeft;
  std::optional<PipelineTiming> timing = timeSchedule(schedule, costs);
  if (!timing)
    return std::nullopt;
  double sum = 0;
  for (size_t stage = 0; stage < schedule.stages.size(); ++stage)
    sum += timing->starts[stage].back() +
           costs[stage].of(schedule.stages[stage].back().work);
  return Price{timing->length, sum};
}

// The laws of one stage, and its memory.
bool Improver::isLegal(const std::vector<PipelineTask> &tasks) const {
  int64_t forwards = 0, backwards = 0, weights = 0;
  for (const PipelineTask &task : tasks) {
    if (task.work == PipelineTask::Forward)
      ++forwards;
    else if (task.work == PipelineTask::InputHalf)
      ++backwards;
    else
      ++weights;
    if (backwards > forwards || weights > backwards ||
        forwards - weights > limit)
      return false;
  }
  return true;
}

// Tasks of one kind stay in the order of their micro-batches.
static void numberTasks(std::vector<PipelineTask> &tasks) {
  int64_t next[4] = {};
  for (PipelineTask &task : tasks)
    task.microBatch = next[task.work]++;
}

void Improver::improve(PipelineSchedule &schedule, double &length) {
  std::optional<Price> best = priceOf(schedule);
  for (bool moved = true; moved;) {
    moved = false;
    for (std::vector<PipelineTask> &tasks : schedule.stages)
      for (size_t from = 0; from < tasks.size(); ++from)
        for (size_t to = 0; to < tasks.size(); ++to) {
          if (triesLeft <= 0)
            return;
          if (tasks[from].work == tasks[to].work)
            continue;
          std::vector<PipelineTask> old = tasks;
          auto begin = tasks.begin();
          if (from < to)
            std::rotate(begin + from, begin + from + 1, begin + to + 1);
          else
            std::rotate(begin + to, begin + from, begin + from + 1);
          numberTasks(tasks);
          std::optional<Price> price;
          if (isLegal(tasks))
            price = priceOf(schedule);
          if (price && *price < *best) {
            best = price;
            length = price->first;
            moved = true;
          } else {
            tasks = std::move(old);
          }
        }
  }
}

} // namespace

// 1F1B with each backward's halves behind each other.
static PipelineSchedule splitOneForwardOneBackward(const PipelineShape &shape) {
  PipelineSchedule schedule = makeOneForwardOneBackward(shape);
  for (std::vector<PipelineTask> &tasks : schedule.stages) {
    std::vector<PipelineTask> halves;
    for (PipelineTask task : tasks) {
      if (task.work == PipelineTask::Backward)
        task.work = PipelineTask::InputHalf;
      halves.push_back(task);
      if (task.work == PipelineTask::InputHalf)
        halves.push_back(
            {PipelineTask::WeightHalf, task.microBatch, task.chunk});
    }
    tasks = std::move(halves);
  }
  return schedule;
}

static std::vector<Policy> listPolicies(int64_t stages, bool few) {
  std::vector<Policy> policies;
  for (int64_t ahead = 0; ahead < stages; ahead += std::max<int64_t>(1, ahead))
    for (double patience : {0.0, 0.5, 1.0, 0.25, 0.75})
      for (bool forwardFirst : {false, true})
        if (!few || (patience != 0.25 && patience != 0.75 && !forwardFirst))
          policies.push_back({ahead, forwardFirst, patience});
  return policies;
}

PipelineSchedule
lmc::plan::makeZeroBubble(const PipelineShape &shape,
                          const std::vector<ChunkCost> &costs) {
  struct Candidate {
    Policy policy;
    PipelineSchedule schedule;
    double length;
    size_t number;
  };
  std::vector<Candidate> candidates;
  auto add = [&](const Policy &policy, PipelineSchedule schedule) {
    double length = timeSchedule(schedule, costs)->length;
    candidates.push_back(
        {policy, std::move(schedule), length, candidates.size()});
  };
  auto isShorter = [](const Candidate &a, const Candidate &b) {
    return std::tie(a.length, a.number) < std::tie(b.length, b.number);
  };

  // What is best for a few rounds is best for many.
  PipelineShape tried = shape;
  bool isLarge = shape.stages * shape.microBatches > kLarge;
  if (isLarge)
    tried.microBatches = std::min(shape.microBatches, 2 * shape.stages);
  for (const Policy &policy : listPolicies(shape.stages, isLarge))
    add(policy, ListScheduler(tried, costs, policy).run());
  if (isLarge) {
    std::sort(candidates.begin(), candidates.end(), isShorter);
    std::vector<Candidate> best(candidates.begin(),
                                candidates.begin() +
                                    std::min<ptrdiff_t>(4, candidates.size()));
    candidates.clear();
    for (const Candidate &candidate : best)
      add(candidate.policy,
          ListScheduler(shape, costs, candidate.policy).run());
  }
  add({}, splitOneForwardOneBackward(shape));
  std::sort(candidates.begin(), candidates.end(), isShorter);
  Improver improver(shape, costs,
                    kWork / (3 * shape.stages * shape.microBatches));
  for (Candidate &candidate : candidates)
    improver.improve(candidate.schedule, candidate.length);
  return std::min_element(candidates.begin(), candidates.end(), isShorter)
      ->schedule;
}
