// Tokens that are found in a text before anything else looks at it: special
// ones such as <|endoftext|>, and words that a user added.
//
// Those that are not `normalized` are looked for in the whole text, then the
// others in what is left. Of those that begin at one place the longest is
// taken. A match may be refused (`singleWord`: not beside a letter) and may
// take the blanks around it (`lstrip`, `rstrip`):
//
//     "Say  <mask>."  with <mask> lstrip  ->  "Say" [<mask>] "."
#ifndef LMC_RUNTIME_GENERATE_ADDEDTOKENS_H
#define LMC_RUNTIME_GENERATE_ADDEDTOKENS_H

#include "runtime/generate/Pattern.h"

#include <array>
#include <unordered_map>

namespace lmc::runtime {

struct AddedToken {
  int32_t id = 0;
  std::string content; ///< not empty
  bool singleWord = false, lstrip = false, rstrip = false;
  bool normalized = false, special = false;
};

class AddedTokens {
public:
  static StatusOr<AddedTokens> create(std::vector<AddedToken> tokens);

  struct Part {
    std::string_view text;
    int32_t token = -1; ///< -1: text that is still to be encoded
  };
  std::vector<Part> split(std::string_view text) const;

private:
  /// Tokens by their bytes: from a node over a byte to the next node.
  struct Trie {
    std::unordered_map<uint64_t, int32_t> edges;
    std::vector<int32_t> tokens = {-1}; ///< of each node: index, or -1
    std::array<bool, 256> begins = {};
    void add(std::string_view content, int32_t token);
    /// The longest token at the front of `text`, or -1.
    int32_t longestAt(std::string_view text) const;
  };
  explicit AddedTokens(Pattern wordCharacter)
      : wordCharacter(std::move(wordCharacter)) {}
  void splitBy(const Trie &trie, std::string_view text,
               std::vector<Part> &parts) const;
  bool isWhole(std::string_view text, size_t begin, size_t end) const;

  std::vector<AddedToken> tokens;
  Trie literal, normalized;
  Pattern wordCharacter;
};

} // namespace lmc::runtime

#endif // LMC_RUNTIME_GENERATE_ADDEDTOKENS_H
