// See TokenizerJson.h.
#include "runtime/generate/TokenizerJson.h"
#include "runtime/base/Utf8.h"
#include "runtime/generate/AddedTokens.h"
#include "runtime/generate/Bpe.h"
#include "runtime/generate/JsonField.h"
#include "runtime/generate/PreTokenizer.h"
#include "runtime/weights/Json.h"

namespace lmc::runtime {

using nlohmann::json;

static constexpr std::string_view kGpt2Pattern =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

// --- the byte alphabet -------------------------------------------------------

/// Every byte is written as one printable character: those that are printable
/// in Latin-1 as themselves, the others as U+0100 and the ones behind it. A
/// blank becomes "Ġ".
static std::array<char32_t, 256> makeByteAlphabet() {
  std::array<char32_t, 256> characters;
  char32_t next = 0x100;
  for (unsigned byte = 0; byte < 256; ++byte) {
    bool printable =
        (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte != 0xAD);
    characters[byte] = printable ? byte : next++;
  }
  return characters;
}

/// The bytes that a token of the vocabulary stands for; none when a character
/// of it is not in the byte alphabet.
static std::optional<std::string> bytesOfWritten(std::string_view token) {
  static const std::vector<int> byteOf = [] {
    std::vector<int> bytes(0x144, -1);
    std::array<char32_t, 256> alphabet = makeByteAlphabet();
    for (unsigned byte = 0; byte < 256; ++byte)
      bytes[alphabet[byte]] = int(byte);
    return bytes;
  }();
  std::string bytes;
  while (!token.empty()) {
    size_t length = utf8Length(token);
    char32_t c = length ? utf8Decode(token.substr(0, length)) : ~char32_t(0);
    if (c >= byteOf.size() || byteOf[c] < 0)
      return std::nullopt;
    bytes += char(byteOf[c]);
    token.remove_prefix(length);
  }
  return bytes;
}

// --- reading -----------------------------------------------------------------

namespace {

/// What the document says, in parts.
struct Parts {
  std::vector<std::string> written; ///< of each token, as the file has it
  std::vector<bool> used;           ///< ids that the vocabulary has
  std::unordered_map<std::string, int32_t> ids;
  std::vector<Bpe::Merge> merges;
  bool ignoreMerges = false;
  std::vector<AddedToken> added;
  PreTokenizer preTokenizer;
  bool byteLevel = false; ///< the pre-tokenizer has come to ByteLevel
  bool hasTemplate = false;
  std::vector<int32_t> front, back; ///< what the template puts around a text
};

} // namespace

static void readVocabulary(const JsonField &field, Parts &parts) {
  if (!field.isObject())
    return;
  parts.ids.reserve(field.raw().size());
  for (const auto &[word, id] : field.raw().items()) {
    if (!id.is_number_unsigned() || id.get<uint64_t>() >= kMostTokens)
      return field.damaged(
          fmt::format("gives \"{}\" an id that is no number from 0 to {}", word,
                      kMostTokens - 1));
    size_t index = id.get<size_t>();
    if (index >= parts.used.size()) {
      parts.used.resize(index + 1);
      parts.written.resize(index + 1);
    }
    if (parts.used[index])
      return field.damaged(fmt::format("has \"{}\" and \"{}\" under one id, {}",
                                       parts.written[index], word, index));
    parts.used[index] = true;
    parts.written[index] = word;
    parts.ids.emplace(word, int32_t(index));
  }
  if (parts.ids.empty())
    field.damaged("is empty");
}

static void readMerges(const JsonField &field, Parts &parts) {
  if (!field.isArray())
    return;
  auto find = [&](const std::string &word) {
    auto found = parts.ids.find(word);
    return found == parts.ids.end() ? -1 : found->second;
  };
  for (size_t i = 0; i < field.raw().size(); ++i) {
    const json &merge = field.raw()[i];
    auto damaged = [&](std::string_view what) {
      field.damaged(fmt::format("has at [{}] {}", i, what));
    };
    std::string left, right;
    if (merge.is_string()) {
      const std::string &text = merge.get_ref<const std::string &>();
      size_t blank = text.find(' ');
      if (blank == std::string::npos ||
          text.find(' ', blank + 1) != std::string::npos)
        return damaged(fmt::format("\"{}\", which is no pair", text));
      left = text.substr(0, blank);
      right = text.substr(blank + 1);
    } else if (merge.is_array() && merge.size() == 2 && merge[0].is_string() &&
               merge[1].is_string()) {
      left = merge[0].get<std::string>();
      right = merge[1].get<std::string>();
    } else {
      return damaged("no pair of strings");
    }
    const std::string words[] = {left, right, left + right};
    int32_t ids[3];
    for (int w = 0; w < 3; ++w)
      if ((ids[w] = find(words[w])) < 0)
        return damaged(fmt::format("a merge of \"{}\" and \"{}\", but the "
                                   "vocabulary lacks \"{}\"",
                                   left, right, words[w]));
    parts.merges.push_back({ids[0], ids[1], ids[2]});
  }
}

static void readModel(const JsonField &model, Parts &parts) {
  if (!model.isObject())
    return;
  // Early files say nothing of the type.
  std::string type = model["type"].present()     ? model["type"].text()
                     : model["merges"].present() ? "BPE"
                                                 : "without a type";
  if (type != "BPE")
    return model.unsupported(fmt::format("is {}", type));
  model.allow({"type", "dropout", "unk_token", "continuing_subword_prefix",
               "end_of_word_suffix", "fuse_unk", "byte_fallback",
               "ignore_merges", "vocab", "merges"});
  if (JsonField dropout = model["dropout"];
      dropout.present() && dropout.raw() != 0)
    dropout.unsupported("is not 0");
  for (const char *key : {"continuing_subword_prefix", "end_of_word_suffix"})
    if (JsonField affix = model[key]; affix.present() && !affix.text().empty())
      affix.unsupported("is not empty");
  if (model["byte_fallback"].flag())
    model["byte_fallback"].unsupported("is true");
  parts.ignoreMerges = model["ignore_merges"].flag();
  readVocabulary(model["vocab"], parts);
  readMerges(model["merges"], parts);
  // Only a byte without token would become the unknown one.
  if (JsonField unknown = model["unk_token"]; unknown.present())
    for (char32_t character : makeByteAlphabet()) {
      std::string word;
      utf8Append(word, character);
      if (!parts.ids.count(word))
        return unknown.unsupported(
            fmt::format("is set while the vocabulary lacks \"{}\"", word));
    }
}

static void addSplit(const JsonField &field, StatusOr<Pattern> pattern,
                     bool keepMatches, bool keepGaps, Parts &parts) {
  if (!pattern.ok())
    return field.unsupported("is refused: " + pattern.status().message());
  parts.preTokenizer.addSplit(*std::move(pattern), keepMatches, keepGaps);
}

static void readSplit(const JsonField &split, Parts &parts) {
  split.allow({"type", "pattern", "behavior", "invert"});
  JsonField pattern = split["pattern"];
  pattern.allow({"Regex", "String"});
  std::string behavior = split["behavior"].text();
  if (behavior != "Isolated" && behavior != "Removed")
    return split["behavior"].unsupported("is " + behavior);
  bool removed = behavior == "Removed", invert = split["invert"].flag();
  if (pattern["Regex"].present())
    addSplit(pattern["Regex"], Pattern::create(pattern["Regex"].text()),
             !removed || invert, !removed || !invert, parts);
  else
    addSplit(pattern["String"], Pattern::literal(pattern["String"].text()),
             !removed || invert, !removed || !invert, parts);
}

static void readPreTokenizer(const JsonField &field, Parts &parts) {
  if (!field.present())
    return field.unsupported("is missing");
  std::string type = field["type"].text();
  if (type == "Sequence") {
    field.allow({"type", "pretokenizers"});
    for (const JsonField &step : field["pretokenizers"].elements())
      readPreTokenizer(step, parts);
    return;
  }
  if (parts.byteLevel)
    return field.unsupported(fmt::format("is {} after ByteLevel", type));
  if (type == "ByteLevel") {
    // trim_offsets is about places in the text, of which none are told.
    field.allow({"type", "add_prefix_space", "trim_offsets", "use_regex"});
    if (field["add_prefix_space"].flag())
      parts.preTokenizer.addPrefixBlank();
    if (field["use_regex"].flag(true))
      addSplit(field, Pattern::create(kGpt2Pattern), true, true, parts);
    parts.byteLevel = true;
  } else if (type == "Split") {
    readSplit(field, parts);
  } else if (type == "Digits") {
    field.allow({"type", "individual_digits"});
    addSplit(field,
             Pattern::create(field["individual_digits"].flag() ? "\\p{N}"
                                                               : "\\p{N}+"),
             true, true, parts);
  } else {
    field.unsupported("is " + type);
  }
}

static void readAddedTokens(const JsonField &list, Parts &parts) {
  if (!list.present())
    return;
  std::unordered_map<std::string, size_t> seen;
  for (const JsonField &field : list.elements()) {
    field.allow({"id", "content", "single_word", "lstrip", "rstrip",
                 "normalized", "special"});
    AddedToken token;
    token.id = field["id"].token();
    token.content = field["content"].text();
    token.singleWord = field["single_word"].flag();
    token.lstrip = field["lstrip"].flag();
    token.rstrip = field["rstrip"].flag();
    token.special = field["special"].flag();
    token.normalized = field["normalized"].flag(!token.special);
    if (token.content.empty())
      return field["content"].damaged("is empty");
    if (!seen.emplace(token.content, 0).second)
      return field["content"].damaged(
          fmt::format("is \"{}\" a second time", token.content));
    size_t id = size_t(token.id);
    auto known = parts.ids.find(token.content);
    if (known != parts.ids.end() && known->second != token.id)
      return field["id"].damaged(
          fmt::format("is {}, but the vocabulary has \"{}\" under {}", id,
                      token.content, known->second));
    if (known == parts.ids.end()) {
      if (id >= parts.used.size()) {
        parts.used.resize(id + 1);
        parts.written.resize(id + 1);
      }
      if (parts.used[id])
        return field["id"].damaged(
            fmt::format("is {}, which is \"{}\"", id, parts.written[id]));
      parts.used[id] = true;
      parts.written[id] = token.content;
    }
    parts.added.push_back(std::move(token));
  }
}

static void readTemplate(const JsonField &field, Parts &parts) {
  field.allow({"type", "single", "pair", "special_tokens"});
  if (parts.hasTemplate)
    return field.unsupported("is a second template");
  parts.hasTemplate = true;
  int sequences = 0;
  for (const JsonField &piece : field["single"].elements()) {
    piece.allow({"SpecialToken", "Sequence"});
    if (piece["Sequence"].present()) {
      if (++sequences > 1 || piece["Sequence"]["id"].text() != "A")
        piece.unsupported("is a second sequence");
      continue;
    }
    std::string name = piece["SpecialToken"]["id"].text();
    for (const JsonField &id :
         field["special_tokens"][name.c_str()]["ids"].elements()) {
      int32_t token = id.token();
      if (size_t(token) >= parts.used.size() || !parts.used[size_t(token)])
        id.damaged(fmt::format("is {}, which is no token", token));
      (sequences ? parts.back : parts.front).push_back(token);
    }
  }
  if (sequences != 1)
    field["single"].damaged("has no place for the text");
}

static void readPostProcessor(const JsonField &field, Parts &parts) {
  if (!field.present())
    return;
  std::string type = field["type"].text();
  if (type == "Sequence") {
    field.allow({"type", "processors"});
    for (const JsonField &step : field["processors"].elements())
      readPostProcessor(step, parts);
  } else if (type == "TemplateProcessing") {
    readTemplate(field, parts);
  } else if (type != "ByteLevel") { // that one changes places only
    field.unsupported("is " + type);
  }
}

// --- the tokenizer -----------------------------------------------------------

namespace {

class BpeTokenizer final : public Tokenizer {
public:
  BpeTokenizer(std::string name, Bpe bpe, AddedTokens added,
               PreTokenizer preTokenizer)
      : file(std::move(name)), bpe(std::move(bpe)), added(std::move(added)),
        preTokenizer(std::move(preTokenizer)) {}

  std::string_view name() const override { return file; }
  int64_t vocabulary() const override { return int64_t(bytes.size()); }
  StatusOr<std::vector<int32_t>> encode(std::string_view text,
                                        bool addSpecial) override {
    std::vector<int32_t> tokens;
    if (addSpecial)
      tokens = front;
    for (const AddedTokens::Part &part : added.split(text)) {
      if (part.token >= 0)
        tokens.push_back(part.token);
      else
        LMC_RETURN_IF_ERROR(
            preTokenizer.run(part.text, [&](std::string_view word) {
              bpe.encode(word, tokens);
            }));
    }
    if (addSpecial)
      tokens.insert(tokens.end(), back.begin(), back.end());
    return std::move(tokens);
  }
  std::string_view bytesOf(int32_t token) const override {
    if (token < 0 || size_t(token) >= bytes.size())
      return {};
    return bytes[size_t(token)];
  }
  bool isSpecial(int32_t token) const override {
    return token >= 0 && size_t(token) < special.size() &&
           special[size_t(token)];
  }
  int32_t find(std::string_view text) const override {
    auto found = ids.find(std::string(text));
    return found == ids.end() ? -1 : found->second;
  }

  std::vector<std::string> bytes; ///< of each token
  std::vector<bool> special;
  std::unordered_map<std::string, int32_t> ids; ///< by bytes
  std::vector<int32_t> front, back;

private:
  std::string file;
  Bpe bpe;
  AddedTokens added;
  PreTokenizer preTokenizer;
};

} // namespace

static StatusOr<std::unique_ptr<Tokenizer>> build(Parts &parts,
                                                  const std::string &file) {
  size_t count = parts.used.size();
  std::vector<std::string> bytes(count);
  std::array<int32_t, 256> byteTokens;
  byteTokens.fill(-1);
  std::unordered_map<std::string, int32_t> words;
  for (size_t id = 0; id < count; ++id) {
    std::optional<std::string> meant = bytesOfWritten(parts.written[id]);
    bytes[id] = meant ? *meant : parts.written[id];
    // An added token is no word, unless the vocabulary has it too.
    if (!meant || !parts.ids.count(parts.written[id]))
      continue;
    words.emplace(bytes[id], int32_t(id));
    if (bytes[id].size() == 1)
      byteTokens[uint8_t(bytes[id][0])] = int32_t(id);
  }
  std::vector<bool> special(count);
  std::unordered_map<std::string, int32_t> ids = words;
  for (const AddedToken &token : parts.added) {
    bytes[size_t(token.id)] = token.content;
    special[size_t(token.id)] = token.special;
    ids[token.content] = token.id;
  }
  if (!parts.ignoreMerges)
    words.clear();
  LMC_ASSIGN_OR_RETURN(AddedTokens added,
                       AddedTokens::create(std::move(parts.added)));
  auto tokenizer = std::make_unique<BpeTokenizer>(
      file, Bpe(byteTokens, parts.merges, std::move(words)), std::move(added),
      std::move(parts.preTokenizer));
  tokenizer->bytes = std::move(bytes);
  tokenizer->special = std::move(special);
  tokenizer->ids = std::move(ids);
  tokenizer->front = std::move(parts.front);
  tokenizer->back = std::move(parts.back);
  return std::unique_ptr<Tokenizer>(std::move(tokenizer));
}

StatusOr<std::unique_ptr<Tokenizer>>
parseTokenizerJson(std::string_view text, const std::string &file) {
  LMC_ASSIGN_OR_RETURN(json document, parseJson(text, file));
  Status failure;
  JsonField root(&document, file, failure);
  root.allow({"version", "truncation", "padding", "added_tokens", "normalizer",
              "pre_tokenizer", "post_processor", "decoder", "model"});
  if (JsonField version = root["version"];
      version.present() && version.text() != "1.0")
    version.unsupported(fmt::format("is {}", version.text()));
  Parts parts;
  readModel(root["model"], parts);
  if (JsonField normalizer = root["normalizer"]; normalizer.present())
    normalizer.unsupported("is " + normalizer["type"].text());
  readPreTokenizer(root["pre_tokenizer"], parts);
  if (!parts.byteLevel)
    root["pre_tokenizer"].unsupported("has no ByteLevel");
  readAddedTokens(root["added_tokens"], parts);
  readPostProcessor(root["post_processor"], parts);
  if (JsonField decoder = root["decoder"];
      decoder.present() && decoder["type"].text() != "ByteLevel")
    decoder.unsupported("is " + decoder["type"].text());
  if (!failure.ok())
    return failure;
  return build(parts, file);
}

} // namespace lmc::runtime
