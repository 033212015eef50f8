// The laws of a ModelSpec. Every size is bounded first, so that no product of
// sizes overflows 64 bits here or later.
#include "frontend/SpecCheck.h"

#include "frontend/ModelSpec.pb.h"

#include <algorithm>
#include <cmath>
#include <set>

namespace lmc::frontend {
namespace {

// A product has at least two columns, see Contraction.cpp.
constexpr int64_t kMinColumns = 2;
constexpr int64_t kMaxWidth = int64_t(1) << 24;
constexpr int64_t kMaxVocabulary = (int64_t(1) << 31) - 1; // ids are i32
constexpr int64_t kMaxPositions = int64_t(1) << 30;
constexpr int64_t kMaxBlocks = 1 << 16;
constexpr int64_t kMaxLayers = 1 << 18;
constexpr int64_t kMaxAttributeBytes = 4096;

std::string str(int64_t value) { return std::to_string(value); }

// Shortest form of a number for a message.
std::string str(double value) {
  char text[32];
  snprintf(text, sizeof text, "%g", value);
  return text;
}

class Checker {
public:
  Checker(ModelSpec &spec, const SourceMap &sources, Findings &findings)
      : spec(spec), sources(sources), findings(findings) {}

  void run();

private:
  template <typename M>
  void error(const M &at, int field, std::string text, std::string help = "") {
    findings.error(sources.of(at, field), std::move(text), std::move(help));
  }
  // A size that has to be given and lies in [minimum, maximum].
  template <typename M>
  bool checkSize(const M &at, int field, bool given, int64_t value,
                 const std::string &what, int64_t maximum,
                 int64_t minimum = 1) {
    if (!given)
      error(at, field, what + " is missing");
    else if (value < minimum)
      error(at, field,
            what + " is " + str(value) + "; it has to be at least " +
                str(minimum));
    else if (value > maximum)
      error(at, field,
            what + " is " + str(value) + "; it can be at most " + str(maximum));
    else
      return true;
    return false;
  }
  template <typename M>
  void checkRate(const M &at, int field, double rate, const std::string &what) {
    if (!(rate >= 0 && static_cast<float>(rate) < 1))
      error(at, field,
            what + " is " + str(rate) + "; a dropout rate lies in [0, 1)");
  }
  template <typename M>
  bool checkPositive(const M &at, int field, double value,
                     const std::string &what) {
    if (value > 0 && std::isfinite(value))
      return true;
    error(at, field,
          what + " is " + str(value) + "; it has to be greater than 0");
    return false;
  }

  // Names become symbols and names of checkpoint tensors.
  template <typename M>
  void checkName(const M &at, int field, const std::string &name,
                 const std::string &alsoAllowed) {
    auto isAllowed = [&](char c) {
      return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
             (c >= '0' && c <= '9') || c == '_' || c == '.' ||
             alsoAllowed.find(c) != std::string::npos;
    };
    if (name.empty() || !std::all_of(name.begin(), name.end(), isAllowed))
      error(at, field,
            "'" + name +
                "' is not a name; a name has letters, digits, '_' and '.'");
  }

  void checkPositions();
  void checkNorm(const Norm &norm);
  void checkAttention(Attention &attention);
  void checkMlp(const Mlp &mlp);
  void checkOp(const Op &op);
  void checkLayer(Layer &layer);

  ModelSpec &spec;
  const SourceMap &sources;
  Findings &findings;
};

void Checker::checkPositions() {
  const Positions &positions = spec.positions();
  if (positions.has_learned() && positions.has_rotary())
    error(positions, 0, "positions are both learned and rotary",
          "keep one of the two");
  if (!positions.has_rotary())
    return;
  const Rotary &rotary = positions.rotary();
  checkPositive(rotary, Rotary::kThetaFieldNumber, rotary.theta(), "theta");
  if (rotary.has_rotary_dim() && rotary.has_fraction())
    error(rotary, Rotary::kFractionFieldNumber,
          "rotary_dim and fraction are both given", "keep one of the two");
  if (rotary.has_fraction() &&
      !(rotary.fraction() > 0 && rotary.fraction() <= 1))
    error(rotary, Rotary::kFractionFieldNumber,
          "fraction is " + str(rotary.fraction()) + "; it lies in (0, 1]");
  if (rotary.has_linear_scaling() && rotary.has_llama3_scaling())
    error(rotary, Rotary::kLlama3ScalingFieldNumber,
          "linear_scaling and llama3_scaling are both given",
          "keep one of the two");
  if (rotary.has_linear_scaling())
    checkPositive(rotary.linear_scaling(), LinearScaling::kFactorFieldNumber,
                  rotary.linear_scaling().factor(), "factor");
  if (rotary.has_llama3_scaling()) {
    const Llama3Scaling &scaling = rotary.llama3_scaling();
    checkPositive(scaling, Llama3Scaling::kFactorFieldNumber, scaling.factor(),
                  "factor");
    checkPositive(scaling, Llama3Scaling::kLowFreqFactorFieldNumber,
                  scaling.low_freq_factor(), "low_freq_factor");
    if (!(scaling.high_freq_factor() > scaling.low_freq_factor()))
      error(scaling, Llama3Scaling::kHighFreqFactorFieldNumber,
            "high_freq_factor is " + str(scaling.high_freq_factor()) +
                "; it has to be greater than low_freq_factor, " +
                str(scaling.low_freq_factor()));
    checkSize(scaling, Llama3Scaling::kOriginalMaxPositionsFieldNumber,
              scaling.has_original_max_positions(),
              scaling.original_max_positions(), "original_max_positions",
              kMaxPositions);
  }
}

void Checker::checkNorm(const Norm &norm) {
  if (norm.kind() == Norm::KIND_UNSET)
    error(norm, Norm::kKindFieldNumber, "norm has no kind",
          "kind: LAYER_NORM or kind: RMS_NORM");
  checkPositive(norm, Norm::kEpsilonFieldNumber, norm.epsilon(), "epsilon");
  if (norm.kind() == Norm::RMS_NORM && norm.has_bias() && norm.bias())
    error(norm, Norm::kBiasFieldNumber, "an RMS_NORM has no bias",
          "bias: false, or kind: LAYER_NORM");
}

void Checker::checkAttention(Attention &attention) {
  int64_t width = spec.width();
  if (!checkSize(attention, Attention::kHeadsFieldNumber, attention.has_heads(),
                 attention.heads(), "heads", kMaxWidth))
    return;
  int64_t heads = attention.heads();
  if (!attention.has_kv_heads())
    attention.set_kv_heads(heads);
  if (!checkSize(attention, Attention::kKvHeadsFieldNumber, true,
                 attention.kv_heads(), "kv_heads", kMaxWidth))
    return;
  if (heads % attention.kv_heads() != 0) {
    error(attention, Attention::kKvHeadsFieldNumber,
          str(heads) + " query heads cannot share " +
              str(attention.kv_heads()) + " key/value heads evenly",
          "kv_heads has to divide heads");
    return;
  }
  if (!attention.has_head_dim()) {
    if (width % heads != 0) {
      int64_t below = heads, above = heads;
      while (width % below != 0)
        --below;
      while (above < width && width % above != 0)
        ++above;
      error(attention, Attention::kHeadsFieldNumber,
            "width " + str(width) + " does not divide by " + str(heads) +
                " heads",
            "heads: " + str(below) +
                (above <= width && width % above == 0 ? " or " + str(above)
                                                      : "") +
                " would divide, or give head_dim");
      return;
    }
    attention.set_head_dim(width / heads);
  }
  if (!checkSize(attention, Attention::kHeadDimFieldNumber, true,
                 attention.head_dim(), "head_dim", kMaxWidth))
    return;
  if (heads > kMaxWidth / attention.head_dim()) {
    error(attention, Attention::kHeadsFieldNumber,
          str(heads) + " heads of " + str(attention.head_dim()) +
              " are more than " + str(kMaxWidth) + " wide");
    return;
  }
  if (heads * attention.head_dim() < kMinColumns)
    error(attention, Attention::kHeadDimFieldNumber,
          "one head of 1 element is too little",
          "head_dim of at least " + str(kMinColumns) + ", or more heads");
  if (!attention.has_scale())
    attention.set_scale(1 / std::sqrt(double(attention.head_dim())));
  checkPositive(attention, Attention::kScaleFieldNumber, attention.scale(),
                "scale");
  if (attention.window() < 0)
    error(attention, Attention::kWindowFieldNumber,
          "window is " + str(attention.window()) +
              "; it is a number of tokens, or 0 for all");
  if (attention.window() > 0 && !attention.causal())
    error(attention, Attention::kWindowFieldNumber,
          "a window looks back, and attention that is not causal has no back",
          "causal: true, or window: 0");
  if (spec.positions().has_rotary()) {
    const Rotary &rotary = spec.positions().rotary();
    int64_t turned = rotaryWidth(rotary, attention.head_dim());
    if (turned < 2 || turned % 2 != 0 || turned > attention.head_dim())
      error(rotary,
            rotary.has_fraction() ? Rotary::kFractionFieldNumber
                                  : Rotary::kRotaryDimFieldNumber,
            str(turned) + " of the " + str(attention.head_dim()) +
                " elements of a head would turn; it has to be an even number "
                "between 2 and " +
                str(attention.head_dim()));
  }
}

void Checker::checkMlp(const Mlp &mlp) {
  checkSize(mlp, Mlp::kInnerFieldNumber, mlp.has_inner(), mlp.inner(), "inner",
            kMaxWidth, kMinColumns);
  if (mlp.has_activation() && mlp.has_activation_op())
    error(mlp, Mlp::kActivationOpFieldNumber,
          "activation and activation_op are both given", "keep one of the two");
  if (mlp.has_activation_op())
    checkOp(mlp.activation_op());
}

void Checker::checkOp(const Op &op) {
  if (op.name().empty())
    error(op, Op::kNameFieldNumber, "op has no name",
          "name: \"dialect.operation\"");
  std::set<std::string> names;
  for (const Attribute &attribute : op.attributes()) {
    if (attribute.name().empty())
      error(attribute, 0, "an attribute has no name");
    if (!names.insert(attribute.name()).second)
      error(attribute, 0,
            "attribute '" + attribute.name() + "' is given twice");
    int values = attribute.has_text() + attribute.has_integer() +
                 attribute.has_number() + attribute.has_flag() +
                 attribute.has_mlir();
    if (values != 1)
      error(attribute, 0,
            "attribute '" + attribute.name() + "' has " +
                (values ? str(int64_t(values)) : "no") + " values",
            "give exactly one of text, integer, number, flag, mlir");
    // MLIR's parser recurses; what is short cannot nest deeply.
    if (attribute.mlir().size() > kMaxAttributeBytes)
      error(attribute, Attribute::kMlirFieldNumber,
            "attribute '" + attribute.name() + "' has " +
                str(int64_t(attribute.mlir().size())) +
                " bytes; it can have at most " + str(kMaxAttributeBytes));
  }
  for (const Parameter &parameter : op.parameters()) {
    checkName(parameter, Parameter::kNameFieldNumber, parameter.name(), "");
    int64_t count = 1;
    for (int64_t size : parameter.shape()) {
      if (!checkSize(parameter, Parameter::kShapeFieldNumber, true, size,
                     "a dim of '" + parameter.name() + "'", kMaxVocabulary))
        break;
      if (count > (int64_t(1) << 56) / size) {
        error(parameter, Parameter::kShapeFieldNumber,
              "'" + parameter.name() + "' has more than 2^56 elements");
        break;
      }
      count *= size;
    }
  }
}

void Checker::checkLayer(Layer &layer) {
  bool computes = layer.has_attention() || layer.has_mlp();
  if (!computes && !layer.has_norm() && layer.op_size() == 0 &&
      !layer.has_post_norm())
    error(layer, 0, "a layer is empty", "give it a norm, attention, mlp or op");
  if (!layer.has_residual())
    layer.set_residual(computes);
  if (layer.has_norm())
    checkNorm(layer.norm());
  if (layer.has_attention())
    checkAttention(*layer.mutable_attention());
  if (layer.has_mlp())
    checkMlp(layer.mlp());
  for (const Op &op : layer.op())
    checkOp(op);
  if (layer.has_post_norm())
    checkNorm(layer.post_norm());
}

void Checker::run() {
  checkSize(spec, ModelSpec::kVocabularyFieldNumber, spec.has_vocabulary(),
            spec.vocabulary(), "vocabulary", kMaxVocabulary, kMinColumns);
  checkSize(spec, ModelSpec::kMaxPositionsFieldNumber, spec.has_max_positions(),
            spec.max_positions(), "max_positions", kMaxPositions);
  bool hasWidth =
      checkSize(spec, ModelSpec::kWidthFieldNumber, spec.has_width(),
                spec.width(), "width", kMaxWidth, kMinColumns);
  if (spec.has_embedding_width()) {
    checkSize(spec, ModelSpec::kEmbeddingWidthFieldNumber, true,
              spec.embedding_width(), "embedding_width", kMaxWidth,
              kMinColumns);
    if (spec.head().tied() && spec.embedding_width() != spec.width())
      error(spec.head(), Head::kTiedFieldNumber,
            "the head is tied to a token table of width " +
                str(spec.embedding_width()) + ", but the stream has width " +
                str(spec.width()),
            "tied: false, or no embedding_width");
  }
  if (!hasWidth)
    return; // what follows is about multiples of it
  checkPositions();
  if (spec.block_size() == 0)
    error(spec, 0, "the model has no block");
  int64_t numBlocks = 0, numLayers = 0;
  for (Block &block : *spec.mutable_block()) {
    if (!checkSize(block, Block::kCountFieldNumber, true, block.count(),
                   "count", kMaxBlocks))
      continue;
    numBlocks += block.count();
    checkName(block, Block::kNameFieldNumber, block.name(), "{}");
    int64_t layersOfBlock = block.layer_size();
    for (const Layer &layer : block.layer())
      layersOfBlock += layer.op_size();
    numLayers += block.count() * layersOfBlock;
    if (block.layer_size() == 0)
      error(block, 0, "block '" + block.name() + "' has no layer");
    for (Layer &layer : *block.mutable_layer())
      checkLayer(layer);
  }
  if (numBlocks > kMaxBlocks)
    error(spec, ModelSpec::kBlockFieldNumber,
          "the model has " + str(numBlocks) + " blocks; it can have at most " +
              str(kMaxBlocks));
  else if (numLayers > kMaxLayers)
    error(spec, ModelSpec::kBlockFieldNumber,
          "the model has " + str(numLayers) + " layers; it can have at most " +
              str(kMaxLayers));
  if (spec.has_final_norm())
    checkNorm(spec.final_norm());
  const Dropout &dropout = spec.dropout();
  checkRate(dropout, Dropout::kEmbeddingFieldNumber, dropout.embedding(),
            "embedding");
  checkRate(dropout, Dropout::kResidualFieldNumber, dropout.residual(),
            "residual");
  if (dropout.attention() != 0)
    error(dropout, Dropout::kAttentionFieldNumber,
          "dropout of attention probabilities (" + str(dropout.attention()) +
              ") is not supported",
          "attention: 0; embedding and residual dropout are supported");
  if (!(spec.initialization().standard_deviation() >= 0 &&
        std::isfinite(spec.initialization().standard_deviation())))
    error(spec.initialization(), Initialization::kStandardDeviationFieldNumber,
          "standard_deviation is " +
              str(spec.initialization().standard_deviation()) +
              "; it cannot be negative");
}

} // namespace

bool checkSpec(ModelSpec &spec, const SourceMap &sources, Findings &findings) {
  Checker(spec, sources, findings).run();
  return !findings.hasErrors();
}

int64_t rotaryWidth(const Rotary &rotary, int64_t headDim) {
  if (rotary.has_rotary_dim())
    return rotary.rotary_dim();
  if (rotary.has_fraction())
    return static_cast<int64_t>(
        std::llround(rotary.fraction() * static_cast<double>(headDim)));
  return headDim;
}

int64_t countResidualBranches(const ModelSpec &spec) {
  int64_t count = 0;
  for (const Block &block : spec.block())
    for (const Layer &layer : block.layer())
      if (layer.residual())
        count += block.count() * (layer.has_attention() + layer.has_mlp());
  return count;
}

} // namespace lmc::frontend
