// Fuzz target of tokenizers; the first byte chooses.
//   0   the bytes are a tokenizer.json
//   1   they are the value of one key, which the second byte chooses, of an
//       otherwise good one; what is accepted encodes a text
//   2   they are a pattern, and behind a zero a text that it cuts
//   3   they are a text, which has to come back as it was
//
//   clang++ -fsanitize=fuzzer,address TokenizerFuzz.cpp AddedTokens.cpp Bpe.cpp
//       Pattern.cpp PreTokenizer.cpp Tokenizer.cpp TokenizerJson.cpp Json.cpp
//       Utf8.cpp <base> -lpcre2-8
#include "runtime/base/Utf8.h"
#include "runtime/generate/Pattern.h"
#include "runtime/generate/TokenizerJson.h"

#include <cstdlib>

using namespace lmc::runtime;

static std::string vocabulary() {
  std::string members;
  int next = 0x100;
  for (int byte = 0; byte < 256; ++byte) {
    bool printable =
        (byte > 0x20 && byte < 0x7F) || (byte > 0xA0 && byte != 0xAD);
    std::string character;
    if (byte == '"' || byte == '\\')
      character += '\\';
    utf8Append(character, char32_t(printable ? byte : next++));
    members += fmt::format("\"{}\": {}, ", character, byte);
  }
  return "{" + members + R"("ab": 256, "abb": 257, "Ġa": 258})";
}

/// A tokenizer.json with one value of one's own.
static std::string document(int slot, std::string_view value) {
  std::string values[] = {
      vocabulary(),
      R"(["a b", ["ab", "b"], "Ġ a"])",
      "true",
      R"([{"id": 259, "content": "<m>", "lstrip": true, "special": true},
          {"id": 260, "content": "  ", "rstrip": true},
          {"id": 261, "content": "word", "single_word": true}])",
      R"({"type": "ByteLevel", "add_prefix_space": false})",
      "null",
      R"({"type": "ByteLevel"})",
  };
  constexpr int numSlots = sizeof values / sizeof values[0];
  if (slot >= 0)
    values[slot % numSlots] = value;
  return fmt::format(
      R"({{"model": {{"type": "BPE", "vocab": {}, "merges": {},
          "ignore_merges": {}}}, "added_tokens": {}, "pre_tokenizer": {},
          "post_processor": {}, "decoder": {}}})",
      values[0], values[1], values[2], values[3], values[4], values[5],
      values[6]);
}

static std::string decode(const Tokenizer &tokenizer,
                          const std::vector<int32_t> &tokens) {
  std::string text;
  for (int32_t token : tokens)
    text += tokenizer.bytesOf(token);
  return text;
}

static void use(StatusOr<std::unique_ptr<Tokenizer>> tokenizer) {
  if (!tokenizer.ok())
    return;
  auto tokens = (*tokenizer)->encode("Say  <m> word, abb!\n\xFF\u3000 a", true);
  if (tokens.ok())
    (void)decode(**tokenizer, *tokens);
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  if (size < 2)
    return 0;
  std::string_view bytes(reinterpret_cast<const char *>(data) + 2, size - 2);
  switch (data[0] % 4) {
  case 0:
    use(parseTokenizerJson(bytes, "fuzz"));
    break;
  case 1:
    use(parseTokenizerJson(document(data[1], bytes), "fuzz"));
    break;
  case 2: {
    size_t end = std::min(bytes.find('\0'), bytes.size());
    auto pattern = Pattern::create(bytes.substr(0, end));
    std::string whole;
    auto add = [&](const Pattern::Part &part) {
      whole += part.text;
      return Status();
    };
    if (pattern.ok() && pattern->split(bytes.substr(end), add).ok() &&
        whole != bytes.substr(end))
      std::abort();
    break;
  }
  default: {
    // Blanks that <m> and "  " take with them do not come back: without them.
    static auto plain = parseTokenizerJson(document(3, "[]"), "plain");
    static auto added = parseTokenizerJson(document(-1, ""), "added");
    auto tokens = (*plain)->encode(bytes);
    if (!tokens.ok() || decode(**plain, *tokens) != bytes)
      std::abort();
    if (!(*added)->encode(bytes).ok())
      std::abort();
  }
  }
  return 0;
}
