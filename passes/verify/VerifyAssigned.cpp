// The border behind assign. Each check carries the label of the law in
// Passes.td that it enforces.
#include "dialects/lm/Lm.h"
#include "dialects/plan/Matmul.h"
#include "passes/verify/Passes.h"

#include "mlir/IR/SymbolTable.h"
#include "llvm/ADT/StringMap.h"
#include "llvm/ADT/TypeSwitch.h"

#include <map>

namespace lmc::verify {
#define GEN_PASS_DEF_VERIFYASSIGNED
#include "passes/verify/Passes.h.inc"
} // namespace lmc::verify

using namespace mlir;
namespace lm = lmc::lm;
namespace plan = lmc::plan;

namespace {

// What an instruction does to a slice.
struct Use {
  plan::SliceAttr slice;
  bool reads = false, writes = false;
};

SmallVector<Use> usesOf(Operation &op) {
  SmallVector<Use> uses;
  TypeSwitch<Operation *>(&op)
      .Case([&](plan::RunOp run) {
        for (auto operand : run.getOperands().getAsRange<plan::OperandAttr>())
          uses.push_back(
              {operand.getSlice(), operand.reads(), operand.writes()});
      })
      .Case([&](plan::FillOp fill) {
        uses.push_back({fill.getSlice(), false, true});
      })
      .Case([&](plan::CopyOp copy) {
        uses.push_back({copy.getSource(), true, false});
        uses.push_back({copy.getTarget(), false, true});
      })
      .Case([&](plan::CollectiveOp collective) {
        if (collective.getSource() == collective.getTarget()) {
          uses.push_back({collective.getSource(), true, true});
        } else {
          uses.push_back({collective.getSource(), true, false});
          uses.push_back({collective.getTarget(), false, true});
        }
      })
      .Case([&](plan::SendOp send) {
        uses.push_back({send.getSlice(), true, false});
      })
      .Case([&](plan::ReceiveOp receive) {
        uses.push_back({receive.getSlice(), false, true});
      });
  return uses;
}

// Bytes that are written, as disjoint ranges begin -> end.
class Written {
public:
  void add(int64_t begin, int64_t end) {
    auto it = ranges.upper_bound(begin);
    if (it != ranges.begin() && std::prev(it)->second >= begin)
      --it;
    while (it != ranges.end() && it->first <= end) {
      begin = std::min(begin, it->first);
      end = std::max(end, it->second);
      it = ranges.erase(it);
    }
    ranges[begin] = end;
  }
  bool covers(int64_t begin, int64_t end) const {
    auto it = ranges.upper_bound(begin);
    return it != ranges.begin() && std::prev(it)->second >= end;
  }

private:
  std::map<int64_t, int64_t> ranges;
};

class BorderChecker {
public:
  explicit BorderChecker(ModuleOp module) : module(module), symbols(module) {}

  LogicalResult run();
  unsigned numSlices = 0, numUnproved = 0;

private:
  // How a program is called: on which stage, with which slots.
  struct Called {
    int64_t stage = 0;
    llvm::StringMap<int64_t> lastSlots; // of slot symbols
  };
  LogicalResult checkSlice(Operation *op, plan::SliceAttr slice, bool writes,
                           const Called &called);
  LogicalResult checkRun(plan::RunOp op);
  LogicalResult checkProgram(plan::ProgramOp program);
  LogicalResult checkSchedule(plan::ScheduleOp schedule);

  ModuleOp module;
  SymbolTable symbols;
  llvm::StringMap<plan::SymbolOp> planSymbols;
  std::vector<plan::SymbolOp> slotSymbols; // as they are declared
  llvm::StringMap<Called> calledPrograms;
};

// What `allocation` has on `stage`.
int64_t bytesOn(plan::AllocationOp allocation, int64_t stage) {
  std::optional<ArrayRef<int64_t>> bytes = allocation.getStageBytes();
  if (!bytes)
    return allocation.getBytes();
  return stage < int64_t(bytes->size()) ? (*bytes)[stage] : 0;
}

LogicalResult BorderChecker::checkSlice(Operation *op, plan::SliceAttr slice,
                                        bool writes, const Called &called) {
  ++numSlices;
  auto allocation =
      symbols.lookup<plan::AllocationOp>(slice.getAllocation().getValue());
  if (!allocation)
    return op->emitOpError() << "uses " << slice.getAllocation() // B2
                             << ", which is no allocation";
  int64_t low = slice.getOffset().getConstant(), high = low;
  for (auto [name, coefficient] :
       llvm::zip(slice.getOffset().getSymbols(),
                 slice.getOffset().getCoefficients())) {
    auto symbol = planSymbols.find(name.getValue());
    if (symbol == planSymbols.end())
      return op->emitOpError() << "depends on the symbol " << name // B2
                               << ", which is not declared";
    int64_t minimum = symbol->second.getMinimum();
    auto lastSlot = called.lastSlots.find(name.getValue());
    int64_t maximum = lastSlot != called.lastSlots.end()
                          ? lastSlot->second
                          : int64_t(symbol->second.getMaximum());
    low += std::min(coefficient * minimum, coefficient * maximum);
    high += std::max(coefficient * minimum, coefficient * maximum);
  }
  int64_t bytes = bytesOn(allocation, called.stage);
  if (low < 0 || high + slice.getBytes() > bytes)
    return op->emitOpError() // B2
           << "uses bytes [" << low << ", " << high + slice.getBytes()
           << ") of " << slice.getAllocation() << ", which has " << bytes;
  if (writes && (allocation.getContents() == "input" ||
                 allocation.getContents() == "constant"))
    return op->emitOpError() << "writes " << slice.getAllocation() // B2
                             << ", which holds " << allocation.getContents();
  return success();
}

bool isDynamic(Type type) {
  return !cast<RankedTensorType>(type).hasStaticShape();
}

// Of one row where the leading dim is dynamic.
int64_t bytesOf(Type type) {
  auto tensor = cast<RankedTensorType>(type);
  int64_t bytes = tensor.getElementTypeBitWidth() / 8;
  for (int64_t size : tensor.getShape())
    bytes *= ShapedType::isDynamic(size) ? 1 : size;
  return bytes;
}

// The most rows that a run may be given.
int64_t boundOf(plan::LinearAttr rows,
                const llvm::StringMap<plan::SymbolOp> &symbols) {
  int64_t bound = rows ? rows.getConstant() : 0;
  if (rows)
    for (auto [name, coefficient] :
         llvm::zip(rows.getSymbols(), rows.getCoefficients()))
      if (auto symbol = symbols.find(name.getValue());
          symbol != symbols.end()) {
        plan::SymbolOp op = symbol->second;
        bound += coefficient *
                 int64_t(coefficient > 0 ? op.getMaximum() : op.getMinimum());
      }
  return bound;
}

LogicalResult BorderChecker::checkRun(plan::RunOp op) {
  auto kernel = symbols.lookup<plan::KernelOp>(op.getKernel());
  if (!kernel)
    return op.emitOpError() << "runs @" << op.getKernel() // B3
                            << ", which is no kernel";
  struct Wanted {
    Type type;
    StringRef access;
  };
  SmallVector<Wanted> wanted;
  for (Type type : kernel.getArgumentTypes())
    wanted.push_back({type, "read"});
  for (auto [type, tied] :
       llvm::zip(kernel.getResultTypes(), kernel.getTied())) {
    if (tied >= 0)
      wanted[tied].access = "read_write";
    else
      wanted.push_back({type, "write"});
  }
  if (kernel.getKind() == plan::kMatmulKind)
    wanted.push_back(
        {RankedTensorType::get({plan::matmulWorkspaceBytes(kernel)},
                               Builder(op).getI8Type()),
         "write"});
  if (op.getOperands().size() != wanted.size())
    return op.emitOpError()
           << "gives " << op.getOperands().size() // B3
           << " operands to a kernel of " << wanted.size() << " pointers";
  int64_t bound = boundOf(op.getRowsAttr(), planSymbols);
  bool takesRows = false;
  for (auto [index, attr] : llvm::enumerate(op.getOperands())) {
    auto operand = cast<plan::OperandAttr>(attr);
    int64_t expected = bytesOf(wanted[index].type);
    if (isDynamic(wanted[index].type)) {
      takesRows = true;
      // A table that is gathered from has rows of its own.
      int64_t given = operand.getSlice().getBytes() / expected;
      expected *= wanted[index].access == "read" && given > 0 ? given : bound;
    }
    if (operand.getAccess() != wanted[index].access ||
        operand.getSlice().getBytes() != expected)
      return op.emitOpError() // B3
             << "gives operand " << index << " as "
             << operand.getAccess().getValue() << " of "
             << operand.getSlice().getBytes() << " bytes, its kernel has "
             << wanted[index].access << " of " << expected;
  }
  bool accumulates =
      kernel.getBody()
          .walk([](lm::AccumulateOp) { return WalkResult::interrupt(); })
          .wasInterrupted();
  size_t taken = size_t(accumulates) + size_t(takesRows);
  kernel.getBody().walk([&](lm::Drawing random) {
    taken += random.draws() && !random.getId() ? 2 : 0;
  });
  size_t given = op.getIntegers() ? op.getIntegers()->size() : 0;
  if (given != taken)
    return op.emitOpError() << "gives " << given // B3
                            << " integers to a kernel that takes " << taken;
  return success();
}

LogicalResult BorderChecker::checkProgram(plan::ProgramOp program) {
  llvm::DenseMap<Attribute, Written> written;
  Called called = calledPrograms.lookup(program.getSymName());
  for (Operation &op : program.getBody().front()) {
    SmallVector<Use> uses = usesOf(op);
    if (uses.empty() && !isa<plan::RunOp>(op))
      return op.emitOpError() << "is no instruction";
    for (const Use &use : uses)
      if (failed(checkSlice(&op, use.slice, use.writes, called)))
        return failure();
    if (auto run = dyn_cast<plan::RunOp>(op))
      if (failed(checkRun(run)))
        return failure();
    for (size_t i = 0; i < uses.size(); ++i)
      for (size_t j = i + 1; j < uses.size(); ++j) {
        plan::SliceAttr a = uses[i].slice, b = uses[j].slice;
        // Offsets that depend on different symbols are in different blocks.
        if (a.getAllocation() != b.getAllocation() ||
            !(uses[i].writes || uses[j].writes) ||
            a.getOffset().getSymbols() != b.getOffset().getSymbols() ||
            a.getOffset().getCoefficients() != b.getOffset().getCoefficients())
          continue;
        int64_t beginA = a.getOffset().getConstant();
        int64_t beginB = b.getOffset().getConstant();
        if (beginA < beginB + b.getBytes() && beginB < beginA + a.getBytes())
          return op.emitOpError()
                 << "writes operand " << i << " or " // B4
                 << j << ", which overlap in " << a.getAllocation();
      }
    for (const Use &use : uses) {
      auto allocation = symbols.lookup<plan::AllocationOp>(
          use.slice.getAllocation().getValue());
      if (!use.reads || allocation.getContents() != "scratch")
        continue;
      if (!use.slice.getOffset().getSymbols().empty()) {
        ++numUnproved;
        continue;
      }
      int64_t begin = use.slice.getOffset().getConstant();
      if (!written[use.slice.getAllocation()].covers(
              begin, begin + use.slice.getBytes()))
        return op.emitOpError() // B5
               << "reads bytes [" << begin << ", "
               << begin + use.slice.getBytes() << ") of "
               << use.slice.getAllocation()
               << ", which nothing in this call has written";
    }
    for (const Use &use : uses)
      if (use.writes && use.slice.getOffset().getSymbols().empty()) {
        int64_t begin = use.slice.getOffset().getConstant();
        written[use.slice.getAllocation()].add(begin,
                                               begin + use.slice.getBytes());
      }
  }
  return success();
}

LogicalResult BorderChecker::checkSchedule(plan::ScheduleOp schedule) {
  auto isInBounds = [](plan::SymbolOp symbol, int64_t value) {
    return value >= static_cast<int64_t>(symbol.getMinimum()) &&
           value <= static_cast<int64_t>(symbol.getMaximum());
  };
  auto microBatch = planSymbols.find(plan::kMicroBatch);
  for (auto call : schedule.getBody().getOps<plan::CallOp>()) {
    if (!symbols.lookup<plan::ProgramOp>(call.getProgram()))
      return call.emitOpError() << "calls @" << call.getProgram() // B6
                                << ", which is no program";
    if (microBatch != planSymbols.end() && // else nothing depends on it
        !isInBounds(microBatch->second, call.getMicroBatch()))
      return call.emitOpError()
             << "gives micro-batch " // B6
             << call.getMicroBatch() << ", which is out of its bounds";
    ArrayRef<int64_t> slots =
        call.getSlotValues().value_or(ArrayRef<int64_t>());
    if (slots.size() != slotSymbols.size())
      return call.emitOpError()
             << "gives " << slots.size() // B6
             << " slot values for " << slotSymbols.size() << " symbols";
    for (auto [symbol, slot] : llvm::zip(slotSymbols, slots))
      if (!isInBounds(symbol, slot))
        return call.emitOpError() // B6
               << "gives \"" << symbol.getName() << "\" the value " << slot
               << ", which is out of its bounds";
  }
  return success();
}

LogicalResult BorderChecker::run() {
  for (auto symbol : module.getOps<plan::SymbolOp>()) {
    planSymbols[symbol.getName()] = symbol;
    if (symbol.getKind() == "slot")
      slotSymbols.push_back(symbol);
  }
  for (auto schedule : module.getOps<plan::ScheduleOp>())
    for (auto call : schedule.getBody().getOps<plan::CallOp>()) {
      Called &called = calledPrograms[call.getProgram()];
      called.stage = schedule.getStage();
      for (auto [symbol, slot] :
           llvm::zip(slotSymbols,
                     call.getSlotValues().value_or(ArrayRef<int64_t>()))) {
        int64_t &last = called.lastSlots[symbol.getName()];
        last = std::max(last, slot);
      }
    }
  for (Operation &op : *module.getBody()) {
    if (op.hasAttr(plan::kProgramAttr))
      return op.emitOpError() << "is a program on tensors still"; // B1
    if (auto slice = op.getAttrOfType<plan::SliceAttr>(plan::kSliceAttr)) {
      SmallVector<int64_t> stages{0};
      if (auto held = op.getAttrOfType<DenseI64ArrayAttr>(plan::kStagesAttr))
        stages.assign(held.asArrayRef().begin(), held.asArrayRef().end());
      for (int64_t stage : stages)
        if (failed(checkSlice(&op, slice, false, {stage, {}})))
          return failure();
    }
    LogicalResult result = success();
    if (auto program = dyn_cast<plan::ProgramOp>(op))
      result = checkProgram(program);
    else if (auto schedule = dyn_cast<plan::ScheduleOp>(op))
      result = checkSchedule(schedule);
    if (failed(result))
      return failure();
  }
  return success();
}

struct VerifyAssignedPass
    : lmc::verify::impl::VerifyAssignedBase<VerifyAssignedPass> {
  using VerifyAssignedBase::VerifyAssignedBase;

  void runOnOperation() override {
    BorderChecker checker(getOperation());
    if (failed(checker.run()))
      return signalPassFailure();
    numSlices += checker.numSlices;
    numUnproved += checker.numUnproved;
    markAllAnalysesPreserved();
  }
};

} // namespace
