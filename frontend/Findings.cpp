// Places of messages, and the nearest spelling.
#include "frontend/Findings.h"

#include <algorithm>

namespace lmc::frontend {

Place SourceMap::of(const google::protobuf::Message &message, int field) const {
  auto it = places.find({&message, field});
  if (it == places.end())
    it = places.find({&message, 0});
  return it == places.end() ? Place() : it->second;
}

// Levenshtein distance; a swap of neighbours counts as one edit.
static size_t editDistance(std::string_view a, std::string_view b) {
  std::vector<size_t> before(b.size() + 1), above(b.size() + 1),
      row(b.size() + 1);
  for (size_t j = 0; j <= b.size(); ++j)
    above[j] = j;
  for (size_t i = 1; i <= a.size(); ++i) {
    row[0] = i;
    for (size_t j = 1; j <= b.size(); ++j) {
      row[j] = std::min({above[j] + 1, row[j - 1] + 1,
                         above[j - 1] + (a[i - 1] != b[j - 1])});
      if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1])
        row[j] = std::min(row[j], before[j - 2] + 1);
    }
    std::swap(before, above);
    std::swap(above, row);
  }
  return above[b.size()];
}

std::string closestWord(std::string_view word,
                        const std::vector<std::string> &candidates) {
  // Names in specs are short; a long word is no misspelling of one, and the
  // distance is quadratic.
  if (word.size() > 100)
    return "";
  size_t best = std::max<size_t>(1, word.size() / 3) + 1;
  std::string closest;
  for (const std::string &candidate : candidates) {
    size_t distance = editDistance(word, candidate);
    if (distance < best) {
      best = distance;
      closest = candidate;
    }
  }
  return closest;
}

std::string didYouMean(std::string_view word,
                       const std::vector<std::string> &candidates) {
  std::string closest = closestWord(word, candidates);
  return closest.empty() ? "" : "did you mean '" + closest + "'?";
}

} // namespace lmc::frontend
