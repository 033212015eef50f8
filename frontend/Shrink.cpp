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

// Calls `visit(name, size, set, least)` for every width.
template <typename Visit> void forEachWidth(ModelSpec &spec, Visit visit) {
  auto of = [&](const std::string &name, auto &message, auto get, auto set,
                int64_t least) {
    visit(
        name, (message.*get)(),
        [&message, set](int64_t size) { (message.*set)(size); }, least);
  };
  of("width", spec, &ModelSpec::width, &ModelSpec::set_width, kWidth);
  if (spec.has_embedding_width())
    of("embedding_width", spec, &ModelSpec::embedding_width,
       &ModelSpec::set_embedding_width, 16);
  if (spec.positions().has_rotary() &&
      spec.positions().rotary().has_rotary_dim())
    of("rotary_dim", *spec.mutable_positions()->mutable_rotary(),
       &Rotary::rotary_dim, &Rotary::set_rotary_dim, 4);
  for (Block &block : *spec.mutable_block())
    for (Layer &layer : *block.mutable_layer()) {
      if (layer.has_attention())
        of("head_dim of block " + block.name(), *layer.mutable_attention(),
           &Attention::head_dim, &Attention::set_head_dim, kHeadDim);
      if (layer.has_mlp())
        of("inner of block " + block.name(), *layer.mutable_mlp(), &Mlp::inner,
           &Mlp::set_inner, 32);
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

// The first operation that names shapes, with its block.
std::string findNamedShapes(const ModelSpec &spec) {
  for (const Block &block : spec.block())
    for (const Layer &layer : block.layer()) {
      const Op *named = nullptr;
      if (layer.has_mlp() && namesShapes(layer.mlp().activation_op()))
        named = &layer.mlp().activation_op();
      for (const Op &op : layer.op())
        if (!named && namesShapes(op))
          named = &op;
      if (named)
        return named->name() + " of block " + block.name();
    }
  return "";
}

constexpr int64_t kMostTimes = int64_t(1) << 12;

// Whether no width becomes too small when divided by `by`.
bool areWide(ModelSpec &spec, int64_t by) {
  bool wide = turnsWholePairs(spec, by);
  forEachWidth(spec, [&](const std::string &, int64_t size, auto set,
                         int64_t least) { wide &= size / by >= least; });
  return wide;
}

// Pairs of a rotary head, and what a mesh axis has to divide.
bool divides(int64_t size, int64_t by, int64_t divisor) {
  return size % (2 * by) == 0 &&
         (size % divisor != 0 || size / by % divisor == 0);
}

// Why widths are divided by `by` and not by `wanted`.
std::string sayWhatStops(ModelSpec &spec, int64_t by, int64_t wanted,
                         int64_t divisor) {
  std::string stops, others, last;
  forEachWidth(spec, [&](const std::string &name, int64_t size, auto set,
                         int64_t least) {
    if (divides(size, wanted, divisor) || name == last)
      return;
    last = name;
    int64_t unit = 2 * wanted * divisor;
    int64_t other = (size + unit / 2) / unit * unit;
    if (other / wanted < least)
      other += unit;
    stops += (stops.empty() ? "" : ", ") + name + " is " + std::to_string(size);
    others += (others.empty() ? "" : " and ") + std::to_string(other);
  });
  return (by == 1 ? "widths stay as they are: "
                  : "widths are divided by " + std::to_string(by) +
                        ", not by " + std::to_string(wanted) + ": ") +
         stops + "; with " + others + " they would be divided by " +
         std::to_string(wanted);
}

std::string shrinkWidths(ModelSpec &spec, int64_t divisor) {
  if (std::string named = findNamedShapes(spec); !named.empty())
    return "widths stay as they are: " + named +
           " names shapes or attributes of its own";
  int64_t wanted = 1;
  for (int64_t by = kMostTimes; by > 1; by /= 2) {
    if (!areWide(spec, by))
      continue;
    wanted = std::max(wanted, by);
    bool fits = true;
    forEachWidth(spec, [&](const std::string &, int64_t size, auto set,
                           int64_t) { fits &= divides(size, by, divisor); });
    if (!fits)
      continue;
    std::string stops =
        by == wanted ? "" : sayWhatStops(spec, by, wanted, divisor);
    forEachWidth(spec, [&](const std::string &, int64_t size, auto set,
                           int64_t) { set(size / by); });
    return stops;
  }
  return wanted == 1 ? "" : sayWhatStops(spec, 1, wanted, divisor);
}

} // namespace

std::string shrinkSpec(ModelSpec &spec, const ShrinkOptions &options) {
  if (options.blocks == 0)
    return "";
  shrinkBlocks(spec, options.blocks);
  if (spec.vocabulary() > kVocabulary + 64)
    spec.set_vocabulary(kVocabulary + spec.vocabulary() % 64);
  return shrinkWidths(spec, options.divisor);
}

int64_t shrunkSequence(const ModelSpec &spec, const ShrinkOptions &options) {
  int64_t tokens =
      (kSequence + options.divisor - 1) / options.divisor * options.divisor;
  return std::min<int64_t>(spec.max_positions(), tokens);
}

} // namespace lmc::frontend
