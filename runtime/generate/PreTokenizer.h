// From a text to the words that byte pair encoding sees one by one: a row of
// steps, each of which cuts the pieces that the one before it left.
//
//     "I'm  here" by GPT-2's pattern  ->  "I" "'m" " " " here"
//
// Bytes that are no UTF-8 are a piece of their own between the words around
// them, so that they come back as they were.
#ifndef LMC_RUNTIME_GENERATE_PRETOKENIZER_H
#define LMC_RUNTIME_GENERATE_PRETOKENIZER_H

#include "runtime/generate/Pattern.h"

#include <optional>

namespace lmc::runtime {

class PreTokenizer {
public:
  /// Cuts at a pattern; what it matches and what is between its matches are
  /// pieces, or are dropped.
  void addSplit(Pattern pattern, bool keepMatches, bool keepGaps);
  /// Puts a blank before every piece that does not begin with one.
  void addPrefixBlank();

  using OnWord = std::function<void(std::string_view)>;
  /// Calls `onWord` with each piece, as soon as it is cut: a text may be long.
  Status run(std::string_view text, const OnWord &onWord) const {
    return runFrom(0, text, onWord);
  }

private:
  struct Step {
    std::optional<Pattern> pattern; ///< without one: the blank
    bool keepMatches = true, keepGaps = true;
  };
  /// Takes one piece through the steps from `index` on.
  Status runFrom(size_t index, std::string_view piece,
                 const OnWord &onWord) const;
  std::vector<Step> steps;
};

} // namespace lmc::runtime

#endif // LMC_RUNTIME_GENERATE_PRETOKENIZER_H
