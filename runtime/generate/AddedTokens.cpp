// See AddedTokens.h.
#include "runtime/generate/AddedTokens.h"
#include "runtime/base/Utf8.h"

#include <algorithm>

namespace lmc::runtime {

/// Unicode's White_Space.
static bool isBlank(std::string_view character) {
  if (character.empty())
    return false;
  char32_t c = utf8Decode(character);
  return (c >= 9 && c <= 13) || c == 32 || c == 0x85 || c == 0xA0 ||
         c == 0x1680 || (c >= 0x2000 && c <= 0x200A) || c == 0x2028 ||
         c == 0x2029 || c == 0x202F || c == 0x205F || c == 0x3000;
}

static std::string_view firstCharacter(std::string_view text) {
  return text.substr(0, utf8Length(text));
}
static std::string_view lastCharacter(std::string_view text) {
  return text.substr(text.size() - utf8LastLength(text));
}

void AddedTokens::Trie::add(std::string_view content, int32_t token) {
  begins[uint8_t(content[0])] = true;
  int32_t node = 0;
  for (char byte : content) {
    uint64_t edge = uint64_t(node) << 8 | uint8_t(byte);
    auto [next, isNew] = edges.try_emplace(edge, int32_t(tokens.size()));
    if (isNew)
      tokens.push_back(-1);
    node = next->second;
  }
  tokens[size_t(node)] = token;
}

int32_t AddedTokens::Trie::longestAt(std::string_view text) const {
  int32_t node = 0, longest = -1;
  for (char byte : text) {
    auto next = edges.find(uint64_t(node) << 8 | uint8_t(byte));
    if (next == edges.end())
      break;
    node = next->second;
    if (tokens[size_t(node)] >= 0)
      longest = tokens[size_t(node)];
  }
  return longest;
}

StatusOr<AddedTokens> AddedTokens::create(std::vector<AddedToken> tokens) {
  LMC_ASSIGN_OR_RETURN(
      Pattern word,
      Pattern::native(
          "[\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}\\x{200C}\\x{200D}]"));
  AddedTokens result(std::move(word));
  result.tokens = std::move(tokens);
  for (size_t i = 0; i < result.tokens.size(); ++i) {
    const AddedToken &token = result.tokens[i];
    (token.normalized ? result.normalized : result.literal)
        .add(token.content, int32_t(i));
  }
  return std::move(result);
}

bool AddedTokens::isWhole(std::string_view text, size_t begin,
                          size_t end) const {
  std::string_view before = lastCharacter(text.substr(0, begin));
  std::string_view after = firstCharacter(text.substr(end));
  return !(before.size() && wordCharacter.occursIn(before)) &&
         !(after.size() && wordCharacter.occursIn(after));
}

void AddedTokens::splitBy(const Trie &trie, std::string_view text,
                          std::vector<Part> &parts) const {
  size_t done = 0;     // end of what is in parts
  size_t blankEnd = 0; // end of the blanks that were last walked over
  for (size_t at = 0; at < text.size();) {
    int32_t index =
        trie.begins[uint8_t(text[at])] ? trie.longestAt(text.substr(at)) : -1;
    if (index < 0) {
      ++at;
      continue;
    }
    const AddedToken &token = tokens[size_t(index)];
    size_t begin = at, end = at + token.content.size();
    at = end;
    if (token.singleWord && !isWhole(text, begin, end))
      continue;
    if (token.lstrip) {
      for (std::string_view last;
           begin > done &&
           isBlank(last = lastCharacter(text.substr(done, begin - done)));)
        begin -= last.size();
      begin = std::max(begin, done);
    }
    if (token.rstrip) {
      blankEnd = std::max(blankEnd, end);
      for (std::string_view first;
           isBlank(first = firstCharacter(text.substr(blankEnd)));)
        blankEnd += first.size();
      end = blankEnd;
    }
    // Within the blanks that the token before took, one that strips to the
    // left has nothing left; another counts, and what is behind it is text
    // once more. So it is in the reference.
    if (begin >= end)
      continue;
    if (begin > done)
      parts.push_back({text.substr(done, begin - done), -1});
    parts.push_back({text.substr(begin, end - begin), token.id});
    done = end;
  }
  if (done < text.size())
    parts.push_back({text.substr(done), -1});
}

std::vector<AddedTokens::Part> AddedTokens::split(std::string_view text) const {
  std::vector<Part> first, parts;
  splitBy(literal, text, first);
  for (const Part &part : first)
    if (part.token >= 0)
      parts.push_back(part);
    else
      splitBy(normalized, part.text, parts);
  return parts;
}

} // namespace lmc::runtime
