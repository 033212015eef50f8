// See Utf8.h.
#include "runtime/base/Utf8.h"

#include <algorithm>
#include <cstdint>

namespace lmc::runtime {

namespace {
/// How far the front of a text goes along with a well-formed character.
struct Front {
  size_t wanted;  ///< bytes of the character, 0 when no byte fits
  size_t present; ///< bytes that fit, at least 1
};
} // namespace

/// The second byte has bounds of its own for some first bytes: they keep out
/// overlong forms, surrogates and what lies beyond U+10FFFF.
static Front front(std::string_view text) {
  uint8_t first = uint8_t(text[0]);
  if (first < 0x80)
    return {1, 1};
  if (first < 0xC2 || first > 0xF4)
    return {0, 1};
  size_t wanted = first < 0xE0 ? 2 : first < 0xF0 ? 3 : 4;
  uint8_t low = first == 0xE0 ? 0xA0 : first == 0xF0 ? 0x90 : 0x80;
  uint8_t high = first == 0xED ? 0x9F : first == 0xF4 ? 0x8F : 0xBF;
  size_t present = 1;
  for (; present < std::min(wanted, text.size()); ++present) {
    uint8_t byte = uint8_t(text[present]);
    if (byte < low || byte > high)
      return {0, present};
    low = 0x80;
    high = 0xBF;
  }
  return {wanted, present};
}

size_t utf8Length(std::string_view text) {
  if (text.empty())
    return 0;
  Front at = front(text);
  return at.wanted == at.present ? at.wanted : 0;
}

size_t utf8Prefix(std::string_view text) {
  size_t size = 0;
  while (size < text.size()) {
    // Most text is ASCII.
    if (uint8_t(text[size]) < 0x80) {
      ++size;
      continue;
    }
    size_t length = utf8Length(text.substr(size));
    if (length == 0)
      break;
    size += length;
  }
  return size;
}

size_t nonUtf8Prefix(std::string_view text) {
  size_t size = 0;
  while (size < text.size() && utf8Length(text.substr(size)) == 0)
    ++size;
  return size;
}

size_t utf8LastLength(std::string_view text) {
  for (size_t length = 1; length <= std::min<size_t>(4, text.size()); ++length)
    if (utf8Length(text.substr(text.size() - length)) == length)
      return length;
  return 0;
}

char32_t utf8Decode(std::string_view character) {
  uint8_t first = uint8_t(character[0]);
  if (character.size() == 1)
    return first;
  char32_t code = first & (0xFF >> (character.size() + 1));
  for (size_t i = 1; i < character.size(); ++i)
    code = code << 6 | (uint8_t(character[i]) & 0x3F);
  return code;
}

void utf8Append(std::string &out, char32_t code) {
  if (code < 0x80) {
    out += char(code);
    return;
  }
  int rest = code < 0x800 ? 1 : code < 0x10000 ? 2 : 3;
  out += char((0xFF00 >> (rest + 1) & 0xFF) | code >> (6 * rest));
  while (rest-- > 0)
    out += char(0x80 | (code >> (6 * rest) & 0x3F));
}

/// Moves what is complete from `bytes` to the result.
static std::string take(std::string &bytes, bool isEnd) {
  std::string out;
  size_t at = 0;
  while (at < bytes.size()) {
    std::string_view rest = std::string_view(bytes).substr(at);
    size_t whole = utf8Prefix(rest);
    out += rest.substr(0, whole);
    at += whole;
    if (at == bytes.size())
      break;
    Front broken = front(rest.substr(whole));
    if (!isEnd && broken.wanted > 0)
      break;
    out += "\xEF\xBF\xBD";
    at += broken.present;
  }
  bytes.erase(0, at);
  return out;
}

std::string Utf8Stream::add(std::string_view bytes) {
  waiting += bytes;
  return take(waiting, /*isEnd=*/false);
}

std::string Utf8Stream::finish() { return take(waiting, /*isEnd=*/true); }

} // namespace lmc::runtime
