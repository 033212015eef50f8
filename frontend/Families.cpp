// Names and layouts of checkpoint tensors, a table per family.
#include "frontend/Families.h"

#include "frontend/HuggingFace.h"
#include "frontend/SpecCheck.h"

#include <google/protobuf/util/message_differencer.h>

namespace pb = google::protobuf;

namespace lmc::frontend {
namespace {

// How a parameter lies in the file tensor.
enum class Layout {
  Same,       // [in, out], or one dim
  Transposed, // [out, in], as torch's Linear
  FusedQkv,   // [in, 3 * H * K], queries then keys then values (R = 1)
  Query,      // [H * K, in]; head h = g * R + r
  Key,        // [G * K, in]
  Value,
};

struct Row {
  Role role;
  int64_t norm; // of NormWeight and NormBias
  Layout layout;
  const char *name; // `{}` is the block
};

struct Family {
  // Of every tensor but the head's; on reading, names without it are known,
  // too, as the base model's checkpoints have them.
  const char *prefix;
  std::vector<Row> rows;
};

const Family &gpt2() {
  static const Family family{
      "transformer.",
      {{Role::TokenTable, 0, Layout::Same, "wte.weight"},
       {Role::PositionTable, 0, Layout::Same, "wpe.weight"},
       {Role::NormWeight, 1, Layout::Same, "h.{}.ln_1.weight"},
       {Role::NormBias, 1, Layout::Same, "h.{}.ln_1.bias"},
       {Role::NormWeight, 2, Layout::Same, "h.{}.ln_2.weight"},
       {Role::NormBias, 2, Layout::Same, "h.{}.ln_2.bias"},
       {Role::NormWeight, 0, Layout::Same, "ln_f.weight"},
       {Role::NormBias, 0, Layout::Same, "ln_f.bias"},
       {Role::QkvWeight, 0, Layout::FusedQkv, "h.{}.attn.c_attn.weight"},
       {Role::QkvBias, 0, Layout::FusedQkv, "h.{}.attn.c_attn.bias"},
       {Role::OutWeight, 0, Layout::Same, "h.{}.attn.c_proj.weight"},
       {Role::OutBias, 0, Layout::Same, "h.{}.attn.c_proj.bias"},
       {Role::UpWeight, 0, Layout::Same, "h.{}.mlp.c_fc.weight"},
       {Role::UpBias, 0, Layout::Same, "h.{}.mlp.c_fc.bias"},
       {Role::DownWeight, 0, Layout::Same, "h.{}.mlp.c_proj.weight"},
       {Role::DownBias, 0, Layout::Same, "h.{}.mlp.c_proj.bias"},
       {Role::HeadWeight, 0, Layout::Transposed, "lm_head.weight"}}};
  return family;
}

const Family &gptj() {
  static const Family family{
      "transformer.",
      {{Role::TokenTable, 0, Layout::Same, "wte.weight"},
       {Role::NormWeight, 1, Layout::Same, "h.{}.ln_1.weight"},
       {Role::NormBias, 1, Layout::Same, "h.{}.ln_1.bias"},
       {Role::NormWeight, 0, Layout::Same, "ln_f.weight"},
       {Role::NormBias, 0, Layout::Same, "ln_f.bias"},
       {Role::QkvWeight, 0, Layout::Query, "h.{}.attn.q_proj.weight"},
       {Role::QkvWeight, 0, Layout::Key, "h.{}.attn.k_proj.weight"},
       {Role::QkvWeight, 0, Layout::Value, "h.{}.attn.v_proj.weight"},
       {Role::OutWeight, 0, Layout::Transposed, "h.{}.attn.out_proj.weight"},
       {Role::UpWeight, 0, Layout::Transposed, "h.{}.mlp.fc_in.weight"},
       {Role::UpBias, 0, Layout::Same, "h.{}.mlp.fc_in.bias"},
       {Role::DownWeight, 0, Layout::Transposed, "h.{}.mlp.fc_out.weight"},
       {Role::DownBias, 0, Layout::Same, "h.{}.mlp.fc_out.bias"},
       {Role::HeadWeight, 0, Layout::Transposed, "lm_head.weight"},
       {Role::HeadBias, 0, Layout::Same, "lm_head.bias"}}};
  return family;
}

const Family &llama() {
  static const Family family{
      "model.",
      {{Role::TokenTable, 0, Layout::Same, "embed_tokens.weight"},
       {Role::NormWeight, 1, Layout::Same, "layers.{}.input_layernorm.weight"},
       {Role::NormWeight, 2, Layout::Same,
        "layers.{}.post_attention_layernorm.weight"},
       {Role::NormWeight, 0, Layout::Same, "norm.weight"},
       {Role::QkvWeight, 0, Layout::Query, "layers.{}.self_attn.q_proj.weight"},
       {Role::QkvWeight, 0, Layout::Key, "layers.{}.self_attn.k_proj.weight"},
       {Role::QkvWeight, 0, Layout::Value, "layers.{}.self_attn.v_proj.weight"},
       {Role::QkvBias, 0, Layout::Query, "layers.{}.self_attn.q_proj.bias"},
       {Role::QkvBias, 0, Layout::Key, "layers.{}.self_attn.k_proj.bias"},
       {Role::QkvBias, 0, Layout::Value, "layers.{}.self_attn.v_proj.bias"},
       {Role::OutWeight, 0, Layout::Transposed,
        "layers.{}.self_attn.o_proj.weight"},
       {Role::OutBias, 0, Layout::Same, "layers.{}.self_attn.o_proj.bias"},
       {Role::GateWeight, 0, Layout::Transposed,
        "layers.{}.mlp.gate_proj.weight"},
       {Role::GateBias, 0, Layout::Same, "layers.{}.mlp.gate_proj.bias"},
       {Role::UpWeight, 0, Layout::Transposed, "layers.{}.mlp.up_proj.weight"},
       {Role::UpBias, 0, Layout::Same, "layers.{}.mlp.up_proj.bias"},
       {Role::DownWeight, 0, Layout::Transposed,
        "layers.{}.mlp.down_proj.weight"},
       {Role::DownBias, 0, Layout::Same, "layers.{}.mlp.down_proj.bias"},
       {Role::HeadWeight, 0, Layout::Transposed, "lm_head.weight"}}};
  return family;
}

int64_t productOf(const std::vector<int64_t> &shape, size_t begin, size_t end) {
  int64_t product = 1;
  for (size_t i = begin; i < end; ++i)
    product *= shape[i];
  return product;
}

// The whole tensor as one box whose file tensor has `fileShape`.
CheckpointBox wholeBox(const std::vector<int64_t> &shape,
                       std::vector<int64_t> fileShape) {
  CheckpointBox box;
  box.fileShape = std::move(fileShape);
  box.splitShape = box.boxShape = shape;
  box.boxOffset.assign(shape.size(), 0);
  for (size_t i = 0; i < shape.size(); ++i)
    box.permutation.push_back(static_cast<int64_t>(i));
  return box;
}

CheckpointBox sameBox(const ParameterUse &parameter) {
  const std::vector<int64_t> &shape = parameter.shape;
  if (shape.size() < 2)
    return wholeBox(shape, shape);
  size_t in = static_cast<size_t>(parameter.contracted);
  return wholeBox(
      shape, {productOf(shape, 0, in), productOf(shape, in, shape.size())});
}

CheckpointBox transposedBox(const ParameterUse &parameter) {
  const std::vector<int64_t> &shape = parameter.shape;
  size_t in = static_cast<size_t>(parameter.contracted);
  size_t out = shape.size() - in;
  CheckpointBox box = wholeBox(
      shape, {productOf(shape, in, shape.size()), productOf(shape, 0, in)});
  box.splitShape.assign(shape.begin() + in, shape.end());
  box.splitShape.insert(box.splitShape.end(), shape.begin(),
                        shape.begin() + in);
  for (size_t i = 0; i < shape.size(); ++i)
    box.permutation[i] = static_cast<int64_t>(i < in ? out + i : i - in);
  return box;
}

// The attention input's weight [D, G, S, K] or bias [G, S, K], S = R + 2.
CheckpointBox qkvBox(Layout layout, const ParameterUse &parameter) {
  const std::vector<int64_t> &shape = parameter.shape;
  bool isWeight = shape.size() == 4;
  size_t first = isWeight ? 1 : 0;
  int64_t in = isWeight ? shape[0] : 1;
  int64_t groups = shape[first], queries = shape[first + 1] - 2,
          headDim = shape[first + 2];
  CheckpointBox box;
  box.boxShape = shape;
  box.boxOffset.assign(shape.size(), 0);
  if (layout == Layout::FusedQkv) {
    box.fileShape = {3 * groups * headDim};
    box.splitShape = {3, groups, headDim};
    box.permutation = {1, 0, 2};
    if (isWeight) {
      box.fileShape.insert(box.fileShape.begin(), in);
      box.splitShape.insert(box.splitShape.begin(), in);
      box.permutation = {0, 2, 1, 3};
    }
    return box;
  }
  int64_t slots = layout == Layout::Query ? queries : 1;
  box.fileShape = {groups * slots * headDim};
  box.splitShape = {groups, slots, headDim};
  box.permutation = {0, 1, 2};
  if (isWeight) {
    box.fileShape.push_back(in);
    box.splitShape.push_back(in);
    box.permutation = {3, 0, 1, 2};
  }
  box.boxShape[first + 1] = slots;
  box.boxOffset[first + 1] = layout == Layout::Query ? 0
                             : layout == Layout::Key ? queries
                                                     : queries + 1;
  return box;
}

CheckpointBox boxOf(Layout layout, const ParameterUse &parameter) {
  switch (layout) {
  case Layout::Same:
    return sameBox(parameter);
  case Layout::Transposed:
    return transposedBox(parameter);
  default:
    return qkvBox(layout, parameter);
  }
}

std::string fillIn(std::string name, int64_t block) {
  size_t at = name.find("{}");
  if (at != std::string::npos)
    name.replace(at, 2, std::to_string(block));
  return name;
}

} // namespace

std::vector<CheckpointBox> checkpointBoxes(CheckpointNaming naming,
                                           const ParameterUse &parameter) {
  std::vector<CheckpointBox> boxes;
  if (naming == GPT2 || naming == GPTJ || naming == LLAMA) {
    const Family &family = naming == GPT2   ? gpt2()
                           : naming == GPTJ ? gptj()
                                            : llama();
    bool isHead =
        parameter.role == Role::HeadWeight || parameter.role == Role::HeadBias;
    for (const Row &row : family.rows) {
      if (row.role != parameter.role || row.norm != parameter.norm)
        continue;
      std::string name = fillIn(row.name, parameter.block);
      boxes.push_back(boxOf(row.layout, parameter));
      if (!isHead)
        boxes.back().names.push_back(family.prefix + name);
      boxes.back().names.push_back(name);
    }
  }
  if (boxes.empty()) {
    boxes.push_back(wholeBox(parameter.shape, parameter.shape));
    boxes.back().names.push_back(parameter.name);
  }
  return boxes;
}

// Clears every scalar that has its default's value, in depth.
static void clearDefaults(pb::Message &message) {
  const pb::Reflection *reflection = message.GetReflection();
  std::vector<const pb::FieldDescriptor *> fields;
  reflection->ListFields(message, &fields);
  for (const pb::FieldDescriptor *field : fields) {
    if (field->is_repeated()) {
      if (field->message_type())
        for (int i = 0; i < reflection->FieldSize(message, field); ++i)
          clearDefaults(
              *reflection->MutableRepeatedMessage(&message, field, i));
      continue;
    }
    bool isDefault = false;
    switch (field->cpp_type()) {
    case pb::FieldDescriptor::CPPTYPE_MESSAGE:
      clearDefaults(*reflection->MutableMessage(&message, field));
      break;
    case pb::FieldDescriptor::CPPTYPE_INT64:
      isDefault =
          field->has_default_value() &&
          reflection->GetInt64(message, field) == field->default_value_int64();
      break;
    case pb::FieldDescriptor::CPPTYPE_DOUBLE:
      isDefault =
          field->has_default_value() && reflection->GetDouble(message, field) ==
                                            field->default_value_double();
      break;
    case pb::FieldDescriptor::CPPTYPE_BOOL:
      isDefault =
          field->has_default_value() &&
          reflection->GetBool(message, field) == field->default_value_bool();
      break;
    case pb::FieldDescriptor::CPPTYPE_ENUM:
      isDefault =
          field->has_default_value() &&
          reflection->GetEnum(message, field) == field->default_value_enum();
      break;
    default:
      break;
    }
    if (isDefault)
      reflection->ClearField(&message, field);
  }
}

ModelSpec canonicalArchitecture(const ModelSpec &spec) {
  ModelSpec result = spec;
  result.clear_name();
  result.clear_frozen();
  result.clear_dropout();
  result.clear_initialization();
  result.clear_checkpoint_naming();
  result.clear_block();
  int64_t headDim = 0;
  auto forceBias = [](Norm *norm) {
    if (norm->kind() == Norm::RMS_NORM)
      norm->set_bias(false);
  };
  for (const Block &block : spec.block()) {
    Block copy = block;
    copy.clear_name();
    copy.set_count(block.count());
    for (Layer &layer : *copy.mutable_layer()) {
      if (layer.has_norm())
        forceBias(layer.mutable_norm());
      if (layer.has_post_norm())
        forceBias(layer.mutable_post_norm());
      if (layer.has_attention() && !headDim)
        headDim = layer.attention().head_dim();
    }
    Block *last = result.block_size()
                      ? result.mutable_block(result.block_size() - 1)
                      : nullptr;
    if (last) {
      Block sameCount = copy;
      sameCount.set_count(last->count());
      if (pb::util::MessageDifferencer::Equals(*last, sameCount)) {
        last->set_count(last->count() + copy.count());
        continue;
      }
    }
    *result.add_block() = copy;
  }
  if (result.has_final_norm())
    forceBias(result.mutable_final_norm());
  if (result.embedding_width() == result.width())
    result.clear_embedding_width();
  if (result.positions().has_rotary()) {
    Rotary *rotary = result.mutable_positions()->mutable_rotary();
    rotary->set_rotary_dim(rotaryWidth(*rotary, headDim));
    rotary->clear_fraction();
  }
  clearDefaults(result);
  if (result.has_head() && result.head().ByteSizeLong() == 0)
    result.clear_head();
  if (result.has_positions() && result.positions().ByteSizeLong() == 0)
    result.clear_positions();
  return result;
}

std::string familyMismatch(CheckpointNaming family, const ModelSpec &spec) {
  ModelSpec back;
  SourceMap sources;
  Findings findings;
  if (!readHuggingFaceConfig(writeHuggingFaceConfig(family, spec), back,
                             sources, /*strict=*/true, findings) ||
      !checkSpec(back, sources, findings))
    return findings.all().empty() ? "it has another structure"
                                  : findings.all().front().text;
  std::string report;
  pb::util::MessageDifferencer differencer;
  differencer.ReportDifferencesToString(&report);
  if (differencer.Compare(canonicalArchitecture(back),
                          canonicalArchitecture(spec)))
    return "";
  while (!report.empty() && report.back() == '\n')
    report.pop_back();
  return report.empty() ? "it has another structure" : report;
}

CheckpointNaming findFamily(const ModelSpec &spec) {
  for (CheckpointNaming family : {GPT2, LLAMA, GPTJ})
    if (familyMismatch(family, spec).empty())
      return family;
  return PLAIN;
}

} // namespace lmc::frontend
