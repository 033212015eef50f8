// The pass Schedule: which programs run in a step, in which order.
//
// PipelineSchedule says in which order a stage's chunks run their micro-batches
// forward and backward; here the programs of these tasks are found, and slots
// given out. A micro-batch holds a slot of a chunk's saved values from its
// first call to its last one; the lowest free slot is taken.
#include "dialects/dist/Dist.h"
#include "dialects/lm/Lm.h"
#include "dialects/plan/Plan.h"
#include "passes/plan/Passes.h"
#include "passes/plan/PipelineSchedule.h"

#include "mlir/Dialect/Func/IR/FuncOps.h"
#include "mlir/IR/BuiltinOps.h"
#include "llvm/ADT/MapVector.h"
#include "llvm/ADT/StringMap.h"
#include "llvm/ADT/StringSet.h"

namespace lmc::plan {
#define GEN_PASS_DEF_SCHEDULE
#include "passes/plan/Passes.h.inc"
} // namespace lmc::plan

using namespace mlir;
using namespace lmc::plan;
namespace dist = lmc::dist;
namespace lm = lmc::lm;

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

// The programs of a task, in order. A chunk whose backward nobody waits for has
// it whole: it runs as the weight half.
SmallVector<StringRef, 2> programsOf(const Programs &programs,
                                     const PipelineTask &task) {
  SmallVector<StringRef, 2> kinds;
  switch (task.work) {
  case PipelineTask::Forward:
    kinds = {"forward"};
    break;
  case PipelineTask::Backward:
    kinds = {"backward", "backward_input", "backward_weight"};
    break;
  case PipelineTask::InputHalf:
    kinds = {"backward_input"};
    break;
  case PipelineTask::WeightHalf:
    kinds = {"backward_weight", "backward"};
    break;
  }
  SmallVector<StringRef, 2> names;
  for (StringRef kind : kinds)
    if (StringRef name = programs.lookup({kind, task.chunk}); !name.empty())
      names.push_back(name);
  return names;
}

StageSchedule trainStage(const Programs &programs, int64_t stage,
                         ArrayRef<PipelineTask> tasks) {
  StageSchedule schedule{"train", stage, {}};
  for (const PipelineTask &task : tasks)
    for (StringRef name : programsOf(programs, task))
      schedule.calls.push_back({name, task.microBatch, 0, task.chunk});
  if (StringRef name = programs.lookup({"update", stage}); !name.empty())
    schedule.calls.push_back({name});
  return schedule;
}

// Micro-batches pass as they do in the forwards of training.
StageSchedule evaluateStage(const Programs &programs, int64_t stage,
                            ArrayRef<PipelineTask> tasks) {
  StageSchedule schedule{"evaluate", stage, {}};
  for (const PipelineTask &task : tasks)
    if (task.work == PipelineTask::Forward)
      if (StringRef name = programs.lookup({"evaluate", task.chunk});
          !name.empty())
        schedule.calls.push_back({name, task.microBatch});
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
    builder.create<CallOp>(loc, call.program, call.microBatch, call.slot,
                           DenseI64ArrayAttr());
}

// What a program takes, in FLOPs: a kernel computes or waits for memory, of
// which a byte takes as long as ten FLOPs on the CPUs of these years. Only
// ratios matter.
class Costs {
public:
  explicit Costs(ModuleOp module) : symbols(module) {}

  double of(StringRef program) {
    double cost = 0;
    if (auto function = symbols.lookup<func::FuncOp>(program))
      for (auto launch : function.getOps<LaunchOp>())
        cost += ofKernel(launch.getKernel());
    return cost;
  }

private:
  double ofKernel(StringRef name) {
    auto [known, isNew] = kernels.insert({name, 0});
    auto kernel = symbols.lookup<KernelOp>(name);
    if (!isNew || !kernel)
      return known->second;
    double flops = 0, bytes = 0;
    kernel.getBody().walk([&](lm::Costed op) { flops += op.getFlops(); });
    FunctionType type = kernel.getFunctionType();
    for (TypeRange types : {type.getInputs(), type.getResults()})
      for (Type each : types)
        if (auto tensor = dyn_cast<RankedTensorType>(each);
            tensor && tensor.hasStaticShape())
          bytes += double(tensor.getNumElements()) *
                   tensor.getElementTypeBitWidth() / 8;
    return known->second = std::max(flops, 10 * bytes);
  }

  SymbolTable symbols;
  llvm::StringMap<double> kernels;
};

struct SchedulePass : lmc::plan::impl::ScheduleBase<SchedulePass> {
  using ScheduleBase::ScheduleBase;

  void runOnOperation() override {
    Programs programs;
    FailureOr<PipelineShape> shape = readShape();
    if (failed(shape) || failed(findPrograms(programs)))
      return signalPassFailure();
    FailureOr<PipelineSchedule> pipelined = makeSchedule(*shape, programs);
    if (failed(pipelined))
      return signalPassFailure();
    SmallVector<StageSchedule> schedules;
    for (int64_t stage = 0; stage < shape->stages; ++stage) {
      const auto &tasks = pipelined->stages[stage];
      schedules.push_back(trainStage(programs, stage, tasks));
      schedules.push_back(evaluateStage(programs, stage, tasks));
    }
    llvm::erase_if(schedules, [](auto &each) { return each.calls.empty(); });
    llvm::StringSet<> called;
    for (StageSchedule &schedule : schedules)
      for (const Call &call : schedule.calls)
        called.insert(call.program);
    for (auto &[key, name] : programs)
      if (!called.contains(name))
        schedules.push_back({key.first, key.second, {{name}}});

    ModuleOp module = getOperation();
    OpBuilder builder(module.getContext());
    builder.setInsertionPointToEnd(module.getBody());
    for (StageSchedule &schedule : schedules) {
      int64_t slots = assignSlots(schedule);
      numSlots.updateMax(slots);
      numCalls += schedule.calls.size();
      build(builder, module.getLoc(), schedule);
    }
  }

  LogicalResult findPrograms(Programs &programs) {
    for (auto function : getOperation().getOps<func::FuncOp>()) {
      auto kind = function->getAttrOfType<StringAttr>(kProgramAttr);
      if (!kind)
        continue;
      auto place = function->getAttrOfType<IntegerAttr>(
          function->hasAttr(kChunkAttr) ? kChunkAttr : kStageAttr);
      std::pair<StringRef, int64_t> key{kind.getValue(),
                                        place ? place.getInt() : 0};
      if (!programs.insert({key, function.getName()}).second)
        return function.emitOpError()
               << "is a second program \"" << kind.getValue() << "\" beside @"
               << programs.lookup(key);
    }
    return success();
  }

  FailureOr<PipelineShape> readShape() {
    ModuleOp module = getOperation();
    auto integer = [&](StringRef name, int64_t otherwise) {
      auto attr = module->getAttrOfType<IntegerAttr>(name);
      return attr ? attr.getInt() : otherwise;
    };
    PipelineShape shape;
    shape.microBatches =
        microBatches ? int64_t(microBatches) : integer("lm.micro_batches", 1);
    if (shape.microBatches < 1)
      return module.emitError() << "a step of " << shape.microBatches
                                << " micro-batches; it needs at least 1";
    shape.stages = integer(dist::kStagesAttr, 1);
    int64_t chunks = integer(dist::kChunksAttr, shape.stages);
    if (shape.stages < 1 || chunks < 1 || chunks % shape.stages != 0)
      return module.emitError() << chunks << " chunks do not go evenly onto "
                                << shape.stages << " stages";
    shape.virtualStages = chunks / shape.stages;
    return shape;
  }

  FailureOr<PipelineSchedule> makeSchedule(const PipelineShape &shape,
                                           const Programs &programs) {
    std::string complaint = checkSettings(pipeline, shape);
    if (!complaint.empty())
      return refuse(complaint);
    if (pipeline == "gpipe" && shape.stages > 1)
      return makeGpipe(shape);
    if (pipeline == "interleaved")
      return makeInterleaved(shape);
    if (pipeline == "zb" && shape.stages > 1)
      return makeZeroBubble(shape, costsOf(shape, programs));
    if (isNamedSchedule(pipeline))
      return makeOneForwardOneBackward(shape);
    return readSchedule(shape);
  }

  std::vector<ChunkCost> costsOf(const PipelineShape &shape,
                                 const Programs &programs) {
    Costs costs(getOperation());
    std::vector<ChunkCost> chunks;
    for (int64_t chunk = 0; chunk < shape.chunks(); ++chunk) {
      auto cost = [&](PipelineTask::Work work) {
        double sum = 0;
        for (StringRef name : programsOf(programs, {work, 0, chunk}))
          sum += costs.of(name);
        return sum;
      };
      chunks.push_back({cost(PipelineTask::Forward),
                        cost(PipelineTask::InputHalf),
                        cost(PipelineTask::WeightHalf)});
    }
    return chunks;
  }

  // Of the user's file.
  FailureOr<PipelineSchedule> readSchedule(const PipelineShape &shape) {
    std::string complaint;
    std::optional<PipelineSchedule> schedule =
        loadSchedule(pipeline, shape, complaint);
    if (!schedule)
      return refuse(complaint);
    return *schedule;
  }

  // With what helps in a note of its own.
  InFlightDiagnostic refuse(StringRef complaint) {
    auto [message, help] = complaint.split("; help: ");
    InFlightDiagnostic error = getOperation().emitError(message);
    if (!help.empty())
      error.attachNote() << "help: " << help;
    return error;
  }
};

} // namespace
