// `lmc compile`: import, the phases, emit.
#include "tools/lmc/Compile.h"

#include "frontend/Import.h"
#include "passes/Plugin.h"
#include "passes/Register.h"
#include "passes/emit/EmitPlan.h"
#include "runtime/plan/PlanFile.h"
#include "tools/lmc/Diagnostics.h"
#include "tools/lmc/Fit.h"
#include "tools/lmc/Resolve.h"

#include "dialects/dist/Dist.h"
#include "dialects/lm/Lm.h"
#include "mlir/Dialect/Func/IR/FuncOps.h"
#include "mlir/IR/Verifier.h"
#include "mlir/Pass/PassManager.h"
#include "llvm/ADT/StringExtras.h"
#include "llvm/Support/FileSystem.h"
#include "llvm/Support/Path.h"
#include "llvm/Support/raw_ostream.h"

#include <set>

using namespace mlir;
using namespace lmc;

namespace {

// Every group of the TrainSpec has parameters, and `no_decay` no decay.
int checkGroups(ModuleOp module, const frontend::TrainSpec &train) {
  std::set<std::string> known;
  for (auto parameter : module.getOps<lm::ParameterOp>())
    known.insert(parameter.getGroup().str());
  for (const frontend::Group &group : train.group()) {
    if (!known.count(group.name()))
      return printError("the TrainSpec names the parameter group '" +
                            group.name() + "', which no parameter is in",
                        "groups of this model are " + llvm::join(known, ", "));
    if (group.name() == "no_decay" && group.weight_decay() != 0)
      return printError("the TrainSpec gives the group 'no_decay' a weight "
                        "decay of " +
                            std::to_string(group.weight_decay()),
                        "leave it out: that group has none");
  }
  return kDone;
}

// What a run takes where no flag says otherwise.
void setTraining(ModuleOp module, const frontend::TrainSpec &train) {
  Builder b(module.getContext());
  NamedAttrList given;
  if (train.has_schedule()) {
    const frontend::Schedule &schedule = train.schedule();
    static constexpr const char *names[] = {"constant", "linear", "cosine"};
    given.set("decay", b.getStringAttr(names[schedule.kind()]));
    given.set("warmup_steps", b.getI64IntegerAttr(schedule.warmup_steps()));
    given.set("decay_steps", b.getI64IntegerAttr(schedule.steps()));
    given.set("minimum_factor", b.getF64FloatAttr(schedule.minimum_factor()));
  }
  if (train.has_seed())
    given.set("seed", b.getI64IntegerAttr(train.seed()));
  if (!given.empty())
    module->setAttr("lm.training", given.getDictionary(module.getContext()));
}

// "tp": the axes over which rules split the tokens of activations, their dim 1.
std::string tokenAxes(ModuleOp module, const PipelineOptions &pipeline) {
  llvm::SmallVector<llvm::StringRef> axes;
  for (auto rule : module.getOps<dist::RuleOp>())
    if (rule.getKind() == "activation" &&
        (rule.getDim() == "T" || rule.getDim() == "1"))
      for (auto axis : rule.getAxes().getAsRange<StringAttr>()) {
        const auto *known = llvm::find(kAxes, axis.getValue());
        if (known != std::end(kAxes) && pipeline.mesh[known - kAxes] > 1 &&
            !llvm::is_contained(axes, axis.getValue()))
          axes.push_back(axis.getValue());
      }
  return llvm::join(axes, " ");
}

// What emit and the runtime have to know beside the programs.
void setAttributes(ModuleOp module, const CompileSettings &settings,
                   const Resolved &resolved, const Plugins &plugins) {
  Builder b(module.getContext());
  const PipelineOptions &p = resolved.pipeline;
  if (p.train)
    module->setAttr("lm.sequence", b.getI64IntegerAttr(p.sequence));
  module->setAttr("lm.micro_batch", b.getI64IntegerAttr(p.microBatch));
  module->setAttr("lm.micro_batches", b.getI64IntegerAttr(p.microBatches));
  module->setAttr("lm.global_batch", b.getI64IntegerAttr(p.globalBatch));
  const frontend::TrainSpec &t = resolved.train;
  NamedAttrList scalars;
  auto scalar = [&](StringRef name, double value) {
    scalars.set(name, b.getF64FloatAttr(value));
  };
  scalar("lr", t.learning_rate());
  scalar("beta1", t.beta1());
  scalar("beta2", t.beta2());
  scalar("eps", t.epsilon());
  scalar("weight_decay", t.weight_decay());
  scalar("clip_norm", t.clip_norm());
  // The model's own, such as dropout rates.
  for (auto function : module.getOps<func::FuncOp>())
    for (unsigned i = 0, e = function.getNumArguments(); i < e; ++i) {
      auto name = function.getArgAttrOfType<StringAttr>(i, lm::kScalarAttr);
      Attribute value = function.getArgAttr(i, lm::kDefaultAttr);
      if (name && value)
        scalars.set(name, value);
    }
  // What differs for a parameter group.
  SmallVector<NamedAttribute> factors;
  for (const frontend::Group &group : t.group()) {
    if (group.has_weight_decay() && group.name() != "no_decay")
      scalar(group.name() == "decay" ? "weight_decay"
                                     : "weight_decay." + group.name(),
             group.weight_decay());
    if (group.learning_rate_factor() != 1)
      factors.push_back(b.getNamedAttr(
          group.name(), b.getF64FloatAttr(group.learning_rate_factor())));
  }
  if (!factors.empty())
    module->setAttr("lm.learning_rate_factors", b.getDictionaryAttr(factors));
  module->setAttr("lm.scalars", scalars.getDictionary(module.getContext()));
  setTraining(module, t);
  module->setAttr("lm.mode", b.getStringAttr(settings.mode));
  auto text = [&](StringRef name, const std::string &value) {
    return b.getNamedAttr(name, b.getStringAttr(value));
  };
  llvm::SmallVector<NamedAttribute> cameFrom = {text("mode", settings.mode),
                                                text("target", settings.target),
                                                text("model", settings.model)};
  if (!p.train)
    cameFrom.push_back(text("page_size", std::to_string(settings.pageSize)));
  if (p.mesh[0] > 1)
    cameFrom.push_back(text("pipeline_schedule", p.pipelineSchedule));
  if (auto stops = module->getAttrOfType<StringAttr>("lm.not_shrunk"))
    cameFrom.push_back(text("not_shrunk", stops.str()));
  if (!resolved.strategy.empty())
    cameFrom.push_back(text("sharding", resolved.strategy));
  if (std::string axes = tokenAxes(module, p); !axes.empty())
    cameFrom.push_back(text("sequence_parallel", axes));
  if (std::string loaded = plugins.describe(); !loaded.empty())
    cameFrom.push_back(text("plugins", loaded));
  if (!settings.passes.empty())
    cameFrom.push_back(text("passes", llvm::join(settings.passes, " ")));
  module->setAttr("lm.settings", b.getDictionaryAttr(cameFrom));
}

// Whether all was written.
int statusOf(llvm::raw_fd_ostream &stream, const std::string &what) {
  if (!stream.has_error())
    return kDone;
  std::error_code reason = stream.error();
  stream.clear_error(); // or the stream's end would abort
  printError("cannot write " + what + ": " + reason.message());
  return reason == std::errc::no_space_on_device ? kDoesNotFit : kFailed;
}

int writeModule(ModuleOp module, const std::string &path) {
  std::error_code error;
  llvm::raw_fd_ostream stream(path, error);
  if (error)
    return printError("cannot write " + path + ": " + error.message());
  module->print(stream);
  stream.close();
  return statusOf(stream, path);
}

int dump(ModuleOp module, const CompileSettings &settings, Phase phase,
         size_t index) {
  if (settings.dumpPhases.empty())
    return kDone;
  if (std::error_code error =
          llvm::sys::fs::create_directories(settings.dumpPhases))
    return printError("cannot make folder " + settings.dumpPhases + ": " +
                      error.message());
  llvm::SmallString<128> path(settings.dumpPhases);
  llvm::sys::path::append(path, llvm::Twine(index) + "-" + phaseName(phase) +
                                    ".mlir");
  return writeModule(module, path.str().str());
}

// To the standard output, if no file is named.
int printModule(ModuleOp module, const std::string &path) {
  if (!path.empty())
    return writeModule(module, path);
  module->print(llvm::outs());
  llvm::outs().flush();
  return statusOf(llvm::outs(), "the module to the standard output");
}

// $XDG_CACHE_HOME/lmc, or ~/.cache/lmc; empty where there is no home.
std::string cacheDirectory() {
  llvm::SmallString<128> path;
  if (const char *cache = std::getenv("XDG_CACHE_HOME"); cache && *cache)
    path = cache;
  else if (!llvm::sys::path::cache_directory(path))
    return "";
  llvm::sys::path::append(path, "lmc");
  return path.str().str();
}

// What kernels are compiled for.
int resolveTarget(const CompileSettings &settings, emit::EmitOptions &options) {
  llvm::StringRef target(settings.target);
  if (target == "cpu") {
    llvm::SmallVector<llvm::StringRef> cpus;
    llvm::StringRef(settings.targetCpus).split(cpus, ',', -1, false);
    options.targetCpus.assign(cpus.begin(), cpus.end());
    return kDone;
  }
  auto [device, architecture] = target.split(':');
  if (device != "cuda")
    return printError("--target: " + settings.target + " not in {cpu,cuda}",
                      "--target=cpu, --target=cuda:sm_80 or "
                      "--target=cuda:sm_90");
  if (target == "cuda")
    architecture = "sm_80";
  if (architecture != "sm_80" && architecture != "sm_90")
    return printError("there is no code for '" + architecture.str() + "'",
                      "--target=cuda:sm_80 (Ampere and later) or "
                      "--target=cuda:sm_90 (Hopper and later)");
  if (settings.targetCpus != CompileSettings().targetCpus)
    return printError("--target-cpu=" + settings.targetCpus +
                          " names a processor, but --target is " +
                          settings.target,
                      "leave out --target-cpu; --target=cuda:sm_90 names the "
                      "GPU's architecture");
  options.target = "cuda";
  options.targetCpus = {architecture.str()};
  return kDone;
}

int writePlan(ModuleOp module, const CompileSettings &settings,
              emit::EmitOptions &options, plan::Plan *made) {
  if (settings.output.empty() && !made)
    return printError("no output file", "-o FILE, or --compile-to=PHASE to "
                                        "print a phase");
  options.threads = settings.threads;
  if (!settings.noCache)
    options.cacheDirectory = cacheDirectory();
  FailureOr<plan::Plan> plan = emit::emitPlan(module, options);
  if (failed(plan))
    return kWrongInput;
  if (made) {
    *made = std::move(*plan);
    return kDone;
  }
  if (int status = checkFit(*plan, settings))
    return status;
  runtime::Status status = runtime::writePlanFile(*plan, settings.output);
  if (!status.ok()) {
    llvm::errs() << status.toString() << '\n';
    return status.exitStatus();
  }
  return kDone;
}

// Writing the plan over what it is made of would destroy somebody's work.
int checkOutput(const CompileSettings &settings) {
  llvm::SmallVector<std::string> inputs = {settings.model, settings.config};
  inputs.append(settings.sharding.begin(), settings.sharding.end());
  inputs.append(settings.plugins.begin(), settings.plugins.end());
  // Of a Hugging Face folder.
  llvm::SmallString<128> config(settings.model);
  llvm::sys::path::append(config, "config.json");
  inputs.push_back(config.str().str());
  for (const std::string &input : inputs)
    if (!settings.output.empty() && !input.empty() &&
        llvm::sys::fs::equivalent(input, settings.output))
      return printError("the output " + settings.output +
                            " is the same file as the input " + input,
                        "another name behind -o");
  return kDone;
}

int loadPlugins(const CompileSettings &settings, DialectRegistry &registry,
                Plugins &plugins) {
  PluginComplaint complaint;
  auto print = [&] {
    printError(complaint.message, complaint.help);
    return complaint.kind == PluginComplaint::OtherVersion ? kCorrupt
                                                           : kWrongInput;
  };
  for (const std::string &path : settings.plugins)
    if (failed(plugins.load(path, registry, complaint)))
      return print();
  for (const std::string &pass : settings.passes)
    if (failed(plugins.addPass(pass, complaint)))
      return print();
  return kDone;
}

} // namespace

int lmc::compile(const CompileSettings &settings, plan::Plan *made) {
  std::optional<Phase> last = findPhase(settings.compileTo);
  if (!last) {
    std::string names;
    for (Phase phase : allPhases())
      names += (names.empty() ? "" : ", ") + phaseName(phase).str();
    return printError("unknown phase '" + settings.compileTo + "'",
                      "one of " + names);
  }
  if (int status = checkOutput(settings))
    return status;
  Resolved resolved;
  emit::EmitOptions emitOptions;
  if (int status = resolveTarget(settings, emitOptions))
    return status;
  if (emitOptions.target == "cuda") {
    resolved.pipeline.matmuls = true;
    // A GPU wants products of many rows, and has the memory for them.
    resolved.pipeline.lossChunkBytes = int64_t(1) << 30;
    // Rows of logits in whole lines of 128 bytes, of 16-bit types, too.
    resolved.pipeline.vocabularyMultiple = 64;
  }
  DialectRegistry registry;
  registerDialects(registry);
  registerPasses(); // so that --pass finds them by name
  Plugins plugins;
  if (int status = loadPlugins(settings, registry, plugins))
    return status;
  MLIRContext context(registry);
  context.loadAllAvailableDialects();
  context.printOpOnDiagnostic(false);
  DiagnosticPrinter printer(context);

  if (!settings.config.empty() &&
      failed(frontend::readTrainSpec(settings.config, resolved.train, context)))
    return kWrongInput;
  if (int status = resolveMesh(settings, resolved))
    return status;
  if (int status = resolveBatch(settings, resolved))
    return status;
  resolved.pipeline.train = settings.mode == "train";
  int64_t ranks = countRanks(resolved.pipeline);
  if (emitOptions.target == "cuda" && ranks > 1)
    return printError("--target=" + settings.target +
                          " on a mesh (--mesh=" + settings.mesh + ", " +
                          std::to_string(ranks) + " ranks) is not supported",
                      "leave out --mesh: one GPU");
  if (!resolved.pipeline.train && ranks > 1)
    return printError("inference on a mesh (--mesh=" + settings.mesh + ", " +
                          std::to_string(ranks) + " ranks) is not supported",
                      "leave out --mesh: one rank");
  if (int status = resolvePipeline(settings, resolved))
    return status;
  warnOfIdleFlags(settings, resolved);
  frontend::ImportOptions importOptions;
  // Shapes are global until partition: one micro-batch of all data ranks.
  importOptions.batch = resolved.pipeline.microBatch *
                        resolved.pipeline.mesh[1] * resolved.pipeline.mesh[2];
  importOptions.sequence = settings.sequence       ? settings.sequence
                           : settings.shrinkBlocks ? 0
                                                   : resolved.train.sequence();
  importOptions.shrink = {settings.shrinkBlocks, settings.shrinkDivisor};
  importOptions.train = resolved.pipeline.train;
  if (!importOptions.train && settings.maxLength)
    importOptions.sequence = settings.maxLength;
  importOptions.maxTokens = settings.maxTokens;
  importOptions.maxLogits = settings.maxLogits;
  importOptions.maxSequences = settings.maxSequences;
  importOptions.pageSize = settings.pageSize;
  importOptions.cachePages = settings.cachePages;
  importOptions.resetAtDocument =
      settings.resetAtDocument || resolved.train.reset_at_document();
  importOptions.strict = settings.strict;
  OwningOpRef<ModuleOp> module =
      frontend::importModel(settings.model, importOptions, context);
  if (!module)
    return kWrongInput;
  if (resolved.pipeline.train) {
    if (int status = adoptBatch(*module, settings, resolved))
      return status;
    resolved.pipeline.sequence = sequenceOf(*module);
  }
  // Files are read on one rank, too: what is wrong with them is said.
  if (resolved.pipeline.train && (ranks > 1 || !settings.sharding.empty())) {
    FailureOr<std::vector<std::string>> files = frontend::addStrategy(
        {settings.sharding, settings.sequenceParallel, settings.zero}, *module);
    if (failed(files))
      return kWrongInput;
    resolved.strategy = llvm::join(*files, " ");
  }
  if (int status = checkGroups(*module, resolved.train))
    return status;
  setAttributes(*module, settings, resolved, plugins);

  for (auto [index, phase] : llvm::enumerate(allPhases())) {
    if (phase == Phase::Emit)
      return writePlan(*module, settings, emitOptions, made);
    PassManager manager(&context);
    // Once per phase, not per pass: lmc-opt, which tests run, verifies each.
    manager.enableVerifier(false);
    addPhase(manager, phase, resolved.pipeline);
    plugins.addPasses(manager, phase);
    if (failed(manager.run(*module)) ||
        (manager.size() > 0 && failed(verify(*module))))
      return kWrongInput;
    if (int status = dump(*module, settings, phase, index))
      return status;
    if (phase == *last)
      return printModule(*module, settings.output);
  }
  return kDone;
}
