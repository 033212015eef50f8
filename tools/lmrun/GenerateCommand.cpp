// lmrun generate: continues prompts.
//
// One text streams to stdout as it is written, in whole characters. Of several,
// the first that is not complete streams; the others wait for their turn,
// though all are written at once.
#include "runtime/base/Log.h"
#include "runtime/base/Utf8.h"
#include "runtime/generate/Generator.h"
#include "runtime/generate/Session.h"
#include "runtime/generate/Tokenizer.h"
#include "runtime/weights/Safetensors.h"
#include "tools/FlagRanges.h"
#include "tools/lmrun/Commands.h"

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <iostream>
#include <iterator>

using namespace lmc::runtime;

namespace {
struct GenerateFlags {
  SessionOptions session;
  std::vector<std::string> prompts;
  GenerateRequest request;
  std::string tokenizer; ///< empty: the one of the weights
  std::vector<std::string> stopTokens;
  bool noEcho = false, noSpecial = false, showStats = false;
};

/// Puts the texts of several requests to stdout, one after the other. Prompts
/// wait for the first token, so that a refused call prints none.
class TextStream {
public:
  TextStream(const std::vector<std::string> &first)
      : characters(first.size()), texts(first.size()), done(first.size()) {
    for (size_t i = 0; i < first.size(); ++i)
      texts[i] = characters[i].add(first[i]);
  }
  void add(size_t index, std::string_view bytes) {
    texts[index] += characters[index].add(bytes);
    flush();
  }
  void finish(size_t index) {
    texts[index] += characters[index].finish();
    done[index] = true;
    flush();
  }
  bool failed() const { return std::ferror(stdout) != 0; }

private:
  void flush() {
    while (current < texts.size()) {
      if (!begun && texts.size() > 1)
        std::printf("%s--- %zu ---\n", current ? "\n" : "", current + 1);
      begun = true;
      std::fwrite(texts[current].data(), 1, texts[current].size(), stdout);
      texts[current].clear();
      if (!done[current])
        break;
      std::fputc('\n', stdout);
      ++current;
      begun = false;
    }
    std::fflush(stdout);
  }

  std::vector<Utf8Stream> characters;
  std::vector<std::string> texts; ///< what is not yet printed
  std::vector<bool> done;
  size_t current = 0;
  bool begun = false;
};
} // namespace

static StatusOr<std::unique_ptr<Tokenizer>>
chooseTokenizer(const GenerateFlags &flags, const std::string &folder,
                int64_t vocabulary) {
  std::error_code ignored;
  std::string chosen = flags.tokenizer;
  std::filesystem::path beside =
      std::filesystem::path(folder) / "tokenizer.json";
  if (chosen.empty() && std::filesystem::exists(beside, ignored))
    chosen = beside.string();
  if (chosen.empty() && vocabulary != 256)
    return wrongInput("there is no tokenizer: {} is not there, and a "
                      "vocabulary of {} is not that of bytes",
                      beside.string(), vocabulary)
        .help("give one with --tokenizer FILE");
  LMC_ASSIGN_OR_RETURN(std::unique_ptr<Tokenizer> tokenizer,
                       openTokenizer(chosen.empty() ? "bytes" : chosen));
  if (tokenizer->vocabulary() > vocabulary)
    return wrongInput("the tokenizer ({}) has {} tokens, the model {}",
                      tokenizer->name(), tokenizer->vocabulary(), vocabulary)
        .help("take the tokenizer that the model was trained with");
  return std::move(tokenizer);
}

/// The tokens at which to stop: those given, else those that the weights name.
static StatusOr<std::vector<int32_t>>
chooseStopTokens(const GenerateFlags &flags, const std::string &folder,
                 const Tokenizer &tokenizer) {
  if (flags.stopTokens.empty())
    return readEndTokens(folder);
  std::vector<int32_t> tokens;
  for (const std::string &text : flags.stopTokens) {
    tokens.push_back(tokenizer.find(text));
    if (tokens.back() < 0)
      return wrongInput("--stop-token {}: {} has no such token", text,
                        tokenizer.name());
  }
  return std::move(tokens);
}

/// "the text was cut", or which of several were.
static std::string whoEnded(std::vector<size_t> cut, size_t prompts) {
  if (prompts == 1)
    return "the text was cut";
  if (cut.size() == prompts)
    return fmt::format("all {} texts were cut", prompts);
  std::sort(cut.begin(), cut.end());
  for (size_t &index : cut)
    ++index;
  return fmt::format("text{} {} {} cut", cut.size() == 1 ? "" : "s",
                     fmt::join(cut, ", "), cut.size() == 1 ? "was" : "were");
}

static Status generateWith(Executor &executor, const GenerateFlags &flags,
                           const std::vector<std::string> &prompts) {
  LMC_ASSIGN_OR_RETURN(StepModel model, StepModel::create(executor));
  LMC_ASSIGN_OR_RETURN(std::string folder,
                       WeightFiles::folderOf(flags.session.weights));
  LMC_ASSIGN_OR_RETURN(std::unique_ptr<Tokenizer> tokenizer,
                       chooseTokenizer(flags, folder, model.vocabulary()));
  LMC_ASSIGN_OR_RETURN(std::vector<int32_t> stopTokens,
                       chooseStopTokens(flags, folder, *tokenizer));
  std::vector<GenerateRequest> requests;
  std::vector<std::string> echoed;
  for (const std::string &prompt : prompts) {
    GenerateRequest request = flags.request;
    LMC_ASSIGN_OR_RETURN(request.prompt,
                         tokenizer->encode(prompt, !flags.noSpecial));
    request.stopTokens = stopTokens;
    requests.push_back(std::move(request));
    echoed.push_back(flags.noEcho ? "" : prompt);
  }
  TextStream stream(echoed);
  Generator generator(model);
  LMC_RETURN_IF_ERROR(generator.run(requests, [&](size_t index, int32_t token) {
    if (token < 0)
      stream.finish(index);
    else if (!tokenizer->isSpecial(token))
      stream.add(index, tokenizer->bytesOf(token));
  }));
  if (stream.failed())
    return jobFailed("cannot write to stdout");
  const GenerateStats &stats = generator.stats();
  bool isModelsEnd = model.maxLength() >= model.maxPositions();
  if (!stats.atMaxLength.empty())
    logInfo("{}: the {} takes texts of {} tokens, prompt included{}",
            whoEnded(stats.atMaxLength, prompts.size()),
            isModelsEnd ? "model" : "plan", model.maxLength(),
            isModelsEnd
                ? ""
                : "; compile with a greater --max-length for longer ones");
  if (flags.showStats)
    logInfo("{} prompt tokens, {} new tokens in {} steps, {:.1f} ms, {:.1f} "
            "new tokens per second",
            stats.promptTokens, stats.newTokens, stats.steps,
            stats.seconds * 1e3,
            double(stats.newTokens) / std::max(stats.seconds, 1e-9));
  return Status();
}

static Status generate(const GenerateFlags &flags) {
  LMC_RETURN_IF_ERROR(
      refuseInputAsOutput(flags.session.trace.path, {flags.tokenizer}));
  std::vector<std::string> prompts = flags.prompts;
  if (prompts.empty()) {
    std::string text{std::istreambuf_iterator<char>(std::cin), {}};
    if (!text.empty() && text.back() == '\n')
      text.pop_back();
    prompts.push_back(std::move(text));
  }
  return runSession(flags.session, [&](Executor &executor) {
    return generateWith(executor, flags, prompts);
  });
}

CommandBody addGenerateCommand(CLI::App &app) {
  auto flags = std::make_shared<GenerateFlags>();
  SamplingOptions &sampling = flags->request.sampling;
  CLI::App *command =
      app.add_subcommand("generate", "Continue prompts with a trained model.");
  command
      ->add_option("plan", flags->session.plan, "Plan made with --mode=infer")
      ->required()
      ->type_name("PLAN");
  command
      ->add_option("--weights", flags->session.weights,
                   "A Hugging Face folder, a checkpoint or a safetensors file")
      ->required()
      ->type_name("DIR");
  command
      ->add_option("--prompt", flags->prompts,
                   "Text to continue; several are written at once (without "
                   "one, stdin is the prompt)")
      ->type_name("TEXT")
      ->allow_extra_args(false);
  command
      ->add_option("--tokenizer", flags->tokenizer,
                   "A tokenizer.json, a folder with one, or bytes (default: "
                   "the one beside the weights, else bytes for a vocabulary "
                   "of 256)")
      ->type_name("FILE");
  command
      ->add_option("--stop-token", flags->stopTokens,
                   "Stop at this token, given as its text (default: "
                   "eos_token_id of generation_config.json or config.json "
                   "beside the weights)")
      ->type_name("TOKEN")
      ->allow_extra_args(false);
  command
      ->add_option("--max-tokens", flags->request.maxNewTokens,
                   "Tokens to write for each prompt")
      ->check(lmc::count)
      ->capture_default_str();
  command
      ->add_option("--temperature", sampling.temperature,
                   "Divides the logits; 0: always the most likely token")
      ->check(lmc::notNegative)
      ->capture_default_str();
  command
      ->add_option("--top-k", sampling.topK,
                   "Draw among so many most likely tokens (0: all)")
      ->check(lmc::count)
      ->capture_default_str();
  command
      ->add_option("--top-p", sampling.topP,
                   "Draw among the fewest tokens that have this probability")
      ->check(CLI::Range(0.0, 1.0))
      ->capture_default_str();
  command->add_option("--seed", sampling.seed, "Seed of the draws")
      ->capture_default_str();
  command->add_flag("--no-echo", flags->noEcho,
                    "Print what was written without its prompt");
  command->add_flag("--no-special", flags->noSpecial,
                    "Do not add what the tokenizer puts around a text, such as "
                    "<|begin_of_text|>");
  command->add_flag("--stats", flags->showStats,
                    "Log tokens and time at the end");
  addSessionOptions(*command, flags->session);
  command->add_flag("--profile", flags->session.profile,
                    "Measure every kernel and print a table at the end");
  command->footer(
      "Examples:\n"
      "  lmrun generate gpt.plan --weights run1 --prompt \"In the beginning\"\n"
      "  lmrun generate gpt.plan --weights run1 --prompt A --prompt B "
      "--temperature 0\n"
      "  lmrun generate gpt2.plan --weights gpt2 --prompt \"Hello\"\n"
      "  echo Once upon a time | lmrun generate gpt.plan --weights run1");
  return [flags] { return generate(*flags); };
}
