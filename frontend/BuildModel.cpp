// The parts of a transformer as lm operations. Dims: B samples, T tokens of
// one, D model width, G key/value heads, R query heads of each, K head width,
// F inner width of an MLP, V vocabulary, E width of the token table.
#include "frontend/BuildModel.h"

#include "frontend/ModelBuilder.h"
#include "frontend/SpecCheck.h"

#include "mlir/AsmParser/AsmParser.h"
#include "mlir/Dialect/Arith/IR/Arith.h"

#include <cmath>

using namespace mlir;

namespace lmc::frontend {

Value ModelBuilder::linear(Value x, Value weight, Value bias,
                           int64_t contracted, Shape shape, Location loc) {
  return builder.create<lm::LinearOp>(loc, f32(shape), x, weight, bias,
                                      contracted);
}

// The identity where `rate` is null.
Value ModelBuilder::dropout(Value x, Value rate, const std::string &name,
                            Location loc) {
  if (!rate)
    return x;
  return builder.create<lm::DropoutOp>(loc, x.getType(), x, rate, seedLow,
                                       seedHigh, step, stableId(name),
                                       /*whole=*/nullptr, /*axes=*/nullptr);
}

Value ModelBuilder::embed() {
  Scope scope;
  int64_t width = spec.has_embedding_width() ? spec.embedding_width() : D;
  Location loc = at("wte", spec, ModelSpec::kVocabularyFieldNumber);
  tokenTable = weight(Role::TokenTable, "wte.weight", {V, width}, loc, scope);
  Value x = builder.create<lm::EmbeddingOp>(loc, f32(rows({width})), tokenTable,
                                            tokens);
  if (width != D) {
    loc = at("wte.proj", spec, ModelSpec::kEmbeddingWidthFieldNumber);
    x = linear(x,
               weight(Role::TokenProjection, "wte.proj.weight", {width, D}, loc,
                      scope),
               Value(), 1, rows({D}), loc);
  }
  if (spec.positions().has_learned()) {
    loc = at("wpe", spec.positions().learned());
    Value table = weight(Role::PositionTable, "wpe.weight",
                         {spec.max_positions(), D}, loc, scope);
    Value added =
        builder.create<lm::EmbeddingOp>(loc, f32(rows({D})), table, positions);
    x = builder.create<arith::AddFOp>(loc, x, added);
  }
  return dropout(
      x, embeddingRate, "embedding",
      at("embedding", spec.dropout(), Dropout::kEmbeddingFieldNumber));
}

Value ModelBuilder::norm(const Norm &norm, Value x, const std::string &name,
                         const Scope &scope, int64_t index) {
  Location loc = at(name, norm);
  Value weight = parameter(Role::NormWeight, name + ".weight", {D}, {"ones", 0},
                           loc, scope, index);
  FloatAttr epsilon =
      builder.getF32FloatAttr(static_cast<float>(norm.epsilon()));
  if (norm.kind() == Norm::RMS_NORM)
    return builder
        .create<lm::RmsNormOp>(loc, TypeRange{x.getType(), f32(rows({}))}, x,
                               weight, epsilon)
        .getOutput();
  Value bias;
  if (norm.bias())
    bias = parameter(Role::NormBias, name + ".bias", {D}, {"zeros", 0}, loc,
                     scope, index);
  return builder
      .create<lm::LayerNormOp>(
          loc, TypeRange{x.getType(), f32(rows({})), f32(rows({}))}, x, weight,
          bias, epsilon)
      .getOutput();
}

// Attention within the samples of a batch.
Value ModelBuilder::lookAround(const Attention &attention, Value qkv,
                               const std::string &name, Location loc) {
  int64_t G = attention.kv_heads(), R = attention.heads() / G,
          K = attention.head_dim();
  return builder
      .create<lm::AttentionOp>(
          loc, TypeRange{f32({B, T, G, R, K}), f32({B, G, R, T})}, qkv,
          segments, attentionRate, attentionRate ? seedLow : Value(),
          attentionRate ? seedHigh : Value(), attentionRate ? step : Value(),
          builder.getF32FloatAttr(static_cast<float>(attention.scale())),
          builder.getBoolAttr(attention.causal()),
          builder.getI64IntegerAttr(attention.window()),
          attentionRate
              ? builder.getI64IntegerAttr(stableId(name + ".probabilities"))
              : nullptr,
          /*whole=*/nullptr, /*axes=*/nullptr)
      .getOutput();
}

// Attention to the cache, which takes in the step's own keys and values first.
// Null after a diagnostic.
Value ModelBuilder::lookBack(const Attention &attention, Value qkv,
                             const std::string &name, Location loc) {
  if (!attention.causal()) {
    emitError(loc) << "attention that sees later tokens cannot be computed "
                      "token by token; only causal models have an inference "
                      "plan";
    failed = true;
    return Value();
  }
  int64_t G = attention.kv_heads(), R = attention.heads() / G,
          K = attention.head_dim();
  RankedTensorType type = f32({cachePages() * options.pageSize, G, 2, K});
  std::string cacheName = name + ".cache";
  OpBuilder(forward).create<lm::StateOp>(loc, cacheName, "cache", type,
                                         FlatSymbolRefAttr(), StringAttr(),
                                         ElementsAttr());
  auto symbol = FlatSymbolRefAttr::get(&context, cacheName);
  Value cache = argument(type, lm::kStateAttr, symbol, loc);
  cache = builder.create<lm::CacheWriteOp>(loc, type, cache, qkv, slots);
  caches.push_back({cache, symbol});
  return builder.create<lm::PagedAttentionOp>(
      loc, f32(rows({G, R, K})), qkv, cache, positions, sequences, pages,
      builder.getF32FloatAttr(static_cast<float>(attention.scale())),
      builder.getI64IntegerAttr(options.pageSize),
      builder.getI64IntegerAttr(attention.window()));
}

// Queries, keys and values are one linear map to [..., G, R + 2, K]: for each
// key/value head its queries, its key, its value.
Value ModelBuilder::attention(const Attention &attention, Value x, Scope &scope,
                              bool residual) {
  std::string name = scope.part("attn", scope.numAttentions);
  int64_t G = attention.kv_heads(), R = attention.heads() / G,
          K = attention.head_dim();

  Location loc = at(name + ".qkv", attention, Attention::kHeadsFieldNumber);
  Value qkvWeight = weight(Role::QkvWeight, name + ".qkv.weight",
                           {D, G, R + 2, K}, loc, scope);
  Value qkvBias = bias(attention.qkv_bias(), Role::QkvBias, name + ".qkv.bias",
                       {G, R + 2, K}, loc, scope);
  Value qkv = linear(x, qkvWeight, qkvBias, 1, rows({G, R + 2, K}), loc);

  if (spec.positions().has_rotary()) {
    const Rotary &rotary = spec.positions().rotary();
    loc = at(name + ".rope", rotary);
    Value table = rotaryTableOf(rotaryWidth(rotary, K), loc);
    const char *layout =
        rotary.layout() == Rotary::INTERLEAVED ? "interleaved" : "half";
    qkv = builder.create<lm::RopeOp>(loc, qkv.getType(), qkv, positions, table,
                                     layout, R + 1);
  }

  loc = at(name, attention);
  Value mixed = options.train ? lookAround(attention, qkv, name, loc)
                              : lookBack(attention, qkv, name, loc);
  if (!mixed)
    return Value();

  loc = at(name + ".out", attention);
  Value outWeight = weight(Role::OutWeight, name + ".out.weight", {G, R, K, D},
                           loc, scope, residual ? residualScale : 1, 3);
  Value outBias = bias(attention.out_bias(), Role::OutBias, name + ".out.bias",
                       {D}, loc, scope);
  Value out = linear(mixed, outWeight, outBias, 3, rows({D}), loc);
  return residual ? dropout(out, residualRate, name, loc) : out;
}

Value ModelBuilder::activation(const Mlp &mlp, Value x, const std::string &name,
                               Scope &scope, Location loc) {
  if (mlp.has_activation_op())
    return op(mlp.activation_op(), x, scope);
  switch (mlp.activation()) {
  case Mlp::GELU_TANH:
    return builder.create<lm::GeluOp>(loc, x.getType(), x, "tanh");
  case Mlp::GELU_EXACT:
    return builder.create<lm::GeluOp>(loc, x.getType(), x, "exact");
  case Mlp::GELU_QUICK:
    return builder.create<lm::GeluOp>(loc, x.getType(), x, "quick");
  case Mlp::SILU:
    return builder.create<lm::SiluOp>(loc, x.getType(), x);
  case Mlp::RELU:
    return builder.create<lm::ReluOp>(loc, x.getType(), x);
  }
  return x;
}

Value ModelBuilder::mlp(const Mlp &mlp, Value x, Scope &scope, bool residual) {
  std::string name = scope.part("mlp", scope.numMlps);
  int64_t F = mlp.inner();
  auto widen = [&](Role weightRole, Role biasRole, const char *part) {
    Location loc = at(name + "." + part, mlp, Mlp::kInnerFieldNumber);
    Value w =
        weight(weightRole, name + "." + part + ".weight", {D, F}, loc, scope);
    Value b = bias(mlp.up_bias(), biasRole, name + "." + part + ".bias", {F},
                   loc, scope);
    return linear(x, w, b, 1, rows({F}), loc);
  };
  Location loc = at(name + ".activation", mlp, Mlp::kActivationFieldNumber);
  Value inner;
  if (mlp.gated()) {
    Value gate = widen(Role::GateWeight, Role::GateBias, "gate");
    Value up = widen(Role::UpWeight, Role::UpBias, "up");
    gate = activation(mlp, gate, name, scope, loc);
    if (!gate)
      return Value();
    inner = builder.create<arith::MulFOp>(loc, gate, up);
  } else {
    inner = activation(mlp, widen(Role::UpWeight, Role::UpBias, "up"), name,
                       scope, loc);
    if (!inner)
      return Value();
  }
  loc = at(name + ".down", mlp);
  Value downWeight = weight(Role::DownWeight, name + ".down.weight", {F, D},
                            loc, scope, residual ? residualScale : 1);
  Value downBias = bias(mlp.down_bias(), Role::DownBias, name + ".down.bias",
                        {D}, loc, scope);
  Value out = linear(inner, downWeight, downBias, 1, rows({D}), loc);
  return residual ? dropout(out, residualRate, name, loc) : out;
}

// Any registered operation, by name. Null after a diagnostic.
Value ModelBuilder::op(const Op &op, Value x, Scope &scope) {
  StringRef opName = op.name();
  std::string shortName = opName.rsplit('.').second.str();
  std::string name = scope.part(shortName, scope.numOps[shortName]);
  Location loc = at(name, op);
  auto fail = [&](Location where, const Twine &text, const Twine &help) {
    InFlightDiagnostic error = emitError(where) << text;
    if (!help.isTriviallyEmpty())
      error.attachNote() << "help: " << help;
    failed = true;
    return Value();
  };

  // A plugin's dialect is registered, but loaded only when it is used.
  context.getOrLoadDialect(opName.split('.').first);
  auto registered = RegisteredOperationName::lookup(opName, &context);
  if (!registered) {
    std::vector<std::string> known;
    for (RegisteredOperationName other : context.getRegisteredOperations())
      known.push_back(other.getStringRef().str());
    std::string help = didYouMean(op.name(), known);
    return fail(at(name, op, Op::kNameFieldNumber),
                "no operation is named '" + opName + "'",
                help.empty() ? "a plugin's operations are known with "
                               "--load-pass-plugin=LIB"
                             : help);
  }

  OperationState state(loc, *registered);
  state.addOperands(x);
  state.addTypes(x.getType());
  for (const Attribute &attribute : op.attributes()) {
    mlir::Attribute value;
    if (attribute.has_text())
      value = builder.getStringAttr(attribute.text());
    else if (attribute.has_integer())
      value = builder.getI64IntegerAttr(attribute.integer());
    else if (attribute.has_number())
      value = builder.getF32FloatAttr(static_cast<float>(attribute.number()));
    else if (attribute.has_flag())
      value = builder.getBoolAttr(attribute.flag());
    else
      value = parseAttribute(attribute.mlir(), &context);
    if (!value)
      return fail(at(name, attribute),
                  "attribute '" + attribute.name() + "' is not what MLIR reads",
                  "");
    state.addAttribute(attribute.name(), value);
  }
  for (const Parameter &declared : op.parameters()) {
    Start start{"normal", deviation};
    if (declared.fill() == Parameter::ZEROS)
      start = {"zeros", 0};
    else if (declared.fill() == Parameter::ONES)
      start = {"ones", 0};
    SmallVector<int64_t> shape(declared.shape().begin(),
                               declared.shape().end());
    state.addOperands(parameter(Role::Other, name + "." + declared.name(),
                                shape, start, at(name, declared), scope));
  }
  Operation *created = builder.create(state);
  return created->getResult(0);
}

Value ModelBuilder::layer(const Layer &layer, Value x, Scope &scope) {
  auto normed = [&](const Norm &spec, Value of) {
    ++scope.numNorms;
    return norm(spec, of,
                scope.prefix + ".norm" + std::to_string(scope.numNorms), scope,
                scope.numNorms);
  };
  Location loc = at(scope.prefix, layer);
  Value h = layer.has_norm() ? normed(layer.norm(), x) : x;
  Value y = h;
  if (layer.has_attention() &&
      !(y = attention(layer.attention(), h, scope, layer.residual())))
    return Value();
  if (layer.has_mlp()) {
    Value z = mlp(layer.mlp(), h, scope, layer.residual());
    if (!z)
      return Value();
    y = layer.has_attention() ? Value(builder.create<arith::AddFOp>(loc, y, z))
                              : z;
  }
  for (const Op &each : layer.op())
    if (!(y = op(each, y, scope)))
      return Value();
  if (layer.has_post_norm())
    y = normed(layer.post_norm(), y);
  return layer.residual() ? Value(builder.create<arith::AddFOp>(loc, x, y)) : y;
}

Value ModelBuilder::head(Value x) {
  Scope scope;
  Location loc = at("head", spec.head());
  Value headBias;
  if (!spec.head().tied()) {
    Value w = weight(Role::HeadWeight, "head.weight", {D, V}, loc, scope);
    headBias =
        bias(spec.head().bias(), Role::HeadBias, "head.bias", {V}, loc, scope);
    return linear(x, w, headBias, 1, rows({V}), loc);
  }
  Value logits = builder.create<lm::ContractOp>(
      loc, f32(rows({V})), x, tokenTable, ArrayRef<int64_t>{numRowDims()},
      ArrayRef<int64_t>{1});
  headBias =
      bias(spec.head().bias(), Role::HeadBias, "head.bias", {V}, loc, scope);
  if (!headBias)
    return logits;
  Value repeated = builder.create<lm::BroadcastOp>(
      loc, logits.getType(), headBias, ArrayRef<int64_t>{numRowDims()});
  return builder.create<arith::AddFOp>(loc, logits, repeated);
}

ModelBuilder::ModelBuilder(const ModelSpec &spec, const SourceMap &sources,
                           StringRef file, CheckpointNaming naming,
                           const ImportOptions &options, MLIRContext &context)
    : spec(spec), sources(sources), file(file), naming(naming),
      options(options), context(context), B(options.batch), T(options.sequence),
      D(spec.width()), V(spec.vocabulary()),
      deviation(spec.initialization().standard_deviation()), residualScale(1),
      builder(&context) {
  int64_t branches = countResidualBranches(spec);
  if (spec.initialization().scale_residual() && branches > 0)
    residualScale = 1 / std::sqrt(static_cast<double>(branches));
}

OwningOpRef<ModuleOp> ModelBuilder::build() {
  for (const std::string &text : spec.frozen()) {
    llvm::Expected<llvm::GlobPattern> pattern = llvm::GlobPattern::create(text);
    if (!pattern) {
      emitError(at("frozen", spec, ModelSpec::kFrozenFieldNumber))
          << "'" << text
          << "' is no pattern: " << llvm::toString(pattern.takeError());
      return {};
    }
    frozenPatterns.push_back({*pattern, false});
  }
  Location loc = at(spec.name(), spec);
  module = ModuleOp::create(loc);
  module->getOperation()->setAttr("lm.vocabulary",
                                  builder.getI64IntegerAttr(V));
  builder.setInsertionPointToEnd(module->getBody());
  forward = builder.create<func::FuncOp>(
      loc, options.train ? "forward" : "step", builder.getFunctionType({}, {}));
  if (!options.train) {
    forward->setAttr("plan.program", builder.getStringAttr("step"));
    auto integer = [&](StringRef name, int64_t value) {
      return builder.getNamedAttr(name, builder.getI64IntegerAttr(value));
    };
    module->getOperation()->setAttr(
        lm::kSizesAttr,
        builder.getDictionaryAttr({integer("tokens", options.maxTokens),
                                   integer("logits", maxLogits())}));
    module->getOperation()->setAttr("lm.sequence",
                                    builder.getI64IntegerAttr(T));
  }
  builder.setInsertionPointToStart(forward.addEntryBlock());

  addInputs();
  Value x = embed();
  int64_t blockIndex = 0;
  std::map<std::string, int64_t> blocksOfName;
  for (const Block &block : spec.block()) {
    std::string pattern = block.name();
    if (pattern.find("{}") == std::string::npos)
      pattern += ".{}";
    for (int64_t i = 0; i < block.count(); ++i) {
      Scope scope;
      scope.prefix = pattern;
      scope.prefix.replace(pattern.find("{}"), 2,
                           std::to_string(blocksOfName[pattern]++));
      scope.block = blockIndex++;
      for (const Layer &each : block.layer()) {
        x = layer(each, x, scope);
        // One diagnostic suffices where every repetition has the same cause.
        if (!x || failed)
          return {};
      }
      if (options.train)
        x.getDefiningOp()->setAttr(lm::kBlockEndAttr, builder.getUnitAttr());
    }
  }
  // The head is wide: it runs on the rows that are asked for.
  if (!options.train)
    x = builder.create<lm::EmbeddingOp>(loc, x.getType(), x, logitRows);
  if (spec.has_final_norm())
    x = norm(spec.final_norm(), x, "norm", Scope(), 0);
  Value logits = head(x);
  if (!options.train)
    return finish(logits, {"logits"}) ? std::move(module) : nullptr;

  loc = at("loss", spec);
  auto entropy = builder.create<lm::CrossEntropyOp>(
      loc, TypeRange{f32({B, T}), f32({B, T})}, logits, targets, tokenWeights);
  auto sum = [&](Value of) -> Value {
    return builder.create<lm::ReduceOp>(loc, f32({}), "sum", of,
                                        ArrayRef<int64_t>{0, 1});
  };
  Value results[] = {sum(entropy.getLoss()), sum(tokenWeights)};
  return finish(results, {"loss_sum", "weight_sum"}) ? std::move(module)
                                                     : nullptr;
}

OwningOpRef<ModuleOp> buildModel(const ModelSpec &spec,
                                 const SourceMap &sources, StringRef file,
                                 CheckpointNaming naming,
                                 const ImportOptions &options,
                                 MLIRContext &context) {
  return ModelBuilder(spec, sources, file, naming, options, context).build();
}

} // namespace lmc::frontend
