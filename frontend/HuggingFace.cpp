// Reading config.json. Each family has one function that turns keys into
// fields; a key that no function asked for, and that is not in the list of
// keys without influence on the mathematics, is unknown.
#include "frontend/HuggingFace.h"

#include "frontend/Json.h"
#include "frontend/SpecText.h"

#include <algorithm>
#include <cmath>
#include <set>
#include <sstream>

namespace lmc::frontend {
namespace {

// Keys that say nothing about what a causal language model computes.
const char *const kIgnoredKeys[] = {"_attn_implementation",
                                    "_attn_implementation_autoset",
                                    "_commit_hash",
                                    "_name_or_path",
                                    "architectures",
                                    "auto_map",
                                    "bos_token_id",
                                    "chunk_size_feed_forward",
                                    "dtype",
                                    "eos_token_id",
                                    "finetuning_task",
                                    "gradient_checkpointing",
                                    "id2label",
                                    "is_decoder",
                                    "label2id",
                                    "model_type",
                                    "n_ctx",
                                    "num_labels",
                                    "output_attentions",
                                    "output_hidden_states",
                                    "pad_token_id",
                                    "problem_type",
                                    "reorder_and_upcast_attn",
                                    "return_dict",
                                    "rotary",
                                    "summary_activation",
                                    "summary_first_dropout",
                                    "summary_proj_to_labels",
                                    "summary_type",
                                    "summary_use_proj",
                                    "task_specific_params",
                                    "tokenizer_class",
                                    "torch_dtype",
                                    "torchscript",
                                    "transformers_version",
                                    "unk_token_id",
                                    "use_bfloat16",
                                    "use_cache"};

struct ActivationName {
  const char *name;
  Mlp::Activation activation;
};
const ActivationName kActivations[] = {{"gelu_new", Mlp::GELU_TANH},
                                       {"gelu_pytorch_tanh", Mlp::GELU_TANH},
                                       {"gelu_fast", Mlp::GELU_TANH},
                                       {"gelu", Mlp::GELU_EXACT},
                                       {"gelu_python", Mlp::GELU_EXACT},
                                       {"quick_gelu", Mlp::GELU_QUICK},
                                       {"silu", Mlp::SILU},
                                       {"swish", Mlp::SILU},
                                       {"relu", Mlp::RELU}};

class ConfigReader {
public:
  ConfigReader(const JsonValue &root, ModelSpec &spec, SourceMap &sources,
               Findings &findings)
      : root(root), spec(spec), sources(sources), findings(findings) {}

  bool read(bool strict);

private:
  // A value by key; null where the key is absent or its value is null. The
  // key counts as known from then on.
  const JsonValue *get(const JsonValue &object, const std::string &key) {
    used.insert(key);
    const JsonValue *value = object.find(key);
    return value && value->kind != JsonValue::Null ? value : nullptr;
  }
  const JsonValue *get(const std::string &key) { return get(root, key); }

  void wrongKind(const JsonValue &value, const std::string &key,
                 const char *expected) {
    findings.error(value.place, "'" + key + "' is " + value.describe() +
                                    "; expected " + expected);
  }
  void refuse(const JsonValue &value, const std::string &key,
              const std::string &why) {
    findings.error(value.place,
                   "'" + key + "' is " + value.describe() + ": " + why);
  }

  int64_t integer(const JsonValue &object, const std::string &key,
                  int64_t absent) {
    const JsonValue *value = get(object, key);
    if (!value)
      return absent;
    if (value->kind == JsonValue::Integer)
      return value->integer;
    wrongKind(*value, key, "an integer");
    return absent;
  }
  int64_t requiredInteger(const std::string &key) {
    if (!get(key))
      findings.error({}, "key '" + key + "' is missing");
    return integer(root, key, 1);
  }
  double number(const JsonValue &object, const std::string &key,
                double absent) {
    const JsonValue *value = get(object, key);
    if (!value)
      return absent;
    if (value->kind == JsonValue::Number || value->kind == JsonValue::Integer)
      return value->number;
    wrongKind(*value, key, "a number");
    return absent;
  }
  bool boolean(const std::string &key, bool absent) {
    const JsonValue *value = get(key);
    if (!value)
      return absent;
    if (value->kind == JsonValue::Boolean)
      return value->boolean;
    wrongKind(*value, key, "true or false");
    return absent;
  }
  std::string text(const JsonValue &object, const std::string &key,
                   const std::string &absent) {
    const JsonValue *value = get(object, key);
    if (!value)
      return absent;
    if (value->kind == JsonValue::String)
      return value->text;
    wrongKind(*value, key, "a string");
    return absent;
  }
  // Only false (or absent, null) can be built.
  void mustBeFalse(const std::string &key, const std::string &why) {
    const JsonValue *value = get(key);
    if (value && !(value->kind == JsonValue::Boolean && !value->boolean))
      refuse(*value, key, why);
  }
  // Only an absent, null or empty value can be built.
  void mustBeAbsent(const std::string &key, const std::string &why) {
    const JsonValue *value = get(key);
    if (value && !((value->kind == JsonValue::Object ||
                    value->kind == JsonValue::Array) &&
                   value->items.empty()))
      refuse(*value, key, why);
  }
  Place placeOf(const std::string &key) {
    const JsonValue *value = root.find(key);
    return value ? value->place : Place();
  }
  // Says that the field was read from `key`.
  template <typename M>
  void from(const M &message, int field, const std::string &key) {
    if (root.find(key))
      sources.set(message, field, placeOf(key));
  }

  Mlp::Activation activation(const std::string &key, const std::string &absent);
  void readCommon();
  void readGpt2OrJ(bool isJ);
  void readRotary(Rotary &rotary);
  void readLlama();
  void reportUnknown(bool strict);

  const JsonValue &root;
  ModelSpec &spec;
  SourceMap &sources;
  Findings &findings;
  std::set<std::string> used;
};

Mlp::Activation ConfigReader::activation(const std::string &key,
                                         const std::string &absent) {
  std::string name = text(root, key, absent);
  std::vector<std::string> known;
  for (const ActivationName &entry : kActivations) {
    if (name == entry.name)
      return entry.activation;
    known.push_back(entry.name);
  }
  findings.error(placeOf(key),
                 "'" + key + "' is \"" + name +
                     "\": this activation is not supported",
                 didYouMean(name, known));
  return Mlp::GELU_TANH;
}

void ConfigReader::readCommon() {
  mustBeFalse("add_cross_attention", "cross attention is not supported");
  mustBeFalse("is_encoder_decoder", "an encoder-decoder is not supported");
  mustBeAbsent("pruned_heads", "pruned heads are not supported");
  mustBeAbsent("quantization_config",
               "quantised checkpoints are not supported");
  spec.set_vocabulary(requiredInteger("vocab_size"));
  from(spec, ModelSpec::kVocabularyFieldNumber, "vocab_size");
  spec.mutable_initialization()->set_standard_deviation(
      number(root, "initializer_range", 0.02));
  from(spec.initialization(), Initialization::kStandardDeviationFieldNumber,
       "initializer_range");
}

void ConfigReader::readGpt2OrJ(bool isJ) {
  spec.set_checkpoint_naming(isJ ? GPTJ : GPT2);
  spec.set_width(requiredInteger("n_embd"));
  from(spec, ModelSpec::kWidthFieldNumber, "n_embd");
  spec.set_max_positions(integer(root, "n_positions", isJ ? 2048 : 1024));
  from(spec, ModelSpec::kMaxPositionsFieldNumber, "n_positions");
  spec.mutable_initialization()->set_scale_residual(!isJ);

  Norm norm;
  norm.set_kind(Norm::LAYER_NORM);
  norm.set_epsilon(number(root, "layer_norm_epsilon", 1e-5));
  auto put = [&](Norm *target) {
    *target = norm;
    from(*target, Norm::kEpsilonFieldNumber, "layer_norm_epsilon");
  };

  Block *block = spec.add_block();
  block->set_count(requiredInteger("n_layer"));
  from(*block, Block::kCountFieldNumber, "n_layer");
  Layer *first = block->add_layer();
  put(first->mutable_norm());
  Layer *second = isJ ? first : block->add_layer();
  if (!isJ)
    put(second->mutable_norm());
  put(spec.mutable_final_norm());

  Attention *attention = first->mutable_attention();
  attention->set_heads(requiredInteger("n_head"));
  from(*attention, Attention::kHeadsFieldNumber, "n_head");
  attention->set_qkv_bias(!isJ);
  attention->set_out_bias(!isJ);
  if (!isJ) {
    if (!boolean("scale_attn_weights", true))
      attention->set_scale(1);
    mustBeFalse("scale_attn_by_inverse_layer_idx",
                "scores scaled by the layer's index are not supported");
    spec.mutable_positions()->mutable_learned();
  } else {
    Rotary *rotary = spec.mutable_positions()->mutable_rotary();
    rotary->set_layout(Rotary::INTERLEAVED);
    rotary->set_rotary_dim(integer(root, "rotary_dim", 64));
    if (const JsonValue *value = root.find("rotary_dim"))
      if (value->kind == JsonValue::Null)
        refuse(*value, "rotary_dim", "give the number of elements that turn");
    from(*rotary, Rotary::kRotaryDimFieldNumber, "rotary_dim");
  }

  Mlp *mlp = second->mutable_mlp();
  // A width that is out of range is reported as such; 4 times it is not.
  int64_t width = std::clamp<int64_t>(spec.width(), 0, int64_t(1) << 32);
  mlp->set_inner(integer(root, "n_inner", 4 * width));
  from(*mlp, Mlp::kInnerFieldNumber, get("n_inner") ? "n_inner" : "n_embd");
  mlp->set_activation(activation("activation_function", "gelu_new"));

  spec.mutable_head()->set_tied(boolean("tie_word_embeddings", !isJ));
  spec.mutable_head()->set_bias(isJ);

  Dropout *dropout = spec.mutable_dropout();
  double rate = isJ ? 0 : 0.1;
  dropout->set_embedding(number(root, "embd_pdrop", rate));
  from(*dropout, Dropout::kEmbeddingFieldNumber, "embd_pdrop");
  dropout->set_residual(number(root, "resid_pdrop", rate));
  from(*dropout, Dropout::kResidualFieldNumber, "resid_pdrop");
  dropout->set_attention(number(root, "attn_pdrop", rate));
  from(*dropout, Dropout::kAttentionFieldNumber, "attn_pdrop");
}

// `rope_scaling`, or `rope_parameters` as newer versions of transformers
// write, with theta in it.
void ConfigReader::readRotary(Rotary &rotary) {
  rotary.set_theta(number(root, "rope_theta", 10000));
  from(rotary, Rotary::kThetaFieldNumber, "rope_theta");
  for (const char *key : {"rope_scaling", "rope_parameters"}) {
    const JsonValue *scaling = get(key);
    if (!scaling)
      continue;
    if (scaling->kind != JsonValue::Object) {
      wrongKind(*scaling, key, "an object");
      continue;
    }
    sources.set(rotary, scaling->place);
    rotary.set_theta(number(*scaling, "rope_theta", rotary.theta()));
    std::string type =
        text(*scaling, "rope_type", text(*scaling, "type", "default"));
    std::vector<std::string> known = {"rope_type", "type", "rope_theta"};
    if (type == "linear") {
      LinearScaling *linear = rotary.mutable_linear_scaling();
      linear->set_factor(number(*scaling, "factor", 0));
      sources.set(*linear, scaling->place);
      known.push_back("factor");
    } else if (type == "llama3") {
      Llama3Scaling *llama3 = rotary.mutable_llama3_scaling();
      sources.set(*llama3, scaling->place);
      llama3->set_factor(number(*scaling, "factor", 0));
      llama3->set_low_freq_factor(number(*scaling, "low_freq_factor", 0));
      llama3->set_high_freq_factor(number(*scaling, "high_freq_factor", 0));
      llama3->set_original_max_positions(
          integer(*scaling, "original_max_position_embeddings", 0));
      known.insert(known.end(),
                   {"factor", "low_freq_factor", "high_freq_factor",
                    "original_max_position_embeddings"});
    } else if (type != "default") {
      findings.error(scaling->place,
                     "'" + std::string(key) + "' has type \"" + type +
                         "\": this scaling of rotary positions is not "
                         "supported",
                     "supported are default, linear and llama3");
      continue;
    }
    for (size_t i = 0; i < scaling->keys.size(); ++i)
      if (std::find(known.begin(), known.end(), scaling->keys[i]) ==
          known.end())
        refuse(scaling->items[i], std::string(key) + "." + scaling->keys[i],
               "not a key of rotary type \"" + type + "\"");
  }
}

void ConfigReader::readLlama() {
  spec.set_checkpoint_naming(LLAMA);
  spec.set_width(requiredInteger("hidden_size"));
  from(spec, ModelSpec::kWidthFieldNumber, "hidden_size");
  spec.set_max_positions(integer(root, "max_position_embeddings", 2048));
  from(spec, ModelSpec::kMaxPositionsFieldNumber, "max_position_embeddings");
  spec.mutable_initialization()->set_scale_residual(false);
  readRotary(*spec.mutable_positions()->mutable_rotary());
  if (number(root, "partial_rotary_factor", 1) != 1)
    refuse(*root.find("partial_rotary_factor"), "partial_rotary_factor",
           "partial rotation is not supported in this family");
  if (integer(root, "pretraining_tp", 1) > 1)
    refuse(*root.find("pretraining_tp"), "pretraining_tp",
           "sums in the order of a tensor-parallel pretraining are not "
           "supported; 1 computes the same up to rounding");
  mustBeAbsent("sliding_window",
               "sliding windows are not supported in this family");

  Norm norm;
  norm.set_kind(Norm::RMS_NORM);
  norm.set_epsilon(number(root, "rms_norm_eps", 1e-6));
  auto put = [&](Norm *target) {
    *target = norm;
    from(*target, Norm::kEpsilonFieldNumber, "rms_norm_eps");
  };
  Block *block = spec.add_block();
  block->set_count(requiredInteger("num_hidden_layers"));
  from(*block, Block::kCountFieldNumber, "num_hidden_layers");
  Layer *first = block->add_layer();
  put(first->mutable_norm());
  Layer *second = block->add_layer();
  put(second->mutable_norm());
  put(spec.mutable_final_norm());

  Attention *attention = first->mutable_attention();
  attention->set_heads(requiredInteger("num_attention_heads"));
  from(*attention, Attention::kHeadsFieldNumber, "num_attention_heads");
  attention->set_kv_heads(
      integer(root, "num_key_value_heads", attention->heads()));
  from(*attention, Attention::kKvHeadsFieldNumber, "num_key_value_heads");
  if (get("head_dim"))
    attention->set_head_dim(integer(root, "head_dim", 1));
  from(*attention, Attention::kHeadDimFieldNumber, "head_dim");
  bool bias = boolean("attention_bias", false);
  attention->set_qkv_bias(bias);
  attention->set_out_bias(bias);

  Mlp *mlp = second->mutable_mlp();
  mlp->set_inner(requiredInteger("intermediate_size"));
  from(*mlp, Mlp::kInnerFieldNumber, "intermediate_size");
  mlp->set_activation(activation("hidden_act", "silu"));
  mlp->set_gated(true);
  bias = boolean("mlp_bias", false);
  mlp->set_up_bias(bias);
  mlp->set_down_bias(bias);

  spec.mutable_head()->set_tied(boolean("tie_word_embeddings", false));
  Dropout *dropout = spec.mutable_dropout();
  dropout->set_attention(number(root, "attention_dropout", 0));
  from(*dropout, Dropout::kAttentionFieldNumber, "attention_dropout");
}

void ConfigReader::reportUnknown(bool strict) {
  std::set<std::string> known(std::begin(kIgnoredKeys), std::end(kIgnoredKeys));
  known.insert(used.begin(), used.end());
  std::vector<std::string> candidates(known.begin(), known.end());
  for (size_t i = 0; i < root.keys.size(); ++i) {
    const std::string &key = root.keys[i];
    if (known.count(key))
      continue;
    std::string text =
        "unknown key '" + key + "' with value " + root.items[i].describe();
    std::string help = didYouMean(key, candidates);
    if (strict)
      findings.error(root.items[i].place, text, help);
    else
      findings.warning(root.items[i].place, text + " is ignored", help);
  }
}

bool ConfigReader::read(bool strict) {
  if (root.kind != JsonValue::Object) {
    findings.error({}, "config.json is " + root.describe() +
                           "; expected an object");
    return false;
  }
  std::string type = text(root, "model_type", "");
  std::string name = text(root, "_name_or_path", "");
  spec.set_name(name.empty() ? type : name);
  if (type == "lmc") {
    const JsonValue *source = get("model_spec");
    if (!source || source->kind != JsonValue::String) {
      findings.error({}, "a config.json of type \"lmc\" needs a 'model_spec'");
      return false;
    }
    // Places within a string of the file would mislead.
    SourceMap ignored;
    spec.Clear();
    bool good = parseSpecText(source->text, spec, ignored, findings);
    spec.set_checkpoint_naming(PLAIN);
    reportUnknown(strict);
    return good && !findings.hasErrors();
  }
  if (type != "gpt2" && type != "gptj" && type != "llama") {
    findings.error(placeOf("model_type"),
                   type.empty() ? "'model_type' is missing"
                                : "'model_type' is \"" + type +
                                      "\": this family is not supported",
                   "supported are gpt2, gptj and llama; a ModelSpec can "
                   "describe others");
    return false;
  }
  readCommon();
  if (type == "llama")
    readLlama();
  else
    readGpt2OrJ(type == "gptj");
  reportUnknown(strict);
  return !findings.hasErrors();
}

} // namespace

bool readHuggingFaceConfig(std::string_view text, ModelSpec &spec,
                           SourceMap &sources, bool strict,
                           Findings &findings) {
  JsonValue root;
  if (!parseJson(text, root, findings))
    return false;
  return ConfigReader(root, spec, sources, findings).read(strict);
}

} // namespace lmc::frontend
