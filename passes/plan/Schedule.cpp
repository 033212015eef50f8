// The pass Schedule: which programs run in a step, in which order.
//
// A pipeline stage's schedule is a list of calls; what a strategy decides is
// that list alone. Slots then follow from it: a micro-batch holds a slot from
// its first call to its last one, and the lowest free slot is taken.
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
  bool holdsSlot =
      false; // part of a micro-batch's way from forward to backward
};

struct StageSchedule {
  StringRef name;
  int64_t stage = 0;
  SmallVector<Call> calls;
};

// The programs by what they are.
using Programs = llvm::MapVector<StringRef, StringRef>;

// One micro-batch after the other: forward, then its backward at once. The
// last backward is followed by the update.
StageSchedule trainOneStage(const Programs &programs, int64_t microBatches) {
  StageSchedule schedule{"train", 0, {}};
  for (int64_t m = 0; m < microBatches; ++m)
    for (StringRef name : {"forward", "backward"})
      if (programs.count(name))
        schedule.calls.push_back({programs.lookup(name), m, 0, true});
  if (programs.count("update"))
    schedule.calls.push_back({programs.lookup("update")});
  return schedule;
}

StageSchedule evaluateOneStage(const Programs &programs, int64_t microBatches) {
  StageSchedule schedule{"evaluate", 0, {}};
  for (int64_t m = 0; m < microBatches; ++m)
    schedule.calls.push_back({programs.lookup("evaluate"), m});
  if (programs.count("evaluate_finish"))
    schedule.calls.push_back({programs.lookup("evaluate_finish")});
  return schedule;
}

// Gives each micro-batch the lowest slot that is free from its first call to
// its last one; returns how many are needed.
int64_t assignSlots(StageSchedule &schedule) {
  llvm::DenseMap<int64_t, size_t> lastCall; // of a micro-batch
  for (auto [index, call] : llvm::enumerate(schedule.calls))
    if (call.holdsSlot)
      lastCall[call.microBatch] = index;
  llvm::DenseMap<int64_t, int64_t> slotOf;
  SmallVector<bool> taken;
  for (auto [index, call] : llvm::enumerate(schedule.calls)) {
    if (!call.holdsSlot)
      continue;
    auto known = slotOf.find(call.microBatch);
    if (known == slotOf.end()) {
      size_t slot = llvm::find(taken, false) - taken.begin();
      if (slot == taken.size())
        taken.push_back(true);
      taken[slot] = true;
      known = slotOf.insert({call.microBatch, slot}).first;
    }
    call.slot = known->second;
    if (lastCall[call.microBatch] == index)
      taken[call.slot] = false;
  }
  return std::max<int64_t>(1, taken.size());
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
      if (!programs.insert({kind.getValue(), function.getName()}).second) {
        function.emitOpError()
            << "is a second program \"" << kind.getValue() << "\" beside @"
            << programs.lookup(kind.getValue());
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

    SmallVector<StageSchedule> schedules;
    if (programs.count("forward") || programs.count("backward") ||
        programs.count("update"))
      schedules.push_back(trainOneStage(programs, count));
    if (programs.count("evaluate"))
      schedules.push_back(evaluateOneStage(programs, count));
    for (auto [kind, name] : programs) {
      StringRef program = name;
      bool isCalled = llvm::any_of(schedules, [&](StageSchedule &schedule) {
        for (const Call &call : schedule.calls)
          if (call.program == program)
            return true;
        return false;
      });
      if (!isCalled)
        schedules.push_back({kind, 0, {{name}}});
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
