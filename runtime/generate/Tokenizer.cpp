// See Tokenizer.h.
#include "runtime/generate/Tokenizer.h"
#include "runtime/base/MappedFile.h"
#include "runtime/generate/TokenizerJson.h"
#include "runtime/weights/Json.h"

#include <filesystem>

namespace lmc::runtime {

namespace fs = std::filesystem;

namespace {

class ByteTokenizer final : public Tokenizer {
public:
  ByteTokenizer() {
    for (int i = 0; i < 256; ++i)
      bytes[size_t(i)] = char(i);
  }
  std::string_view name() const override { return "bytes"; }
  int64_t vocabulary() const override { return 256; }
  StatusOr<std::vector<int32_t>> encode(std::string_view text,
                                        bool addSpecial) override {
    std::vector<int32_t> tokens;
    tokens.reserve(text.size());
    for (char byte : text)
      tokens.push_back(uint8_t(byte));
    return std::move(tokens);
  }
  std::string_view bytesOf(int32_t token) const override {
    if (token < 0 || token > 255)
      return {};
    return {&bytes[size_t(token)], 1};
  }
  int32_t find(std::string_view text) const override {
    return text.size() == 1 ? uint8_t(text[0]) : -1;
  }

private:
  char bytes[256];
};

} // namespace

std::unique_ptr<Tokenizer> makeByteTokenizer() {
  return std::make_unique<ByteTokenizer>();
}

StatusOr<std::string> tokenizerFile(const std::string &path) {
  if (path == "bytes")
    return std::string();
  std::error_code ignored;
  if (!fs::is_directory(path, ignored))
    return path;
  std::string file = (fs::path(path) / "tokenizer.json").string();
  if (!fs::exists(file, ignored))
    return wrongInput("{} has no tokenizer.json", path)
        .help("give the file itself, or --tokenizer bytes");
  return file;
}

StatusOr<std::unique_ptr<Tokenizer>> openTokenizer(const std::string &path) {
  LMC_ASSIGN_OR_RETURN(std::string file, tokenizerFile(path));
  if (file.empty())
    return makeByteTokenizer();
  LMC_ASSIGN_OR_RETURN(MappedFile opened, MappedFile::open(file));
  return parseTokenizerJson(opened.bytes(), file);
}

/// The token or tokens of "eos_token_id"; none when it is null or not there.
static Status readEnds(const nlohmann::json &config, const std::string &file,
                       std::vector<int32_t> &tokens) {
  auto found = config.is_object() ? config.find("eos_token_id") : config.end();
  if (found == config.end() || found->is_null())
    return Status();
  auto add = [&](const nlohmann::json &value) {
    if (!value.is_number_unsigned() || value.get<uint64_t>() > INT32_MAX)
      return false;
    tokens.push_back(value.get<int32_t>());
    return true;
  };
  bool good = found->is_array() || add(*found);
  if (found->is_array())
    for (const nlohmann::json &value : *found)
      good &= add(value);
  return good ? Status()
              : corrupt("{}: eos_token_id is no token or list of tokens", file);
}

StatusOr<std::vector<int32_t>> readEndTokens(const std::string &folder) {
  std::vector<int32_t> tokens;
  for (const char *name : {"generation_config.json", "config.json"}) {
    std::string file = (fs::path(folder) / name).string();
    std::error_code ignored;
    if (!tokens.empty() || !fs::is_regular_file(file, ignored))
      continue;
    LMC_ASSIGN_OR_RETURN(MappedFile opened, MappedFile::open(file));
    LMC_ASSIGN_OR_RETURN(nlohmann::json config,
                         parseJson(opened.bytes(), file));
    LMC_RETURN_IF_ERROR(readEnds(config, file, tokens));
  }
  return std::move(tokens);
}

} // namespace lmc::runtime
