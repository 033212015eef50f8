// JSON as a tree with places, read through nlohmann's SAX interface: depth
// and size are bounded, a duplicate key is an error.
#ifndef LMC_FRONTEND_JSON_H
#define LMC_FRONTEND_JSON_H

#include "frontend/Findings.h"

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace lmc::frontend {

inline constexpr size_t kMaxJsonBytes = 16 << 20;
inline constexpr size_t kMaxJsonDepth = 64;

struct JsonValue {
  enum Kind { Null, Boolean, Integer, Number, String, Array, Object };
  Kind kind = Null;
  bool boolean = false;
  int64_t integer = 0; // Integer
  double number = 0;   // Number and Integer
  std::string text;    // String; the spelling of a number
  std::vector<JsonValue> items;
  std::vector<std::string> keys; // Object: of items
  Place place;                   // of its key in an object

  const JsonValue *find(std::string_view key) const;
  // For a message: null, true, 3, "text", [...], {...}.
  std::string describe() const;
};

bool parseJson(std::string_view text, JsonValue &value, Findings &findings);

// `text` with quotes, escaped.
std::string quoteJson(std::string_view text);

} // namespace lmc::frontend

#endif // LMC_FRONTEND_JSON_H
