// See PreTokenizer.h.
#include "runtime/generate/PreTokenizer.h"

namespace lmc::runtime {

void PreTokenizer::addSplit(Pattern pattern, bool keepMatches, bool keepGaps) {
  steps.push_back({std::move(pattern), keepMatches, keepGaps});
}

void PreTokenizer::addPrefixBlank() { steps.emplace_back(); }

Status PreTokenizer::runFrom(size_t index, std::string_view piece,
                             const OnWord &onWord) const {
  if (index == steps.size()) {
    onWord(piece);
    return Status();
  }
  const Step &step = steps[index];
  if (!step.pattern) {
    if (piece.empty() || piece[0] == ' ')
      return runFrom(index + 1, piece, onWord);
    std::string prefixed = " ";
    prefixed += piece;
    return runFrom(index + 1, prefixed, onWord);
  }
  return step.pattern->split(piece, [&](const Pattern::Part &part) {
    bool kept = part.kind == Pattern::Kind::Match ? step.keepMatches
                : part.kind == Pattern::Kind::Gap ? step.keepGaps
                                                  : true;
    return kept ? runFrom(index + 1, part.text, onWord) : Status();
  });
}

} // namespace lmc::runtime
