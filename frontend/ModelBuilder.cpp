// Arguments, parameters and constants of the module being built.
#include "frontend/ModelBuilder.h"

#include "frontend/Rotary.h"

#include "mlir/IR/Verifier.h"
#include "llvm/Support/xxhash.h"

using namespace mlir;

namespace lmc::frontend {

int64_t stableId(StringRef name) {
  return static_cast<int64_t>(
      llvm::xxh3_64bits(ArrayRef(name.bytes_begin(), name.size())));
}

std::string ModelBuilder::Scope::part(StringRef name, int64_t &count) {
  ++count;
  return (prefix + "." + name + (count > 1 ? std::to_string(count) : "")).str();
}

RankedTensorType ModelBuilder::f32(Shape shape) {
  return RankedTensorType::get(shape, builder.getF32Type());
}

RankedTensorType ModelBuilder::i32(Shape shape) {
  return RankedTensorType::get(shape, builder.getI32Type());
}

SmallVector<int64_t> ModelBuilder::rows(Shape rest) {
  SmallVector<int64_t> shape{B, T};
  if (!options.train)
    shape = {ShapedType::kDynamic};
  shape.append(rest.begin(), rest.end());
  return shape;
}

int64_t ModelBuilder::pagesPerSequence() const {
  return (T + options.pageSize - 1) / options.pageSize;
}

int64_t ModelBuilder::cachePages() const {
  int64_t most = options.maxSequences * pagesPerSequence();
  return options.cachePages ? std::min(options.cachePages, most) : most;
}

// Enough for a row of each sequence, and for scoring at a good rate.
int64_t ModelBuilder::maxLogits() const {
  int64_t some = std::min<int64_t>(options.maxTokens, 128);
  int64_t wanted = options.maxLogits ? options.maxLogits
                                     : std::max(some, options.maxSequences);
  return std::min(wanted, options.maxTokens);
}

Location ModelBuilder::at(StringRef name,
                          const google::protobuf::Message &message, int field) {
  Place place = sources.of(message, field);
  Location line = FileLineColLoc::get(builder.getStringAttr(file), place.line,
                                      place.column);
  return NameLoc::get(builder.getStringAttr(name), line);
}

// What the dims of a parameter are called; nothing for a plugin's.
static std::vector<StringRef> dimNames(Role role, bool narrowTable) {
  switch (role) {
  case Role::TokenTable:
    return {"V", narrowTable ? "E" : "D"};
  case Role::TokenProjection:
    return {"E", "D"};
  case Role::PositionTable:
    return {"P", "D"};
  case Role::NormWeight:
  case Role::NormBias:
  case Role::OutBias:
  case Role::DownBias:
    return {"D"};
  case Role::QkvWeight:
    return {"D", "G", "S", "K"};
  case Role::QkvBias:
    return {"G", "S", "K"};
  case Role::OutWeight:
    return {"G", "R", "K", "D"};
  case Role::GateWeight:
  case Role::UpWeight:
    return {"D", "F"};
  case Role::GateBias:
  case Role::UpBias:
    return {"F"};
  case Role::DownWeight:
    return {"F", "D"};
  case Role::HeadWeight:
    return {"D", "V"};
  case Role::HeadBias:
    return {"V"};
  case Role::Other:
    return {};
  }
  return {};
}

Value ModelBuilder::argument(Type type, StringRef attribute,
                             mlir::Attribute value, Location loc) {
  NamedAttribute named(builder.getStringAttr(attribute), value);
  argumentAttributes.push_back(builder.getDictionaryAttr(named));
  return forward.getBody().front().addArgument(type, loc);
}

Value ModelBuilder::input(StringRef name, Type type) {
  return argument(type, lm::kInputAttr, builder.getStringAttr(name),
                  at(name, spec));
}

Value ModelBuilder::scalar(StringRef name, Type elementType,
                           mlir::Attribute defaultValue) {
  Value value =
      argument(RankedTensorType::get({}, elementType), lm::kScalarAttr,
               builder.getStringAttr(name), at(name, spec.dropout()));
  if (defaultValue) {
    NamedAttrList list(argumentAttributes.back());
    list.append(lm::kDefaultAttr, defaultValue);
    argumentAttributes.back() = list.getDictionary(&context);
  }
  return value;
}

void ModelBuilder::addInputs() {
  if (!options.train) {
    auto perRow = [&](StringRef name, StringRef size) {
      Value value = input(name, i32({ShapedType::kDynamic}));
      NamedAttrList list(argumentAttributes.back());
      list.append(lm::kSizeAttr, builder.getStringAttr(size));
      argumentAttributes.back() = list.getDictionary(&context);
      return value;
    };
    tokens = perRow("tokens", "tokens");
    positions = perRow("positions", "tokens");
    sequences = perRow("sequences", "tokens");
    slots = perRow("slots", "tokens");
    logitRows = perRow("logit_rows", "logits");
    pages = input("pages", i32({options.maxSequences, pagesPerSequence()}));
    return;
  }
  auto perToken = [&](StringRef name, Type type) {
    Value value = input(name, type);
    NamedAttrList list(argumentAttributes.back());
    list.append(lm::kDimsAttr, builder.getStrArrayAttr({"B", "T"}));
    argumentAttributes.back() = list.getDictionary(&context);
    return value;
  };
  tokens = perToken("tokens", i32({B, T}));
  targets = perToken("targets", i32({B, T}));
  tokenWeights = perToken("token_weights", f32({B, T}));
  positions = perToken("positions", i32({B, T}));
  if (options.resetAtDocument)
    segments = perToken("segments", i32({B, T}));

  double embedding = spec.dropout().embedding();
  double residual = spec.dropout().residual();
  double attention = spec.dropout().attention();
  if (embedding == 0 && residual == 0 && attention == 0)
    return;
  seedLow = scalar("seed.lo", builder.getI32Type(), {});
  seedHigh = scalar("seed.hi", builder.getI32Type(), {});
  step = scalar("step", builder.getI32Type(), {});
  auto rate = [&](StringRef name, double value) {
    return value > 0 ? scalar(name, builder.getF32Type(),
                              builder.getF64FloatAttr(value))
                     : Value();
  };
  // One knob where one rate serves all.
  if (embedding == residual && (attention == 0 || attention == residual)) {
    embeddingRate = residualRate = rate("dropout", residual);
    attentionRate = attention > 0 ? residualRate : Value();
    return;
  }
  embeddingRate = rate("dropout.embedding", embedding);
  residualRate = rate("dropout.residual", residual);
  attentionRate = rate("dropout.attention", attention);
}

bool ModelBuilder::isFrozen(StringRef name) {
  bool frozen = false;
  for (auto &[pattern, used] : frozenPatterns) {
    if (!pattern.match(name))
      continue;
    frozen = used = true;
  }
  return frozen;
}

ArrayAttr ModelBuilder::boxesOf(const ParameterUse &use) {
  SmallVector<mlir::Attribute> boxes;
  for (const CheckpointBox &box : checkpointBoxes(naming, use)) {
    SmallVector<StringRef> names(box.names.begin(), box.names.end());
    auto list = [&](StringRef name, const std::vector<int64_t> &values) {
      return builder.getNamedAttr(name, builder.getDenseI64ArrayAttr(values));
    };
    boxes.push_back(builder.getDictionaryAttr(
        {builder.getNamedAttr("names", builder.getStrArrayAttr(names)),
         list("file_shape", box.fileShape), list("split_shape", box.splitShape),
         list("permutation", box.permutation), list("box_shape", box.boxShape),
         list("box_offset", box.boxOffset)}));
  }
  return builder.getArrayAttr(boxes);
}

Value ModelBuilder::parameter(Role role, const std::string &name, Shape shape,
                              Start start, Location loc, const Scope &scope,
                              int64_t norm, int64_t contracted) {
  auto [previous, isNew] = parameterNames.try_emplace(name, loc);
  if (!isNew) {
    InFlightDiagnostic error = emitError(loc)
                               << "two parameters are named '" << name << "'";
    error.attachNote(previous->second) << "the first is here";
    failed = true;
  }
  ParameterUse use{role,        name, {shape.begin(), shape.end()},
                   scope.block, norm, contracted};
  NamedAttrList initialization;
  initialization.append("kind", builder.getStringAttr(start.kind));
  if (StringRef(start.kind) == "normal") {
    initialization.append("scale", builder.getF64FloatAttr(start.scale));
    initialization.append("id", builder.getI64IntegerAttr(stableId(name)));
  }
  bool isWeight = StringRef(start.kind) == "normal";
  OpBuilder atModule(forward);
  auto op = atModule.create<lm::ParameterOp>(
      loc, name, f32(shape), initialization.getDictionary(&context),
      /*trainable=*/!isFrozen(name), isWeight ? "decay" : "no_decay",
      scope.prefix.empty() ? IntegerAttr()
                           : builder.getI64IntegerAttr(scope.block),
      boxesOf(use), /*unpadded=*/DenseI64ArrayAttr());
  if (auto names = dimNames(role, spec.has_embedding_width()); !names.empty())
    op->setAttr(lm::kDimsAttr, builder.getStrArrayAttr(names));
  return argument(op.getTensorType(), lm::kStateAttr,
                  FlatSymbolRefAttr::get(&context, name), loc);
}

Value ModelBuilder::weight(Role role, const std::string &name, Shape shape,
                           Location loc, const Scope &scope, double scale,
                           int64_t contracted) {
  return parameter(role, name, shape, {"normal", deviation * scale}, loc, scope,
                   0, contracted);
}

Value ModelBuilder::bias(bool present, Role role, const std::string &name,
                         Shape shape, Location loc, const Scope &scope) {
  return present ? parameter(role, name, shape, {"zeros", 0}, loc, scope)
                 : Value();
}

Value ModelBuilder::rotaryTableOf(int64_t width, Location loc) {
  Value &table = rotaryTables[width];
  if (table)
    return table;
  std::string name = "rope";
  if (rotaryTables.size() > 1)
    name += "." + std::to_string(width);
  // Positions of a training sample are below T; a cache may reach further.
  int64_t rows = options.train ? T : spec.max_positions();
  std::vector<float> values =
      rotaryTable(spec.positions().rotary(), rows, width);
  RankedTensorType type = f32({rows, width});
  OpBuilder atModule(forward);
  atModule.create<lm::StateOp>(
      loc, name, "constant", type, FlatSymbolRefAttr(), StringAttr(),
      cast<ElementsAttr>(DenseElementsAttr::get(type, ArrayRef(values))));
  table = argument(type, lm::kStateAttr, FlatSymbolRefAttr::get(&context, name),
                   loc);
  return table;
}

bool ModelBuilder::finish(ValueRange results, ArrayRef<StringRef> outputs) {
  for (auto [index, entry] : llvm::enumerate(frozenPatterns)) {
    if (entry.second)
      continue;
    const std::string &pattern = spec.frozen(static_cast<int>(index));
    std::vector<std::string> names;
    for (const auto &name : parameterNames)
      names.push_back(name.getKey().str());
    llvm::sort(names);
    InFlightDiagnostic error =
        emitError(at("frozen", spec, ModelSpec::kFrozenFieldNumber))
        << "no parameter is named '" << pattern << "'";
    std::string closest = closestWord(pattern, names);
    error.attachNote() << "help: "
                       << (closest.empty()
                               ? "--compile-to=import prints their names"
                               : "did you mean '" + closest + "'?");
    failed = true;
  }
  if (options.train && spec.frozen_size() > 0 && !failed &&
      llvm::none_of(module->getOps<lm::ParameterOp>(),
                    [](lm::ParameterOp op) { return op.getTrainable(); })) {
    InFlightDiagnostic error =
        emitError(at("frozen", spec, ModelSpec::kFrozenFieldNumber))
        << "every parameter is frozen: there is nothing to train";
    error.attachNote() << "help: freeze fewer, or --mode=infer for lmrun eval "
                          "and generate";
    failed = true;
  }
  if (failed)
    return false;
  SmallVector<Value> all(results);
  SmallVector<DictionaryAttr> resultAttributes;
  for (StringRef name : outputs)
    resultAttributes.push_back(builder.getDictionaryAttr(
        builder.getNamedAttr(lm::kOutputAttr, builder.getStringAttr(name))));
  for (auto [value, state] : caches) {
    all.push_back(value);
    resultAttributes.push_back(
        builder.getDictionaryAttr(builder.getNamedAttr(lm::kStateAttr, state)));
  }
  builder.create<func::ReturnOp>(forward.getLoc(), all);
  forward.setFunctionType(builder.getFunctionType(
      forward.getBody().getArgumentTypes(), ValueRange(all).getTypes()));
  forward.setAllArgAttrs(argumentAttributes);
  forward.setAllResultAttrs(resultAttributes);
  return succeeded(verify(*module));
}

} // namespace lmc::frontend
