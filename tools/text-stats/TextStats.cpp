//===- TextStats.cpp - What a text alone tells about its bytes ------------===//
//
// The bar for a model trained on a text: how well a table of counts predicts.
// Counts the text's bytes alone, after one byte and after two, and prints the
// three entropies
//
//   H(x), H(x | one before), H(x | two before)
//
// in nats per byte, the unit of a training loss. The counts are taken and
// judged on the same text, so each is the least that its kind of table could
// reach: a model that beats the last one on text it has not seen uses more
// than two bytes of context.
//
//   text-stats TEXT [--held-out-loss=NATS] [--generated=FILE]
//
// Exit status 1: the loss is not below H(x | two before), or under 80 % of the
// generated words are words of the text. 2: the call or a file is wrong.
//
//===----------------------------------------------------------------------===//

#include <cctype>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <string>
#include <unordered_set>
#include <vector>

namespace {

[[noreturn]] void refuse(const std::string &message) {
  std::fprintf(stderr, "error: %s\n", message.c_str());
  std::exit(2);
}

std::string read(const std::string &path) {
  std::ifstream in(path, std::ios::binary);
  if (!in)
    refuse("cannot open " + path);
  return std::string(std::istreambuf_iterator<char>(in), {});
}

/// Entropy in nats of a byte given the `numBefore` bytes before it.
double conditionalEntropy(const std::string &text, int numBefore) {
  size_t numContexts = size_t(1) << (8 * numBefore);
  std::vector<uint32_t> counts(numContexts * 256), totals(numContexts);
  size_t context = 0;
  for (size_t i = 0; i < text.size(); ++i) {
    auto byte = static_cast<unsigned char>(text[i]);
    if (i >= size_t(numBefore)) {
      ++counts[context * 256 + byte];
      ++totals[context];
    }
    context = (context << 8 | byte) & (numContexts - 1);
  }
  double sum = 0;
  for (size_t i = 0; i < counts.size(); ++i)
    if (counts[i])
      sum -= counts[i] * std::log(double(counts[i]) / totals[i / 256]);
  return sum / double(text.size() - numBefore);
}

/// Runs of ASCII letters and inner apostrophes, in lower case.
std::vector<std::string> wordsOf(const std::string &text) {
  std::vector<std::string> words(1);
  for (char c : text + " ") {
    if (std::isalpha(static_cast<unsigned char>(c)) ||
        (c == '\'' && !words.back().empty()))
      words.back() += char(std::tolower(static_cast<unsigned char>(c)));
    else if (!words.back().empty())
      words.emplace_back();
  }
  words.pop_back();
  return words;
}

} // namespace

int main(int argc, char **argv) {
  std::string path, generatedPath, lossText;
  for (int i = 1; i < argc; ++i) {
    std::string argument = argv[i];
    if (argument.rfind("--held-out-loss=", 0) == 0)
      lossText = argument.substr(16);
    else if (argument.rfind("--generated=", 0) == 0)
      generatedPath = argument.substr(12);
    else if (path.empty() && argument[0] != '-')
      path = argument;
    else
      refuse("usage: text-stats TEXT [--held-out-loss=NATS] "
             "[--generated=FILE]");
  }
  if (path.empty())
    refuse("no TEXT given");
  std::string text = read(path);
  if (text.size() < 3)
    refuse(path + " has " + std::to_string(text.size()) + " bytes");

  bool isGood = true;
  std::printf("entropy of a byte of the training text, nats (bits):\n");
  const char *names[] = {"alone", "after one byte", "after two bytes"};
  double bar = 0;
  for (int numBefore = 0; numBefore < 3; ++numBefore) {
    bar = conditionalEntropy(text, numBefore);
    std::printf("  %-16s %.4f (%.3f)\n", names[numBefore], bar,
                bar / std::log(2));
  }
  if (!lossText.empty()) {
    double loss = std::strtod(lossText.c_str(), nullptr);
    bool isBelow = loss > 0 && loss < bar;
    std::printf("held-out loss      %.4f (%.3f): %s\n", loss,
                loss / std::log(2),
                isBelow ? "below the last" : "NOT below the last");
    isGood &= isBelow;
  }
  if (!generatedPath.empty()) {
    std::string generated = read(generatedPath);
    std::vector<std::string> known = wordsOf(text), words = wordsOf(generated);
    // The last word may have been cut where the generation ended.
    if (!words.empty() && std::isalpha(static_cast<unsigned char>(
                              generated[generated.find_last_not_of('\n')])))
      words.pop_back();
    std::unordered_set<std::string> vocabulary(known.begin(), known.end());
    size_t numKnown = 0;
    for (const std::string &word : words)
      numKnown += vocabulary.count(word);
    std::printf("generated words    %zu, of which %zu (%.1f %%) are words of "
                "the text\n",
                words.size(), numKnown,
                words.empty() ? 0.0 : 100.0 * numKnown / words.size());
    isGood &= !words.empty() && numKnown * 5 >= words.size() * 4;
  }
  return isGood ? 0 : 1;
}
