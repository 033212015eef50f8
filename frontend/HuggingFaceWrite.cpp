// Writing config.json for a checkpoint of a model that was not one of Hugging
// Face's, so that its folder opens as one.
#include "frontend/HuggingFace.h"

#include "frontend/SpecCheck.h"

#include <google/protobuf/text_format.h>
#include <nlohmann/json.hpp>

namespace lmc::frontend {
namespace {

using Json = nlohmann::ordered_json;

// The name that transformers gives an activation.
const char *activationName(Mlp::Activation activation) {
  switch (activation) {
  case Mlp::GELU_TANH:
    return "gelu_new";
  case Mlp::GELU_EXACT:
    return "gelu";
  case Mlp::GELU_QUICK:
    return "quick_gelu";
  case Mlp::SILU:
    return "silu";
  case Mlp::RELU:
    return "relu";
  }
  return "";
}

// What a config says once for all blocks; of the first block where the blocks
// differ, which the reader of the result then notices.
struct Uniform {
  explicit Uniform(const ModelSpec &spec) {
    for (const Block &block : spec.block()) {
      numBlocks += block.count();
      for (const Layer &layer : block.layer()) {
        if (layer.has_norm() && !norm.has_kind())
          norm = layer.norm();
        if (layer.has_attention() && !attention.has_heads())
          attention = layer.attention();
        if (layer.has_mlp() && !mlp.has_inner())
          mlp = layer.mlp();
      }
    }
  }
  int64_t numBlocks = 0;
  Norm norm;
  Attention attention;
  Mlp mlp;
};

void writeGpt2OrJ(const ModelSpec &spec, const Uniform &of, bool isJ,
                  Json &json) {
  json["model_type"] = isJ ? "gptj" : "gpt2";
  json["architectures"] = {isJ ? "GPTJForCausalLM" : "GPT2LMHeadModel"};
  json["vocab_size"] = spec.vocabulary();
  json["n_positions"] = spec.max_positions();
  json["n_embd"] = spec.width();
  json["n_layer"] = of.numBlocks;
  json["n_head"] = of.attention.heads();
  json["n_inner"] = of.mlp.inner();
  json["activation_function"] = activationName(of.mlp.activation());
  json["layer_norm_epsilon"] = of.norm.epsilon();
  json["embd_pdrop"] = spec.dropout().embedding();
  json["resid_pdrop"] = spec.dropout().residual();
  json["attn_pdrop"] = spec.dropout().attention();
  if (isJ)
    json["rotary_dim"] =
        rotaryWidth(spec.positions().rotary(), of.attention.head_dim());
  else
    json["scale_attn_weights"] =
        of.attention.scale() != 1 || of.attention.head_dim() == 1;
}

void writeLlama(const ModelSpec &spec, const Uniform &of, Json &json) {
  json["model_type"] = "llama";
  json["architectures"] = {"LlamaForCausalLM"};
  json["vocab_size"] = spec.vocabulary();
  json["max_position_embeddings"] = spec.max_positions();
  json["hidden_size"] = spec.width();
  json["num_hidden_layers"] = of.numBlocks;
  json["num_attention_heads"] = of.attention.heads();
  json["num_key_value_heads"] = of.attention.kv_heads();
  json["head_dim"] = of.attention.head_dim();
  json["attention_bias"] = of.attention.qkv_bias();
  json["attention_dropout"] = spec.dropout().attention();
  json["intermediate_size"] = of.mlp.inner();
  json["hidden_act"] = activationName(of.mlp.activation());
  json["mlp_bias"] = of.mlp.up_bias();
  json["rms_norm_eps"] = of.norm.epsilon();
  const Rotary &rotary = spec.positions().rotary();
  json["rope_theta"] = rotary.theta();
  if (rotary.has_linear_scaling()) {
    json["rope_scaling"] = {{"rope_type", "linear"},
                            {"factor", rotary.linear_scaling().factor()}};
  } else if (rotary.has_llama3_scaling()) {
    const Llama3Scaling &scaling = rotary.llama3_scaling();
    json["rope_scaling"] = {
        {"rope_type", "llama3"},
        {"factor", scaling.factor()},
        {"low_freq_factor", scaling.low_freq_factor()},
        {"high_freq_factor", scaling.high_freq_factor()},
        {"original_max_position_embeddings", scaling.original_max_positions()}};
  } else {
    json["rope_scaling"] = nullptr;
  }
}

} // namespace

std::string writeHuggingFaceConfig(CheckpointNaming family,
                                   const ModelSpec &spec) {
  Json json;
  if (family == PLAIN || family == AUTO) {
    std::string text;
    google::protobuf::TextFormat::PrintToString(spec, &text);
    json["model_type"] = "lmc";
    json["model_spec"] = text;
  } else {
    Uniform of(spec);
    if (family == LLAMA)
      writeLlama(spec, of, json);
    else
      writeGpt2OrJ(spec, of, family == GPTJ, json);
    json["initializer_range"] = spec.initialization().standard_deviation();
    json["tie_word_embeddings"] = spec.head().tied();
    json["use_cache"] = true;
    // The defaults of transformers name tokens beyond a small vocabulary.
    json["bos_token_id"] = nullptr;
    json["eos_token_id"] = nullptr;
    json["torch_dtype"] = "float32";
  }
  return json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

} // namespace lmc::frontend
