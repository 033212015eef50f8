// lmrun train: the flags of a training run.
#include "runtime/base/Log.h"
#include "runtime/base/MappedFile.h"
#include "runtime/job/Job.h"
#include "runtime/job/Launch.h"
#include "runtime/plan/PlanCheck.h"
#include "runtime/plan/PlanFacts.h"
#include "runtime/plan/PlanFile.h"
#include "runtime/train/DryRun.h"
#include "runtime/train/TrainJob.h"
#include "tools/FlagRanges.h"
#include "tools/lmrun/Commands.h"

#include <unistd.h>

using namespace lmc::runtime;

namespace {
struct TrainFlags {
  TrainOptions options;
  std::string plan;
  std::vector<std::string> settings;
  std::string comm = "host";
  std::string device;
  std::string logFormat = "text";
  std::string saveDtype = "fp32";
  std::string decay = "constant";
  std::string resume; ///< "true" when nothing is behind it
  CLI::App *command = nullptr;
  CLI::Option *nproc = nullptr;
  bool hasBegun = false; ///< as one rank of several, which has told the others
};
} // namespace

static const char *environment(const char *name) { return std::getenv(name); }

/// Says which rank speaks, unless the message begins with a rank: then it is
/// everyone's.
static Status saidBy(int rank, Status status) {
  std::string_view text = status.message();
  size_t digits = text.substr(0, 5) == "rank "
                      ? text.find_first_not_of("0123456789", 5)
                      : text.npos;
  if (digits == text.npos || text[digits] != ':')
    return std::move(status).prepend(fmt::format("rank {}", rank));
  return text.substr(5, digits - 5) == std::to_string(rank)
             ? status
             : std::move(status).note("said by rank {}", rank);
}

Status tellOtherRanks(Status failure) {
  StatusOr<std::optional<Place>> place = placeFromEnvironment(environment);
  if (!place.ok() || !*place || (*place)->ranks == 1)
    return failure;
  failure = saidBy((*place)->rank, std::move(failure));
  Job::announce(**place, failure, 2000);
  return failure;
}

/// As one rank of a launcher's job, as a starter of all ranks, or alone.
static Status runWhereStarted(const lmc::plan::Plan &plan, TrainFlags &flags) {
  TrainOptions &options = flags.options;
  bool isDry = options.paceSeconds > 0;
  LMC_ASSIGN_OR_RETURN(std::optional<Place> place,
                       placeFromEnvironment(environment));
  options.rightStart = howToStart(place, worldSize(plan));
  if (!place)
    options.strayVariables = strayVariables(environment);
  if (flags.comm == "local" && place && place->ranks > 1)
    return wrongInput("--comm=local runs all ranks in one process, and {} "
                      "starts {}",
                      place->source, place->ranks)
        .help("leave out --comm=local, or start without a launcher");
  if (flags.comm == "local")
    return isDry ? wrongInput("--device=null takes ranks as processes")
                       .help("leave out --comm=local")
                 : runTraining(plan, options);
  options.tcpOnly = flags.comm == "tcp";
  auto runRank = [&](const Place &place,
                     const std::function<void(const Status &)> &giveUp) {
    return isDry ? runDryRank(plan, options, place, giveUp)
                 : runTrainingRank(plan, options, place, giveUp);
  };
  if (!place || place->ranks == 1) {
    if (options.ranks == 1)
      return isDry ? runDry(plan, options) : runTraining(plan, options);
    LMC_RETURN_IF_ERROR(checkTraining(plan, options));
    LMC_RETURN_IF_ERROR(checkOutputs(options));
    if (!isDry)
      LMC_RETURN_IF_ERROR(checkMemoryOfAllRanks(plan));
    return launch(options.ranks, runRank,
                  int64_t(options.timeoutSeconds * 1e3));
  }
  if (flags.nproc->count() > 0)
    return wrongInput("--nproc {} inside a job of {} ranks, of {}",
                      options.ranks, place->ranks, place->source)
        .help("leave out --nproc: the launcher has started the ranks");
  options.ranks = place->ranks;
  flags.hasBegun = true;
  if (place->rank == 0)
    logInfo("rank 0 of {}: from {}, meeting at {}:{}", place->ranks,
            place->source, place->host, place->port);
  Status status = runRank(*place, [&](const Status &verdict) {
    ::_exit(report(saidBy(place->rank, verdict)));
  });
  return status.ok() || status.kind() == ErrorKind::Stopped
             ? status
             : saidBy(place->rank, status);
}

/// --resume, --resume=step_20 or --resume=20.
static Status readResume(const std::string &text, TrainOptions &options) {
  options.resume = !text.empty() && text != "false";
  if (!options.resume || text == "true" || text == "latest")
    return Status();
  std::string digits = text.compare(0, 5, "step_") == 0 ? text.substr(5) : text;
  if (digits.empty() || digits.size() > 18 ||
      digits.find_first_not_of("0123456789") != std::string::npos)
    return wrongInput("--resume={}: the name of a checkpoint is wanted, such "
                      "as step_200",
                      text);
  options.resumeStep = std::stoll(digits);
  return Status();
}

/// A dry run has neither numbers nor data.
static Status refuseUselessFlags(const TrainOptions &options) {
  std::vector<std::string> useless;
  for (const std::string &name : options.given)
    if (name != "plan" && name != "--steps" && name != "--nproc" &&
        name != "--comm" && name != "--timeout" && name != "--device" &&
        name != "--pace")
      useless.push_back(name);
  if (useless.empty())
    return Status();
  return wrongInput("--device=null computes nothing: there is no use for {}",
                    fmt::join(useless, ", "))
      .help("leave {} out", useless.size() == 1 ? "it" : "them");
}

static Status train(TrainFlags &flags) {
  TrainOptions &options = flags.options;
  for (const CLI::Option *option : flags.command->get_options())
    if (option->count() > 0)
      options.given.insert(option->get_name());
  bool isDry = flags.device == "null";
  if (isDry != (options.paceSeconds > 0))
    return wrongInput(isDry ? "--device=null computes nothing; --pace says how "
                              "long that takes"
                            : "--pace is for --device=null")
        .help("--device=null --pace=2: the busiest stage works 2 s in a step");
  if (isDry)
    LMC_RETURN_IF_ERROR(refuseUselessFlags(options));
  if (!isDry && options.dataPath.empty())
    return wrongInput("--data is required")
        .help("--data FILE; lmrun tokenize makes one from text");
  options.seedGiven = options.given.count("--seed") > 0;
  options.jsonLog = flags.logFormat == "json";
  options.decay = flags.decay == "cosine"   ? Decay::Cosine
                  : flags.decay == "linear" ? Decay::Linear
                                            : Decay::Constant;
  options.saveBf16 = flags.saveDtype == "bf16";
  for (const std::string &setting : flags.settings) {
    LMC_ASSIGN_OR_RETURN(auto number, readSetting(setting));
    options.scalars.push_back(std::move(number));
  }
  LMC_RETURN_IF_ERROR(readResume(flags.resume, options));
  if (options.checkpointFolder.empty() &&
      (options.resume || options.saveEvery > 0 || options.keep > 0))
    return wrongInput(
        "--resume, --save-every and --keep need --checkpoint DIR");
  if (options.evalEvery > 0 && options.heldOutFraction <= 0)
    return wrongInput("--eval-every needs a held-out part: --held-out 0.05");
  if (options.weights.empty() == false && options.resume)
    return wrongInput("--weights and --resume both say where the weights come "
                      "from")
        .help("leave out --weights: the checkpoint has them");
  std::vector<std::string> read = {flags.plan, options.dataPath,
                                   options.weights};
  LMC_RETURN_IF_ERROR(refuseInputAsOutput(options.dumpGradients, read));
  LMC_RETURN_IF_ERROR(refuseInputAsOutput(options.metricsPath, read));
  LMC_RETURN_IF_ERROR(refuseInputAsOutput(options.trace.path, read));
  LMC_RETURN_IF_ERROR(
      refuseOutputsAlike({{"--metrics", options.metricsPath},
                          {"--dump-gradients", options.dumpGradients},
                          {"--trace", options.trace.path}}));
  LMC_ASSIGN_OR_RETURN(lmc::plan::Plan plan, readPlanFile(flags.plan));
  takeDefaults(plan, options);
  if (Status status = checkPlan(plan); !status.ok())
    return std::move(status).prepend(flags.plan);
  return runWhereStarted(plan, flags);
}

CommandBody addTrainCommand(CLI::App &app) {
  auto flags = std::make_shared<TrainFlags>();
  TrainOptions &o = flags->options;
  CLI::App *command = app.add_subcommand("train", "Train the model of a plan.");
  command->add_option("plan", flags->plan, "Plan made with --mode=train")
      ->required()
      ->type_name("PLAN");

  command
      ->add_option("--data", o.dataPath,
                   "Token file; also Megatron's .bin/.idx and llm.c's .bin")
      ->type_name("FILE")
      ->group("Data");
  command
      ->add_flag("--shuffle", o.shuffle,
                 "Draw the samples of an epoch in a random order instead of "
                 "one after the other")
      ->group("Data");
  command
      ->add_option("--held-out", o.heldOutFraction,
                   "Fraction of the tokens, at the end of the data, that is "
                   "kept for evaluation")
      ->check(CLI::Range(0.0, 0.9))
      ->capture_default_str()
      ->group("Data");
  flags->command = command;
  command
      ->add_option("--seed", o.seed,
                   "Seed of first weights, dropout and shuffling; a resumed "
                   "run keeps the one it began with")
      ->capture_default_str()
      ->group("Data");

  command
      ->add_option("--steps", o.steps,
                   "Number of the last step; a resumed run that is there "
                   "already trains nothing, and says so")
      ->required()
      ->check(lmc::positiveCount)
      ->group("Steps");
  command
      ->add_option("--set", flags->settings,
                   "Set a run-time number of the plan: lr, beta1, beta2, eps, "
                   "weight_decay, clip_norm, ...; tf32=1 lets a GPU's matmuls "
                   "round their factors to TF32; set twice, the last counts")
      ->type_name("NAME=NUMBER")
      ->group("Steps");
  command
      ->add_option("--warmup", o.warmupSteps,
                   "Steps over which the learning rate rises from 0 to lr")
      ->check(lmc::count)
      ->capture_default_str()
      ->group("Steps");
  command
      ->add_option("--decay", flags->decay,
                   "How the learning rate falls after that: constant, linear, "
                   "cosine")
      ->check(CLI::IsMember({"constant", "linear", "cosine"}))
      ->type_name("SHAPE")
      ->capture_default_str()
      ->group("Steps");
  command
      ->add_option("--decay-steps", o.decaySteps,
                   "Step at which the decay reaches --min-lr (0: the last)")
      ->check(lmc::count)
      ->capture_default_str()
      ->group("Steps");
  command->add_option("--min-lr", o.minLearningRate, "Where the decay ends")
      ->check(lmc::notNegative)
      ->capture_default_str()
      ->group("Steps");
  command
      ->add_option("--eval-every", o.evalEvery,
                   "Evaluate on the held-out part after every so many steps "
                   "and at the end (0: never)")
      ->check(lmc::count)
      ->capture_default_str()
      ->group("Steps");
  command
      ->add_option("--eval-steps", o.evalSteps,
                   "Batches of an evaluation (0: the whole held-out part)")
      ->check(lmc::count)
      ->capture_default_str()
      ->group("Steps");

  command
      ->add_option("--weights", o.weights,
                   "Start from these weights: a Hugging Face folder, a "
                   "checkpoint or a safetensors file")
      ->type_name("DIR")
      ->group("Files");
  command
      ->add_option("--dump-gradients", o.dumpGradients,
                   "Write the gradients of the first step as safetensors")
      ->type_name("FILE")
      ->group("Files");
  command
      ->add_option("--checkpoint", o.checkpointFolder,
                   "Folder for checkpoints; SIGTERM then saves and stops")
      ->type_name("DIR")
      ->group("Files");
  command
      ->add_option("--save-every", o.saveEvery,
                   "Save after every so many steps (0: at the end only)")
      ->check(lmc::count)
      ->capture_default_str()
      ->group("Files");
  command
      ->add_option("--keep", o.keep,
                   "Keep the newest so many checkpoints (0: all)")
      ->check(lmc::count)
      ->capture_default_str()
      ->group("Files");
  command
      ->add_option("--save-dtype", flags->saveDtype,
                   "Type of the weights in checkpoints: fp32, bf16")
      ->check(CLI::IsMember({"fp32", "bf16"}))
      ->capture_default_str()
      ->group("Files");
  command
      ->add_flag("--resume", flags->resume,
                 "Go on from the newest checkpoint, bit for bit; without "
                 "one, begin. --resume=step_N goes back to that one and sets "
                 "later ones aside")
      ->group("Files");
  command
      ->add_option("--metrics", o.metricsPath,
                   "Write one JSON object per step: step, loss, grad_norm, lr, "
                   "tokens_per_second, step_ms")
      ->type_name("FILE")
      ->group("Files");

  command->add_option("--log-format", flags->logFormat, "text or json")
      ->check(CLI::IsMember({"text", "json"}))
      ->capture_default_str()
      ->group("Log");
  command
      ->add_option("--log-interval", o.logInterval,
                   "Log every so many steps, and the last")
      ->check(lmc::positiveCount)
      ->capture_default_str()
      ->group("Log");
  command
      ->add_flag("--profile", o.profile,
                 "Measure every kernel and print a table at the end; count "
                 "what each rank exchanges in a step")
      ->group("Log");
  addTraceOptions(*command, o.trace, "Log");

  flags->nproc =
      command
          ->add_option("--nproc", o.ranks,
                       "Ranks to start on this machine; srun, torchrun and "
                       "mpirun start them themselves")
          ->check(CLI::Range(1, 4096))
          ->capture_default_str()
          ->group("Machine");
  command
      ->add_option("--comm", flags->comm,
                   "How ranks exchange bytes: host (shared memory within a "
                   "host, TCP between hosts), tcp (TCP always), local (as "
                   "threads of one process)")
      ->check(CLI::IsMember({"host", "tcp", "local"}))
      ->capture_default_str()
      ->group("Machine");
  command
      ->add_option("--timeout", o.timeoutSeconds,
                   "Seconds for which a rank may give no sign of life, or make "
                   "others wait within one instruction, before the job fails")
      ->check(CLI::Range(0.2, 1e6))
      ->capture_default_str()
      ->group("Machine");
  command
      ->add_option("--device", flags->device,
                   "What computes, if not what the plan is for: null computes "
                   "nothing but takes as long as --pace says")
      ->check(CLI::IsMember({"null"}))
      ->group("Machine");
  command
      ->add_option("--pace", o.paceSeconds,
                   "With --device=null: seconds that the busiest pipeline "
                   "stage works in a step; schedules then run for real")
      ->check(CLI::Range(1e-3, 1e6))
      ->group("Machine");
  command
      ->add_option("--threads", o.threads,
                   "Threads of each rank (0: cores / ranks)")
      ->check(CLI::Range(0, 4096))
      ->capture_default_str()
      ->group("Machine");
  command->add_flag("!--no-pin", o.pinThreads, "Do not pin threads to cores")
      ->group("Machine");
  command
      ->add_flag("--guard-pages", o.guardPages,
                 "Put pages that no one may touch around every allocation: "
                 "a kernel that leaves its bytes stops the job")
      ->group("Machine");
  command->footer(
      "Examples:\n"
      "  lmrun train gpt.plan --data book.tok --steps 500 --warmup 50 "
      "--decay cosine\n"
      "  lmrun train gpt.plan --data book.tok --steps 500 --checkpoint run1 "
      "--save-every 100 --resume\n"
      "  lmrun train gpt-dp2.plan --data book.tok --steps 500 --nproc 2\n"
      "  srun -n 16 lmrun train gpt-dp16.plan --data book.tok --steps 500");
  return [flags] {
    Status status = train(*flags);
    return status.ok() || flags->hasBegun ? status
                                          : tellOtherRanks(std::move(status));
  };
}
