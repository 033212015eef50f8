// See Companions.h.
#include "runtime/train/Companions.h"
#include "runtime/base/Log.h"
#include "runtime/weights/Json.h"
#include "runtime/weights/Safetensors.h"

#include <filesystem>

namespace lmc::runtime {

namespace fs = std::filesystem;

/// The same tokenizer, however it is laid out.
static bool areSame(std::string_view a, std::string_view b) {
  if (a == b)
    return true;
  StatusOr<nlohmann::json> first = parseJson(a, "tokenizer.json");
  StatusOr<nlohmann::json> second = parseJson(b, "tokenizer.json");
  return first.ok() && second.ok() && *first == *second;
}

/// A checkpoint's config.json is the plan's, which names no tokens; those of
/// the config.json beside the weights go into a generation_config.json.
static Status addEndTokens(const fs::path &config, Companions &found) {
  std::error_code ignored;
  if (!fs::is_regular_file(config, ignored))
    return Status();
  LMC_ASSIGN_OR_RETURN(MappedFile file, MappedFile::open(config.string()));
  LMC_ASSIGN_OR_RETURN(nlohmann::json json,
                       parseJson(file.bytes(), config.string()));
  nlohmann::json tokens = nlohmann::json::object();
  for (const char *key : {"bos_token_id", "eos_token_id"})
    if (json.is_object() && json.contains(key) && !json[key].is_null())
      tokens[key] = json[key];
  if (!tokens.empty())
    found["generation_config.json"] = tokens.dump(2) + "\n";
  return Status();
}

StatusOr<Companions> findCompanions(const std::string &weights,
                                    const TokenData &data) {
  Companions found;
  fs::path folder;
  if (!weights.empty()) {
    LMC_ASSIGN_OR_RETURN(std::string chosen, WeightFiles::folderOf(weights));
    folder = chosen;
  }
  for (const char *name :
       {"tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
        "added_tokens.json", "vocab.json", "merges.txt", "chat_template.jinja",
        "generation_config.json"}) {
    std::error_code ignored;
    if (weights.empty() || !fs::is_regular_file(folder / name, ignored))
      continue;
    LMC_ASSIGN_OR_RETURN(MappedFile file,
                         MappedFile::open((folder / name).string()));
    found[name] = file.bytes();
  }
  if (!weights.empty() && !found.count("generation_config.json"))
    LMC_RETURN_IF_ERROR(addEndTokens(folder / "config.json", found));
  if (data.tokenizer().empty())
    return std::move(found);
  std::string &tokenizer = found["tokenizer.json"];
  if (tokenizer.empty())
    tokenizer = data.tokenizer();
  else if (!areSame(tokenizer, data.tokenizer()))
    logWarning("{} was made with another tokenizer than {}", data.path(),
               (folder / "tokenizer.json").string());
  return std::move(found);
}

} // namespace lmc::runtime
