// See Bpe.h.
#include "runtime/generate/Bpe.h"

#include <algorithm>

namespace lmc::runtime {

// Words of a text repeat by Zipf's law: a few tens of thousands are nearly all.
static constexpr size_t kMostKnown = 1 << 16;
static constexpr size_t kLongestKnown = 64;

static uint64_t pairKey(int32_t left, int32_t right) {
  return uint64_t(uint32_t(left)) << 32 | uint32_t(right);
}

Bpe::Bpe(const std::array<int32_t, 256> &byteTokens,
         const std::vector<Merge> &list,
         std::unordered_map<std::string, int32_t> wholeWords)
    : byteTokens(byteTokens), wholeWords(std::move(wholeWords)) {
  merges.reserve(list.size());
  for (size_t i = 0; i < list.size(); ++i)
    merges[pairKey(list[i].left, list[i].right)] = {int32_t(i), list[i].result};
}

const Bpe::Ranked *Bpe::find(int32_t left, int32_t right) const {
  auto found = merges.find(pairKey(left, right));
  return found == merges.end() ? nullptr : &found->second;
}

/// The pair that begins at `at`, if it has a merge.
void Bpe::push(int64_t at) {
  const Symbol &left = symbols[size_t(at)];
  if (left.next < 0)
    return;
  const Ranked *merge = find(left.token, symbols[size_t(left.next)].token);
  if (!merge)
    return;
  heap.push_back({merge->rank, merge->result, at});
  std::push_heap(heap.begin(), heap.end());
}

void Bpe::merge(std::string_view word) {
  symbols.clear();
  heap.clear();
  for (char byte : word) {
    int32_t token = byteTokens[uint8_t(byte)];
    if (token < 0)
      continue;
    int64_t at = int64_t(symbols.size());
    if (at > 0)
      symbols.back().next = at;
    symbols.push_back({token, at - 1, -1});
  }
  for (int64_t at = 0; at < int64_t(symbols.size()); ++at)
    push(at);
  while (!heap.empty()) {
    Candidate best = heap.front();
    std::pop_heap(heap.begin(), heap.end());
    heap.pop_back();
    Symbol &left = symbols[size_t(best.at)];
    if (left.token < 0 || left.next < 0)
      continue;
    Symbol &right = symbols[size_t(left.next)];
    // What the pair was when it was pushed may be gone.
    const Ranked *now = find(left.token, right.token);
    if (!now || now->result != best.result)
      continue;
    left.token = best.result;
    left.next = right.next;
    right.token = -1;
    if (left.next >= 0)
      symbols[size_t(left.next)].previous = best.at;
    if (left.previous >= 0)
      push(left.previous);
    push(best.at);
  }
}

void Bpe::encode(std::string_view word, std::vector<int32_t> &tokens) {
  bool isShort = word.size() <= kLongestKnown;
  if (isShort || !wholeWords.empty())
    key.assign(word);
  if (!wholeWords.empty()) {
    auto whole = wholeWords.find(key);
    if (whole != wholeWords.end()) {
      tokens.push_back(whole->second);
      return;
    }
  }
  if (isShort) {
    auto before = known.find(key);
    if (before != known.end()) {
      tokens.insert(tokens.end(), before->second.begin(), before->second.end());
      return;
    }
  }
  merge(word);
  size_t first = tokens.size();
  for (const Symbol &symbol : symbols)
    if (symbol.token >= 0)
      tokens.push_back(symbol.token);
  if (!isShort)
    return;
  if (known.size() >= kMostKnown)
    known.clear();
  known[key].assign(tokens.begin() + std::ptrdiff_t(first), tokens.end());
}

} // namespace lmc::runtime
