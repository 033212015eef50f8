// Which reader takes a path, and how its findings become diagnostics.
#include "frontend/Import.h"

#include "frontend/BuildModel.h"
#include "frontend/HuggingFace.h"
#include "frontend/Json.h"
#include "frontend/ShardingSpec.pb.h"
#include "frontend/SpecCheck.h"
#include "frontend/SpecText.h"
#include "frontend/TrainSpec.pb.h"

#include "dialects/dist/Dist.h"
#include "dialects/lm/Lm.h"

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/Func/IR/FuncOps.h"
#include "mlir/Dialect/Math/IR/Math.h"
#include "mlir/IR/Diagnostics.h"
#include "mlir/Parser/Parser.h"
#include "llvm/Support/FileSystem.h"
#include "llvm/Support/MemoryBuffer.h"
#include "llvm/Support/Path.h"
#include "llvm/Support/SourceMgr.h"

using namespace mlir;

namespace lmc::frontend {
namespace {

constexpr int64_t kMaxTokens = (int64_t(1) << 31) - 1; // of a micro-batch
constexpr uint64_t kMaxMlirBytes = uint64_t(1) << 31;
constexpr int kMaxMlirDepth = 256;

Location placeIn(StringRef file, Place place, MLIRContext &context) {
  return FileLineColLoc::get(&context, file, place.line, place.column);
}

// Hands what a reader found to MLIR's diagnostics.
LogicalResult report(const Findings &findings, StringRef file,
                     MLIRContext &context) {
  for (const Finding &finding : findings.all()) {
    Location loc = placeIn(file, finding.place, context);
    InFlightDiagnostic diagnostic =
        finding.severity == Finding::Error ? emitError(loc) : emitWarning(loc);
    diagnostic << finding.text;
    if (!finding.help.empty())
      diagnostic.attachNote() << "help: " << finding.help;
  }
  return failure(findings.hasErrors());
}

// `help` says what to do where there is no such file.
std::unique_ptr<llvm::MemoryBuffer> readFile(StringRef path, uint64_t maxBytes,
                                             MLIRContext &context,
                                             StringRef help = "") {
  Location loc = UnknownLoc::get(&context);
  uint64_t bytes = 0;
  if (std::error_code code = llvm::sys::fs::file_size(path, bytes)) {
    InFlightDiagnostic error = emitError(loc) << "cannot read '" << path
                                              << "': " << code.message();
    if (!help.empty())
      error.attachNote() << "help: " << help;
    return nullptr;
  }
  if (bytes > maxBytes) {
    emitError(loc) << "'" << path << "' has " << bytes << " bytes; at most "
                   << maxBytes << " are read";
    return nullptr;
  }
  auto buffer = llvm::MemoryBuffer::getFile(path, /*IsText=*/false);
  if (!buffer) {
    emitError(loc) << "cannot read '" << path
                   << "': " << buffer.getError().message();
    return nullptr;
  }
  return std::move(*buffer);
}

//===----------------------------------------------------------------------===//
// A module in lm
//===----------------------------------------------------------------------===//

// The deepest nesting of brackets outside strings and comments. MLIR's parser
// recurses on it and would overflow the stack.
int nestingDepth(StringRef text) {
  int depth = 0, deepest = 0;
  for (size_t i = 0; i < text.size(); ++i) {
    char c = text[i];
    if (c == '"') {
      for (++i; i < text.size() && text[i] != '"' && text[i] != '\n'; ++i)
        if (text[i] == '\\')
          ++i;
    } else if (c == '/' && i + 1 < text.size() && text[i + 1] == '/') {
      i = std::min(text.find('\n', i), text.size());
    } else if (c == '-' && i + 1 < text.size() && text[i + 1] == '>') {
      ++i; // an arrow closes nothing
    } else if (StringRef("([{<").contains(c)) {
      deepest = std::max(deepest, ++depth);
    } else if (StringRef(")]}>").contains(c)) {
      depth = std::max(depth - 1, 0);
    }
  }
  return deepest;
}

OwningOpRef<ModuleOp> importMlir(StringRef path, const ImportOptions &options,
                                 MLIRContext &context) {
  auto buffer = readFile(path, kMaxMlirBytes, context);
  if (!buffer)
    return {};
  if (buffer->getBuffer().starts_with("ML\xefR")) {
    emitError(UnknownLoc::get(&context))
        << "'" << path << "' is MLIR bytecode; only MLIR text is read";
    return {};
  }
  int depth = nestingDepth(buffer->getBuffer());
  if (depth > kMaxMlirDepth) {
    emitError(UnknownLoc::get(&context))
        << "'" << path << "' nests brackets " << depth << " deep; at most "
        << kMaxMlirDepth << " levels are read";
    return {};
  }
  auto sources = std::make_shared<llvm::SourceMgr>();
  sources->AddNewSourceBuffer(std::move(buffer), llvm::SMLoc());
  ParserConfig config(&context, /*verifyAfterParse=*/true);
  OwningOpRef<ModuleOp> module = parseSourceFile<ModuleOp>(sources, config);
  if (!module)
    return {};
  auto forward = module->lookupSymbol<func::FuncOp>("forward");
  if (!forward || forward.isExternal()) {
    emitError(module->getLoc()) << "the module has no func.func @forward";
    return {};
  }
  // Sizes are written into the module, so flags can only agree with them.
  for (unsigned i = 0; i < forward.getNumArguments(); ++i) {
    auto input = forward.getArgAttrOfType<StringAttr>(i, lm::kInputAttr);
    auto type = dyn_cast<RankedTensorType>(forward.getArgumentTypes()[i]);
    if (!input || input != "tokens" || !type)
      continue;
    // Training takes samples of tokens, inference a row of tokens.
    if (int64_t numDims = type.getRank(); numDims == (options.train ? 1 : 2)) {
      emitError(forward.getLoc())
          << "the module is written for "
          << (options.train ? "inference" : "training")
          << ", not for --mode=" << (options.train ? "train" : "infer");
      return {};
    }
    if (type.getRank() != 2)
      continue;
    if (options.sequence == 0 || (type.getDimSize(0) == options.batch &&
                                  type.getDimSize(1) == options.sequence))
      continue;
    InFlightDiagnostic error = emitError(forward.getLoc());
    error << "the module is written for " << type.getDimSize(0)
          << " samples of " << type.getDimSize(1) << " tokens, not for "
          << options.batch << " of " << options.sequence;
    error.attachNote() << "help: it has the micro-batches of all data-parallel "
                          "ranks together, and --seq; without --micro-batch "
                          "and --seq these are taken from it";
    return {};
  }
  return module;
}

//===----------------------------------------------------------------------===//
// A description
//===----------------------------------------------------------------------===//

// Batch and sequence against the model; sets the default sequence.
LogicalResult checkOptions(const ModelSpec &spec, const SourceMap &sources,
                           StringRef file, ImportOptions &options,
                           MLIRContext &context) {
  Location loc = placeIn(
      file, sources.of(spec, ModelSpec::kMaxPositionsFieldNumber), context);
  if (options.sequence == 0)
    options.sequence = spec.max_positions();
  if (options.batch < 1 || options.sequence < 1)
    return emitError(loc) << "a micro-batch of " << options.batch
                          << " samples of " << options.sequence
                          << " tokens has nothing to compute";
  if (options.sequence > spec.max_positions()) {
    InFlightDiagnostic error = emitError(loc)
                               << "a sequence of " << options.sequence
                               << " tokens is longer than the model's "
                               << spec.max_positions() << " positions";
    error.attachNote() << "help: "
                       << (options.train ? "--seq=" : "--max-length=")
                       << spec.max_positions()
                       << " or less, or a greater max_positions";
    return error;
  }
  if (!options.train) {
    struct Bound {
      const char *flag;
      int64_t value, most;
    };
    for (Bound bound :
         {Bound{"--max-tokens", options.maxTokens, kMaxTokens},
          Bound{"--max-sequences", options.maxSequences, 1 << 16},
          Bound{"--page-size", options.pageSize, 1 << 16},
          Bound{"--max-logits", std::max<int64_t>(options.maxLogits, 1),
                kMaxTokens},
          Bound{"--cache-pages", std::max<int64_t>(options.cachePages, 1),
                kMaxTokens}})
      if (bound.value < 1 || bound.value > bound.most)
        return emitError(loc) << bound.flag << "=" << bound.value
                              << " is not within 1 and " << bound.most;
    // A row of the cache has an i32 for its number.
    int64_t pages =
        (options.sequence + options.pageSize - 1) / options.pageSize;
    if (options.maxSequences * pages > INT32_MAX / options.pageSize) {
      InFlightDiagnostic error = emitError(loc)
                                 << options.maxSequences << " sequences of "
                                 << options.sequence
                                 << " tokens are more than a cache counts";
      error.attachNote() << "help: a smaller --max-sequences or --max-length";
      return error;
    }
    return success();
  }
  if (options.batch > kMaxTokens / options.sequence) {
    InFlightDiagnostic error =
        emitError(loc) << "a micro-batch of " << options.batch << " samples of "
                       << options.sequence << " tokens has more than "
                       << kMaxTokens << " tokens";
    error.attachNote() << "help: a smaller --micro-batch or --seq";
    return error;
  }
  return success();
}

OwningOpRef<ModuleOp> importSpec(ModelSpec &spec, const SourceMap &sources,
                                 StringRef file, std::string config,
                                 ImportOptions options, MLIRContext &context) {
  Findings findings;
  bool good = checkSpec(spec, sources, findings);
  if (failed(report(findings, file, context)) || !good)
    return {};
  std::string stops = shrinkSpec(spec, options.shrink);
  if (options.shrink.blocks > 0 && options.sequence == 0)
    options.sequence = shrunkSequence(spec, options.shrink);
  if (failed(checkOptions(spec, sources, file, options, context)))
    return {};
  CheckpointNaming naming = spec.checkpoint_naming();
  if (naming == AUTO) {
    naming = findFamily(spec);
  } else if (naming != PLAIN && config.empty()) {
    std::string mismatch = familyMismatch(naming, spec);
    if (!mismatch.empty()) {
      InFlightDiagnostic error =
          emitError(placeIn(
              file, sources.of(spec, ModelSpec::kCheckpointNamingFieldNumber),
              context))
          << "checkpoint_naming is " << CheckpointNaming_Name(naming)
          << ", but this family has no such architecture";
      error.attachNote() << mismatch;
      error.attachNote() << "help: checkpoint_naming: PLAIN, or leave it out";
      return {};
    }
  }
  if (config.empty())
    config = writeHuggingFaceConfig(naming, spec);
  OwningOpRef<ModuleOp> module =
      buildModel(spec, sources, file, naming, options, context);
  if (!module)
    return {};
  Builder b(&context);
  module->getOperation()->setAttr("lm.model_config", b.getStringAttr(config));
  if (!stops.empty())
    module->getOperation()->setAttr("lm.not_shrunk", b.getStringAttr(stops));
  module->getOperation()->setAttr("lm.max_positions",
                                  b.getI64IntegerAttr(spec.max_positions()));
  return module;
}

//===----------------------------------------------------------------------===//
// A strategy
//===----------------------------------------------------------------------===//

struct Strategy {
  StringLiteral name, text;
};
constexpr Strategy kStrategies[] = {
#include "frontend/Strategies.inc"
};

LogicalResult readStrategy(StringRef name, ShardingSpec &spec,
                           SourceMap &sources, MLIRContext &context) {
  std::unique_ptr<llvm::MemoryBuffer> buffer;
  StringRef text;
  std::string names;
  for (const Strategy &known : kStrategies) {
    names += known.name.str() + ", ";
    if (known.name == name)
      text = known.text;
  }
  if (text.empty()) {
    buffer = readFile(name, kMaxSpecBytes, context, names + "or a file");
    if (!buffer)
      return failure();
    text = buffer->getBuffer();
  }
  Findings findings;
  if (parseSpecText(text, spec, sources, findings))
    checkShardingSpec(spec, sources, findings);
  return report(findings, name, context);
}

template <typename Texts> ArrayAttr listOf(OpBuilder &b, const Texts &texts) {
  SmallVector<StringRef> views(texts.begin(), texts.end());
  return b.getStrArrayAttr(views);
}

void addRules(const ShardingSpec &spec, const SourceMap &sources,
              StringRef file, OpBuilder &b) {
  for (const Rule &rule : spec.rule())
    for (const Split &split : rule.split()) {
      auto [kind, patterns] =
          rule.parameter_size() ? std::pair("parameter", &rule.parameter())
          : rule.input_size()   ? std::pair("input", &rule.input())
                                : std::pair("activation", &rule.activation());
      b.create<dist::RuleOp>(
          placeIn(file, sources.of(split), *b.getContext()), kind,
          listOf(b, *patterns), split.dim(), listOf(b, split.axis()),
          rule.has_operation() ? b.getStringAttr(rule.operation()) : nullptr,
          rule.priority(), rule.if_present());
    }
}

void addBuckets(const ShardingSpec &spec, const SourceMap &sources,
                StringRef file, OpBuilder &b) {
  for (const Bucket &bucket : spec.bucket())
    b.create<dist::BucketRuleOp>(
        placeIn(file, sources.of(bucket), *b.getContext()),
        listOf(b, bucket.parameter()),
        dist::PiecesAttr::get(b.getContext(),
                              listOf(b, bucket.split_parameters()),
                              listOf(b, bucket.split_gradients()),
                              listOf(b, bucket.split_moments())),
        bucket.if_present());
}

} // namespace

OwningOpRef<ModuleOp> importModel(StringRef path, const ImportOptions &options,
                                  MLIRContext &context) {
  context.loadDialect<lm::LmDialect, arith::ArithDialect, func::FuncDialect,
                      math::MathDialect>();
  SmallString<256> file(path);
  if (llvm::sys::fs::is_directory(path))
    llvm::sys::path::append(file, "config.json");
  StringRef extension = llvm::sys::path::extension(file);
  if (extension == ".mlir")
    return importMlir(file, options, context);
  if (extension != ".textproto" && extension != ".json" &&
      llvm::sys::fs::exists(file)) {
    emitError(UnknownLoc::get(&context))
        << "'" << path << "' is not a model description: expected a "
        << "ModelSpec (.textproto), a folder with a config.json, or a module "
        << "in lm (.mlir)";
    return {};
  }
  bool isConfig = extension == ".json";
  auto buffer =
      readFile(file, isConfig ? kMaxJsonBytes : kMaxSpecBytes, context);
  if (!buffer)
    return {};
  StringRef text = buffer->getBuffer();
  ModelSpec spec;
  SourceMap sources;
  Findings findings;
  if (isConfig)
    readHuggingFaceConfig(text, spec, sources, options.strict, findings);
  else
    parseSpecText(text, spec, sources, findings);
  if (failed(report(findings, file, context)))
    return {};
  return importSpec(spec, sources, file, isConfig ? text.str() : "", options,
                    context);
}

LogicalResult readTrainSpec(StringRef path, TrainSpec &spec,
                            MLIRContext &context) {
  auto buffer = readFile(path, kMaxSpecBytes, context);
  if (!buffer)
    return failure();
  SourceMap sources;
  Findings findings;
  if (parseSpecText(buffer->getBuffer(), spec, sources, findings))
    checkTrainSpec(spec, sources, findings);
  return report(findings, path, context);
}

FailureOr<std::vector<std::string>> addStrategy(const StrategyOptions &options,
                                                ModuleOp module) {
  MLIRContext &context = *module.getContext();
  context.loadDialect<dist::DistDialect>();
  OpBuilder b = OpBuilder::atBlockBegin(module.getBody());
  std::vector<std::string> taken;
  std::string rulesFrom, bucketsFrom;
  auto add = [&](const std::string &file) {
    ShardingSpec spec;
    SourceMap sources;
    if (failed(readStrategy(file, spec, sources, context)))
      return failure();
    if (spec.rule_size())
      rulesFrom = file;
    if (spec.bucket_size())
      bucketsFrom = file;
    addRules(spec, sources, file, b);
    addBuckets(spec, sources, file, b);
    taken.push_back(file);
    return success();
  };
  for (const std::string &file : options.files)
    if (failed(add(file)))
      return failure();
  auto refuse = [&](const std::string &file, const char *what,
                    const std::string &flag) -> LogicalResult {
    InFlightDiagnostic error = emitError(UnknownLoc::get(&context))
                               << "'" << file << "' has " << what << ", which "
                               << flag << " brings along";
    error.attachNote() << "help: leave out one of the two";
    return error;
  };
  if (!rulesFrom.empty() && options.sequenceParallel)
    return refuse(rulesFrom, "rules", "--sequence-parallel");
  if (!bucketsFrom.empty() && options.zero)
    return refuse(bucketsFrom, "buckets",
                  "--zero=" + std::to_string(*options.zero));
  if (rulesFrom.empty() &&
      failed(add(options.sequenceParallel ? "megatron-sp" : "megatron")))
    return failure();
  int64_t zero = options.zero.value_or(0);
  if (bucketsFrom.empty() &&
      failed(add(zero ? "zero-" + std::to_string(zero) : "fsdp")))
    return failure();
  return taken;
}

} // namespace lmc::frontend
