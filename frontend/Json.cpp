// The SAX handler that builds JsonValue.
#include "frontend/Json.h"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <iterator>
#include <unordered_set>

namespace lmc::frontend {
namespace {

// Reads characters and counts how far the lexer got, which is where a key
// just read ends.
struct CountingIterator {
  using iterator_category = std::input_iterator_tag;
  using value_type = char;
  using difference_type = std::ptrdiff_t;
  using pointer = const char *;
  using reference = const char &;

  const char *at;
  const char **furthest;

  reference operator*() const { return *at; }
  CountingIterator &operator++() {
    ++at;
    *furthest = at;
    return *this;
  }
  CountingIterator operator++(int) {
    CountingIterator before = *this;
    ++*this;
    return before;
  }
  bool operator==(const CountingIterator &other) const {
    return at == other.at;
  }
  bool operator!=(const CountingIterator &other) const {
    return at != other.at;
  }
};

class TreeBuilder : public nlohmann::json_sax<nlohmann::json> {
public:
  TreeBuilder(std::string_view source, JsonValue &root, Findings &findings)
      : source(source), furthest(source.data()), findings(findings) {
    open.push_back(&root);
  }

  const char *furthestRead() const { return furthest; }
  const char **furthestSlot() { return &furthest; }

  bool null() override { return put(JsonValue::Null) != nullptr; }
  bool boolean(bool value) override {
    JsonValue *at = put(JsonValue::Boolean);
    if (at)
      at->boolean = value;
    return at;
  }
  bool number_integer(number_integer_t value) override {
    return putInteger(value, std::to_string(value));
  }
  bool number_unsigned(number_unsigned_t value) override {
    // What does not fit is a Number: no size of ours is that large.
    if (value > static_cast<number_unsigned_t>(INT64_MAX))
      return number_float(static_cast<double>(value), std::to_string(value));
    return putInteger(static_cast<int64_t>(value), std::to_string(value));
  }
  bool number_float(number_float_t value, const string_t &text) override {
    JsonValue *at = put(JsonValue::Number);
    if (!at)
      return false;
    at->number = value;
    at->text = text;
    return true;
  }
  bool string(string_t &text) override {
    JsonValue *at = put(JsonValue::String);
    if (at)
      at->text = std::move(text);
    return at;
  }
  bool binary(binary_t &) override { return false; }
  bool start_object(std::size_t) override { return start(JsonValue::Object); }
  bool start_array(std::size_t) override { return start(JsonValue::Array); }
  bool end_object() override { return end(); }
  bool end_array() override { return end(); }
  bool key(string_t &text) override {
    if (!keysOfOpen.back().insert(text).second) {
      findings.error(placeOf(furthest), "key '" + text + "' is given twice");
      return false;
    }
    keyStart =
        furthest - std::min<size_t>(text.size() + 2, furthest - source.data());
    open.back()->keys.push_back(std::move(text));
    return true;
  }
  bool parse_error(std::size_t position, const std::string &,
                   const nlohmann::detail::exception &) override {
    size_t at = std::min(position > 0 ? position - 1 : 0, source.size());
    findings.error(placeOf(source.data() + at),
                   "not valid JSON at byte " + std::to_string(at));
    return false;
  }

  // Asked for ever later places, it counts lines from the last one on.
  Place placeOf(const char *at) {
    if (at < counted) {
      counted = source.data();
      countedPlace = {};
    }
    for (; counted < at; ++counted) {
      ++countedPlace.column;
      if (*counted == '\n')
        countedPlace = {countedPlace.line + 1, 1};
    }
    return countedPlace;
  }

private:
  JsonValue *put(JsonValue::Kind kind) {
    JsonValue *parent = open.back();
    JsonValue *at = parent;
    if (rooted) {
      parent->items.emplace_back();
      at = &parent->items.back();
    }
    rooted = true;
    at->kind = kind;
    if (keyStart)
      at->place = placeOf(keyStart);
    return at;
  }
  bool putInteger(int64_t value, std::string text) {
    JsonValue *at = put(JsonValue::Integer);
    if (!at)
      return false;
    at->integer = value;
    at->number = static_cast<double>(value);
    at->text = std::move(text);
    return true;
  }
  bool start(JsonValue::Kind kind) {
    if (open.size() > kMaxJsonDepth) {
      findings.error(placeOf(furthest), "JSON is nested deeper than " +
                                            std::to_string(kMaxJsonDepth) +
                                            " levels");
      return false;
    }
    open.push_back(put(kind));
    keysOfOpen.emplace_back();
    return true;
  }
  bool end() {
    open.pop_back();
    keysOfOpen.pop_back();
    return true;
  }

  std::string_view source;
  const char *furthest;
  const char *keyStart = nullptr;
  const char *counted = source.data();
  Place countedPlace;
  Findings &findings;
  // The containers being read, outermost first. A pointer to a child stays
  // good while it is open: its parent gets no further child meanwhile.
  std::vector<JsonValue *> open;
  std::vector<std::unordered_set<std::string>> keysOfOpen;
  bool rooted = false;
};

} // namespace

const JsonValue *JsonValue::find(std::string_view key) const {
  for (size_t i = 0; i < keys.size(); ++i)
    if (keys[i] == key)
      return &items[i];
  return nullptr;
}

std::string JsonValue::describe() const {
  switch (kind) {
  case Null:
    return "null";
  case Boolean:
    return boolean ? "true" : "false";
  case Integer:
  case Number:
    return text;
  case String:
    return '"' + text + '"';
  case Array:
    return "[...]";
  case Object:
    return "{...}";
  }
  return "";
}

bool parseJson(std::string_view text, JsonValue &value, Findings &findings) {
  if (text.size() > kMaxJsonBytes) {
    findings.error({}, "the file has " + std::to_string(text.size()) +
                           " bytes; at most " + std::to_string(kMaxJsonBytes) +
                           " are read");
    return false;
  }
  TreeBuilder builder(text, value, findings);
  CountingIterator begin{text.data(), builder.furthestSlot()};
  CountingIterator end{text.data() + text.size(), builder.furthestSlot()};
  bool good = nlohmann::json::sax_parse(begin, end, &builder);
  if (!good && !findings.hasErrors())
    findings.error(builder.placeOf(builder.furthestRead()), "not valid JSON");
  return good;
}

std::string quoteJson(std::string_view text) {
  // A string is not nested, so that dump() is safe here.
  return nlohmann::json(std::string(text))
      .dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

} // namespace lmc::frontend
