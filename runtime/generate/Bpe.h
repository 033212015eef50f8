// Byte pair encoding: a word's bytes are its first tokens, and of all pairs of
// neighbours that have a merge the one of the lowest rank becomes one token,
// the leftmost first, until no pair has one:
//
//     merges: 0 "l o", 1 "lo w", 2 "e r"
//     l o w e r  ->  lo w e r  ->  low e r  ->  low er
//
// A linked list of tokens and a heap of pairs keep this at n log n for a word
// of n bytes. Words that were met are remembered, up to a bound.
#ifndef LMC_RUNTIME_GENERATE_BPE_H
#define LMC_RUNTIME_GENERATE_BPE_H

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace lmc::runtime {

class Bpe {
public:
  struct Merge {
    int32_t left, right, result;
  };

  /// byteTokens: the token of each byte, -1 for a byte without one, which is
  /// left out. merges: in order of their ranks; of two for one pair the latter
  /// counts. wholeWords: words that are a token whatever the merges say.
  Bpe(const std::array<int32_t, 256> &byteTokens,
      const std::vector<Merge> &merges,
      std::unordered_map<std::string, int32_t> wholeWords);

  /// Appends the tokens of a word. One thread at a time.
  void encode(std::string_view word, std::vector<int32_t> &tokens);

private:
  struct Ranked {
    int32_t rank, result;
  };
  struct Symbol {
    int32_t token; ///< -1: merged into the one before it
    int64_t previous, next;
  };
  struct Candidate {
    int32_t rank, result;
    int64_t at;
    bool operator<(const Candidate &other) const { // the best is the largest
      return rank != other.rank ? rank > other.rank : at > other.at;
    }
  };
  const Ranked *find(int32_t left, int32_t right) const;
  void push(int64_t at);
  void merge(std::string_view word);

  std::array<int32_t, 256> byteTokens;
  std::unordered_map<uint64_t, Ranked> merges;
  std::unordered_map<std::string, int32_t> wholeWords;
  std::unordered_map<std::string, std::vector<int32_t>> known;

  // Kept between words.
  std::string key;
  std::vector<Symbol> symbols;
  std::vector<Candidate> heap;
};

} // namespace lmc::runtime

#endif // LMC_RUNTIME_GENERATE_BPE_H
