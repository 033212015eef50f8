// Tokenizers beyond what the goldens hold (test/numerics): bytes that are no
// text, worst cases of time, what is refused and in which words, patterns.
#include "runtime/generate/Tokenizer.h"
#include "runtime/base/MappedFile.h"
#include "runtime/base/Utf8.h"
#include "runtime/generate/Documents.h"
#include "runtime/generate/Pattern.h"
#include "runtime/generate/TokenizerJson.h"
#include "runtime/weights/Json.h"

#include <chrono>
#include <filesystem>
#include <gtest/gtest.h>
#include <random>

using namespace lmc::runtime;
using nlohmann::json;
namespace fs = std::filesystem;

/// Every byte as its token, then "ab", "abb" and the word "zz" without merge;
/// 259 is <|end|>.
static json small() {
  json vocab;
  int next = 0x100;
  for (int byte = 0; byte < 256; ++byte) {
    bool printable =
        (byte > 0x20 && byte < 0x7F) || (byte > 0xA0 && byte != 0xAD);
    std::string character;
    utf8Append(character, char32_t(printable ? byte : next++));
    vocab[character] = byte;
  }
  vocab["ab"] = 256;
  vocab["abb"] = 257;
  vocab["zz"] = 258;
  return {{"version", "1.0"},
          {"added_tokens",
           {{{"id", 259}, {"content", "<|end|>"}, {"special", true}}}},
          {"normalizer", nullptr},
          {"pre_tokenizer",
           {{"type", "ByteLevel"},
            {"add_prefix_space", false},
            {"trim_offsets", true}}},
          {"post_processor", nullptr},
          {"decoder", {{"type", "ByteLevel"}}},
          {"model",
           {{"type", "BPE"},
            {"vocab", vocab},
            {"merges", {"a b", "ab b"}},
            {"ignore_merges", true}}}};
}

static std::unique_ptr<Tokenizer> make(const json &document) {
  auto tokenizer = parseTokenizerJson(document.dump(), "t.json");
  EXPECT_TRUE(tokenizer.ok()) << tokenizer.status().toString();
  return tokenizer.ok() ? *std::move(tokenizer) : nullptr;
}

static std::vector<int32_t> encode(Tokenizer &tokenizer,
                                   std::string_view text) {
  auto tokens = tokenizer.encode(text);
  EXPECT_TRUE(tokens.ok()) << tokens.status().toString();
  return tokens.ok() ? *std::move(tokens) : std::vector<int32_t>();
}

static std::string decode(const Tokenizer &tokenizer,
                          const std::vector<int32_t> &tokens) {
  std::string text;
  for (int32_t token : tokens)
    text += tokenizer.bytesOf(token);
  return text;
}

TEST(Utf8, KnowsCharactersFromOtherBytes) {
  for (const char *good : {"a", "\x7F", "\xC2\x80", "\xDF\xBF", "\xE0\xA0\x80",
                           "\xED\x9F\xBF", "\xEE\x80\x80", "\xEF\xBF\xBF",
                           "\xF0\x90\x80\x80", "\xF4\x8F\xBF\xBF"}) {
    std::string_view text = good;
    EXPECT_EQ(utf8Length(text), text.size()) << good;
    EXPECT_EQ(utf8LastLength(std::string("x").append(text)), text.size());
    std::string again;
    utf8Append(again, utf8Decode(text));
    EXPECT_EQ(again, text);
  }
  // Continuation alone, overlong, surrogate, beyond the last, cut short.
  for (const char *bad :
       {"\x80", "\xBF", "\xC0\x80", "\xC1\xBF", "\xE0\x9F\xBF", "\xED\xA0\x80",
        "\xF0\x8F\xBF\xBF", "\xF4\x90\x80\x80", "\xF5\x80\x80\x80", "\xFF",
        "\xC2", "\xE2\x82", "\xF0\x9F\x98", "\xC2 "}) {
    EXPECT_EQ(utf8Length(bad), 0u) << bad;
    EXPECT_EQ(utf8Prefix(std::string("ab") + bad), 2u);
  }
  EXPECT_EQ(nonUtf8Prefix("\xE2\x82 a"), 2u);
  EXPECT_EQ(utf8LastLength("a\x80"), 0u);
}

TEST(Utf8, AStreamNeverShowsHalfACharacter) {
  std::string text = "aé€😀z";
  for (size_t size = 1; size < 5; ++size) {
    Utf8Stream stream;
    std::string shown;
    for (size_t at = 0; at < text.size(); at += size) {
      std::string piece = stream.add(text.substr(at, size));
      EXPECT_EQ(utf8Prefix(piece), piece.size());
      shown += piece;
    }
    EXPECT_EQ(shown + stream.finish(), text);
  }
  Utf8Stream stream;
  EXPECT_EQ(stream.add("a\xF0\x9F"), "a");
  EXPECT_EQ(stream.add("b"), "\xEF\xBF\xBD"
                             "b");
  EXPECT_EQ(stream.add("\xE2\x82"), "");
  EXPECT_EQ(stream.finish(), "\xEF\xBF\xBD");
}

TEST(Tokenizer, MergesByRankAndFindsWholeWords) {
  auto t = make(small());
  EXPECT_EQ(encode(*t, "abbb"), (std::vector<int32_t>{257, 'b'}));
  EXPECT_EQ(encode(*t, "zz"), (std::vector<int32_t>{258}));
  EXPECT_EQ(encode(*t, "zzz"), (std::vector<int32_t>{'z', 'z', 'z'}));
  EXPECT_EQ(encode(*t, "ab<|end|>"), (std::vector<int32_t>{256, 259}));
  EXPECT_EQ(t->vocabulary(), 260);
  EXPECT_TRUE(t->isSpecial(259));
  EXPECT_FALSE(t->isSpecial(256));
  EXPECT_FALSE(t->isSpecial(-1));
  EXPECT_EQ(t->find("<|end|>"), 259);
  EXPECT_EQ(t->find("abc"), -1);
  EXPECT_EQ(t->bytesOf(260), "");
  EXPECT_EQ(t->bytesOf(-1), "");
}

TEST(Tokenizer, AnyBytesComeBack) {
  auto t = make(small());
  std::mt19937 random(7);
  const char *pieces[] = {
      "ab",   " ", "é",  "\xE2\x82",         "\xFF", "<|end|>",     "<|",
      "\x80", "1", "\n", "\xF0\x9F\x98\x80", "'s",   "\xED\xA0\x80"};
  for (int i = 0; i < 2000; ++i) {
    std::string text;
    for (unsigned n = random() % 12; n > 0; --n)
      if (random() % 4)
        text += pieces[random() % std::size(pieces)];
      else
        text += char(random());
    EXPECT_EQ(decode(*t, encode(*t, text)), text) << i;
  }
  // Such bytes are a piece of their own: no merge reaches over them.
  EXPECT_EQ(encode(*t, "a\xFF"
                       "b"),
            (std::vector<int32_t>{'a', 255, 'b'}));
}

// Ten times as much takes about ten times as long; a quadratic loop would take
// minutes.
TEST(Tokenizer, LongRunsTakeLinearTime) {
  json document = small();
  json llama3 = document;
  llama3["pre_tokenizer"] = {
      {"type", "Sequence"},
      {"pretokenizers",
       {{{"type", "Split"},
         {"pattern",
          {{"Regex",
            "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|"
            "\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|"
            "\\s+(?!\\S)|\\s+"}}},
         {"behavior", "Isolated"},
         {"invert", false}},
        {{"type", "ByteLevel"}, {"use_regex", false}}}}};
  json blanks = document;
  blanks["added_tokens"].push_back({{"id", 260},
                                    {"content", "  "},
                                    {"lstrip", true},
                                    {"rstrip", true},
                                    {"normalized", false}});
  auto start = std::chrono::steady_clock::now();
  for (const json &kind : {document, llama3, blanks}) {
    auto t = make(kind);
    for (std::string unit :
         {"a", "ab", " ", "\n", " \n", "!", "1", "\xFF", "é", "\u3000", "'s",
          "<|", "<|end|>", "\xE2\x82", "a\xFF"}) {
      std::string text;
      while (text.size() < 1'000'000)
        text += unit;
      std::vector<int32_t> tokens = encode(*t, text + "x");
      EXPECT_FALSE(tokens.empty());
    }
  }
  double seconds =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - start)
          .count();
  EXPECT_LT(seconds, 60);
}

TEST(Tokenizer, PutsItsOwnTokensAround) {
  json document = small();
  document["post_processor"] = {
      {"type", "TemplateProcessing"},
      {"single",
       {{{"SpecialToken", {{"id", "<|end|>"}, {"type_id", 0}}}},
        {{"Sequence", {{"id", "A"}, {"type_id", 0}}}}}},
      {"pair", json::array()},
      {"special_tokens",
       {{"<|end|>",
         {{"id", "<|end|>"}, {"ids", {259}}, {"tokens", {"<|end|>"}}}}}}};
  auto t = make(document);
  auto tokens = t->encode("ab", /*addSpecial=*/true);
  ASSERT_TRUE(tokens.ok());
  EXPECT_EQ(*tokens, (std::vector<int32_t>{259, 256}));
  EXPECT_EQ(encode(*t, "ab"), (std::vector<int32_t>{256}));
}

namespace {
struct Refusal {
  const char *change; ///< a JSON patch
  int exitStatus;
  const char *message;
};
} // namespace

TEST(Tokenizer, RefusesByNameAndPlace) {
  const Refusal refusals[] = {
      {R"([{"op":"replace","path":"/model/type","value":"WordPiece"}])", 2,
       "model is WordPiece, which is not supported"},
      {R"([{"op":"replace","path":"/model/type","value":"Unigram"}])", 2,
       "model is Unigram, which is not supported"},
      {R"([{"op":"remove","path":"/model"}])", 4, "model is no object"},
      {R"([{"op":"add","path":"/model/dropout","value":0.1}])", 2,
       "model.dropout is not 0"},
      {R"([{"op":"add","path":"/model/byte_fallback","value":true}])", 2,
       "model.byte_fallback is true"},
      {R"([{"op":"add","path":"/model/end_of_word_suffix","value":"</w>"}])", 2,
       "model.end_of_word_suffix is not empty"},
      {R"([{"op":"add","path":"/model/cache","value":3}])", 2,
       "model has the key \"cache\""},
      {R"([{"op":"add","path":"/model/unk_token","value":"<|end|>"},
           {"op":"remove","path":"/model/vocab/Ġ"}])",
       2, "model.unk_token is set while the vocabulary lacks \"Ġ\""},
      {R"([{"op":"replace","path":"/model/ignore_merges","value":1}])", 4,
       "model.ignore_merges is neither true nor false"},
      {R"([{"op":"remove","path":"/model/vocab"}])", 4,
       "model.vocab is no object"},
      {R"([{"op":"replace","path":"/model/vocab","value":{}},
           {"op":"replace","path":"/model/merges","value":[]}])",
       4, "model.vocab is empty"},
      {R"([{"op":"replace","path":"/model/vocab/a","value":-1}])", 4,
       "model.vocab gives \"a\" an id that is no number from 0 to 4194303"},
      {R"([{"op":"replace","path":"/model/vocab/a","value":9e9}])", 4,
       "model.vocab gives \"a\" an id that is no number"},
      {R"([{"op":"replace","path":"/model/vocab/abb","value":256}])", 4,
       "model.vocab has \"ab\" and \"abb\" under one id, 256"},
      {R"([{"op":"add","path":"/model/merges/1","value":"a bc"}])", 4,
       "model.merges has at [1] a merge of \"a\" and \"bc\", but the "
       "vocabulary lacks \"bc\""},
      {R"([{"op":"add","path":"/model/merges/0","value":"a b c"}])", 4,
       "model.merges has at [0] \"a b c\", which is no pair"},
      {R"([{"op":"add","path":"/model/merges/-","value":["a"]}])", 4,
       "model.merges has at [2] no pair of strings"},
      {R"([{"op":"replace","path":"/normalizer","value":{"type":"NFC"}}])", 2,
       "normalizer is NFC, which is not supported"},
      {R"([{"op":"replace","path":"/pre_tokenizer","value":null}])", 2,
       "pre_tokenizer is missing"},
      {R"([{"op":"replace","path":"/pre_tokenizer","value":
            {"type":"Sequence","pretokenizers":[{"type":"ByteLevel"},
             {"type":"Metaspace"}]}}])",
       2, "pre_tokenizer.pretokenizers[1] is Metaspace after ByteLevel"},
      {R"([{"op":"replace","path":"/pre_tokenizer","value":
            {"type":"Whitespace"}}])",
       2, "pre_tokenizer is Whitespace"},
      {R"([{"op":"replace","path":"/pre_tokenizer","value":
            {"type":"Digits"}}])",
       2, "pre_tokenizer has no ByteLevel"},
      {R"([{"op":"replace","path":"/pre_tokenizer","value":
            {"type":"Split","pattern":{"Regex":"a"},"invert":false,
             "behavior":"MergedWithNext"}}])",
       2, "pre_tokenizer.behavior is MergedWithNext"},
      {R"([{"op":"replace","path":"/pre_tokenizer","value":
            {"type":"Split","pattern":{"Regex":"\\bx"},"invert":false,
             "behavior":"Isolated"}}])",
       2,
       "pre_tokenizer.pattern.Regex is refused: the pattern has \"\\b\" at "
       "byte 0"},
      {R"([{"op":"replace","path":"/pre_tokenizer","value":
            {"type":"Split","pattern":{"Regex":"(x"},"invert":false,
             "behavior":"Isolated"}}])",
       2, "pre_tokenizer.pattern.Regex is refused: the pattern is not valid"},
      {R"([{"op":"add","path":"/added_tokens/0/stem","value":true}])", 2,
       "added_tokens[0] has the key \"stem\""},
      {R"([{"op":"replace","path":"/added_tokens/0/id","value":3}])", 4,
       "added_tokens[0].id is 3, which is"},
      {R"([{"op":"replace","path":"/added_tokens/0/content","value":"ab"}])", 4,
       "added_tokens[0].id is 259, but the vocabulary has \"ab\" under 256"},
      {R"([{"op":"replace","path":"/added_tokens/0/content","value":""}])", 4,
       "added_tokens[0].content is empty"},
      {R"([{"op":"copy","from":"/added_tokens/0","path":"/added_tokens/-"}])",
       4, "added_tokens[1].content is \"<|end|>\" a second time"},
      {R"([{"op":"replace","path":"/added_tokens","value":{}}])", 4,
       "added_tokens is no list"},
      {R"([{"op":"replace","path":"/post_processor","value":
            {"type":"BertProcessing"}}])",
       2, "post_processor is BertProcessing"},
      {R"([{"op":"replace","path":"/post_processor","value":
            {"type":"TemplateProcessing","single":[{"Sequence":{"id":"A"}},
             {"SpecialToken":{"id":"e"}}],
             "special_tokens":{"e":{"ids":[777]}}}}])",
       4, "post_processor.special_tokens.e.ids[0] is 777, which is no token"},
      {R"([{"op":"replace","path":"/post_processor","value":
            {"type":"TemplateProcessing","single":[],"special_tokens":{}}}])",
       4, "post_processor.single has no place for the text"},
      {R"([{"op":"replace","path":"/decoder","value":{"type":"Metaspace"}}])",
       2, "decoder is Metaspace"},
      {R"([{"op":"replace","path":"/version","value":"2.0"}])", 2,
       "version is 2.0"},
      {R"([{"op":"add","path":"/chat_template","value":""}])", 2,
       "the document has the key \"chat_template\""},
  };
  for (const Refusal &refusal : refusals) {
    json changed = small().patch(json::parse(refusal.change));
    auto t = parseTokenizerJson(changed.dump(), "t.json");
    ASSERT_FALSE(t.ok()) << refusal.change;
    EXPECT_NE(t.status().message().find(refusal.message), std::string::npos)
        << t.status().toString();
    EXPECT_EQ(t.status().message().rfind("t.json", 0), 0u)
        << t.status().toString();
    EXPECT_EQ(t.status().exitStatus(), refusal.exitStatus) << refusal.message;
  }
}

TEST(Tokenizer, RefusesEveryTruncation) {
  std::string whole = small().dump();
  for (size_t size = 0; size < whole.size(); size += 7) {
    auto t = parseTokenizerJson(std::string_view(whole).substr(0, size), "t");
    ASSERT_FALSE(t.ok()) << size;
    EXPECT_EQ(t.status().exitStatus(), 4) << size;
  }
}

TEST(Tokenizer, EndTokensOfAFolder) {
  std::string name = (fs::temp_directory_path() / "lmcXXXXXX").string();
  fs::path folder = ::mkdtemp(name.data());
  auto write = [&](const char *file, const char *text) {
    EXPECT_TRUE(writeWholeFile((folder / file).string(), text).ok());
  };
  auto ends = [&] { return readEndTokens(folder.string()); };
  EXPECT_TRUE(ends().ok() && ends()->empty());
  write("config.json", R"({"eos_token_id": 7})");
  EXPECT_EQ(*ends(), std::vector<int32_t>{7});
  write("generation_config.json", R"({"eos_token_id": [8, 9]})");
  EXPECT_EQ(*ends(), (std::vector<int32_t>{8, 9}));
  write("generation_config.json", R"({"eos_token_id": null})");
  EXPECT_EQ(*ends(), std::vector<int32_t>{7});
  write("generation_config.json", R"({"eos_token_id": "</s>"})");
  EXPECT_EQ(ends().status().exitStatus(), 4);
  EXPECT_EQ(openTokenizer(folder.string()).status().exitStatus(), 2);
  fs::remove_all(folder);
}

// --- patterns ----------------------------------------------------------------

static std::string translated(std::string_view pattern) {
  auto result = translatePattern(pattern);
  return result.ok() ? *result : "refused: " + result.status().message();
}

TEST(Pattern, IsTranslatedClassByClass) {
  EXPECT_EQ(translated("\\s+(?!\\S)"), "\\p{White_Space}+(?!\\P{White_Space})");
  EXPECT_EQ(translated("[^\\s\\p{L}]"), "[^\\p{White_Space}\\p{L}]");
  EXPECT_EQ(translated("[\\w]"), "[\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}]");
  EXPECT_EQ(translated("\\d\\D\\v\\.\\x41\\x{1F600}\\u00e9"),
            "\\p{Nd}\\P{Nd}\\x0B\\.\\x{41}\\x{1f600}\\x{e9}");
  for (const char *same : {"(?i:'s)|a{1,3}|b{2}", "(?i:a(?-i:ß)|(b))ss\\p{Lu}"})
    EXPECT_EQ(translated(same), same);
  for (const char *odd :
       {"\\b",    "\\h",    "\\1",         "\\R",      "\\X",  "\\k<a>",
        "[a[b]]", "[a&&b]", "[[:alpha:]]", "[\\W]",    "[]a]", "[a",
        "a\\",    "a{,3}",  "a{2}?",       "a{2}+",    "{",    "(?<name>a)",
        "(?m:a)", "a(?i)b", "(?x)a",       "\\p{Han}", "\\pL", "\\xE9",
        "\\x{",   "\\u12"})
    EXPECT_EQ(translated(odd).rfind("refused: the pattern has", 0), 0u)
        << odd << ": " << translated(odd);
}

static std::string cut(const Pattern &pattern, std::string_view text) {
  std::string result;
  Status status = pattern.split(text, [&](const Pattern::Part &part) {
    const char *marks = part.kind == Pattern::Kind::Match ? "[]"
                        : part.kind == Pattern::Kind::Gap ? "()"
                                                          : "{}";
    result += fmt::format("{}{}{}", marks[0], part.text, marks[1]);
    return Status();
  });
  EXPECT_TRUE(status.ok()) << status.toString();
  return result;
}

TEST(Pattern, CutsIntoMatchesAndGaps) {
  auto pattern = Pattern::create("\\d+");
  ASSERT_TRUE(pattern.ok());
  EXPECT_EQ(cut(*pattern, "a12b3"), "(a)[12](b)[3]");
  EXPECT_EQ(cut(*pattern, "1\xFF\xFE"
                          "2"),
            "[1]{\xFF\xFE}[2]");
  EXPECT_EQ(cut(*pattern, ""), "");
  auto empty = Pattern::create("x*");
  ASSERT_TRUE(empty.ok());
  EXPECT_EQ(cut(*empty, "axéb"), "(a)[x](é)(b)");
  auto literal = Pattern::literal("a.");
  ASSERT_TRUE(literal.ok());
  EXPECT_EQ(cut(*literal, "aba.c"), "(ab)[a.](c)");
}

// What counts as a blank or as the same letter decides every cut.
TEST(Pattern, AgreesWithTheReferenceOnOddCharacters) {
  auto blank = Pattern::create("\\s");
  ASSERT_TRUE(blank.ok());
  for (const char *yes : {"\u0085", "\u00A0", "\u2028", "\u3000", "\v"})
    EXPECT_EQ(cut(*blank, yes)[0], '[') << yes;
  for (const char *no : {"\u180E", "\u200B", "\uFEFF", "\x1C", "\x1F"})
    EXPECT_EQ(cut(*blank, no)[0], '(') << no;
  auto word = Pattern::create("\\w");
  ASSERT_TRUE(word.ok());
  for (const char *yes :
       {"a", "_", "7", "é", "ª", "²", "¾", "\u0301", "Ⅷ", "Ⓐ"})
    EXPECT_EQ(cut(*word, yes)[0], '[') << yes;
  for (const char *no : {"-", "'", "₂", "⅓", "\u200D", "€"})
    EXPECT_EQ(cut(*word, no)[0], '(') << no;
  auto inClass = Pattern::create("[\\w]");
  ASSERT_TRUE(inClass.ok());
  EXPECT_EQ(cut(*inClass, "é²"), "[é](²)");
  auto letters = Pattern::create("(?i:'s|k)");
  ASSERT_TRUE(letters.ok());
  EXPECT_EQ(cut(*letters, "'ſ"), "['ſ]");
  EXPECT_EQ(cut(*letters, "\u212A"), "[\u212A]");
}

// A stack of its own for each turn of a group: the compiled pattern runs out
// of it, the interpreter goes on.
TEST(Pattern, LongMatchesOfGroups) {
  auto pattern = Pattern::create("(?:a|b)+c");
  ASSERT_TRUE(pattern.ok());
  std::string text(300'000, 'a');
  EXPECT_EQ(cut(*pattern, text + "c"), "[" + text + "c]");
  auto doomed = Pattern::create("^(?:a+)+[bc]");
  ASSERT_TRUE(doomed.ok());
  Status status =
      doomed->split(text, [](const Pattern::Part &) { return Status(); });
  ASSERT_FALSE(status.ok());
  EXPECT_NE(status.message().find("gives up on a text of 300000 bytes"),
            std::string::npos);
}

// --- documents ---------------------------------------------------------------

TEST(Documents, OfTextLinesAndJsonLines) {
  std::string name = (fs::temp_directory_path() / "lmcXXXXXX").string();
  fs::path folder = ::mkdtemp(name.data());
  std::string path = (folder / "d").string();
  Status status;
  auto read = [&](DocumentFormat format, const char *bytes) {
    EXPECT_TRUE(writeWholeFile(path, bytes).ok());
    std::vector<std::string> texts;
    status = forEachDocument(path, format, "text", [&](std::string_view text) {
      texts.emplace_back(text);
      return Status();
    });
    return texts;
  };
  using Texts = std::vector<std::string>;
  EXPECT_EQ(read(DocumentFormat::Text, "a\nb\n"), Texts{"a\nb\n"});
  EXPECT_EQ(read(DocumentFormat::Lines, "a\r\n\nb\xFF\nc"),
            (Texts{"a", "b\xFF", "c"}));
  EXPECT_EQ(read(DocumentFormat::JsonLines,
                 "{\"text\": \"a\\n\\u00e9\"}\n \n{\"n\": 1, \"text\": \"\"}"),
            (Texts{"a\né", ""}));
  EXPECT_TRUE(status.ok());
  read(DocumentFormat::JsonLines, "{\"text\": \"a\"}\n{\"body\": \"b\"}\n");
  EXPECT_EQ(
      status.toString(),
      fmt::format("error: {0}, line 2 has no text under the key \"text\"\n"
                  "  help: it has text under: body; --key names one\n",
                  path));
  EXPECT_EQ(status.exitStatus(), 2);
  read(DocumentFormat::JsonLines, "{\"text\": \"a\"}\n{\"text\": \"b\n");
  EXPECT_EQ(status.exitStatus(), 4);
  EXPECT_NE(status.message().find(", line 2 is no valid JSON"),
            std::string::npos);
  fs::remove_all(folder);
}
