// See PreTokenizer.h.
#include "runtime/generate/PreTokenizer.h"

namespace lmc::runtime {

void PreTokenizer::addSplit(Pattern pattern, bool keepMatches, bool keepGaps) {
  steps.push_back({std::move(pattern), keepMatches, keepGaps});
}

void PreTokenizer::addPrefixBlank() { steps.emplace_back(); }

Status PreTokenizer::apply(const Step &step,
                           std::vector<std::string_view> &pieces,
                           std::deque<std::string> &made) {
  if (!step.pattern) {
    for (std::string_view &piece : pieces)
      if (!piece.empty() && piece[0] != ' ') {
        made.push_back(" ");
        made.back() += piece;
        piece = made.back();
      }
    return Status();
  }
  std::vector<std::string_view> cut;
  std::vector<Pattern::Part> parts;
  for (std::string_view piece : pieces) {
    parts.clear();
    LMC_RETURN_IF_ERROR(step.pattern->split(piece, parts));
    for (const Pattern::Part &part : parts)
      if (part.kind == Pattern::Kind::Match ? step.keepMatches
          : part.kind == Pattern::Kind::Gap ? step.keepGaps
                                            : true)
        cut.push_back(part.text);
  }
  pieces = std::move(cut);
  return Status();
}

} // namespace lmc::runtime
