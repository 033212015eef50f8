// PlanWriter's programs and schedules.
#include "passes/emit/PlanWriter.h"

#include "llvm/ADT/StringSwitch.h"
#include "llvm/ADT/TypeSwitch.h"

using namespace mlir;
using namespace lmc::emit;
namespace plan = lmc::plan;
namespace codegen = lmc::codegen;
namespace dist = lmc::dist;

LogicalResult PlanWriter::writeRun(plan::RunOp op,
                                   const codegen::KernelFacts &facts,
                                   unsigned kernel,
                                   plan::Instruction *message) {
  if (op.getOperands().size() != facts.pointers)
    return op.emitOpError()
           << "gives " << op.getOperands().size() << " operands to a kernel of "
           << facts.pointers << " pointers";
  ArrayAttr integers = op.getIntegersAttr();
  size_t given = integers ? integers.size() : 0;
  if (given != facts.integers())
    return op.emitOpError()
           << "gives " << given << " integers to a kernel that takes "
           << facts.integers();
  plan::Launch *launch = message->mutable_launch();
  launch->set_kernel(kernel);
  int64_t moved = 0;
  for (auto operand : op.getOperands().getAsRange<plan::OperandAttr>()) {
    plan::Operand *target = launch->add_operands();
    target->set_access(
        llvm::StringSwitch<plan::Operand::Access>(operand.getAccess())
            .Case("read", plan::Operand::READ)
            .Case("write", plan::Operand::WRITE)
            .Default(plan::Operand::READ_WRITE));
    moved += operand.getSlice().getBytes() *
             (int(operand.reads()) + int(operand.writes()));
    if (failed(write(op, operand.getSlice(), target->mutable_slice())))
      return failure();
  }
  for (Attribute integer :
       integers ? integers.getValue() : ArrayRef<Attribute>())
    if (failed(
            write(op, cast<plan::LinearAttr>(integer), launch->add_integers())))
      return failure();
  message->set_flops(facts.flops);
  message->set_bytes_moved(moved);
  if (plan::LinearAttr rows = op.getRowsAttr())
    return write(op, rows, launch->mutable_rows());
  launch->mutable_rows()->set_constant(facts.rows);
  return success();
}

LogicalResult PlanWriter::writeMatmul(plan::RunOp op, plan::KernelOp kernel,
                                      plan::Instruction *message) {
  std::optional<plan::MatmulFacts> facts = plan::describeMatmul(kernel);
  ArrayAttr operands = op.getOperands();
  bool isTied = kernel.getTied().front() >= 0;
  size_t target = isTied ? kernel.getTied().front() : kernel.getNumArguments();
  if (!facts || operands.size() != kernel.getNumArguments() + (isTied ? 1 : 2))
    return op.emitOpError() << "runs @" << kernel.getSymName()
                            << ", which is no product of a library, or gives "
                               "it other operands";
  int64_t moved = 0;
  auto slice = [&](size_t index, plan::Slice *into) {
    plan::SliceAttr attr = cast<plan::OperandAttr>(operands[index]).getSlice();
    if (index + 1 != operands.size())
      moved += attr.getBytes();
    return write(op, attr, into);
  };
  plan::Matmul *matmul = message->mutable_matmul();
  // The micro-batch is the first of the integers; where there is but one,
  // nothing is added to.
  plan::Linear *adds = matmul->mutable_adds();
  adds->set_constant(facts->addend ? 1 : 0);
  if (facts->accumulates &&
      failed(write(op, cast<plan::LinearAttr>((*op.getIntegers())[0]), adds)))
    return failure();
  bool hasAddend = adds->constant() != 0 || adds->terms_size() > 0;
  if (failed(slice(facts->left, matmul->mutable_left())) ||
      failed(slice(facts->right, matmul->mutable_right())) ||
      failed(slice(target, matmul->mutable_target())) ||
      failed(slice(operands.size() - 1, matmul->mutable_workspace())) ||
      (facts->bias && failed(slice(*facts->bias, matmul->mutable_bias()))) ||
      (hasAddend && failed(slice(*facts->addend, matmul->mutable_addend()))))
    return failure();
  matmul->set_columns(facts->columns);
  matmul->set_depth(facts->depth);
  matmul->set_left_transposed(facts->leftTransposed);
  matmul->set_right_transposed(facts->rightTransposed);
  message->set_bytes_moved(moved);
  matmul->mutable_rows()->set_constant(facts->rows);
  message->set_flops(2 * facts->rows * facts->columns * facts->depth);
  return success();
}

LogicalResult PlanWriter::writeInstruction(Operation *op,
                                           plan::Instruction *message) {
  message->set_location(getLocation(op->getLoc()));
  auto transfer = [&](auto typed, plan::Transfer *target) {
    target->set_stage_offset(typed.getStageOffset());
    target->set_channel(typed.getChannel());
    message->set_bytes_moved(typed.getSlice().getBytes());
    return write(op, typed.getSlice(), target->mutable_slice());
  };
  return TypeSwitch<Operation *, LogicalResult>(op)
      .Case([&](plan::RunOp run) {
        auto op = states.lookup<plan::KernelOp>(run.getKernel());
        if (op.getKind() == plan::kMatmulKind)
          return writeMatmul(run, op, message);
        unsigned kernel = kernelIndices.lookup(run.getKernel());
        return writeRun(run, kernelFacts[kernel], kernel, message);
      })
      .Case([&](plan::FillOp fill) {
        message->set_bytes_moved(fill.getSlice().getBytes());
        return write(op, fill.getSlice(),
                     message->mutable_fill()->mutable_slice());
      })
      .Case([&](plan::CopyOp copy) {
        message->set_bytes_moved(2 * copy.getSource().getBytes());
        if (failed(write(op, copy.getSource(),
                         message->mutable_copy()->mutable_source())))
          return failure();
        return write(op, copy.getTarget(),
                     message->mutable_copy()->mutable_target());
      })
      .Case([&](plan::CollectiveOp collective) -> LogicalResult {
        plan::Collective *target = message->mutable_collective();
        if (std::optional<int64_t> number = dist::reshardAt(op->getLoc())) {
          reshards.insert(*number);
          message->set_of_reshard(true);
        }
        target->set_kind(
            llvm::StringSwitch<plan::Collective::Kind>(collective.getKind())
                .Case("all_reduce", plan::Collective::ALL_REDUCE)
                .Case("reduce_scatter", plan::Collective::REDUCE_SCATTER)
                .Case("all_gather", plan::Collective::ALL_GATHER)
                .Case("all_to_all", plan::Collective::ALL_TO_ALL)
                .Default(plan::Collective::BROADCAST));
        target->set_reduction(collective.getReduction() == "max"
                                  ? plan::Collective::MAX
                                  : plan::Collective::SUM);
        FailureOr<plan::DataType> dtype =
            getDataType(op, collective.getElement());
        if (failed(dtype))
          return failure();
        target->set_dtype(*dtype);
        for (int64_t axis : collective.getAxes())
          target->add_axes(axis);
        message->set_bytes_moved(collective.getSource().getBytes() +
                                 collective.getTarget().getBytes());
        if (failed(write(op, collective.getSource(), target->mutable_source())))
          return failure();
        return write(op, collective.getTarget(), target->mutable_target());
      })
      .Case([&](plan::SendOp send) {
        return transfer(send, message->mutable_send());
      })
      .Case([&](plan::ReceiveOp receive) {
        return transfer(receive, message->mutable_receive());
      })
      .Default([](Operation *other) {
        return other->emitOpError() << "is no instruction of a plan";
      });
}

LogicalResult PlanWriter::writePrograms(ArrayRef<plan::KernelOp> kernels,
                                        ArrayRef<codegen::KernelFacts> facts) {
  kernelFacts = facts;
  int launched = 0; // whose variants follow it
  for (auto [kernel, fact] : llvm::zip(kernels, facts)) {
    plan::KernelOp op = kernel;
    if (fact.mostRows == 0) {
      launched = plan.kernels_size();
    } else {
      plan::Kernel::Variant *variant =
          plan.mutable_kernels(launched)->add_variants();
      variant->set_most_rows(fact.mostRows);
      variant->set_kernel(plan.kernels_size());
    }
    kernelIndices[op.getSymName()] = plan.kernels_size();
    plan::Kernel *message = plan.add_kernels();
    message->set_name(op.getSymName().str());
    message->set_symbol(fact.symbol);
    message->set_rows_per_unit(fact.rowsPerUnit);
    message->set_columns(fact.columns);
    message->set_operands(fact.pointers);
    message->set_integers(fact.integers());
    message->set_stack_bytes(fact.stackBytes);
    message->set_kind(op.getKind().str());
    message->set_threads(fact.threads);
    message->set_shared_bytes(fact.sharedBytes);
  }
  for (auto op : module.getOps<plan::ProgramOp>()) {
    programs[op.getSymName()] = plan.programs_size();
    plan::Program *message = plan.add_programs();
    message->set_name(op.getSymName().str());
    message->set_chunk(op.getChunk());
    for (Operation &instruction : op.getBody().front())
      if (failed(writeInstruction(&instruction, message->add_instructions())))
        return failure();
  }
  return success();
}

LogicalResult PlanWriter::writeSchedules() {
  for (auto op : module.getOps<plan::ScheduleOp>()) {
    plan::Schedule *message = plan.add_schedules();
    message->set_name(op.getName().str());
    message->set_stage(op.getStage());
    for (auto call : op.getBody().getOps<plan::CallOp>()) {
      auto known = programs.find(call.getProgram());
      if (known == programs.end())
        return call.emitOpError()
               << "calls @" << call.getProgram() << ", which is no program";
      plan::Call *target = message->add_calls();
      target->set_program(known->second);
      target->set_micro_batch(call.getMicroBatch());
      for (int64_t value : call.getSlotValues().value_or(ArrayRef<int64_t>()))
        target->add_slots(value);
    }
  }
  return success();
}
