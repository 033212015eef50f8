// Regular expressions of a tokenizer.json, run by PCRE2.
//
// They are written for Oniguruma, whose syntax is Ruby's, and its classes are
// not always PCRE2's: \s is Unicode's White_Space there, while PCRE2's has
// U+180E too; \w has marks and leaves out numbers that are no digits; (?i) in
// mid-pattern reaches over the alternatives behind it. A pattern is therefore
// translated, class by class, and one that holds anything of which the two may
// think differently is refused:
//
//     \s+(?!\S)|\w     ->     \p{White_Space}+(?!\P{White_Space})|
//                             [\p{Alphabetic}\p{M}\p{Nd}\p{Pc}...]
//
// Letters are compared without case one by one: ſ is s and K (the Kelvin sign)
// is k, as in the original; where it would compare several (ß and ss) the
// pattern is refused. Which characters are letters, digits and so on is what
// Unicode 14 says, as PCRE2 10.42 has it: characters assigned later are none of
// them here.
#ifndef LMC_RUNTIME_GENERATE_PATTERN_H
#define LMC_RUNTIME_GENERATE_PATTERN_H

#include "runtime/base/Status.h"

#include <functional>
#include <memory>
#include <vector>

namespace lmc::runtime {

/// The same pattern in PCRE2's syntax. WrongInput names what it has that is
/// not supported.
StatusOr<std::string> translatePattern(std::string_view pattern);

class Pattern {
public:
  /// WrongInput when the pattern is not valid or not supported.
  static StatusOr<Pattern> create(std::string_view pattern);
  /// Matches this text and nothing else.
  static StatusOr<Pattern> literal(std::string_view text);
  /// In PCRE2's own syntax.
  static StatusOr<Pattern> native(std::string_view pattern);
  Pattern(Pattern &&) noexcept;
  Pattern &operator=(Pattern &&) noexcept;
  ~Pattern();

  enum class Kind { Match, Gap, NoText };
  struct Part {
    std::string_view text;
    Kind kind;
  };
  using OnPart = std::function<Status(const Part &)>;
  /// Hands out the matches in `text`, one after the other, and what is between
  /// them; none is empty. Bytes that are no UTF-8 match nothing and end the
  /// text for what stands before them. Time grows with the text's length unless
  /// the pattern's own backtracking forbids it; WrongInput when that goes
  /// beyond all measure. One thread at a time, and not from within `onPart`.
  Status split(std::string_view text, const OnPart &onPart) const;

  /// Whether something in `text`, which must be UTF-8, matches.
  bool occursIn(std::string_view text) const;

private:
  struct Compiled;
  Pattern(std::unique_ptr<Compiled> compiled);
  static StatusOr<Pattern> compile(std::string_view pattern, unsigned options);
  Status splitUtf8(std::string_view text, const OnPart &onPart) const;

  std::unique_ptr<Compiled> compiled;
};

} // namespace lmc::runtime

#endif // LMC_RUNTIME_GENERATE_PATTERN_H
