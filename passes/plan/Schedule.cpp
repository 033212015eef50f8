// The pass Schedule: which programs run in a step, in which order.
//
// A strategy is a list of forwards and backwards for each pipeline stage, all
// else follows from it. Three stages, four micro-batches, 1F1B:
//
//     stage 0   F0 F1 F2 B0 F3 B1 B2 B3
//     stage 1   F0 F1 B0 F2 B1 F3 B2 B3
//     stage 2   F0 B0 F1 B1 F2 B2 F3 B3
//
// A micro-batch holds a slot of a chunk's saved values from its forward to its
// backward; the lowest free slot is taken.
#include "dialects/lm/Lm.h"
#include "dialects/plan/Plan.h"
#include "passes/plan/Passes.h"

#include "mlir/Dialect/Func/IR/FuncOps.h"
#include "mlir/IR/BuiltinOps.h"
#include "llvm/ADT/MapVector.h"

namespace lmc::plan {
#define GEN_PASS_DEF_SCHEDULE
#include "passes/plan/Passes.h.inc"
} // namespace lmc::plan

using namespace mlir;
using namespace lmc::plan;

namespace {

struct Call {
  StringRef program;
  int64_t microBatch = 0;
  int64_t slot = 0;
  int64_t chunk = -1; // of a forward or backward, which hold a slot
};

struct StageSchedule {
  StringRef name;
  int64_t stage = 0;
  SmallVector<Call> calls;
};

// The programs by what they are, and chunk (of forward, backward, evaluate) or
// stage.
using Programs = llvm::MapVector<std::pair<StringRef, int64_t>, StringRef>;

// A stage's part of a strategy.
struct Work {
  bool isBackward;
  int64_t microBatch;
};

// GPipe, Huang et al. 2019: all forwards, then all backwards.
SmallVector<Work> runGpipe(int64_t microBatches) {
  SmallVector<Work> work;
  for (bool isBackward : {false, true})
    for (int64_t m = 0; m < microBatches; ++m)
      work.push_back({isBackward, m});
  return work;
}

// 1F1B, Narayanan et al. 2019 (PipeDream-Flush): as many forwards as there are
// stages behind this one, then a forward and a backward in turns. At most
// stages - stage micro-batches are under way.
SmallVector<Work> runOneForwardOneBackward(int64_t stage, int64_t stages,
                                           int64_t microBatches) {
  SmallVector<Work> work;
  int64_t ahead = std::min(microBatches, stages - 1 - stage);
  for (int64_t m = 0; m < ahead; ++m)
    work.push_back({false, m});
  for (int64_t m = 0; m < microBatches; ++m) {
    if (ahead + m < microBatches)
      work.push_back({false, ahead + m});
    work.push_back({true, m});
  }
  return work;
}

StageSchedule trainStage(const Programs &programs, int64_t stage,
                         ArrayRef<Work> work) {
  StageSchedule schedule{"train", stage, {}};
  for (const Work &each : work)
    if (StringRef name =
            programs.lookup({each.isBackward ? "backward" : "forward", stage});
        !name.empty())
      schedule.calls.push_back({name, each.microBatch, 0, stage});
  if (StringRef name = programs.lookup({"update", stage}); !name.empty())
    schedule.calls.push_back({name});
  return schedule;
}

StageSchedule evaluateStage(const Programs &programs, int64_t stage,
                            int64_t microBatches) {
  StageSchedule schedule{"evaluate", stage, {}};
  for (int64_t m = 0; m < microBatches; ++m)
    schedule.calls.push_back({programs.lookup({"evaluate", stage}), m});
  if (StringRef name = programs.lookup({"evaluate_finish", stage});
      !name.empty())
    schedule.calls.push_back({name});
  return schedule;
}

// Gives each micro-batch of a chunk the lowest slot that is free from its first
// call to its last one; returns how many are needed.
int64_t assignSlots(StageSchedule &schedule) {
  using Key = std::pair<int64_t, int64_t>; // chunk, micro-batch
  llvm::DenseMap<Key, size_t> lastCall;
  for (auto [index, call] : llvm::enumerate(schedule.calls))
    if (call.chunk >= 0)
      lastCall[{call.chunk, call.microBatch}] = index;
  llvm::DenseMap<Key, int64_t> slotOf;
  llvm::DenseMap<int64_t, SmallVector<bool>> takenOf; // by chunk
  size_t slots = 1;
  for (auto [index, call] : llvm::enumerate(schedule.calls)) {
    if (call.chunk < 0)
      continue;
    Key key{call.chunk, call.microBatch};
    SmallVector<bool> &taken = takenOf[call.chunk];
    auto known = slotOf.find(key);
    if (known == slotOf.end()) {
      size_t slot = llvm::find(taken, false) - taken.begin();
      if (slot == taken.size())
        taken.push_back(true);
      taken[slot] = true;
      known = slotOf.insert({key, slot}).first;
    }
    call.slot = known->second;
    if (lastCall[key] == index)
      taken[call.slot] = false;
    slots = std::max(slots, taken.size());
  }
  return slots;
}

void build(OpBuilder &builder, Location loc, const StageSchedule &schedule) {
  OpBuilder::InsertionGuard guard(builder);
  auto op = builder.create<ScheduleOp>(loc, schedule.name, schedule.stage);
  builder.setInsertionPointToStart(&op.getBody().front());
  for (const Call &call : schedule.calls)
    builder.create<CallOp>(loc, call.program, call.microBatch, call.slot);
}

struct SchedulePass : lmc::plan::impl::ScheduleBase<SchedulePass> {
  using ScheduleBase::ScheduleBase;

  void runOnOperation() override {
    ModuleOp module = getOperation();
    Programs programs;
    for (auto function : module.getOps<func::FuncOp>()) {
      auto kind = function->getAttrOfType<StringAttr>(kProgramAttr);
      if (!kind)
        continue;
      auto place = function->getAttrOfType<IntegerAttr>(
          function->hasAttr(kChunkAttr) ? kChunkAttr : kStageAttr);
      std::pair<StringRef, int64_t> key{kind.getValue(),
                                        place ? place.getInt() : 0};
      if (!programs.insert({key, function.getName()}).second) {
        function.emitOpError() << "is a second program \"" << kind.getValue()
                               << "\" beside @" << programs.lookup(key);
        return signalPassFailure();
      }
    }
    int64_t count = microBatches;
    if (count == 0)
      if (auto attr = module->getAttrOfType<IntegerAttr>("lm.micro_batches"))
        count = attr.getInt();
    if (count == 0)
      count = 1;
    if (count < 1) {
      module.emitError() << "a step of " << count
                         << " micro-batches; it needs at least 1";
      return signalPassFailure();
    }

    int64_t stages = 1;
    if (auto attr = module->getAttrOfType<IntegerAttr>("dist.stages"))
      stages = attr.getInt();
    if (pipeline != "1f1b" && pipeline != "gpipe") {
      module.emitError() << "pipeline schedule '" << pipeline
                         << "' is unknown; help: 1f1b or gpipe";
      return signalPassFailure();
    }
    auto isThere = [&](StringRef kind, int64_t place) {
      return programs.contains({kind, place});
    };
    SmallVector<StageSchedule> schedules;
    for (int64_t stage = 0; stage < stages; ++stage) {
      if (isThere("forward", stage) || isThere("backward", stage) ||
          isThere("update", stage))
        schedules.push_back(
            trainStage(programs, stage,
                       pipeline == "gpipe" && stages > 1
                           ? runGpipe(count)
                           : runOneForwardOneBackward(stage, stages, count)));
      if (isThere("evaluate", stage))
        schedules.push_back(evaluateStage(programs, stage, count));
    }
    for (auto &[key, name] : programs) {
      StringRef program = name;
      bool isCalled = llvm::any_of(schedules, [&](StageSchedule &schedule) {
        for (const Call &call : schedule.calls)
          if (call.program == program)
            return true;
        return false;
      });
      if (!isCalled)
        schedules.push_back({key.first, key.second, {{name}}});
    }

    OpBuilder builder(module.getContext());
    builder.setInsertionPointToEnd(module.getBody());
    for (StageSchedule &schedule : schedules) {
      int64_t slots = assignSlots(schedule);
      numSlots.updateMax(slots);
      numCalls += schedule.calls.size();
      build(builder, module.getLoc(), schedule);
    }
  }
};

} // namespace
