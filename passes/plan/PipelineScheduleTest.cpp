// Schedules of pipelines: their bubbles and memory against the formulas, the
// zero-bubble generator against the best that there is, broken schedules
// against the laws.
#include "passes/plan/PipelineSchedule.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <random>

using namespace lmc::plan;

namespace {

std::vector<ChunkCost> equalCosts(const PipelineShape &shape, ChunkCost cost) {
  return std::vector<ChunkCost>(size_t(shape.chunks()), cost);
}

double bubbleOf(const PipelineSchedule &schedule,
                const std::vector<ChunkCost> &costs) {
  EXPECT_EQ(checkSchedule(schedule), "");
  std::optional<PipelineTiming> timing = timeSchedule(schedule, costs);
  EXPECT_TRUE(timing.has_value());
  return timing ? timing->bubble() : -1;
}

const std::pair<int64_t, int64_t> kSizes[] = {{1, 1}, {1, 4}, {2, 1},  {2, 4},
                                              {3, 7}, {4, 4}, {4, 16}, {8, 16}};

// (p - 1)(F + B + W).
TEST(PipelineSchedule, bubbleOfGpipeAnd1f1b) {
  ChunkCost cost{3, 4, 2};
  for (auto [p, m] : kSizes) {
    PipelineShape shape{p, 1, m};
    double expected = double(p - 1) * (3 + 4 + 2);
    auto costs = equalCosts(shape, cost);
    EXPECT_DOUBLE_EQ(bubbleOf(makeGpipe(shape), costs), expected);
    EXPECT_DOUBLE_EQ(bubbleOf(makeOneForwardOneBackward(shape), costs),
                     expected);
  }
}

// That over v, of stages whose work is that of v chunks.
TEST(PipelineSchedule, bubbleOfInterleaved) {
  for (auto [p, m] : {std::pair(2, 2), {2, 8}, {3, 6}, {4, 4}, {4, 16}})
    for (int64_t v : {2, 3, 4}) {
      PipelineShape shape{p, v, m};
      EXPECT_DOUBLE_EQ(
          bubbleOf(makeInterleaved(shape), equalCosts(shape, {3, 4, 2})),
          double(p - 1) * (3 + 4 + 2));
    }
}

// (p - 1)(F + B - W) where W fits between F and B, as for layers.
TEST(PipelineSchedule, bubbleOfZeroBubble) {
  for (auto [p, m] : {std::pair(1, 3),
                      {2, 2},
                      {2, 8},
                      {3, 6},
                      {4, 4},
                      {4, 8},
                      {8, 16},
                      {8, 64}})
    for (ChunkCost cost : {ChunkCost{1, 1, 1}, {2, 2.2, 1.8}, {3, 4, 2}}) {
      PipelineShape shape{p, 1, m};
      auto costs = equalCosts(shape, cost);
      double expected =
          double(p - 1) * (cost.forward + cost.inputHalf - cost.weightHalf);
      EXPECT_NEAR(bubbleOf(makeZeroBubble(shape, costs), costs), expected, 1e-9)
          << p << " stages, " << m << " micro-batches";
    }
}

TEST(PipelineSchedule, microBatchesUnderWay) {
  for (auto [p, m] : kSizes) {
    PipelineShape shape{p, 1, m};
    std::vector<int64_t> gpipe = countUnderWay(makeGpipe(shape));
    std::vector<int64_t> turns =
        countUnderWay(makeOneForwardOneBackward(shape));
    std::vector<int64_t> zero =
        countUnderWay(makeZeroBubble(shape, equalCosts(shape, {1, 1, 1})));
    for (int64_t stage = 0; stage < p; ++stage) {
      EXPECT_EQ(gpipe[size_t(stage)], m);
      EXPECT_EQ(turns[size_t(stage)], std::min(m, p - stage));
      EXPECT_LE(zero[size_t(stage)], std::min(m, p));
    }
  }
  // Times 1 + (p - 1) / pv, in chunks of 1/v: pv + p - 1.
  for (int64_t p : {2, 3, 4})
    for (int64_t v : {2, 3})
      EXPECT_EQ(countUnderWay(makeInterleaved({p, v, 4 * p})).front(),
                p * v + p - 1);
}

// At p = 8 and m = 16, layers' halves being about equal.
TEST(PipelineSchedule, zeroBubbleIsFaster) {
  PipelineShape shape{8, 1, 16};
  auto costs = equalCosts(shape, {1, 1, 1});
  double turns = timeSchedule(makeOneForwardOneBackward(shape), costs)->length;
  double zero = timeSchedule(makeZeroBubble(shape, costs), costs)->length;
  EXPECT_GE(turns / zero, 1.15);
}

//===----------------------------------------------------------------------===//
// Against the best that there is
//===----------------------------------------------------------------------===//

// Every order of tasks on every stage, backwards in halves, one chunk per
// stage, at most `limit` micro-batches of a stage under way.
//
// What a partial schedule means for the rest is how many forwards, input and
// weight halves each stage has done, when it is free, and when the results
// that wait to be read were made. Partial schedules with equal counts are
// compared: one that is nowhere earlier than another is dropped. Those that
// cannot end before `bound` are dropped, too; the bound itself is returned if
// nothing is shorter.
class ExhaustiveSearch {
public:
  ExhaustiveSearch(const PipelineShape &shape,
                   const std::vector<ChunkCost> &costs, int64_t limit)
      : p(shape.stages), m(shape.microBatches), limit(limit), costs(costs) {}

  double run(double bound) {
    best = bound;
    std::map<Counts, std::vector<Times>> level;
    level[Counts(size_t(3 * p), 0)] = {start()};
    for (int64_t done = 0; done < 3 * p * m; ++done) {
      std::map<Counts, std::vector<Times>> following;
      for (auto &[counts, front] : level)
        for (const Times &times : front)
          expand(counts, times, following);
      level = std::move(following);
    }
    return best;
  }

private:
  using Counts = std::vector<int8_t>; // of each stage: F, B, W
  struct Times {
    std::vector<double> free;                // of each stage
    std::vector<double> forwards, backwards; // ends, p * m; 0: read or not yet
  };

  Times start() const {
    return {std::vector<double>(size_t(p)), std::vector<double>(size_t(p * m)),
            std::vector<double>(size_t(p * m))};
  }

  void expand(const Counts &counts, const Times &times,
              std::map<Counts, std::vector<Times>> &following) {
    for (int64_t s = 0; s < p; ++s) {
      int64_t f = counts[size_t(3 * s)], b = counts[size_t(3 * s + 1)],
              w = counts[size_t(3 * s + 2)];
      if (f < m && f - w < limit && (s == 0 || counts[size_t(3 * s - 3)] > f)) {
        Times next = times;
        double ready = 0;
        if (s > 0)
          std::swap(ready, next.forwards[size_t((s - 1) * m + f)]);
        double &free = next.free[size_t(s)];
        free = std::max(free, ready) + costs[size_t(s)].forward;
        if (s + 1 < p)
          next.forwards[size_t(s * m + f)] = free;
        add(counts, 3 * s, std::move(next), following);
      }
      if (b < f && (s + 1 == p || counts[size_t(3 * s + 4)] > b)) {
        Times next = times;
        double ready = 0;
        if (s + 1 < p)
          std::swap(ready, next.backwards[size_t((s + 1) * m + b)]);
        double &free = next.free[size_t(s)];
        free = std::max(free, ready) + costs[size_t(s)].inputHalf;
        if (s > 0)
          next.backwards[size_t(s * m + b)] = free;
        add(counts, 3 * s + 1, std::move(next), following);
      }
      if (w < b) {
        Times next = times;
        next.free[size_t(s)] += costs[size_t(s)].weightHalf;
        add(counts, 3 * s + 2, std::move(next), following);
      }
    }
  }

  void add(Counts counts, int64_t index, Times times,
           std::map<Counts, std::vector<Times>> &following) {
    ++counts[size_t(index)];
    // What lies before its reader's next start makes no difference.
    for (int64_t s = 0; s < p; ++s)
      for (int64_t k = 0; k < m; ++k) {
        if (s + 1 < p)
          if (double &end = times.forwards[size_t(s * m + k)];
              end > 0 && end < times.free[size_t(s + 1)])
            end = times.free[size_t(s + 1)];
        if (s > 0)
          if (double &end = times.backwards[size_t(s * m + k)];
              end > 0 && end < times.free[size_t(s - 1)])
            end = times.free[size_t(s - 1)];
      }
    double end = 0;
    bool isDone = true;
    for (int64_t s = 0; s < p; ++s) {
      int64_t f = counts[size_t(3 * s)], b = counts[size_t(3 * s + 1)],
              w = counts[size_t(3 * s + 2)];
      const ChunkCost &c = costs[size_t(s)];
      double left = double(m - f) * c.forward + double(m - b) * c.inputHalf +
                    double(m - w) * c.weightHalf;
      double bound = times.free[size_t(s)] + left;
      // Behind the last input half of this stage come those before it.
      if (b < m) {
        double after = times.free[size_t(s)] + double(m - f) * c.forward +
                       double(m - b) * c.inputHalf;
        for (int64_t q = s - 1; q >= 0; --q)
          after += costs[size_t(q)].inputHalf;
        bound = std::max(bound, after + costs[0].weightHalf);
      }
      end = std::max(end, bound);
      isDone = isDone && w == m;
    }
    if (end >= best - 1e-9)
      return;
    if (isDone) {
      best = end;
      return;
    }
    auto noLater = [](const Times &a, const Times &b) {
      auto all = [](const std::vector<double> &x,
                    const std::vector<double> &y) {
        for (size_t i = 0; i < x.size(); ++i)
          if (x[i] > y[i] + 1e-12)
            return false;
        return true;
      };
      return all(a.free, b.free) && all(a.forwards, b.forwards) &&
             all(a.backwards, b.backwards);
    };
    std::vector<Times> &front = following[counts];
    for (const Times &other : front)
      if (noLater(other, times))
        return;
    front.erase(std::remove_if(
                    front.begin(), front.end(),
                    [&](const Times &other) { return noLater(times, other); }),
                front.end());
    front.push_back(std::move(times));
  }

  int64_t p, m, limit;
  const std::vector<ChunkCost> &costs;
  double best = 0;
};

// Of a schedule found by another way: every order of the tasks of two stages,
// one by one.
double bestOfAllOrders(const PipelineShape &shape,
                       const std::vector<ChunkCost> &costs, int64_t limit) {
  std::vector<std::vector<PipelineTask>> orders[2];
  for (int64_t stage : {0, 1}) {
    std::vector<PipelineTask::Work> works;
    for (auto work : {PipelineTask::Forward, PipelineTask::InputHalf,
                      PipelineTask::WeightHalf})
      works.insert(works.end(), size_t(shape.microBatches), work);
    do {
      std::vector<PipelineTask> tasks;
      int64_t count[4] = {};
      bool isLegal = true;
      for (auto work : works) {
        tasks.push_back({work, count[work]++, stage});
        isLegal =
            isLegal &&
            count[PipelineTask::Forward] >= count[PipelineTask::InputHalf] &&
            count[PipelineTask::InputHalf] >= count[PipelineTask::WeightHalf] &&
            count[PipelineTask::Forward] - count[PipelineTask::WeightHalf] <=
                limit;
      }
      if (isLegal)
        orders[stage].push_back(tasks);
    } while (std::next_permutation(works.begin(), works.end()));
  }
  double best = 1e9;
  for (const auto &first : orders[0])
    for (const auto &second : orders[1])
      if (auto timing = timeSchedule({shape, {first, second}, 0}, costs))
        best = std::min(best, timing->length);
  return best;
}

std::vector<ChunkCost> randomCosts(int64_t stages, std::mt19937 &random) {
  std::vector<ChunkCost> costs;
  auto draw = [&] { return 0.3 + 1.7 * double(random() % 1000) / 1000; };
  for (int64_t stage = 0; stage < stages; ++stage)
    costs.push_back({draw(), draw(), draw()});
  return costs;
}

// The search itself, where all orders can be listed.
TEST(PipelineSchedule, exhaustiveSearchFindsTheBest) {
  std::mt19937 random(1);
  for (int trial = 0; trial < 5; ++trial) {
    PipelineShape shape{2, 1, 3};
    auto costs = randomCosts(2, random);
    EXPECT_NEAR(ExhaustiveSearch(shape, costs, 2).run(1e9),
                bestOfAllOrders(shape, costs, 2), 1e-9)
        << "trial " << trial;
  }
}

// Within 1 % of the best schedule under 1F1B's memory; at least half of the
// trials have unequal stages.
TEST(PipelineSchedule, zeroBubbleIsNearTheBest) {
  std::mt19937 random(2);
  double worst = 1;
  for (auto [p, m] :
       {std::pair(2, 3), {2, 6}, {3, 3}, {3, 4}, {3, 6}, {4, 4}, {4, 5}})
    for (int trial = 0; trial < 12; ++trial) {
      PipelineShape shape{p, 1, m};
      auto costs = randomCosts(p, random);
      if (trial % 4 == 0) // equal stages
        costs.assign(size_t(p), costs.front());
      if (trial % 4 == 1) { // nobody waits for the first stage's input half
        costs.front().weightHalf += costs.front().inputHalf;
        costs.front().inputHalf = 0;
      }
      PipelineSchedule schedule = makeZeroBubble(shape, costs);
      EXPECT_EQ(checkSchedule(schedule), "");
      for (int64_t underWay : countUnderWay(schedule))
        EXPECT_LE(underWay, std::min(p, m));
      double length = timeSchedule(schedule, costs)->length;
      double best = ExhaustiveSearch(shape, costs, std::min(p, m)).run(length);
      worst = std::max(worst, length / best);
      EXPECT_LE(length, 1.01 * best)
          << p << " stages, " << m << " micro-batches, trial " << trial;
    }
  RecordProperty("worst", std::to_string(worst));
}

// A large step is scheduled in the time that a compiler has.
TEST(PipelineSchedule, zeroBubbleOfALargePipeline) {
  PipelineShape shape{64, 1, 512};
  auto costs = equalCosts(shape, {1, 1.1, 0.9});
  PipelineSchedule schedule = makeZeroBubble(shape, costs);
  EXPECT_EQ(checkSchedule(schedule), "");
  EXPECT_LE(bubbleOf(schedule, costs), 63 * (1 + 1.1 - 0.9) * 1.01);
}

//===----------------------------------------------------------------------===//
// Laws and text
//===----------------------------------------------------------------------===//

std::string complaintOf(std::string_view text, const PipelineShape &shape) {
  std::string error;
  std::optional<PipelineSchedule> schedule = parseSchedule(text, shape, error);
  return schedule ? checkSchedule(*schedule) : error;
}

TEST(PipelineSchedule, textIsReadAsItWasWritten) {
  for (const PipelineSchedule &schedule :
       {makeGpipe({2, 1, 3}), makeOneForwardOneBackward({3, 1, 4}),
        makeInterleaved({2, 2, 4}),
        makeZeroBubble({3, 1, 4}, equalCosts({3, 1, 4}, {1, 1, 1}))}) {
    std::string text = printSchedule(schedule), error;
    auto read = parseSchedule(text, schedule.shape, error);
    ASSERT_TRUE(read.has_value()) << error;
    EXPECT_EQ(printSchedule(*read), text);
    EXPECT_EQ(checkSchedule(*read), "");
    EXPECT_EQ(read->isSplit(), schedule.isSplit());
  }
}

TEST(PipelineSchedule, brokenSchedules) {
  const char *second = "stage 1: F0 B0 F1 B1\n";
  auto complaint = [&](const std::string &first) {
    return complaintOf("stage 0: " + first + "\n" + second, {2, 1, 2});
  };
  EXPECT_EQ(complaint("F0 F1 B0 B1 # 1F1B"), "");
  EXPECT_EQ(complaint("F0 F1 B0"), "stage 0: B1 is missing");
  EXPECT_EQ(complaint("F0 F1 B0 W0 B1"), "stage 0: W1 is missing");
  EXPECT_EQ(complaint("F0 F0 F1 B0 B1"), "stage 0: F0 is there twice");
  EXPECT_EQ(complaint("F0 F1 F2 B0 B1"),
            "stage 0: F2 names micro-batch 2 of 2");
  EXPECT_EQ(complaint("F1 F0 B0 B1"),
            "stage 0: F1 comes before that of micro-batch 0; each chunk takes "
            "micro-batches in ascending order");
  EXPECT_EQ(complaint("B0 F0 F1 B1"),
            "stage 0: B0 comes before the forward of its micro-batch");
  EXPECT_EQ(complaint("F0 B0 B1"),
            "stage 0: B1 comes before the forward of its micro-batch, which is "
            "missing");
  EXPECT_EQ(complaint("F0 F1 W0 B0 B1 W1"),
            "stage 0: W0 comes before the input half of its micro-batch");
  EXPECT_EQ(complaintOf("slots 1\nstage 0: F0 F1 B0 B1\nstage 1: F0 B0 F1 B1",
                        {2, 1, 2}),
            "stage 0: F1 needs slot 2 of its chunk; the schedule allows 1");
  EXPECT_EQ(
      complaintOf("stage 0: F0 B0 F1 B1\nstage 1: F0 F1 B0 B1", {2, 1, 2}),
      "the stages wait for each other for ever: stage 0 before B0, stage "
      "1 before F1");
  EXPECT_EQ(complaintOf("stage 0: F0.0 F0.1 B0.1 B0.0\nstage 1: F0.1 B0.1",
                        {2, 2, 1}),
            "stage 0: F0.1 is of chunk 1, which is on stage 1");
  EXPECT_EQ(complaintOf("stage 0: F0.0 F0.4\nstage 1: F0.1", {2, 2, 1}),
            "stage 0: F0.4 names chunk 4 of 4");
}

TEST(PipelineSchedule, textThatIsNone) {
  PipelineShape shape{2, 1, 1};
  EXPECT_EQ(complaintOf("stage 0: F0 B0", shape), "stage 1 is missing");
  EXPECT_EQ(complaintOf("stage 0: F0\nstage 0: B0", shape),
            "line 2: stage 0 is there twice");
  EXPECT_EQ(complaintOf("slots 1\nstage 0: F0 B0\nslots 2", shape),
            "line 3: slots is there twice");
  EXPECT_EQ(complaintOf("slots 0\r\nstage 0: F0 B0", shape),
            "line 1: a chunk needs at least 1 slot, not 0");
  EXPECT_EQ(complaintOf("slots -1\r\nstage 0: F0 B0", shape),
            "line 1: expected 'stage NUMBER:' or 'slots NUMBER', not 'slots "
            "-1'");
  EXPECT_EQ(complaintOf("", shape), "the file is empty");
  EXPECT_EQ(complaintOf("# nothing\n", shape), "stage 0 is missing");
  EXPECT_EQ(complaintOf("stage 2: F0", shape),
            "line 1: stage 2 of a pipeline of 2");
  EXPECT_EQ(complaintOf("\nstage x", shape),
            "line 2: expected 'stage NUMBER:' or 'slots NUMBER', not 'stage "
            "x'");
  EXPECT_EQ(complaintOf("stage 0: F0 G0", shape),
            "line 1: 'G0' is no task; F, B or W, the micro-batch: F3");
  EXPECT_EQ(complaintOf("stage 1: F0", {2, 2, 1}),
            "line 1: 'F0' is no task; F, B or W, the micro-batch, a point and "
            "the chunk: F3.1");
  // What a terminal would take for a command is not passed on to it.
  EXPECT_EQ(complaintOf("stage 0: F0\x1b[2J", shape),
            "this is no schedule file: byte 11 is '\\x1b'");
  EXPECT_EQ(complaintOf(std::string_view("\x7f"
                                         "ELF\0",
                                         5),
                        shape),
            "this is no schedule file: byte 0 is '\\x7f'");
  EXPECT_EQ(complaintOf("st\xc3\xa4ge", shape),
            "line 1: expected 'stage NUMBER:' or 'slots NUMBER', not "
            "'st\\xc3\\xa4ge'");
  EXPECT_EQ(complaintOf("stage 0: " + std::string(100, 'x'), shape)
                .find("line 1: '" + std::string(60, 'x') + "...' is no task"),
            0u);
  EXPECT_EQ(
      complaintOf("# gr\xc3\xbc\xc3\x9f\nstage 0: F0 B0\r\nstage 1: F0 B0",
                  shape),
      "");
}

TEST(PipelineSchedule, generatorsRefuseOtherShapes) {
  EXPECT_EQ(checkSettings("interleaved", {2, 2, 4}), "");
  EXPECT_NE(checkSettings("interleaved", {2, 2, 3}), "");
  EXPECT_NE(checkSettings("interleaved", {2, 1, 4}), "");
  EXPECT_NE(checkSettings("1f1b", {2, 2, 4}), "");
  EXPECT_NE(checkSettings("zb", {2, 2, 4}), "");
}

} // namespace
