// See Shrink.h.
#include "frontend/Shrink.h"

#include "frontend/ModelSpec.pb.h"
#include "frontend/SpecCheck.h"

#include <algorithm>

namespace lmc::frontend {
namespace {

constexpr int64_t kVocabulary = 192; // and the remainder
constexpr int64_t kHeadDim = 8;      // elements of a head at least
constexpr int64_t kWidth = 32;       // of the stream at least
constexpr int64_t kSequence = 32;

void shrinkBlocks(ModelSpec &spec, int64_t keep) {
  int64_t total = 0;
  for (const Block &block : spec.block())
    total += block.count();
  if (total <= keep)
    return;
  // Each kind keeps its share, at least one; the largest gives what is missing.
  for (Block &block : *spec.mutable_block())
    block.set_count(
        std::max<int64_t>(1, (block.count() * keep + total - 1) / total));
}

bool namesShapes(const Op &op) {
  return op.parameters_size() > 0 || op.attributes_size() > 0;
}

// Calls `visit(get, set, least)` for every width.
template <typename Visit> void forEachWidth(ModelSpec &spec, Visit visit) {
  auto of = [&](auto &message, auto get, auto set, int64_t least) {
    visit((message.*get)(),
          [&message, set](int64_t size) { (message.*set)(size); }, least);
  };
  of(spec, &ModelSpec::width, &ModelSpec::set_width, kWidth);
  if (spec.has_embedding_width())
    of(spec, &ModelSpec::embedding_width, &ModelSpec::set_embedding_width, 16);
  if (spec.positions().has_rotary() &&
      spec.positions().rotary().has_rotary_dim())
    of(*spec.mutable_positions()->mutable_rotary(), &Rotary::rotary_dim,
       &Rotary::set_rotary_dim, 4);
  for (Block &block : *spec.mutable_block())
    for (Layer &layer : *block.mutable_layer()) {
      if (layer.has_attention())
        of(*layer.mutable_attention(), &Attention::head_dim,
           &Attention::set_head_dim, kHeadDim);
      if (layer.has_mlp())
        of(*layer.mutable_mlp(), &Mlp::inner, &Mlp::set_inner, 32);
    }
}

// Where a fraction of a head turns, it must stay an even number of elements.
bool turnsWholePairs(const ModelSpec &spec, int64_t by) {
  if (!spec.positions().has_rotary() ||
      !spec.positions().rotary().has_fraction())
    return true;
  for (const Block &block : spec.block())
    for (const Layer &layer : block.layer())
      if (layer.has_attention()) {
        int64_t turned = rotaryWidth(spec.positions().rotary(),
                                     layer.attention().head_dim() / by);
        if (turned < 2 || turned % 2 != 0)
          return false;
      }
  return true;
}

void shrinkWidths(ModelSpec &spec, int64_t divisor) {
  for (const Block &block : spec.block())
    for (const Layer &layer : block.layer()) {
      bool fixed = layer.has_mlp() && namesShapes(layer.mlp().activation_op());
      for (const Op &op : layer.op())
        fixed = fixed || namesShapes(op);
      if (fixed)
        return;
    }
  for (int64_t by = int64_t(1) << 12; by > 1; by /= 2) {
    bool fits = turnsWholePairs(spec, by);
    forEachWidth(spec, [&](int64_t size, auto set, int64_t least) {
      // Pairs of a rotary head, and what a mesh axis has to divide.
      fits = fits && size % (2 * by) == 0 && size / by >= least &&
             (size % divisor != 0 || size / by % divisor == 0);
    });
    if (!fits)
      continue;
    forEachWidth(spec,
                 [&](int64_t size, auto set, int64_t) { set(size / by); });
    return;
  }
}

} // namespace

void shrinkSpec(ModelSpec &spec, const ShrinkOptions &options) {
  if (options.blocks == 0)
    return;
  shrinkBlocks(spec, options.blocks);
  if (spec.vocabulary() > kVocabulary + 64)
    spec.set_vocabulary(kVocabulary + spec.vocabulary() % 64);
  shrinkWidths(spec, options.divisor);
}

int64_t shrunkSequence(const ModelSpec &spec, const ShrinkOptions &options) {
  int64_t tokens =
      (kSequence + options.divisor - 1) / options.divisor * options.divisor;
  return std::min<int64_t>(spec.max_positions(), tokens);
}

} // namespace lmc::frontend
