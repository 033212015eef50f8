// lmrun bench: how fast a plan runs here, with made-up tokens and weights.
//
// A training plan runs its schedule "train" as `lmrun train` does. An inference
// plan continues one sequence by --tokens in each step, from --context on; each
// step is paired with a plain read of the plan's parameters by the same
// threads, so that the share of memory bandwidth that the weights of its
// products reach is of one and the same minute.
//
// On a GPU the kernels' times are of further steps: its clock is read between
// every two of them, which the timed steps do without. The first two of either
// run instruction by instruction and record; --warmup leaves them out. A trace
// is of the steps that kernels' times are of.
#include "runtime/base/Log.h"
#include "runtime/base/MappedFile.h"
#include "runtime/generate/Session.h"
#include "runtime/generate/StepModel.h"
#include "runtime/weights/LocalTensor.h"
#include "tools/FlagRanges.h"
#include "tools/lmrun/Commands.h"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <functional>
#include <optional>

using namespace lmc::runtime;
namespace plan = lmc::plan;
using Clock = std::chrono::steady_clock;

namespace {
struct BenchFlags {
  SessionOptions session;
  int steps = 20, warmup = 2;
  int64_t tokens = 1;
  std::optional<int64_t> context; ///< none: as contextOf says
  bool json = false, kernels = false;
  Trace *trace = nullptr; ///< null: none

  int64_t allSteps() const { return int64_t(warmup) + steps; }
};

struct Result {
  std::vector<double> steps; ///< seconds
  double tokensPerStep = 0;
  std::vector<double> reads; ///< seconds of a plain read of `readBytes`
  int64_t readBytes = 0, weightBytes = 0;
};
} // namespace

static double secondsSince(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

static double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values.empty() ? 0 : values[values.size() / 2];
}

static double best(const std::vector<double> &values) {
  return values.empty() ? 0 : *std::min_element(values.begin(), values.end());
}

static uint64_t mix(uint64_t x) {
  x = (x ^ (x >> 31)) * 0x9e3779b97f4a7c15u;
  return x ^ (x >> 29);
}

/// Random tokens, weights of one, positions in order, everything else zero.
static void fillInputs(Executor &executor) {
  const plan::Plan &plan = executor.plan();
  for (const plan::Port &port : plan.inputs()) {
    std::vector<uint32_t> words(size_t(port.slice().bytes()) / 4);
    float one = 1;
    for (size_t i = 0; i < words.size(); ++i) {
      if (port.vocabulary() > 0)
        words[i] = uint32_t(mix(i + 1) % uint64_t(port.vocabulary()));
      else if (port.name() == "positions")
        words[i] = uint32_t(i % size_t(plan.sequence_length()));
      else if (port.dtype() == plan::F32)
        std::memcpy(&words[i], &one, 4);
    }
    executor.device().write(executor.address(port.slice()), words.data(),
                            int64_t(words.size()) * 4);
  }
}

/// Calls `step`, which says how many seconds it took, with 0, 1, ...
static Status timeSteps(Executor &executor, const BenchFlags &flags,
                        const std::function<StatusOr<double>(int64_t)> &step,
                        Result &result) {
  bool isApart = !executor.device().hostAccessible();
  LMC_RETURN_IF_ERROR(executor.setProfile(!isApart));
  int64_t steps = flags.allSteps();
  auto beginMeasuring = [&] {
    executor.resetProfile();
    return executor.setTrace(flags.trace);
  };
  for (int64_t i = 0; i < steps; ++i) {
    if (i == flags.warmup && !isApart)
      LMC_RETURN_IF_ERROR(beginMeasuring());
    LMC_ASSIGN_OR_RETURN(double seconds, step(i));
    if (i >= flags.warmup)
      result.steps.push_back(seconds);
  }
  if (!isApart)
    return Status();
  LMC_RETURN_IF_ERROR(executor.setProfile(true));
  for (int64_t i = 0; i < steps; ++i) {
    if (i == flags.warmup)
      LMC_RETURN_IF_ERROR(beginMeasuring());
    LMC_RETURN_IF_ERROR(step(steps - 1).status());
  }
  return Status();
}

static Status benchTraining(Executor &executor, const BenchFlags &flags,
                            Result &result) {
  const plan::Plan &plan = executor.plan();
  if (flags.tokens != 1 || flags.context)
    return wrongInput("--tokens and --context are of inference; this plan "
                      "trains")
        .help("leave them out; a training plan's step has its own batch");
  int schedule = executor.findSchedule("train");
  result.tokensPerStep =
      double(plan.global_batch()) * double(plan.sequence_length());
  fillInputs(executor);
  executor.setScalar("seed.lo", 1);
  auto step = [&](int64_t i) -> StatusOr<double> {
    executor.setScalar("step", i + 1);
    Clock::time_point start = Clock::now();
    LMC_RETURN_IF_ERROR(executor.run(schedule));
    return secondsSince(start);
  };
  return timeSteps(executor, flags, step, result);
}

/// Bytes of states that the products of one step read.
static int64_t weightBytes(const plan::Plan &plan) {
  int64_t bytes = 0;
  for (const plan::Schedule &schedule : plan.schedules())
    for (const plan::Call &call : schedule.calls())
      for (const plan::Instruction &instruction :
           plan.programs(int(call.program())).instructions()) {
        auto add = [&](const plan::Slice &slice) {
          if (plan.allocations(int(slice.allocation())).contents() ==
              plan::Allocation::STATE)
            bytes += slice.bytes();
        };
        if (instruction.has_matmul()) {
          add(instruction.matmul().right());
          add(instruction.matmul().bias());
        }
        const plan::Launch &launch = instruction.launch();
        if (!instruction.has_launch() ||
            plan.kernels(int(launch.kernel())).kind() != "contraction")
          continue;
        for (const plan::Operand &operand : launch.operands())
          add(operand.slice());
      }
  return bytes;
}

/// Reads every byte of the allocation of parameters, on all threads, where the
/// host can.
static double readParameters(Executor &executor, int64_t &bytes) {
  const plan::Plan &plan = executor.plan();
  bytes = 0;
  if (!executor.device().hostAccessible())
    return 0;
  int found = -1;
  for (const plan::State &state : plan.states())
    if (state.kind() == plan::State::PARAMETER)
      found = int(state.slice().allocation());
  if (found < 0)
    return 0;
  constexpr int64_t block = 64 << 10;
  const std::byte *base = executor.device().base(uint32_t(found));
  int64_t blocks = plan.allocations(found).bytes() / block;
  bytes = blocks * block;
  Clock::time_point start = Clock::now();
  executor.device().parallelHost(
      [](void *context, int64_t begin, int64_t end) {
        typedef uint64_t Words __attribute__((vector_size(16)));
        const auto *words = static_cast<const Words *>(context);
        Words sums[4] = {};
        for (int64_t i = begin * block / 16; i < end * block / 16; i += 8) {
          __builtin_prefetch(words + i + 128);
          __builtin_prefetch(words + i + 132);
          for (int j = 0; j < 8; ++j)
            sums[j & 3] += words[i + j];
        }
        asm volatile("" : : "x"(sums[0] + sums[1] + sums[2] + sums[3]));
      },
      const_cast<std::byte *>(base), blocks);
  return secondsSince(start);
}

/// Of the plan's positions 64, or as many as all steps leave.
static int64_t contextOf(const BenchFlags &flags, int64_t maxLength) {
  int64_t left = maxLength - flags.allSteps() * flags.tokens;
  int64_t most = std::min<int64_t>(64, maxLength - flags.tokens);
  return flags.context.value_or(std::max<int64_t>(0, std::min(left, most)));
}

static Status benchInference(Executor &executor, const BenchFlags &flags,
                             Result &result) {
  LMC_ASSIGN_OR_RETURN(StepModel model, StepModel::create(executor));
  int64_t context = contextOf(flags, model.maxLength());
  // Steps begin again at `context` when the sequence is full.
  int64_t room = (model.maxLength() - context) / flags.tokens;
  if (flags.tokens > model.maxTokens() || room < 1)
    return wrongInput("{} tokens in a step from position {} on do not fit a "
                      "plan of {} tokens per step and {} per sequence",
                      flags.tokens, context, model.maxTokens(),
                      model.maxLength())
        .help("give fewer --tokens, or a smaller --context");
  int64_t last = context + std::min(room, flags.allSteps()) * flags.tokens;
  result.tokensPerStep = double(flags.tokens);
  result.weightBytes = weightBytes(executor.plan());
  int row = model.cache().open(last);
  if (row < 0)
    return wrongInput("the plan's cache does not hold {} tokens", last);
  auto step = [&](int64_t i) -> StatusOr<double> {
    double read = readParameters(executor, result.readBytes);
    if (i >= flags.warmup)
      result.reads.push_back(read);
    int64_t first = context + i % room * flags.tokens;
    model.begin();
    for (int64_t t = 0; t < flags.tokens; ++t)
      model.add(row, first + t,
                int32_t(mix(uint64_t(first + t)) %
                        uint64_t(std::max<int64_t>(model.vocabulary(), 1))),
                t + 1 == flags.tokens);
    Clock::time_point start = Clock::now();
    LMC_RETURN_IF_ERROR(model.run());
    return secondsSince(start);
  };
  return timeSteps(executor, flags, step, result);
}

static void print(const Executor &executor, const BenchFlags &flags,
                  const Result &result) {
  double step = median(result.steps), read = median(result.reads);
  double bandwidth = read > 0 ? double(result.readBytes) / read : 0;
  double streamed = step > 0 ? double(result.weightBytes) / step : 0;
  double share = bandwidth > 0 ? streamed / bandwidth : 0;
  double bestStep = best(result.steps), bestRead = best(result.reads);
  // Others on the machine take from the median, hardly from the best.
  double bestShare = bestStep > 0 && result.readBytes > 0
                         ? double(result.weightBytes) / bestStep /
                               (double(result.readBytes) / bestRead)
                         : 0;
  if (flags.json) {
    fmt::print("{{\"step_ms\": {:.4f}, \"best_ms\": {:.4f}, "
               "\"tokens_per_second\": {:.3f}, "
               "\"steps\": {}, \"weight_bytes\": {}, "
               "\"read_bytes_per_second\": {:.0f}, \"bandwidth_share\": "
               "{:.4f}, \"best_share\": {:.4f}}}\n",
               step * 1e3, bestStep * 1e3,
               step > 0 ? result.tokensPerStep / step : 0, result.steps.size(),
               result.weightBytes, bandwidth, share, bestShare);
    return;
  }
  fmt::print("step     {:10.3f} ms, median of {}; best {:.3f}\n", step * 1e3,
             result.steps.size(), bestStep * 1e3);
  fmt::print("tokens   {:10.1f} per second\n",
             step > 0 ? result.tokensPerStep / step : 0);
  if (result.weightBytes > 0 && bandwidth > 0)
    fmt::print("weights  {:10.2f} GB/s, {:.1f} % of a plain read's {:.2f} "
               "GB/s; best over best {:.1f} %\n",
               streamed * 1e-9, 100 * share, bandwidth * 1e-9, 100 * bestShare);
  fmt::print("\n{}", executor.profileReport(
                         flags.kernels ? Executor::ProfileLines::Kernels
                                       : Executor::ProfileLines::Kinds));
}

static Status bench(BenchFlags &flags) {
  SessionOptions options = flags.session;
  LMC_RETURN_IF_ERROR(refuseInputAsOutput(options.trace.path, {options.plan}));
  // Begins behind the warm-up.
  TraceOptions traceOptions = std::exchange(options.trace, {});
  return runSession(options, [&](Executor &executor) -> Status {
    LMC_ASSIGN_OR_RETURN(
        std::unique_ptr<Trace> trace,
        Trace::create(executor.plan(), traceOptions, /*rank=*/0));
    flags.trace = trace.get();
    if (flags.steps == 0)
      return Status();
    for (const plan::State &state : executor.plan().states())
      if (state.kind() == plan::State::PARAMETER)
        initializeState(executor, state, 1);
    Result result;
    LMC_RETURN_IF_ERROR(
        closeTrace(flags.trace, executor.findSchedule("train") >= 0
                                    ? benchTraining(executor, flags, result)
                                    : benchInference(executor, flags, result)));
    print(executor, flags, result);
    return flushStdout();
  });
}

CommandBody addBenchCommand(CLI::App &app) {
  auto flags = std::make_shared<BenchFlags>();
  CLI::App *command = app.add_subcommand(
      "bench", "Time a plan's step, with made-up tokens and weights.");
  command->add_option("plan", flags->session.plan, "Plan")
      ->required()
      ->type_name("PLAN");
  command
      ->add_option("--steps", flags->steps,
                   "Steps to measure (0: prepare all, run nothing)")
      ->check(lmc::count)
      ->capture_default_str();
  command->add_option("--warmup", flags->warmup, "Steps before these")
      ->check(lmc::count)
      ->capture_default_str();
  command
      ->add_option("--tokens", flags->tokens,
                   "Inference: tokens of the one sequence in each step")
      ->check(lmc::positiveCount)
      ->capture_default_str();
  command
      ->add_option("--context", flags->context,
                   "Inference: tokens that are in the cache before the first "
                   "(64, or as many as the plan has room for)")
      ->check(lmc::count);
  addSessionOptions(*command, flags->session);
  command->add_flag("--kernels", flags->kernels,
                    "A line for each kernel, not for each kind");
  command->add_flag("--json", flags->json, "One JSON object, no table");
  command->footer("Examples:\n"
                  "  lmrun bench gpt2.plan\n"
                  "  lmrun bench gpt2-infer.plan --tokens 1 --steps 100");
  return [flags] {
    flags->session.measure = true;
    return bench(*flags);
  };
}
