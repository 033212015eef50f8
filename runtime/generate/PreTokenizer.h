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

#include <deque>
#include <optional>

namespace lmc::runtime {

class PreTokenizer {
public:
  /// Cuts at a pattern; what it matches and what is between its matches are
  /// pieces, or are dropped.
  void addSplit(Pattern pattern, bool keepMatches, bool keepGaps);
  /// Puts a blank before every piece that does not begin with one.
  void addPrefixBlank();

  /// Calls `word` with each piece in order.
  template <typename Word> Status run(std::string_view text, Word word) const {
    std::deque<std::string> made;
    std::vector<std::string_view> pieces = {text};
    for (const Step &step : steps)
      LMC_RETURN_IF_ERROR(apply(step, pieces, made));
    for (std::string_view piece : pieces)
      word(piece);
    return Status();
  }

private:
  struct Step {
    std::optional<Pattern> pattern; ///< without one: the blank
    bool keepMatches = true, keepGaps = true;
  };
  static Status apply(const Step &step, std::vector<std::string_view> &pieces,
                      std::deque<std::string> &made);
  std::vector<Step> steps;
};

} // namespace lmc::runtime

#endif // LMC_RUNTIME_GENERATE_PRETOKENIZER_H
