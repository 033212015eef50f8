// See ModelConfig.h.
#include "runtime/weights/ModelConfig.h"
#include "runtime/weights/Boxes.h"
#include "runtime/weights/Json.h"

#include <filesystem>
#include <set>

namespace lmc::runtime {

using nlohmann::json;

static bool endsWith(std::string_view text, std::string_view end) {
  return text.size() >= end.size() &&
         text.substr(text.size() - end.size()) == end;
}

/// Whether a key of config.json says how the model computes. Lengths are in
/// the shapes of learned positions, and bound nothing otherwise.
static bool shapesTheModel(const std::string &key) {
  static const std::set<std::string_view> others = {"_name_or_path",
                                                    "architectures",
                                                    "auto_map",
                                                    "dtype",
                                                    "gradient_checkpointing",
                                                    "id2label",
                                                    "initializer_range",
                                                    "label2id",
                                                    "max_position_embeddings",
                                                    "n_ctx",
                                                    "n_positions",
                                                    "pretraining_tp",
                                                    "task_specific_params",
                                                    "tokenizer_class",
                                                    "torch_dtype",
                                                    "transformers_version",
                                                    "use_cache"};
  for (std::string_view begin : {"summary_", "output_", "return_"})
    if (key.compare(0, begin.size(), begin) == 0)
      return false;
  return !others.count(key) && !endsWith(key, "_token_id") &&
         !endsWith(key, "_pdrop") && key.find("drop") == std::string::npos;
}

/// The lines of a model's spec, without what does not change the mathematics of
/// loaded weights.
static std::vector<std::string_view> specLines(std::string_view text) {
  std::vector<std::string_view> lines;
  bool skipping = false;
  while (!text.empty()) {
    std::string_view line = text.substr(0, text.find('\n'));
    text.remove_prefix(std::min(text.size(), line.size() + 1));
    auto begins = [&](std::string_view word) {
      return line.substr(0, word.size()) == word;
    };
    skipping = skipping || begins("dropout {") || begins("initialization {");
    if (!skipping && !begins("name:") && !begins("max_positions:"))
      lines.push_back(
          line.substr(std::min(line.find_first_not_of(' '), line.size())));
    skipping = skipping && line != "}";
  }
  return lines;
}

/// The first difference of two specs in words; empty when there is none.
static std::string compareSpecs(std::string_view found,
                                std::string_view wanted) {
  std::vector<std::string_view> a = specLines(found), b = specLines(wanted);
  a.push_back("its end");
  b.push_back("its end");
  for (size_t i = 0; i < std::min(a.size(), b.size()); ++i)
    if (a[i] != b[i])
      return fmt::format("model_spec has \"{}\" where the plan's has \"{}\"",
                         a[i].substr(0, 200), b[i].substr(0, 200));
  return "";
}

Status checkModelConfig(const plan::Plan &plan, const WeightFiles &weights) {
  std::filesystem::path path =
      std::filesystem::path(weights.folder()) / "config.json";
  std::error_code ignored;
  if (plan.model_config().empty() || !std::filesystem::exists(path, ignored))
    return Status();
  LMC_ASSIGN_OR_RETURN(MappedFile text, MappedFile::open(path.string()));
  LMC_ASSIGN_OR_RETURN(json found, parseJson(text.bytes(), path.string()));
  LMC_ASSIGN_OR_RETURN(
      json wanted, parseJson(plan.model_config(), "the plan's config.json"));
  if (!found.is_object() || !wanted.is_object())
    return Status();
  std::vector<std::string> differences;
  for (auto &[key, value] : wanted.items()) {
    auto other = found.find(key);
    if (other == found.end() ||
        (key != "rope_scaling" && (value.is_null() || other->is_null())) ||
        value == *other || !shapesTheModel(key))
      continue;
    if (key == "model_spec" && value.is_string() && other->is_string()) {
      std::string difference =
          compareSpecs(other->get_ref<const std::string &>(),
                       value.get_ref<const std::string &>());
      if (!difference.empty())
        differences.push_back(std::move(difference));
      continue;
    }
    differences.push_back(fmt::format("{} is {}, the plan's is {}", key,
                                      other->dump().substr(0, 200),
                                      value.dump().substr(0, 200)));
  }
  if (differences.empty())
    return Status();
  Status status =
      wrongInput("{} is of another model: {}", path.string(), differences[0]);
  for (size_t i = 1; i < differences.size(); ++i)
    status = std::move(status).note("{}", differences[i]);
  return std::move(status).help(
      "compile a plan of the model that the weights are of");
}

std::vector<std::string> unusedTensors(const plan::Plan &plan,
                                       const WeightFiles &weights) {
  std::set<std::string> used;
  for (const plan::State &state : plan.states())
    if (state.kind() == plan::State::PARAMETER)
      for (const BoxMap &box : boxesOf(plan, state, /*suffix=*/""))
        used.insert(box.names.begin(), box.names.end());
  std::vector<std::string> unused;
  for (const auto &[name, view] : weights.tensors()) {
    // Masks and frequencies that old models store, and tied heads.
    bool isHarmless = false;
    for (std::string_view end :
         {".attn.bias", ".attention.bias", ".masked_bias", ".inv_freq"})
      isHarmless = isHarmless || endsWith(name, end);
    if (!isHarmless && name != "lm_head.weight" && !used.count(name))
      unused.push_back(name);
  }
  return unused;
}

} // namespace lmc::runtime
