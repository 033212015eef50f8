// lmrun tokenize: text to a token file.
#include "runtime/base/Log.h"
#include "runtime/data/TokenData.h"
#include "tools/lmrun/Commands.h"

using namespace lmc::runtime;

namespace {
struct TokenizeFlags {
  std::vector<std::string> inputs;
  std::string output;
};
} // namespace

static Status tokenize(const TokenizeFlags &flags) {
  TokenFileContents contents;
  contents.vocabulary = 256;
  for (const std::string &input : flags.inputs) {
    LMC_ASSIGN_OR_RETURN(MappedFile file, MappedFile::open(input));
    if (file.bytes().empty())
      return wrongInput("{} is empty", input);
    for (char byte : file.bytes())
      contents.tokens.push_back(uint8_t(byte));
    contents.documentEnds.push_back(int64_t(contents.tokens.size()));
  }
  LMC_RETURN_IF_ERROR(writeWholeFile(flags.output, encodeTokenFile(contents)));
  logInfo("{}: {} tokens in {} document{}", flags.output,
          contents.tokens.size(), contents.documentEnds.size(),
          contents.documentEnds.size() == 1 ? "" : "s");
  return Status();
}

CommandBody addTokenizeCommand(CLI::App &app) {
  auto flags = std::make_shared<TokenizeFlags>();
  CLI::App *command = app.add_subcommand(
      "tokenize", "Make a token file from text: one token per byte (vocabulary "
                  "256), one document per input file.");
  command->add_option("--input", flags->inputs, "Text files")
      ->required()
      ->type_name("FILE");
  command->add_option("-o,--output", flags->output, "Token file to write")
      ->required()
      ->type_name("FILE");
  command->footer("Example:\n"
                  "  lmrun tokenize --input book.txt letters.txt -o all.tok");
  return [flags] { return tokenize(*flags); };
}
