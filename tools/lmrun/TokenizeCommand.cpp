// lmrun tokenize: text to a token file.
#include "runtime/base/Log.h"
#include "runtime/data/TokenData.h"
#include "runtime/generate/Documents.h"
#include "runtime/generate/Tokenizer.h"
#include "tools/lmrun/Commands.h"

#include <cstdio>
#include <filesystem>

using namespace lmc::runtime;

namespace {
struct TokenizeFlags {
  std::vector<std::string> inputs;
  std::string output, tokenizer = "bytes", format = "auto", key = "text", eod;
  bool appendEod = false, addSpecial = false, printIds = false;
};
} // namespace

static DocumentFormat formatOf(const TokenizeFlags &flags,
                               const std::string &input) {
  if (flags.format == "text")
    return DocumentFormat::Text;
  if (flags.format == "lines")
    return DocumentFormat::Lines;
  return flags.format == "jsonl" ||
                 std::filesystem::path(input).extension() == ".jsonl"
             ? DocumentFormat::JsonLines
             : DocumentFormat::Text;
}

/// The token behind every document, -1 when none is asked for.
static StatusOr<int32_t> findEod(const TokenizeFlags &flags,
                                 const Tokenizer &tokenizer) {
  if (!flags.eod.empty()) {
    int32_t token = tokenizer.find(flags.eod);
    if (token < 0)
      return wrongInput("--eod {}: {} has no such token", flags.eod,
                        tokenizer.name());
    return token;
  }
  if (!flags.appendEod)
    return -1;
  std::vector<int32_t> ends;
  if (flags.tokenizer != "bytes") {
    std::filesystem::path folder = flags.tokenizer;
    if (!std::filesystem::is_directory(folder))
      folder = folder.parent_path();
    LMC_ASSIGN_OR_RETURN(ends, readEndTokens(folder.string()));
  }
  for (const char *common : {"<|endoftext|>", "<|end_of_text|>"})
    if (ends.empty() && tokenizer.isSpecial(tokenizer.find(common)))
      ends.push_back(tokenizer.find(common));
  if (ends.empty() || ends[0] >= tokenizer.vocabulary())
    return wrongInput("--append-eod: nothing says which token of {} ends a "
                      "document",
                      tokenizer.name())
        .help("name it with --eod TOKEN; without one, documents end where the "
              "token file says so");
  return ends[0];
}

static Status tokenize(const TokenizeFlags &flags) {
  if (flags.output.empty() && !flags.printIds)
    return wrongInput("--output FILE or --print-ids is wanted");
  std::vector<std::string> read = flags.inputs;
  read.push_back(flags.tokenizer);
  LMC_RETURN_IF_ERROR(refuseInputAsOutput(flags.output, read));
  LMC_ASSIGN_OR_RETURN(std::unique_ptr<Tokenizer> tokenizer,
                       openTokenizer(flags.tokenizer));
  LMC_ASSIGN_OR_RETURN(int32_t eod, findEod(flags, *tokenizer));
  TokenFileContents contents;
  contents.vocabulary = uint32_t(tokenizer->vocabulary());
  LMC_ASSIGN_OR_RETURN(std::string file, tokenizerFile(flags.tokenizer));
  if (!file.empty()) {
    LMC_ASSIGN_OR_RETURN(MappedFile opened, MappedFile::open(file));
    contents.tokenizer = opened.bytes();
  }
  for (const std::string &input : flags.inputs) {
    size_t before = contents.tokens.size();
    auto add = [&](std::string_view text) -> Status {
      LMC_ASSIGN_OR_RETURN(std::vector<int32_t> tokens,
                           tokenizer->encode(text, flags.addSpecial));
      if (flags.printIds)
        std::fputs(fmt::format("{}\n", fmt::join(tokens, " ")).c_str(), stdout);
      if (tokens.empty())
        return Status();
      contents.tokens.insert(contents.tokens.end(), tokens.begin(),
                             tokens.end());
      if (eod >= 0)
        contents.tokens.push_back(uint32_t(eod));
      contents.documentEnds.push_back(int64_t(contents.tokens.size()));
      return Status();
    };
    LMC_RETURN_IF_ERROR(
        forEachDocument(input, formatOf(flags, input), flags.key, add));
    if (contents.tokens.size() == before && !flags.output.empty())
      return wrongInput("{} is empty", input);
  }
  LMC_RETURN_IF_ERROR(flushStdout());
  if (flags.output.empty())
    return Status();
  LMC_RETURN_IF_ERROR(writeWholeFile(flags.output, encodeTokenFile(contents)));
  logInfo("{}: {} tokens in {} document{}", flags.output,
          contents.tokens.size(), contents.documentEnds.size(),
          contents.documentEnds.size() == 1 ? "" : "s");
  return Status();
}

CommandBody addTokenizeCommand(CLI::App &app) {
  auto flags = std::make_shared<TokenizeFlags>();
  CLI::App *command = app.add_subcommand(
      "tokenize",
      "Make a token file from text. It knows where each document ends, and "
      "its tokenizer, which training puts into checkpoints.");
  command->add_option("--input", flags->inputs, "Text or JSON lines")
      ->required()
      ->type_name("FILE");
  command->add_option("-o,--output", flags->output, "Token file to write")
      ->type_name("FILE");
  command
      ->add_option("--tokenizer", flags->tokenizer,
                   "A tokenizer.json, a folder with one, or bytes: one token "
                   "per byte, vocabulary 256")
      ->type_name("FILE")
      ->capture_default_str();
  command
      ->add_option("--format", flags->format,
                   "text: a file is one document; lines: each line is one; "
                   "jsonl: each line is an object; auto: jsonl for *.jsonl, "
                   "else text")
      ->check(CLI::IsMember({"auto", "text", "lines", "jsonl"}))
      ->type_name("FORMAT")
      ->capture_default_str();
  command
      ->add_option("--key", flags->key,
                   "Where an object of JSON lines has its "
                   "text")
      ->type_name("KEY")
      ->capture_default_str();
  command->add_flag("--append-eod", flags->appendEod,
                    "Put the end-of-text token behind every document: "
                    "eos_token_id of the config.json beside the tokenizer, "
                    "else <|endoftext|> or <|end_of_text|>");
  command
      ->add_option("--eod", flags->eod,
                   "Put this token, given as its text, behind every document")
      ->type_name("TOKEN");
  command->add_flag("--add-special", flags->addSpecial,
                    "Add what the tokenizer puts around a text, such as "
                    "<|begin_of_text|>");
  command->add_flag("--print-ids", flags->printIds,
                    "Print the tokens, a line per document without its end");
  command->footer(
      "Examples:\n"
      "  lmrun tokenize --input book.txt letters.txt -o all.tok\n"
      "  lmrun tokenize --tokenizer gpt2 --input web.jsonl --append-eod -o "
      "web.tok");
  return [flags] { return tokenize(*flags); };
}
