// The last step of the pass Assign: declarations and instructions, now that all
// bytes are known.
#include "passes/plan/Assigner.h"

using namespace mlir;
using namespace lmc::plan;
namespace dist = lmc::dist;
namespace lm = lmc::lm;

void Assigner::buildDeclarations() {
  Location loc = module.getLoc();
  auto integer = [&](int64_t value) {
    return builder.getI64IntegerAttr(value);
  };
  if (microBatches > 1)
    builder.create<SymbolOp>(loc, kMicroBatch, "micro_batch", 0,
                             microBatches - 1, IntegerAttr());
  for (auto [index, last] : llvm::enumerate(lastSlots))
    if (last > 0)
      builder.create<SymbolOp>(loc, slotName(index), "slot", 0, last,
                               IntegerAttr());
  if (auto sizes = module->getAttrOfType<DictionaryAttr>(lm::kSizesAttr))
    for (NamedAttribute size : sizes)
      builder.create<SymbolOp>(loc, size.getName().getValue(), "size", 0,
                               cast<IntegerAttr>(size.getValue()).getInt(),
                               IntegerAttr());
  if (auto mesh = module->getAttrOfType<dist::MeshAttr>(dist::kMeshAttr))
    for (auto [index, axis] : llvm::enumerate(mesh.getAxes()))
      if (StringRef axisName = cast<StringAttr>(axis);
          mesh.getSize(axisName) > 1)
        builder.create<SymbolOp>(loc, ("coordinate." + axisName).str(),
                                 "coordinate", 0, mesh.getSize(axisName) - 1,
                                 integer(index));
  for (auto &[name, port] : scalars)
    builder.create<ScalarOp>(
        loc, name, port.type,
        slice(allocations["scalars"], linear(port.offset), port.bytes));
  for (auto &[name, port] : inputs)
    builder.create<InputOp>(
        loc, builder.getStringAttr(name), TypeAttr::get(port.type),
        slice(allocations["inputs"], linear(port.offset), port.bytes),
        integer(port.microBatches));
  for (auto &[name, port] : outputs)
    builder.create<OutputOp>(
        loc, builder.getStringAttr(name), TypeAttr::get(port.type),
        slice(allocations["outputs"], linear(port.offset), port.bytes),
        integer(port.microBatches));
}

SliceAttr Assigner::sliceOf(const AssignedProgram &program,
                            const Step::Use &use) {
  const Home &home = program.homes.homes[use.place.home];
  SliceAttr whole = home.kind == Home::Saved && home.owner >= 0
                        ? programs[home.ownerProgram].slices[home.owner]
                        : program.slices[use.place.home];
  return slice(whole.getAllocation(), whole.getOffset().plus(use.place.offset),
               use.bytes);
}

// The index of a tensor's first random number among those of the whole step:
// data ranks have one run of samples behind the other, micro-batches in order.
LinearAttr Assigner::firstElement(lm::Drawing random) {
  auto type = cast<RankedTensorType>(random.getDrawnFor().getType());
  SmallVector<int64_t> whole(type.getShape());
  if (auto shape = random->getAttrOfType<DenseI64ArrayAttr>("whole"))
    whole.assign(shape.asArrayRef().begin(), shape.asArrayRef().end());
  int64_t perElement = random.getDrawnPerElement();
  int64_t elements = lm::product(whole) * perElement;
  LinearAttr first = linear(0);
  if (microBatches > 1)
    first = first.plus(elements, kMicroBatch);
  auto mesh = module->getAttrOfType<dist::MeshAttr>(dist::kMeshAttr);
  int64_t stride = elements * microBatches;
  for (StringRef axis : {"fsdp", "dp"}) {
    if (!mesh || mesh.getSize(axis) == 1)
      continue;
    first = first.plus(stride, ("coordinate." + axis).str());
    stride *= mesh.getSize(axis);
  }
  // A part of a sample begins where its rank says, the last axis of a dim
  // counting single parts.
  auto axes = random->getAttrOfType<ArrayAttr>("axes");
  for (int64_t dim = 1; axes && dim < type.getRank(); ++dim) {
    stride = lm::product(ArrayRef(whole).drop_front(dim + 1)) * perElement *
             type.getDimSize(dim);
    for (Attribute axis : llvm::reverse(cast<ArrayAttr>(axes[dim]))) {
      StringRef name = cast<StringAttr>(axis).getValue();
      first = first.plus(stride, ("coordinate." + name).str());
      stride *= mesh.getSize(name);
    }
  }
  return first;
}

void Assigner::buildRun(const AssignedProgram &program, const Step &step,
                        LaunchOp launch) {
  SmallVector<Attribute> operands, integers;
  for (const Step::Use &use : step.uses) {
    static constexpr StringLiteral names[] = {"read", "write", "read_write"};
    operands.push_back(OperandAttr::get(
        module.getContext(), builder.getStringAttr(names[use.access]),
        sliceOf(program, use)));
  }
  auto kernel = symbols.lookup<KernelOp>(launch.getKernel());
  bool accumulates =
      kernel.getBody()
          .walk([](lm::AccumulateOp) { return WalkResult::interrupt(); })
          .wasInterrupted();
  if (accumulates)
    integers.push_back(microBatches > 1 ? linear(0).plus(1, kMicroBatch)
                                        : linear(0));
  LinearAttr rows;
  if (StringRef size = program.homes.sizes.rowsOf(launch); !size.empty()) {
    rows = linear(0).plus(1, size);
    integers.push_back(rows);
  }
  if (auto ids = launch.getRandomIds()) {
    SmallVector<LinearAttr> firsts;
    kernel.getBody().walk([&](lm::Drawing random) {
      if (random.draws())
        firsts.push_back(firstElement(random));
    });
    for (auto [id, first] : llvm::zip(*ids, firsts)) {
      integers.push_back(linear(id));
      integers.push_back(first);
    }
  }
  builder.create<RunOp>(
      step.loc, launch.getKernelAttr(), builder.getArrayAttr(operands),
      integers.empty() ? nullptr : builder.getArrayAttr(integers), rows);
}

// Axes are indices into the mesh, slowest first.
void Assigner::buildCollective(const AssignedProgram &program,
                               const Step &step) {
  SmallVector<int64_t> axes;
  auto mesh = module->getAttrOfType<dist::MeshAttr>(dist::kMeshAttr);
  for (Attribute axis : dist::axesOf(step.op))
    axes.push_back(llvm::find(mesh.getAxes(), axis) - mesh.getAxes().begin());
  llvm::sort(axes);
  auto type = cast<RankedTensorType>(step.op->getOperand(0).getType());
  auto reduce = dyn_cast<dist::AllReduceOp>(step.op);
  builder.create<CollectiveOp>(
      step.loc, builder.getStringAttr(step.op->getName().stripDialect()),
      builder.getStringAttr(reduce ? reduce.getKind() : "sum"),
      TypeAttr::get(type.getElementType()), builder.getDenseI64ArrayAttr(axes),
      sliceOf(program, step.uses.front()), sliceOf(program, step.uses.back()));
}

void Assigner::buildProgram(AssignedProgram &program) {
  OpBuilder::InsertionGuard guard(builder);
  func::FuncOp function = program.function;
  builder.setInsertionPoint(function);
  auto op = builder.create<ProgramOp>(function.getLoc(), function.getName(),
                                      program.chunk);
  builder.setInsertionPointToEnd(&op.getBody().front());
  for (Step &step : program.homes.steps) {
    ++numInstructions;
    if (auto launch = dyn_cast_or_null<LaunchOp>(step.op))
      buildRun(program, step, launch);
    else if (dist::isCollective(step.op))
      buildCollective(program, step);
    else if (auto send = dyn_cast_or_null<dist::SendOp>(step.op))
      builder.create<SendOp>(step.loc, sliceOf(program, step.uses[0]),
                             send.getStageOffset(), send.getChannel());
    else if (auto receive = dyn_cast_or_null<dist::ReceiveOp>(step.op))
      builder.create<ReceiveOp>(step.loc, sliceOf(program, step.uses[0]),
                                receive.getStageOffset(), receive.getChannel());
    else
      builder.create<CopyOp>(step.loc, sliceOf(program, step.uses[0]),
                             sliceOf(program, step.uses[1]));
  }
  function.erase();
}
