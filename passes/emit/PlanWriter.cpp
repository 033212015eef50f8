// See PlanWriter.h.
#include "passes/emit/PlanWriter.h"

#include "llvm/ADT/StringSwitch.h"

using namespace mlir;
using namespace lmc::emit;
namespace plan = lmc::plan;
namespace lm = lmc::lm;
namespace dist = lmc::dist;

// Run-time numbers that every training plan knows; a module's lm.scalars goes
// before it.
static std::optional<double> getUsualDefault(StringRef name) {
  return llvm::StringSwitch<std::optional<double>>(name)
      .Case("lr", 3e-4)
      .Case("beta1", 0.9)
      .Case("beta2", 0.95)
      .Case("eps", 1e-8)
      .Case("weight_decay", 0.1)
      .Case("clip_norm", 1.0)
      .Cases("bias_correction1", "bias_correction2", "loss_scale", 1.0)
      .Cases("seed.lo", "seed.hi", "step", "dropout", "tf32", 0.0)
      // The runtime sets a rank's coordinates.
      .StartsWith("coordinate.", 0.0)
      .Default(std::nullopt);
}

//===----------------------------------------------------------------------===//
// Attributes
//===----------------------------------------------------------------------===//

FailureOr<plan::DataType> PlanWriter::getDataType(Operation *op, Type type) {
  if (type.isF32())
    return plan::F32;
  if (type.isBF16())
    return plan::BF16;
  if (type.isF16())
    return plan::F16;
  if (type.isF64())
    return plan::F64;
  if (type.isInteger(32))
    return plan::I32;
  if (type.isInteger(64))
    return plan::I64;
  if (type.isInteger(8))
    return plan::U8;
  return op->emitOpError() << "has elements of type " << type
                           << ", which a plan cannot hold";
}

LogicalResult PlanWriter::write(Operation *op, plan::LinearAttr attr,
                                plan::Linear *message) {
  message->set_constant(attr.getConstant());
  for (auto [symbol, coefficient] :
       llvm::zip(attr.getSymbols(), attr.getCoefficients())) {
    auto known = symbols.find(symbol.getValue());
    if (known == symbols.end())
      return op->emitOpError()
             << "depends on the symbol " << symbol << ", which is not declared";
    plan::Linear::Term *term = message->add_terms();
    term->set_symbol(known->second);
    term->set_coefficient(coefficient);
  }
  return success();
}

LogicalResult PlanWriter::write(Operation *op, plan::SliceAttr attr,
                                plan::Slice *message) {
  auto known = allocations.find(attr.getAllocation().getValue());
  if (known == allocations.end())
    return op->emitOpError()
           << "uses " << attr.getAllocation() << ", which is no allocation";
  message->set_allocation(known->second);
  message->set_bytes(attr.getBytes());
  return write(op, attr.getOffset(), message->mutable_offset());
}

// The file, line and layer of a location, wherever they stand in it.
static void readLocation(Location loc, plan::Location &message) {
  if (auto name = dyn_cast<NameLoc>(loc)) {
    message.set_layer(name.getName().str());
    return readLocation(name.getChildLoc(), message);
  }
  if (auto file = dyn_cast<FileLineColLoc>(loc)) {
    message.set_file(file.getFilename().str());
    message.set_line(file.getLine());
    message.set_column(file.getColumn());
  } else if (auto fused = dyn_cast<FusedLoc>(loc)) {
    for (Location part : fused.getLocations()) {
      if (isa<UnknownLoc>(part))
        continue;
      return readLocation(part, message);
    }
  } else if (auto call = dyn_cast<CallSiteLoc>(loc)) {
    readLocation(call.getCallee(), message);
  }
}

// Location 0 is the unknown one.
uint32_t PlanWriter::getLocation(Location loc) {
  if (plan.locations_size() == 0)
    plan.add_locations();
  plan::Location message;
  readLocation(loc, message);
  std::string key = (Twine(message.file()) + "\n" + Twine(message.line()) +
                     "\n" + Twine(message.column()) + "\n" + message.layer())
                        .str();
  if (key == "\n0\n0\n")
    return 0;
  auto [entry, isNew] = locations.insert({key, plan.locations_size()});
  if (isNew)
    *plan.add_locations() = message;
  return entry->second;
}

//===----------------------------------------------------------------------===//
// What a plan declares
//===----------------------------------------------------------------------===//

void PlanWriter::writeTraining(DictionaryAttr given) {
  plan::Training *message = plan.mutable_training();
  auto integer = [&](StringRef name) {
    auto attr = given.getAs<IntegerAttr>(name);
    return attr ? attr.getInt() : 0;
  };
  auto decay = given.getAs<StringAttr>("decay");
  message->set_decay(
      llvm::StringSwitch<plan::Training::Decay>(decay ? decay.getValue() : "")
          .Case("linear", plan::Training::LINEAR)
          .Case("cosine", plan::Training::COSINE)
          .Default(plan::Training::CONSTANT));
  message->set_warmup_steps(integer("warmup_steps"));
  message->set_decay_steps(integer("decay_steps"));
  if (auto factor = given.getAs<FloatAttr>("minimum_factor"))
    message->set_minimum_factor(factor.getValueAsDouble());
  if (given.contains("seed"))
    message->set_seed(integer("seed"));
}

LogicalResult PlanWriter::writeSettings() {
  auto integer = [&](StringRef name) {
    auto attr = module->getAttrOfType<IntegerAttr>(name);
    return attr ? attr.getInt() : 0;
  };
  plan.set_sequence_length(integer("lm.sequence"));
  plan.set_micro_batch(integer("lm.micro_batch"));
  plan.set_micro_batches(integer("lm.micro_batches"));
  plan.set_global_batch(integer("lm.global_batch"));
  plan.set_vocabulary(integer("lm.vocabulary"));
  plan.set_max_positions(integer("lm.max_positions"));
  if (auto config = module->getAttrOfType<StringAttr>("lm.model_config"))
    plan.set_model_config(config.str());
  if (auto mode = module->getAttrOfType<StringAttr>("lm.mode")) {
    plan.set_mode(mode.str());
  } else {
    plan.set_mode("infer");
    for (auto schedule : module.getOps<plan::ScheduleOp>())
      if (schedule.getName() == "train")
        plan.set_mode("train");
  }
  if (auto training = module->getAttrOfType<DictionaryAttr>("lm.training"))
    writeTraining(training);
  auto settings = module->getAttrOfType<DictionaryAttr>("lm.settings");
  for (NamedAttribute setting :
       settings ? settings.getValue() : ArrayRef<NamedAttribute>()) {
    auto value = dyn_cast<StringAttr>(setting.getValue());
    if (!value)
      return module.emitError() << "the setting " << setting.getName()
                                << " is no string: " << setting.getValue();
    (*plan.mutable_settings())[setting.getName().str()] = value.str();
  }
  return success();
}

void PlanWriter::writeMesh() {
  auto mesh = module->getAttrOfType<dist::MeshAttr>(dist::kMeshAttr);
  if (!mesh)
    return;
  for (auto [axis, size] :
       llvm::zip(mesh.getAxes(), mesh.getSizes().asArrayRef())) {
    StringRef name = cast<StringAttr>(axis).getValue();
    plan::Mesh::Axis *message = plan.mutable_mesh()->add_axes();
    message->set_name(name.str());
    message->set_size(size);
  }
}

LogicalResult PlanWriter::writeScalar(plan::ScalarOp op) {
  auto type = cast<RankedTensorType>(op.getType());
  FailureOr<plan::DataType> dtype = getDataType(op, type.getElementType());
  if (failed(dtype))
    return failure();
  std::optional<double> value = getUsualDefault(op.getName());
  if (auto given = module->getAttrOfType<DictionaryAttr>("lm.scalars")) {
    Attribute attr = given.get(op.getName());
    if (auto number = dyn_cast_or_null<FloatAttr>(attr))
      value = number.getValueAsDouble();
    else if (auto number = dyn_cast_or_null<IntegerAttr>(attr))
      value = static_cast<double>(number.getInt());
    else if (attr)
      return module.emitError() << "lm.scalars gives \"" << op.getName()
                                << "\" no number but " << attr;
  }
  if (!value)
    return op.emitOpError() << "\"" << op.getName()
                            << "\" has no default; give it one in the "
                               "module's lm.scalars";
  plan::Scalar *message = plan.add_scalars();
  message->set_name(op.getName().str());
  message->set_dtype(*dtype);
  message->set_default_value(*value);
  return write(op, op.getSlice(), message->mutable_slice());
}

template <typename Op>
LogicalResult PlanWriter::writePort(Op op, plan::Port *port) {
  auto type = cast<RankedTensorType>(op.getType());
  FailureOr<plan::DataType> dtype = getDataType(op, type.getElementType());
  if (failed(dtype))
    return failure();
  port->set_name(op.getName().str());
  port->set_dtype(*dtype);
  // A leading dim that is counted at run time is given at its bound.
  int64_t rowBytes = type.getElementTypeBitWidth() / 8;
  for (int64_t size : type.getShape())
    rowBytes *= ShapedType::isDynamic(size) ? 1 : size;
  for (int64_t size : type.getShape())
    port->add_shape(ShapedType::isDynamic(size)
                        ? op.getSlice().getBytes() / rowBytes
                        : size);
  port->set_micro_batches(op.getMicroBatches());
  if (op.getName() == "tokens" || op.getName() == "targets")
    port->set_vocabulary(plan.vocabulary());
  return write(op, op.getSlice(), port->mutable_slice());
}

LogicalResult PlanWriter::writeDeclarations() {
  for (auto op : module.getOps<plan::SymbolOp>()) {
    symbols[op.getName()] = plan.symbols_size();
    if (op.getAxis())
      coordinates[plan.mesh().axes(*op.getAxis()).name()] = plan.symbols_size();
    plan::Symbol *message = plan.add_symbols();
    message->set_kind(llvm::StringSwitch<plan::Symbol::Kind>(op.getKind())
                          .Case("micro_batch", plan::Symbol::MICRO_BATCH)
                          .Case("slot", plan::Symbol::SLOT)
                          .Case("coordinate", plan::Symbol::COORDINATE)
                          .Default(plan::Symbol::SIZE));
    message->set_name(op.getName().str());
    message->set_axis(op.getAxis().value_or(0));
    message->set_minimum(op.getMinimum());
    message->set_maximum(op.getMaximum());
  }
  for (auto op : module.getOps<plan::AllocationOp>()) {
    allocations[op.getSymName()] = plan.allocations_size();
    plan::Allocation *message = plan.add_allocations();
    message->set_name(op.getSymName().str());
    message->set_memory(plan::DEVICE);
    message->set_bytes(op.getBytes());
    for (int64_t bytes : op.getStageBytes().value_or(ArrayRef<int64_t>()))
      message->add_stage_bytes(bytes);
    message->set_contents(
        llvm::StringSwitch<plan::Allocation::Contents>(op.getContents())
            .Case("saved", plan::Allocation::SAVED)
            .Case("state", plan::Allocation::STATE)
            .Case("input", plan::Allocation::INPUT)
            .Case("output", plan::Allocation::OUTPUT)
            .Case("constant", plan::Allocation::CONSTANT)
            .Default(plan::Allocation::SCRATCH));
  }
  for (auto op : module.getOps<plan::ScalarOp>())
    if (failed(writeScalar(op)))
      return failure();
  for (auto op : module.getOps<plan::InputOp>())
    if (failed(writePort(op, plan.add_inputs())))
      return failure();
  for (auto op : module.getOps<plan::OutputOp>())
    if (failed(writePort(op, plan.add_outputs())))
      return failure();
  return success();
}

//===----------------------------------------------------------------------===//
// States
//===----------------------------------------------------------------------===//

LogicalResult PlanWriter::writeTensor(Operation *op, Type type,
                                      plan::State *state) {
  auto tensor = cast<RankedTensorType>(type);
  FailureOr<plan::DataType> dtype = getDataType(op, tensor.getElementType());
  if (failed(dtype))
    return failure();
  state->set_name(SymbolTable::getSymbolName(op).str());
  state->set_dtype(*dtype);
  auto mesh = module->getAttrOfType<dist::MeshAttr>(dist::kMeshAttr);
  auto sharding = op->getAttrOfType<dist::ShardingAttr>(dist::kShardingAttr);
  auto parameter = dyn_cast<lm::ParameterOp>(op);
  if (auto owner = op->getAttrOfType<FlatSymbolRefAttr>("parameter"))
    parameter = states.lookup<lm::ParameterOp>(owner.getValue());
  ArrayRef<int64_t> global =
      parameter ? parameter.getUnpadded().value_or(tensor.getShape())
                : tensor.getShape();
  for (auto [dim, size] : llvm::enumerate(tensor.getShape())) {
    state->add_global_shape(global[dim]);
    plan::Linear *offset = state->add_local_offset();
    if (!mesh || !sharding) {
      state->add_local_shape(size);
      continue;
    }
    SmallVector<StringRef> axes = sharding.getAxes(dim);
    int64_t stride = dist::localSize(size, axes, mesh);
    state->add_local_shape(stride);
    // The last axis of a dim is its fastest.
    for (StringRef axis : llvm::reverse(axes)) {
      if (mesh.getSize(axis) == 1)
        continue;
      plan::Linear::Term *term = offset->add_terms();
      term->set_symbol(coordinates.lookup(axis));
      term->set_coefficient(stride);
      stride *= mesh.getSize(axis);
    }
  }
  if (auto stages = op->getAttrOfType<DenseI64ArrayAttr>(plan::kStagesAttr))
    for (int64_t stage : stages.asArrayRef())
      state->add_stages(stage);
  auto slice = op->getAttrOfType<plan::SliceAttr>(plan::kSliceAttr);
  if (!slice)
    return op->emitOpError() << "has no slice; run plan-assign first";
  writePiece(op, slice, state);
  return write(op, slice, state->mutable_slice());
}

// If the bucket of the tensor is cut into pieces.
void PlanWriter::writePiece(Operation *op, plan::SliceAttr slice,
                            plan::State *state) {
  auto name = op->getAttrOfType<FlatSymbolRefAttr>(dist::kBucketAttr);
  auto bucket =
      name ? states.lookup<lm::StateOp>(name.getValue()) : lm::StateOp();
  auto sharding =
      bucket ? bucket->getAttrOfType<dist::ShardingAttr>(dist::kShardingAttr)
             : dist::ShardingAttr();
  if (!sharding || sharding.getAxes(0).empty())
    return;
  auto mesh = module->getAttrOfType<dist::MeshAttr>(dist::kMeshAttr);
  plan::State::Piece *piece = state->mutable_piece();
  for (StringRef axis : sharding.getAxes(0))
    piece->add_axes(
        llvm::find(mesh.getAxes(), StringAttr::get(mesh.getContext(), axis)) -
        mesh.getAxes().begin());
  piece->set_elements(slice.getBytes() * 8 /
                      bucket.getTensorType().getElementTypeBitWidth());
  piece->set_offset(
      op->getAttrOfType<IntegerAttr>(dist::kBucketOffsetAttr).getInt());
}

// The integers of an array attribute of either form.
static LogicalResult
readIntegers(Operation *op, DictionaryAttr box, StringRef name,
             google::protobuf::RepeatedField<int64_t> *list) {
  Attribute attr = box.get(name);
  if (auto dense = dyn_cast_or_null<DenseI64ArrayAttr>(attr)) {
    list->Add(dense.asArrayRef().begin(), dense.asArrayRef().end());
    return success();
  }
  auto array = dyn_cast_or_null<ArrayAttr>(attr);
  if (!array)
    return op->emitOpError() << "has a box without the integers " << name;
  for (Attribute element : array) {
    auto integer = dyn_cast<IntegerAttr>(element);
    if (!integer)
      return op->emitOpError() << "has a box whose " << name
                               << " holds no integer but " << element;
    list->Add(integer.getInt());
  }
  return success();
}

LogicalResult PlanWriter::writeBoxes(lm::ParameterOp op, plan::State *state) {
  for (Attribute attr : op.getBoxesAttr() ? op.getBoxesAttr().getValue()
                                          : ArrayRef<Attribute>()) {
    auto box = dyn_cast<DictionaryAttr>(attr);
    auto names = box ? box.getAs<ArrayAttr>("names") : ArrayAttr();
    if (!names)
      return op.emitOpError() << "has a box without names: " << attr;
    plan::State::Box *message = state->add_boxes();
    for (Attribute name : names) {
      auto text = dyn_cast<StringAttr>(name);
      if (!text)
        return op.emitOpError() << "has a box named " << name;
      message->add_names(text.str());
    }
    if (failed(readIntegers(op, box, "file_shape",
                            message->mutable_file_shape())) ||
        failed(readIntegers(op, box, "split_shape",
                            message->mutable_split_shape())) ||
        failed(readIntegers(op, box, "permutation",
                            message->mutable_permutation())) ||
        failed(
            readIntegers(op, box, "box_shape", message->mutable_box_shape())) ||
        failed(
            readIntegers(op, box, "box_offset", message->mutable_box_offset())))
      return failure();
  }
  return success();
}

LogicalResult PlanWriter::writeParameter(lm::ParameterOp op) {
  plan::State *state = plan.add_states();
  state->set_kind(plan::State::PARAMETER);
  state->set_trainable(op.getTrainable());
  state->set_group(op.getGroup().str());
  plan::State::Initialization *initialization = state->mutable_initialization();
  DictionaryAttr given = op.getInitialization();
  auto kind = given.getAs<StringAttr>("kind");
  int value = kind
                  ? llvm::StringSwitch<int>(kind.getValue())
                        .Case("zeros", plan::State::Initialization::ZEROS)
                        .Case("ones", plan::State::Initialization::ONES)
                        .Case("normal", plan::State::Initialization::NORMAL)
                        .Case("uniform", plan::State::Initialization::UNIFORM)
                        .Case("constant", plan::State::Initialization::CONSTANT)
                        .Default(-1)
                  : -1;
  if (value < 0)
    return op.emitOpError() << "is initialised by " << given
                            << "; kinds are zeros, ones, normal, uniform and "
                               "constant";
  initialization->set_kind(
      static_cast<plan::State::Initialization::Kind>(value));
  if (auto scale = given.getAs<FloatAttr>("scale"))
    initialization->set_scale(scale.getValueAsDouble());
  if (auto id = given.getAs<IntegerAttr>("id"))
    initialization->set_id(id.getValue().getZExtValue());
  if (failed(writeTensor(op, op.getType(), state)))
    return failure();
  return writeBoxes(op, state);
}

LogicalResult PlanWriter::writeConstant(lm::StateOp op) {
  auto values = dyn_cast_or_null<DenseElementsAttr>(op.getValuesAttr());
  auto slice = op->getAttrOfType<plan::SliceAttr>(plan::kSliceAttr);
  if (!values || !slice)
    return op.emitOpError() << "is a constant without values or bytes";
  plan::Constant *message = plan.add_constants();
  ArrayRef<char> data = values.getRawData();
  std::string bytes(data.begin(), data.end());
  if (values.isSplat()) {
    bytes.clear();
    for (int64_t i = 0, e = values.getNumElements(); i < e; ++i)
      bytes.append(data.begin(), data.end());
  }
  if (static_cast<int64_t>(bytes.size()) != slice.getBytes())
    return op.emitOpError() << "has " << bytes.size() << " bytes of values for "
                            << slice.getBytes();
  message->set_data(std::move(bytes));
  return write(op, slice, message->mutable_slice());
}

LogicalResult PlanWriter::writeState(lm::StateOp op) {
  if (op.getKind() == "constant")
    return writeConstant(op);
  // Neither an accumulator of no parameter (a sum of losses) nor a bucket is
  // anybody's to save: their bytes are in the plan, their names are not.
  if ((op.getKind() == "accumulator" && !op.getParameter()) ||
      op.getKind() == "bucket" || op.getKind() == "piece")
    return success();
  plan::State *state = plan.add_states();
  state->set_kind(llvm::StringSwitch<plan::State::Kind>(op.getKind())
                      .Case("moment", plan::State::MOMENT)
                      .Case("accumulator", plan::State::ACCUMULATOR)
                      .Case("cache", plan::State::CACHE)
                      .Default(plan::State::KIND_INVALID));
  if (state->kind() == plan::State::KIND_INVALID)
    return op.emitOpError() << "is of kind \"" << op.getKind()
                            << "\"; kinds are moment, accumulator, cache and "
                               "constant";
  state->mutable_initialization()->set_kind(plan::State::Initialization::ZEROS);
  if (op.getParameter())
    state->set_parameter(op.getParameter()->str());
  if (op.getRole())
    state->set_role(op.getRole()->str());
  return writeTensor(op, op.getType(), state);
}

LogicalResult PlanWriter::writeStates() {
  for (Operation &op : *module.getBody()) {
    LogicalResult result = success();
    if (auto parameter = dyn_cast<lm::ParameterOp>(op))
      result = writeParameter(parameter);
    else if (auto state = dyn_cast<lm::StateOp>(op))
      result = writeState(state);
    if (failed(result))
      return failure();
  }
  return success();
}
