// A value of a tokenizer.json with its place, so that whatever is wrong with it
// can be said in one line where it is read:
//
//     JsonField root(&document, file, failure);
//     root["model"]["type"].text()     "t.json is no intact tokenizer:
//                                       model.type is no string"
//
// The first thing that is wrong stays in `failure`; what is read after it does
// not count. A field refers to the document, the file's name and the failure,
// which outlive it. A key that is not there is a field that is not present().
#ifndef LMC_RUNTIME_GENERATE_JSONFIELD_H
#define LMC_RUNTIME_GENERATE_JSONFIELD_H

#include "runtime/base/Status.h"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <initializer_list>

namespace lmc::runtime {

// The largest vocabularies have a few hundred thousand tokens; a greater id is
// a mistake that would cost memory.
inline constexpr uint64_t kMostTokens = 1 << 22;

class JsonField {
public:
  JsonField(const nlohmann::json *value, const std::string &file,
            Status &failure, std::string place = "")
      : value(value), file(&file), failure(&failure), place(std::move(place)) {}

  bool present() const { return value && !value->is_null(); }
  const nlohmann::json &raw() const { return *value; }

  JsonField operator[](const char *key) const {
    const nlohmann::json *found = nullptr;
    if (present()) {
      if (!value->is_object())
        damaged("is no object");
      else if (auto at = value->find(key); at != value->end())
        found = &*at;
    }
    return {found, *file, *failure,
            place.empty() ? key : fmt::format("{}.{}", place, key)};
  }
  std::vector<JsonField> elements() const {
    std::vector<JsonField> all;
    if (!isArray())
      return all;
    for (size_t i = 0; i < value->size(); ++i)
      all.emplace_back(&(*value)[i], *file, *failure,
                       fmt::format("{}[{}]", place, i));
    return all;
  }
  bool isArray() const {
    bool good = present() && value->is_array();
    if (!good)
      damaged("is no list");
    return good;
  }
  bool isObject() const {
    bool good = present() && value->is_object();
    if (!good)
      damaged("is no object");
    return good;
  }
  bool flag(bool otherwise = false) const {
    if (!present())
      return otherwise;
    if (value->is_boolean())
      return value->get<bool>();
    damaged("is neither true nor false");
    return otherwise;
  }
  std::string text() const {
    if (present() && value->is_string())
      return value->get<std::string>();
    damaged("is no string");
    return "";
  }
  int32_t token() const {
    if (present() && value->is_number_unsigned() &&
        value->get<uint64_t>() < kMostTokens)
      return value->get<int32_t>();
    damaged(fmt::format("is no token from 0 to {}", kMostTokens - 1));
    return 0;
  }
  /// A key that is none of these may change what the tokenizer does.
  void allow(std::initializer_list<std::string_view> keys) const {
    if (!isObject())
      return;
    for (const auto &[key, ignored] : value->items())
      if (std::find(keys.begin(), keys.end(), key) == keys.end())
        unsupported(fmt::format("has the key \"{}\"", key.substr(0, 100)));
  }

  void damaged(std::string_view what) const {
    if (failure->ok())
      *failure =
          corrupt("{} is no intact tokenizer: {} {}", *file, where(), what);
  }
  void unsupported(std::string_view what) const {
    if (failure->ok())
      *failure =
          wrongInput("{}: {} {}, which is not supported", *file, where(), what)
              .note("supported is byte-level BPE as GPT-2 and Llama 3 "
                    "have it");
  }

private:
  std::string where() const { return place.empty() ? "the document" : place; }

  const nlohmann::json *value;
  const std::string *file;
  Status *failure;
  std::string place;
};

} // namespace lmc::runtime

#endif // LMC_RUNTIME_GENERATE_JSONFIELD_H
