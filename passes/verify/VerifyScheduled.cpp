// The border behind schedule. Each check carries the label of the law in
// Passes.td that it enforces.
#include "passes/verify/Passes.h"

#include "dialects/plan/Plan.h"

#include "mlir/Dialect/Func/IR/FuncOps.h"
#include "llvm/ADT/DenseMap.h"
#include "llvm/ADT/StringSet.h"

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

LogicalResult checkSchedule(plan::ScheduleOp schedule, SymbolTable &symbols,
                            llvm::StringSet<> &called) {
  // Of each chunk: the micro-batch that holds a slot.
  llvm::DenseMap<std::pair<int64_t, int64_t>, int64_t> holder;
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
    std::pair<int64_t, int64_t> place{integerOf(function, plan::kChunkAttr),
                                      call.getSlot()};
    int64_t microBatch = call.getMicroBatch();
    auto held = holder.find(place);
    if (kindOf(function) == "forward") {
      if (held != holder.end())
        return call.emitOpError() // C4
               << "takes the slot of micro-batch " << held->second
               << ", whose backward is still to come";
      holder[place] = microBatch;
    } else if (kindOf(function) == "backward") {
      if (held == holder.end() || held->second != microBatch)
        return call.emitOpError("has no forward before it in its slot"); // C3
      holder.erase(held);
    }
  }
  return success();
}

LogicalResult check(ModuleOp module) {
  SymbolTable symbols(module);
  llvm::StringSet<> called;
  for (auto schedule : module.getOps<plan::ScheduleOp>())
    if (failed(checkSchedule(schedule, symbols, called)))
      return failure();
  for (auto function : module.getOps<func::FuncOp>())
    if (!kindOf(function).empty() && !called.contains(function.getName()))
      return function.emitOpError("is called by no schedule"); // C1
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
