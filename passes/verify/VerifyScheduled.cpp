// The border behind schedule. Each check carries the label of the law in
// Passes.td that it enforces.
#include "passes/verify/Passes.h"

#include "dialects/dist/Dist.h"
#include "dialects/plan/Plan.h"

#include "mlir/Dialect/Func/IR/FuncOps.h"
#include "llvm/ADT/DenseMap.h"
#include "llvm/ADT/DenseSet.h"
#include "llvm/ADT/MapVector.h"
#include "llvm/ADT/StringSet.h"

#include <deque>
#include <map>
#include <tuple>

namespace lmc::verify {
#define GEN_PASS_DEF_VERIFYSCHEDULED
#include "passes/verify/Passes.h.inc"
} // namespace lmc::verify

using namespace mlir;
using namespace lmc;

namespace {

StringRef kindOf(func::FuncOp function) {
  auto program = function->getAttrOfType<StringAttr>(plan::kProgramAttr);
  return program ? program.getValue() : StringRef();
}

int64_t integerOf(func::FuncOp function, StringRef name) {
  auto attr = function->getAttrOfType<IntegerAttr>(name);
  return attr ? attr.getInt() : 0;
}

// Who holds a slot of a chunk, and how far it is.
struct Holder {
  int64_t microBatch = 0;
  bool hasInputHalf = false;
};

LogicalResult checkSchedule(plan::ScheduleOp schedule, SymbolTable &symbols,
                            llvm::StringSet<> &called) {
  // Of each chunk: the micro-batch that holds a slot.
  llvm::DenseMap<std::pair<int64_t, int64_t>, Holder> holders;
  llvm::DenseMap<StringRef, llvm::DenseSet<int64_t>> microBatches;
  for (auto call : schedule.getBody().getOps<plan::CallOp>()) {
    auto function = symbols.lookup<func::FuncOp>(call.getProgram());
    if (!function || kindOf(function).empty())
      return call.emitOpError()
             << "calls @" << call.getProgram() << ", which is no program";
    called.insert(call.getProgram());
    if (integerOf(function, plan::kStageAttr) != int64_t(schedule.getStage()))
      return call.emitOpError() // C2
             << "calls @" << call.getProgram() << " of stage "
             << integerOf(function, plan::kStageAttr);
    int64_t microBatch = call.getMicroBatch();
    if (!microBatches[call.getProgram()].insert(microBatch).second)
      return call.emitOpError() // C6
             << "calls @" << call.getProgram() << " a second time for "
             << "micro-batch " << microBatch;
    std::pair<int64_t, int64_t> place{integerOf(function, plan::kChunkAttr),
                                      call.getSlot()};
    auto held = holders.find(place);
    bool isHeld =
        held != holders.end() && held->second.microBatch == microBatch;
    StringRef kind = kindOf(function);
    if (kind == "forward") {
      if (held != holders.end())
        return call.emitOpError() // C4
               << "takes the slot of micro-batch " << held->second.microBatch
               << ", whose backward is still to come";
      holders[place] = {microBatch, false};
    } else if (kind == "backward" || kind == "backward_input") {
      if (!isHeld)
        return call.emitOpError("has no forward before it in its slot"); // C3
      held->second.hasInputHalf = true;
    } else if (kind == "backward_weight") {
      if (!isHeld || !held->second.hasInputHalf)
        return call.emitOpError( // C5
            "has no input half before it in its slot");
    }
    if (kind == "backward" || kind == "backward_weight")
      holders.erase(held);
  }
  return success();
}

// What has to do with other stages, in the order of a program.
SmallVector<Operation *> exchangesOf(func::FuncOp function) {
  SmallVector<Operation *> exchanges;
  for (Operation &op : function.getBody().front()) {
    auto axes = op.getAttrOfType<ArrayAttr>("axes");
    bool meets =
        isa<dist::DistDialect>(op.getDialect()) && axes &&
        llvm::is_contained(axes, StringAttr::get(op.getContext(), "pp"));
    if (meets || isa<dist::SendOp, dist::ReceiveOp>(op))
      exchanges.push_back(&op);
  }
  return exchanges;
}

// Runs the stages of one schedule in thought: a send does not wait, a receive
// waits for its send, a collective over pp for all stages.
class StageRunner {
public:
  StageRunner(SymbolTable &symbols, ArrayRef<plan::ScheduleOp> schedules) {
    for (plan::ScheduleOp schedule : schedules) {
      Stage &stage = stages[schedule.getStage()];
      for (auto call : schedule.getBody().getOps<plan::CallOp>()) {
        auto known = exchanges.find(call.getProgram());
        if (known == exchanges.end())
          known = exchanges
                      .insert({call.getProgram(),
                               exchangesOf(symbols.lookup<func::FuncOp>(
                                   call.getProgram()))})
                      .first;
        if (!known->second.empty())
          stage.calls.push_back({call, &known->second});
      }
    }
  }

  LogicalResult run();

private:
  struct Stage {
    std::vector<std::pair<plan::CallOp, const SmallVector<Operation *> *>>
        calls;
    size_t call = 0, next = 0; // exchange of that call

    Operation *current() const {
      return call < calls.size() ? (*calls[call].second)[next] : nullptr;
    }
    plan::CallOp caller() const { return calls[call].first; }
    void advance() {
      if (++next == calls[call].second->size()) {
        next = 0;
        ++call;
      }
    }
  };

  FailureOr<bool> advance(int64_t number, Stage &stage);
  bool meet();

  std::map<StringRef, SmallVector<Operation *>> exchanges; // of each program
  std::map<int64_t, Stage> stages;
  // By sender, receiver and channel: micro-batches on their way.
  std::map<std::tuple<int64_t, int64_t, int64_t>, std::deque<int64_t>> onWay;
};

// Does what a stage can do alone; true if that was something.
FailureOr<bool> StageRunner::advance(int64_t number, Stage &stage) {
  bool moved = false;
  for (Operation *op; (op = stage.current()); stage.advance(), moved = true) {
    int64_t microBatch = stage.caller().getMicroBatch();
    if (auto send = dyn_cast<dist::SendOp>(op)) {
      int64_t to = number + send.getStageOffset();
      onWay[{number, to, send.getChannel()}].push_back(microBatch);
      continue;
    }
    auto receive = dyn_cast<dist::ReceiveOp>(op);
    if (!receive)
      break;
    int64_t from = number + receive.getStageOffset();
    auto &waiting = onWay[{from, number, receive.getChannel()}];
    if (waiting.empty())
      break;
    if (waiting.front() != microBatch)
      return stage.caller().emitOpError() // C8
             << "receives what stage " << from << " sends for micro-batch "
             << waiting.front();
    waiting.pop_front();
  }
  return moved;
}

// Takes all stages past a collective if all stand before one.
bool StageRunner::meet() {
  for (auto &[number, stage] : stages)
    if (Operation *op = stage.current();
        !op || isa<dist::SendOp, dist::ReceiveOp>(op))
      return false;
  for (auto &[number, stage] : stages)
    stage.advance();
  return true;
}

LogicalResult StageRunner::run() {
  for (bool moved = true; moved;) {
    moved = false;
    for (auto &[number, stage] : stages) {
      FailureOr<bool> did = advance(number, stage);
      if (failed(did))
        return failure();
      moved |= *did;
    }
    moved = moved || meet();
  }
  SmallVector<std::pair<int64_t, plan::CallOp>> stuck;
  for (auto &[number, stage] : stages)
    if (stage.current())
      stuck.push_back({number, stage.caller()});
  if (!stuck.empty()) {
    InFlightDiagnostic diagnostic = stuck.front().second.emitOpError( // C7
        "waits for ever for another stage");
    for (auto [number, call] : ArrayRef(stuck).drop_front())
      diagnostic.attachNote(call.getLoc())
          << "stage " << number << " waits here";
    return diagnostic;
  }
  for (auto &[channel, waiting] : onWay)
    if (!waiting.empty())
      return stages[std::get<0>(channel)].calls.back().first.emitOpError() // C9
             << "leaves a value of stage " << std::get<0>(channel)
             << " for stage " << std::get<1>(channel)
             << " that is never received";
  return success();
}

LogicalResult check(ModuleOp module) {
  SymbolTable symbols(module);
  llvm::StringSet<> called;
  llvm::MapVector<StringRef, SmallVector<plan::ScheduleOp>> byName;
  for (auto schedule : module.getOps<plan::ScheduleOp>()) {
    if (failed(checkSchedule(schedule, symbols, called)))
      return failure();
    byName[schedule.getName()].push_back(schedule);
  }
  for (auto function : module.getOps<func::FuncOp>())
    if (!kindOf(function).empty() && !called.contains(function.getName()))
      return function.emitOpError("is called by no schedule"); // C1
  for (auto &[name, schedules] : byName)
    if (failed(StageRunner(symbols, schedules).run()))
      return failure();
  return success();
}

struct VerifyScheduledPass
    : lmc::verify::impl::VerifyScheduledBase<VerifyScheduledPass> {
  using VerifyScheduledBase::VerifyScheduledBase;

  void runOnOperation() override {
    if (failed(check(getOperation())))
      return signalPassFailure();
    markAllAnalysesPreserved();
  }
};

} // namespace
