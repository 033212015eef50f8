// See Trainer.h.
#include "runtime/train/Trainer.h"
#include "runtime/base/Log.h"
#include "runtime/plan/PlanFacts.h"
#include "runtime/train/Checkpoint.h"
#include "runtime/train/JobFacts.h"
#include "runtime/train/LearningRate.h"

#include <atomic>
#include <chrono>
#include <cmath>

namespace lmc::runtime {

static std::atomic<bool> stopFlag{false};
void requestStop() { stopFlag.store(true, std::memory_order_relaxed); }
bool stopRequested() { return stopFlag.load(std::memory_order_relaxed); }

StatusOr<std::unique_ptr<Trainer>> Trainer::create(Executor &executor,
                                                   const Shared &shared) {
  LMC_ASSIGN_OR_RETURN(Batches batches, Batches::create(executor, shared.data));
  std::unique_ptr<Trainer> trainer(
      new Trainer(executor, shared, std::move(batches)));
  LMC_RETURN_IF_ERROR(trainer->prepare());
  return trainer;
}

static const plan::Scalar *findScalar(const plan::Plan &plan,
                                      std::string_view name) {
  for (const plan::Scalar &scalar : plan.scalars())
    if (scalar.name() == name)
      return &scalar;
  return nullptr;
}

Status Trainer::prepare() {
  const plan::Plan &plan = executor.plan();
  trainSchedule = executor.findSchedule("train");
  if (trainSchedule < 0)
    return wrongInput("the plan has no schedule \"train\"")
        .help("compile with --mode=train");
  evalSchedule = executor.findSchedule("evaluate");
  if (evalSchedule < 0 && options.evalEvery > 0)
    return wrongInput("the plan has no schedule \"evaluate\", so --eval-every "
                      "cannot be met");
  flopsPerStep = executor.scheduleFlops(trainSchedule);

  bool hasLoss = false;
  for (const plan::Port &port : plan.outputs())
    hasLoss = hasLoss || port.name() == "loss";
  if (!hasLoss)
    return wrongInput("the plan has no output \"loss\"");

  for (const auto &[name, value] : options.scalars)
    (void)executor.setScalar(name, value); // checked by checkSettings
  peakLearningRate = settingOf(plan, options, "lr");
  beta1 = settingOf(plan, options, "beta1");
  beta2 = settingOf(plan, options, "beta2");

  int64_t total = shared.data.size();
  int64_t cut = int64_t(double(total) * (1.0 - options.heldOutFraction));
  trainRange = {0, cut};
  evalRange = {cut, total};
  int64_t tokens = batches.sequenceLength();
  if (trainRange.numSamples(tokens) < 1)
    return wrongInput("{} is shorter than one sample: {} tokens for training, "
                      "{} are needed",
                      shared.data.path(), cut, tokens + 1)
        .help("use more data, or compile with a smaller --seq");
  if (options.evalEvery > 0 && evalRange.numSamples(tokens) < 1)
    return wrongInput("the held-out part of {} is shorter than one sample: {} "
                      "tokens, {} are needed",
                      shared.data.path(), total - cut, tokens + 1)
        .help("raise --held-out");
  if (executor.comm() && executor.comm()->numRanks() > 1) {
    std::vector<int> all;
    for (int rank = 0; rank < executor.comm()->numRanks(); ++rank)
      all.push_back(rank);
    LMC_ASSIGN_OR_RETURN(everyone, executor.comm()->openGroup(all, 64));
  }
  return Status();
}

/// ", with lr 0.01 (was 0.0006)"; nothing where nothing has changed.
static std::string changesOf(std::map<std::string, std::string> before,
                             std::map<std::string, std::string> now) {
  if (before.empty()) // saved by an lmrun that did not note them
    return "";
  // A number that one of the plans has not, such as a dropout rate. Flags that
  // one has not are said by another flag.
  for (auto [from, to] : {std::pair{&before, &now}, std::pair{&now, &before}})
    for (const auto &[name, value] : *from)
      if (name.compare(0, 2, "--") != 0)
        to->emplace(name, "none");
  std::vector<std::string> changes;
  for (const auto &[name, value] : now)
    if (auto old = before.find(name);
        old != before.end() && old->second != value)
      changes.push_back(
          fmt::format("{} {} (was {})", name, value, old->second));
  return changes.empty() ? ""
                         : fmt::format(", with {}", fmt::join(changes, ", "));
}

Status Trainer::setWeights() {
  seed = options.seed;
  if (shared.checkpointer) {
    if (leads()) {
      order = orderFacts(executor.plan(), options, shared.data);
      rate = rateFacts(executor.plan(), options);
    }
    LMC_ASSIGN_OR_RETURN(
        std::optional<CheckpointState> resumed,
        shared.checkpointer->restore(executor, options.resume, order));
    if (resumed) {
      firstStep = resumed->step + 1;
      sampleOffset = resumed->samples - resumed->step * batches.globalBatch();
      if (!options.seedGiven)
        seed = resumed->seed;
      if (leads())
        logInfo("resumed after step {} from {}{}", resumed->step,
                resumed->folder, changesOf(resumed->rate, rate));
      soundStep = firstStep - 2;
      return carryCompanions(resumed->folder);
    }
  }
  for (const plan::State &state : executor.plan().states()) {
    if (!isOnStage(state, executor.stage()))
      continue;
    if (state.kind() == plan::State::PARAMETER && options.weights.empty())
      initializeState(executor, state, seed);
    else if (state.kind() == plan::State::SCALAR)
      initializeState(executor, state, seed);
  }
  if (!options.weights.empty()) {
    LMC_ASSIGN_OR_RETURN(WeightFiles weights,
                         WeightFiles::open(options.weights));
    LMC_RETURN_IF_ERROR(compareWithRank0(executor, weights));
    LMC_RETURN_IF_ERROR(loadParameters(executor, weights));
  }
  return carryCompanions(options.weights);
}

/// From where the run begins into its checkpoints.
Status Trainer::carryCompanions(const std::string &from) {
  if (!leads() || !shared.checkpointer)
    return Status();
  LMC_ASSIGN_OR_RETURN(Companions files, findCompanions(from, shared.data));
  shared.checkpointer->setCompanions(std::move(files));
  return Status();
}

double Trainer::output(std::string_view name, double otherwise) {
  for (const plan::Port &port : executor.plan().outputs()) {
    if (port.name() != name)
      continue;
    const std::byte *at = executor.address(port.slice());
    if (port.dtype() == plan::I32) {
      int32_t value;
      executor.device().read(at, &value, sizeof value);
      return value;
    }
    if (port.dtype() == plan::F64) {
      double value;
      executor.device().read(at, &value, sizeof value);
      return withoutNanSign(value);
    }
    float value;
    executor.device().read(at, &value, sizeof value);
    return withoutNanSign(value);
  }
  return otherwise;
}

/// All ranks stop after the same step or none does.
StatusOr<bool> Trainer::agreeToStop() {
  int32_t stop = stopRequested();
  if (everyone >= 0)
    LMC_RETURN_IF_ERROR(executor.comm()->collective(
        {CollectiveKind::AllReduce, Reduction::Max, DataType::I32, everyone, 1},
        reinterpret_cast<std::byte *>(&stop),
        reinterpret_cast<std::byte *>(&stop)));
  return stop != 0;
}

/// What went wrong, and from where a lower learning rate can still help: the
/// weights of the last steps before a NaN are mostly lost, and their
/// checkpoints only repeat it.
Status Trainer::diverged(int64_t step, const StepMetrics &metrics) {
  Status status =
      makeError(ErrorKind::BadNumbers,
                "step {}: the loss is {} and the gradient norm {}; the "
                "step was not taken",
                step, metrics.loss, metrics.gradNorm)
          .note("learning rate {:g}", metrics.learningRate);
  if (soundStep >= firstStep - 1)
    status = std::move(status).note("up to step {} the loss was near its "
                                    "lowest, {:.4f}",
                                    soundStep + 1, lowestLoss);
  double lower = peakLearningRate / 10;
  int64_t good =
      shared.checkpointer ? shared.checkpointer->newestUpTo(soundStep) : -1;
  if (good >= 0)
    return std::move(status).help("go back to step {}, with a lower learning "
                                  "rate: --resume=step_{} --set lr={:g}",
                                  good, good, lower);
  return std::move(status).help(
      "{}begin again{} with a lower learning rate (--set lr={:g}) or a longer "
      "--warmup",
      shared.checkpointer ? "no checkpoint is from before it went wrong: " : "",
      shared.checkpointer ? " in another --checkpoint folder" : "", lower);
}

Status Trainer::trainStep(int64_t step) {
  auto start = std::chrono::steady_clock::now();
  SampleOrder order(trainRange.numSamples(batches.sequenceLength()),
                    options.shuffle, seed);
  StatusOr<double> filled = batches.fill(
      trainRange, order, sampleOffset + (step - 1) * batches.globalBatch(),
      INT64_MAX);
  if (!filled.ok())
    return filled.status();
  StepMetrics metrics;
  metrics.learningRate = learningRate(options, peakLearningRate, step);
  executor.setScalar("lr", metrics.learningRate);
  executor.setScalar("step", double(step));
  // As float32 betas, which the kernels see, would give them.
  executor.setScalar("bias_correction1",
                     1.0 - std::pow(double(float(beta1)), double(step)));
  executor.setScalar("bias_correction2",
                     1.0 - std::pow(double(float(beta2)), double(step)));
  Traffic before = shared.traffic ? *shared.traffic : Traffic();
  LMC_RETURN_IF_ERROR(executor.run(trainSchedule));
  if (shared.traffic)
    exchanged = shared.traffic->since(before);
  metrics.loss = output("loss", NAN);
  metrics.gradNorm = output("grad_norm", 0);
  metrics.lossScale = output("loss_scale", 1);
  bool finite = output("finite", 1) != 0;
  // With a dynamic loss scale an overflow is part of the game.
  bool mayOverflow = findScalar(executor.plan(), "loss_scale") != nullptr;
  if (!std::isfinite(metrics.loss) || (!finite && !mayOverflow))
    return diverged(step, metrics);
  // The loss of a step speaks of the weights before it.
  lowestLoss = std::min(lowestLoss, metrics.loss);
  if (metrics.loss <= lowestLoss + 1)
    soundStep = step - 1;
  skipped += !finite;
  if (!leads())
    return Status();
  metrics.step = step;
  metrics.steps = options.steps;
  metrics.globalBatch = batches.globalBatch();
  metrics.tokens = batches.globalBatch() * batches.sequenceLength();
  metrics.skipped = skipped;
  metrics.stepMs = std::chrono::duration<double, std::milli>(
                       std::chrono::steady_clock::now() - start)
                       .count();
  metrics.teraflopsPerRank = double(flopsPerStep) / metrics.stepMs / 1e9;
  if (shared.log)
    shared.log->step(metrics);
  return Status();
}

/// Whether it was told to stop on the way, which ends it without a loss.
StatusOr<bool> Trainer::evaluate(int64_t step) {
  int64_t samples = evalRange.numSamples(batches.sequenceLength());
  SampleOrder order(samples, /*shuffle=*/false, 0);
  double sum = 0, weights = 0;
  for (int64_t i = 0, first = 0;
       first < samples && (options.evalSteps == 0 || i < options.evalSteps);
       ++i, first += batches.globalBatch()) {
    LMC_ASSIGN_OR_RETURN(double weight,
                         batches.fill(evalRange, order, first, samples));
    if (weight == 0)
      continue;
    LMC_RETURN_IF_ERROR(executor.run(evalSchedule));
    if (shared.checkpointer) {
      LMC_ASSIGN_OR_RETURN(bool stop, agreeToStop());
      if (stop)
        return true;
    }
    sum += output("loss", NAN) * weight;
    weights += weight;
  }
  if (leads() && shared.log && weights > 0)
    shared.log->evaluation(step, sum / weights);
  return false;
}

Status Trainer::save(int64_t step) {
  Progress::Scope saving(executor.watched(), Progress::Host);
  // Whoever resumes from this checkpoint finds the metrics up to it.
  if (leads() && shared.log)
    (void)shared.log->finish();
  return shared.checkpointer->save(
      executor, {step, sampleOffset + step * batches.globalBatch(), seed, order,
                 rate, ""});
}

Status Trainer::run() {
  LMC_RETURN_IF_ERROR(setWeights());
  if (leads() && shared.log)
    LMC_RETURN_IF_ERROR(shared.log->beginAfter(firstStep - 1));
  executor.setScalar("seed.lo", double(uint32_t(seed)));
  executor.setScalar("seed.hi", double(uint32_t(seed >> 32)));
  if (leads() && firstStep > options.steps)
    logInfo("nothing is left to do: the checkpoint is of step {}, and --steps "
            "is {}",
            firstStep - 1, options.steps);
  int64_t savedStep = firstStep - 1;
  Progress::Scope stepping(executor.watched(), Progress::Step);
  for (int64_t step = firstStep; step <= options.steps; ++step) {
    LMC_RETURN_IF_ERROR(trainStep(step));
    if (step == firstStep && !options.dumpGradients.empty()) {
      Progress::Scope saving(executor.watched(), Progress::Host);
      LMC_RETURN_IF_ERROR(dumpGradients(executor, options.dumpGradients,
                                        output("gradient_scale", 1)));
    }
    bool stop = false;
    // Saved before the evaluation, which may take longer than the step.
    if (shared.checkpointer) {
      LMC_ASSIGN_OR_RETURN(stop, agreeToStop());
      if (stop || step == options.steps ||
          (options.saveEvery > 0 && step % options.saveEvery == 0)) {
        LMC_RETURN_IF_ERROR(save(step));
        savedStep = step;
      }
    }
    if (!stop && options.evalEvery > 0 &&
        (step % options.evalEvery == 0 || step == options.steps)) {
      LMC_ASSIGN_OR_RETURN(stop, evaluate(step));
      if (stop && savedStep != step) {
        LMC_RETURN_IF_ERROR(save(step));
        savedStep = step;
      }
    }
    if (stop && step < options.steps) {
      Progress::Scope saving(executor.watched(), Progress::Host);
      LMC_RETURN_IF_ERROR(shared.checkpointer->finish(executor));
      return makeError(ErrorKind::Stopped,
                       "told to stop after step {} of {}; checkpoint saved",
                       savedStep, options.steps)
          .help("go on with --resume");
    }
  }
  Progress::Scope saving(executor.watched(), Progress::Host);
  return shared.checkpointer ? shared.checkpointer->finish(executor) : Status();
}

} // namespace lmc::runtime
