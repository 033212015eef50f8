// lmrun eval: logits of given tokens, or the loss on a data file.
#include "runtime/base/Log.h"
#include "runtime/generate/Evaluate.h"
#include "runtime/generate/Npy.h"
#include "runtime/generate/Session.h"
#include "tools/FlagRanges.h"
#include "tools/lmrun/Commands.h"

#include <cmath>
#include <cstdio>

using namespace lmc::runtime;

namespace {
struct EvalFlags {
  SessionOptions session;
  std::string input, output, data;
  int64_t sampleTokens = 0;
};
} // namespace

static Status writeLogits(Executor &executor, const EvalFlags &flags) {
  LMC_ASSIGN_OR_RETURN(StepModel model, StepModel::create(executor));
  LMC_ASSIGN_OR_RETURN(TokenArray tokens, readTokenArray(flags.input));
  if (tokens.shape.size() == 1)
    tokens.shape.insert(tokens.shape.begin(), 1);
  if (tokens.shape.size() != 2)
    return wrongInput("{} has the shape [{}]; [samples, tokens] is wanted",
                      flags.input, fmt::join(tokens.shape, ", "));
  int64_t samples = tokens.shape[0], length = tokens.shape[1];
  int64_t vocabulary = executor.plan().vocabulary();
  LMC_ASSIGN_OR_RETURN(
      NpyWriter writer,
      NpyWriter::create(flags.output, {samples, length, vocabulary}));
  for (int64_t sample = 0; sample < samples; ++sample)
    if (Status status =
            scoreSequence(model, tokens.values.data() + sample * length, length,
                          [&](int64_t, int64_t count, const float *logits) {
                            writer.write(logits, count * vocabulary);
                          });
        !status.ok())
      return std::move(status).prepend(
          fmt::format("sample {} of {}", sample, flags.input));
  return writer.finish();
}

static Status eval(const EvalFlags &flags) {
  if (flags.input.empty() == flags.data.empty())
    return wrongInput("either --input TOKENS.npy or --data FILE is wanted");
  if (flags.input.empty() != flags.output.empty())
    return wrongInput("--input and --output go together");
  LMC_RETURN_IF_ERROR(refuseOutputsAlike(
      {{"--output", flags.output}, {"--trace", flags.session.trace.path}}));
  LMC_RETURN_IF_ERROR(refuseInputAsOutput(
      flags.output, {flags.session.plan, flags.session.weights, flags.input}));
  return runSession(flags.session, [&](Executor &executor) {
    if (!flags.input.empty())
      return writeLogits(executor, flags);
    StatusOr<TokenData> data = TokenData::open(flags.data);
    if (!data.ok())
      return std::move(data).status();
    StatusOr<Loss> loss = evaluateLoss(executor, *data, flags.sampleTokens);
    if (!loss.ok())
      return std::move(loss).status();
    if (!std::isfinite(loss->mean))
      return makeError(ErrorKind::BadNumbers,
                       "the loss of {} is {} over {:.0f} tokens", flags.data,
                       withoutNanSign(loss->mean), loss->tokens)
          .help("the weights of {} are not finite or too large",
                flags.session.weights);
    std::printf("loss %.6f  perplexity %.4f  tokens %.0f\n", loss->mean,
                std::exp(loss->mean), loss->tokens);
    return flushStdout();
  });
}

CommandBody addEvalCommand(CLI::App &app) {
  auto flags = std::make_shared<EvalFlags>();
  CLI::App *command = app.add_subcommand(
      "eval", "Write the logits of tokens, or print the loss on a data file.");
  command->add_option("plan", flags->session.plan, "Plan")
      ->required()
      ->type_name("PLAN");
  command
      ->add_option("--weights", flags->session.weights,
                   "A Hugging Face folder, a checkpoint or a safetensors file")
      ->required()
      ->type_name("DIR");
  command
      ->add_option("--input", flags->input,
                   "Tokens: a .npy file of int32, int64 or uint16 [samples, "
                   "tokens], or [tokens] for one sample")
      ->type_name("FILE");
  command
      ->add_option("--output", flags->output,
                   "Logits: a .npy file of float32 [samples, tokens, "
                   "vocabulary]")
      ->type_name("FILE");
  command
      ->add_option("--data", flags->data,
                   "Token file to print loss and perplexity of")
      ->type_name("FILE");
  command
      ->add_option("--seq", flags->sampleTokens,
                   "Tokens per sample of --data (0: as many as the plan takes)")
      ->check(lmc::count)
      ->capture_default_str();
  addSessionOptions(*command, flags->session);
  command->add_flag("--profile", flags->session.profile,
                    "Measure every kernel and print a table at the end");
  command->footer(
      "Examples:\n"
      "  lmrun eval gpt2.plan --weights gpt2 --data book.tok\n"
      "  lmrun eval gpt2.plan --weights gpt2 --input tokens.npy --output "
      "logits.npy");
  return [flags] { return eval(*flags); };
}
