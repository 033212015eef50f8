// lmc: the compiler's command line.
#include "runtime/base/StandardStreams.h"
#include "tools/EmptyFlags.h"
#include "tools/FlagRanges.h"
#include "tools/lmc/Check.h"
#include "tools/lmc/Compile.h"
#include "tools/lmc/Diagnostics.h"
#include "tools/lmc/Inspect.h"

#include <CLI/CLI.hpp>
#include <csignal>

namespace {

CLI::App *addCompile(CLI::App &app, lmc::CompileSettings &s,
                     const char *name = "compile") {
  CLI::App *c =
      app.add_subcommand(name, "compile a model description to a plan");
  c->add_option("model", s.model,
                "ModelSpec (.textproto), Hugging Face folder or lm module "
                "(.mlir)")
      ->required();
  c->add_option("-o,--output", s.output,
                "the plan file to write, or the module with --compile-to");
  c->add_option("--mode", s.mode, "what the plan is for")
      ->check(CLI::IsMember({"train", "infer"}))
      ->capture_default_str();
  c->add_option("--target", s.target,
                "device to compile for: cpu, or cuda, cuda:sm_80, cuda:sm_90 "
                "(that architecture and later ones)")
      ->capture_default_str();
  c->add_option("--target-cpu", s.targetCpus,
                "instruction sets to embed code for, separated by commas: "
                "native, x86-64-v3, x86-64-v4, ...")
      ->capture_default_str();
  c->add_option("--config", s.config, "a TrainSpec text proto; flags win");
  c->add_option("--mesh", s.mesh,
                "sizes of the mesh axes pp, dp, fsdp, cp, ep, tp that are not "
                "1, e.g. pp=2,dp=2,tp=2");
  c->add_option("--sharding", s.sharding,
                "a ShardingSpec: which axes split which tensors, and share out "
                "which state; a file, or megatron, megatron-sp, fsdp, zero-1, "
                "zero-2, zero-3; several are one (default: megatron and fsdp)")
      ->type_name("NAME|FILE")
      ->allow_extra_args(false);
  c->add_flag("--sequence-parallel", s.sequenceParallel,
              "tokens over tp between the layers that it splits: "
              "--sharding=megatron-sp");
  c->add_option("--pipeline-schedule", s.pipelineSchedule,
                "order of micro-batches in a pipeline: gpipe, 1f1b, "
                "interleaved (for virtual stages), zb, or a file, such as "
                "examples/pipeline.schedule (default: 1f1b, or interleaved)")
      ->type_name("NAME|FILE");
  c->add_option("--virtual-stages", s.virtualStages,
                "model chunks on each pipeline stage")
      ->check(lmc::size)
      ->capture_default_str();
  c->add_option("--zero", s.zero,
                "what is shared out over dp: nothing (0, the default), moments "
                "(1), gradients too (2), parameters too (3), as by "
                "--sharding=zero-3; over fsdp all three are")
      ->check(CLI::Range(0, 3));
  c->add_option("--stages", s.stages,
                "blocks of each pipeline stage, e.g. 5,7; with virtual stages "
                "of each chunk, in the model's order (default: equal cost)")
      ->delimiter(',')
      ->allow_extra_args(false);
  c->add_option("--global-batch", s.globalBatch,
                "samples per step (default: the micro-batch)")
      ->check(lmc::size);
  c->add_option("--micro-batch", s.microBatch,
                "samples per rank and micro-batch (default: the whole batch)")
      ->check(lmc::size);
  c->add_option("--seq", s.sequence,
                "tokens per sample (default: the model's longest)")
      ->check(lmc::size);
  c->add_option("--max-tokens", s.maxTokens,
                "inference: tokens of one step at most")
      ->check(lmc::size)
      ->capture_default_str();
  c->add_option("--max-sequences", s.maxSequences,
                "inference: sequences under way at once")
      ->check(lmc::size)
      ->capture_default_str();
  c->add_option("--max-length", s.maxLength,
                "inference: tokens of one sequence (default: the model's "
                "longest)")
      ->check(lmc::size);
  c->add_option("--page-size", s.pageSize,
                "inference: tokens of one page of the cache")
      ->check(lmc::size)
      ->capture_default_str();
  c->add_option("--cache-pages", s.cachePages,
                "inference: pages of the cache (default: enough for "
                "max-sequences of max-length)")
      ->check(lmc::size);
  c->add_option("--max-logits", s.maxLogits,
                "inference: tokens of one step whose logits are computed "
                "(default: up to 128)")
      ->check(lmc::size);
  c->add_flag("--reset-at-document", s.resetAtDocument,
              "a token sees only tokens of its own document");
  c->add_flag("--strict", s.strict,
              "an unknown key of a config.json is an error");
  c->add_option("--compile-to", s.compileTo,
                "stop behind this phase and write the module (default: to the "
                "standard output)");
  c->add_option("--dump-phases", s.dumpPhases,
                "write the module behind each phase into this folder");
  c->add_option("--memory", s.memoryBytes,
                "bytes of each rank's device; a plan that needs more is "
                "refused, with settings that need less (default: any)")
      ->check(lmc::positiveCount)
      ->transform(CLI::AsSizeValue(/*kb_is_1000=*/true))
      ->type_name("SIZE");
  c->add_option("--threads", s.threads, "compiler threads (default: all)")
      ->check(lmc::size);
  c->add_flag("--no-kernel-cache", s.noCache,
              "compile every kernel anew, keep none");
  // One value per flag, or the model behind it would be taken for one more.
  c->add_option("--load-pass-plugin", s.plugins,
                "a shared object with operations and passes of its own; may "
                "be given several times")
      ->type_name("LIB")
      ->allow_extra_args(false);
  c->add_option("--pass", s.passes,
                "run a pass behind a phase; may be given several times")
      ->type_name("after-PHASE:PASS{OPTION=VALUE}")
      ->allow_extra_args(false);
  c->footer("Examples:\n"
            "  lmc compile examples/gpt-mini.textproto -o gpt-mini.plan "
            "--micro-batch=8 --seq=256\n"
            "  lmc compile gpt2/ -o gpt2.plan --mode=infer\n"
            "  lmc compile gpt2/ --compile-to=differentiate");
  return c;
}

CLI::App *addCheck(CLI::App &app, lmc::CompileSettings &s, std::string &keep) {
  CLI::App *c = addCompile(app, s, "check");
  c->description("shrink a model, run it on the ranks of a mesh and on one, "
                 "compare losses and gradients");
  for (const char *flag :
       {"--output", "--mode", "--max-tokens", "--max-sequences", "--max-length",
        "--page-size", "--cache-pages", "--max-logits", "--compile-to",
        "--dump-phases", "--memory"})
    c->remove_option(c->get_option(flag));
  c->add_option("--keep", keep,
                "leave plans, losses and gradients in this folder");
  c->footer("Blocks, widths, vocabulary, samples and tokens are made few; "
            "--seq, --micro-batch\nand --global-batch say how many. A module "
            "in lm stays as it is. The ranks are\nthreads of one process.\n"
            "Examples:\n"
            "  lmc check examples/gpt-mini.textproto --mesh=pp=2,tp=2\n"
            "  lmc check llama/ --mesh=dp=2,tp=2 --zero=3");
  return c;
}

// Flags that say nothing about what is compiled are refused, not ignored.
int checkMode(const CLI::App &compile, const lmc::CompileSettings &settings) {
  bool train = settings.mode == "train";
  std::vector<const char *> others = {"--max-tokens",  "--max-sequences",
                                      "--max-length",  "--page-size",
                                      "--cache-pages", "--max-logits"};
  if (!train)
    others = {"--global-batch",
              "--micro-batch",
              "--seq",
              "--config",
              "--stages",
              "--pipeline-schedule",
              "--virtual-stages",
              "--zero",
              "--reset-at-document",
              "--sharding",
              "--sequence-parallel"};
  for (const char *flag : others)
    if (compile.parsed() && compile.count(flag))
      return lmc::printError(
          std::string(flag) + " is for " + (train ? "inference" : "training") +
              ", not for --mode=" + settings.mode,
          std::string("leave it out; lmc compile --help lists the flags of ") +
              (train ? "training" : "inference"));
  return 0;
}

// What is wrong with the call; the exit status is the contract's.
int reportParseError(CLI::App &app, const CLI::ParseError &error) {
  CLI::App *chosen = &app;
  for (CLI::App *command : app.get_subcommands())
    chosen = command;
  std::string message = error.what();
  // A misspelt flag is often the reason why another one is missing.
  if (std::vector<std::string> unknown = app.remaining(/*recurse=*/true);
      !unknown.empty())
    message =
        (unknown[0][0] == '-' ? "unknown flag " : "unexpected argument ") +
        unknown[0];
  std::string command = chosen == &app ? "lmc" : "lmc " + chosen->get_name();
  return lmc::printError(message, command + " --help lists what there is");
}

} // namespace

int main(int argc, char **argv) {
  lmc::runtime::reserveStandardStreams();
  // Children of a process that ignores this cannot be waited for.
  std::signal(SIGCHLD, SIG_DFL);
  CLI::App app(
      "lmc: compiles transformers to plans that lmrun executes.\n"
      "Exit status: 0 done, 1 failed, 2 the call or an input is "
      "wrong, 3 it does not fit,\ninto memory or onto a disk, 4 a file "
      "is corrupt or of another version, 70 our bug.");
  app.set_version_flag("--version", "lmc " LMC_VERSION);
  app.require_subcommand(1);
  lmc::CompileSettings compileSettings;
  CLI::App *compile = addCompile(app, compileSettings);
  lmc::CompileSettings checkSettings;
  std::string keep;
  CLI::App *check = addCheck(app, checkSettings, keep);
  std::string plan;
  std::string html;
  bool json = false;
  CLI::App *inspect = app.add_subcommand(
      "inspect", "print what a plan holds: parameters, FLOPs, bytes, kernels, "
                 "what a step exchanges, what is resharded and at which "
                 "price");
  inspect->add_option("plan", plan, "the plan file")->required();
  inspect->add_flag("--json", json, "as JSON");
  inspect
      ->add_option("--html", html,
                   "write a page with the schedule, the memory of each stage "
                   "over a step, the reshards and the shardings, instead of "
                   "printing")
      ->type_name("FILE")
      ->excludes("--json");
  if (std::string flag = lmc::emptyFlag(argc, argv); !flag.empty())
    return lmc::printError(flag + " has no value",
                           "give it one, or leave the flag out");
  try {
    app.parse(argc, argv);
  } catch (const CLI::Success &request) {
    return app.exit(request);
  } catch (const CLI::ParseError &error) {
    return reportParseError(app, error);
  }
  if (int status = checkMode(*compile, compileSettings))
    return status;
  if (compile->parsed())
    return lmc::compile(compileSettings);
  if (check->parsed())
    return lmc::check(checkSettings, keep);
  if (inspect->parsed())
    return lmc::inspect(plan, json, html);
  return 2;
}
