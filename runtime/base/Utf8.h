// UTF-8 as far as text passes through: where characters begin and end, which
// bytes are none, and a stream that hands out whole characters only.
//
// A character is a well-formed sequence of one to four bytes: no surrogate, no
// overlong form, nothing beyond U+10FFFF.
#ifndef LMC_RUNTIME_BASE_UTF8_H
#define LMC_RUNTIME_BASE_UTF8_H

#include <cstddef>
#include <string>
#include <string_view>

namespace lmc::runtime {

/// The bytes of the character at the front of `text`; 0 when none is there.
size_t utf8Length(std::string_view text);

/// How many bytes at the front of `text` are whole characters.
size_t utf8Prefix(std::string_view text);

/// How many bytes at the front of `text`, which begins with no character, are
/// up to the next one (or the end).
size_t nonUtf8Prefix(std::string_view text);

/// The bytes of the last character of `text`; 0 when its end is none.
size_t utf8LastLength(std::string_view text);

/// The code point of a character.
char32_t utf8Decode(std::string_view character);
/// Appends a code point's character.
void utf8Append(std::string &out, char32_t codePoint);

/// Text that comes in pieces which may end within a character: what was added
/// comes out in whole characters, each stray sequence of bytes as one U+FFFD.
class Utf8Stream {
public:
  /// What can be handed out now; up to three bytes wait for more.
  std::string add(std::string_view bytes);
  /// What is left when no more comes.
  std::string finish();

private:
  std::string waiting;
};

} // namespace lmc::runtime

#endif // LMC_RUNTIME_BASE_UTF8_H
