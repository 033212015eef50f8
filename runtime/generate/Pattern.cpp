// See Pattern.h.
#include "runtime/generate/Pattern.h"
#include "runtime/base/Utf8.h"

#include <algorithm>
#include <array>

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

namespace lmc::runtime {

// --- from Oniguruma's syntax to PCRE2's ------------------------------------

namespace {

/// \w in a class. Alone it has six more in Oniguruma: of the superscripts and
/// fractions, Latin-1's.
constexpr std::string_view kWord = "\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}";
constexpr std::string_view kWordAlone = "\\xB2\\xB3\\xB9\\xBC-\\xBE";

/// Properties of which both libraries think alike: the general categories.
constexpr std::array<std::string_view, 37> kProperties = {
    "C",  "Cc", "Cf", "Cn", "Co", "Cs", "L",  "Ll", "Lm", "Lo",
    "Lt", "Lu", "M",  "Mc", "Me", "Mn", "N",  "Nd", "Nl", "No",
    "P",  "Pc", "Pd", "Pe", "Pf", "Pi", "Po", "Ps", "S",  "Sc",
    "Sk", "Sm", "So", "Z",  "Zl", "Zp", "Zs"};

/// Reads the pattern from left to right; `failure` is the first thing that is
/// not supported.
class Translator {
public:
  explicit Translator(std::string_view pattern) : pattern(pattern) {}

  StatusOr<std::string> run() {
    while (at < pattern.size() && failure.ok()) {
      refuseOddCase();
      step();
    }
    if (!failure.ok())
      return failure;
    return std::move(out);
  }

private:
  void refuse(std::string_view what, size_t from) {
    if (failure.ok())
      failure = wrongInput("the pattern has {} at byte {}, which is not "
                           "supported",
                           what, from);
  }
  bool next(std::string_view text) const {
    return pattern.substr(at, text.size()) == text;
  }
  bool isDigit(size_t index) const {
    return index < pattern.size() && pattern[index] >= '0' &&
           pattern[index] <= '9';
  }

  /// Without case a letter may be several in Oniguruma, ß being ss; in PCRE2 it
  /// never is.
  void refuseOddCase() {
    if (!ignoresCase())
      return;
    if (uint8_t(pattern[at]) >= 0x80)
      refuse("a letter beyond ASCII without case", at);
    for (std::string_view pair : {"ss", "st", "ff", "fi", "fl"})
      if (at + 1 < pattern.size() && (pattern[at] | 0x20) == pair[0] &&
          (pattern[at + 1] | 0x20) == pair[1])
        refuse(fmt::format("\"{}\" without case", pair), at);
  }
  bool ignoresCase() const { return !caseless.empty() && caseless.back(); }

  void step() {
    switch (pattern[at]) {
    case '\\':
      escape(/*inClass=*/false);
      break;
    case '[':
      characterClass();
      break;
    case '(':
      group();
      break;
    case ')':
      if (caseless.size() > 1)
        caseless.pop_back();
      out += pattern[at++];
      break;
    case '{':
      interval();
      break;
    default:
      out += pattern[at++];
    }
  }

  void group() {
    // (?i) reaches to the end of the group around it; at the front of the
    // pattern that is the same in both syntaxes.
    if (at == 0 && next("(?i)")) {
      caseless = {true};
      return copy(4);
    }
    caseless.push_back(next("(?i:") || (ignoresCase() && !next("(?-i:")));
    if (!next("(?"))
      return copy(1);
    for (std::string_view known :
         {"(?:", "(?=", "(?!", "(?<=", "(?<!", "(?>", "(?i:", "(?-i:"})
      if (next(known))
        return copy(known.size());
    refuse(fmt::format("the group \"{}\"", pattern.substr(at, 4)), at);
  }
  void copy(size_t count) {
    out += pattern.substr(at, count);
    at += count;
  }

  void interval() {
    size_t end = at + 1;
    while (isDigit(end))
      ++end;
    if (end == at + 1)
      return refuse("\"{\" without a number behind it", at);
    if (end < pattern.size() && pattern[end] == ',')
      for (++end; isDigit(end);)
        ++end;
    if (end >= pattern.size() || pattern[end] != '}')
      return refuse("\"{\" that is no number of times", at);
    ++end;
    // Neither lazy nor possessive in Ruby's syntax, but both in PCRE2's.
    if (end < pattern.size() && (pattern[end] == '+' || pattern[end] == '?'))
      return refuse("\"}\" with + or ? behind it", end);
    copy(end - at);
  }

  void characterClass() {
    size_t from = at;
    copy(next("[^") ? 2 : 1);
    if (next("]"))
      return refuse("a class that begins with \"]\"", from);
    while (at < pattern.size() && pattern[at] != ']') {
      if (!failure.ok())
        return;
      if (pattern[at] == '[')
        return refuse("a class within a class", at);
      if (next("&&"))
        return refuse("an intersection of classes", at);
      if (ignoresCase() && uint8_t(pattern[at]) >= 0x80)
        return refuse("a letter beyond ASCII without case", at);
      if (pattern[at] == '\\')
        escape(/*inClass=*/true);
      else
        out += pattern[at++];
    }
    if (at == pattern.size())
      return refuse("a class without end", from);
    out += pattern[at++];
  }

  void escape(bool inClass) {
    size_t from = at++;
    if (at == pattern.size())
      return refuse("a backslash at its end", from);
    char c = pattern[at++];
    switch (c) {
    case 's':
      out += "\\p{White_Space}";
      return;
    case 'S':
      out += "\\P{White_Space}";
      return;
    case 'd':
      out += "\\p{Nd}";
      return;
    case 'D':
      out += "\\P{Nd}";
      return;
    case 'w':
      out += inClass ? std::string(kWord)
                     : fmt::format("[{}{}]", kWord, kWordAlone);
      return;
    case 'W':
      if (inClass)
        break;
      out += fmt::format("[^{}{}]", kWord, kWordAlone);
      return;
    case 'v':
      out += "\\x0B";
      return;
    case 'n':
    case 'r':
    case 't':
    case 'f':
    case 'a':
    case 'e':
      out += '\\';
      out += c;
      return;
    case 'A':
    case 'z':
    case 'Z':
      if (inClass)
        break;
      out += '\\';
      out += c;
      return;
    case 'p':
    case 'P':
      return property(from);
    case 'x':
    case 'u':
      return codePoint(from, c);
    default:
      if (uint8_t(c) >= 0x80) {
        out += c;
        return;
      }
      if (c < '0' || (c > '9' && c < 'A') || (c > 'Z' && c < 'a') || c > 'z') {
        out += '\\';
        out += c;
        return;
      }
    }
    refuse(fmt::format("\"\\{}\"{}", c, inClass ? " in a class" : ""), from);
  }

  void property(size_t from) {
    size_t end = pattern.find('}', at);
    if (!next("{") || end == std::string_view::npos)
      return refuse("a property without braces", from);
    std::string_view name = pattern.substr(at + 1, end - at - 1);
    if (std::find(kProperties.begin(), kProperties.end(), name) ==
        kProperties.end())
      return refuse(fmt::format("the property {}", name.substr(0, 40)), from);
    if (ignoresCase() && (name == "Lu" || name == "Ll" || name == "Lt"))
      return refuse(fmt::format("the property {} without case", name), from);
    at = from;
    copy(end + 1 - from);
  }

  /// \xHH, \x{H...} and \uHHHH.
  void codePoint(size_t from, char kind) {
    bool braces = kind == 'x' && next("{");
    size_t begin = at + braces, end = begin;
    size_t most = braces ? 6 : kind == 'x' ? 2 : 4;
    while (end < pattern.size() && end < begin + most &&
           std::isxdigit(uint8_t(pattern[end])))
      ++end;
    bool whole =
        braces ? end > begin && end < pattern.size() && pattern[end] == '}'
               : end == begin + most;
    unsigned code = 0;
    for (size_t i = begin; i < end; ++i)
      code = code * 16 +
             unsigned(std::stoi(std::string(1, pattern[i]), nullptr, 16));
    // From 80 on, \xHH is a byte and no character.
    if (!whole || (kind == 'x' && !braces && code >= 0x80))
      return refuse(fmt::format("an odd \"\\{}\"", kind), from);
    if (ignoresCase() && code >= 0x80)
      return refuse("a letter beyond ASCII without case", from);
    out += fmt::format("\\x{{{:x}}}", code);
    at = end + braces;
  }

  std::string_view pattern;
  size_t at = 0;
  std::vector<bool> caseless = {false}; ///< of the groups around
  std::string out;
  Status failure;
};

} // namespace

StatusOr<std::string> translatePattern(std::string_view pattern) {
  return Translator(pattern).run();
}

// --- compiled patterns ------------------------------------------------------

struct Pattern::Compiled {
  pcre2_code *code = nullptr;
  pcre2_match_data *match = nullptr;
  pcre2_match_context *context = nullptr;
  pcre2_jit_stack *stack = nullptr;
  ~Compiled() {
    pcre2_jit_stack_free(stack);
    pcre2_match_context_free(context);
    pcre2_match_data_free(match);
    pcre2_code_free(code);
  }

  /// As pcre2_match, on text that is known to be UTF-8.
  int run(std::string_view text, size_t from) const {
    auto subject = reinterpret_cast<PCRE2_SPTR>(text.data());
    int found = pcre2_match(code, subject, text.size(), from,
                            PCRE2_NO_UTF_CHECK, match, context);
    // Where the compiled code runs out of its stack, the interpreter goes on:
    // it keeps its own on the heap.
    if (found == PCRE2_ERROR_JIT_STACKLIMIT)
      found = pcre2_match(code, subject, text.size(), from,
                          PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT, match, context);
    return found;
  }
};

Pattern::Pattern(std::unique_ptr<Compiled> compiled)
    : compiled(std::move(compiled)) {}
Pattern::Pattern(Pattern &&) noexcept = default;
Pattern &Pattern::operator=(Pattern &&) noexcept = default;
Pattern::~Pattern() = default;

static std::string pcreMessage(int error) {
  char text[256] = "";
  pcre2_get_error_message(error, reinterpret_cast<PCRE2_UCHAR *>(text),
                          sizeof text);
  return text;
}

StatusOr<Pattern> Pattern::compile(std::string_view pattern, unsigned options) {
  auto compiled = std::make_unique<Compiled>();
  pcre2_compile_context *settings = pcre2_compile_context_create(nullptr);
  if (settings)
    pcre2_set_newline(settings, PCRE2_NEWLINE_LF);
  int error = 0;
  size_t offset = 0;
  compiled->code = pcre2_compile(reinterpret_cast<PCRE2_SPTR>(pattern.data()),
                                 pattern.size(), PCRE2_UTF | options, &error,
                                 &offset, settings);
  pcre2_compile_context_free(settings);
  if (!compiled->code)
    return wrongInput("the pattern is not valid: {} (at byte {} of \"{}\")",
                      pcreMessage(error), offset, pattern.substr(0, 400));
  // Without a just-in-time compiler the interpreter runs.
  if (pcre2_jit_compile(compiled->code, PCRE2_JIT_COMPLETE) == 0)
    compiled->stack = pcre2_jit_stack_create(32 << 10, 4 << 20, nullptr);
  compiled->match = pcre2_match_data_create(1, nullptr);
  compiled->context = pcre2_match_context_create(nullptr);
  if (!compiled->match || !compiled->context)
    return makeError(ErrorKind::DoesNotFit, "no memory for a pattern");
  if (compiled->stack)
    pcre2_jit_stack_assign(compiled->context, nullptr, compiled->stack);
  pcre2_set_heap_limit(compiled->context, 256 << 10); // KiB
  return Pattern(std::move(compiled));
}

StatusOr<Pattern> Pattern::create(std::string_view pattern) {
  LMC_ASSIGN_OR_RETURN(std::string translated, translatePattern(pattern));
  // In Ruby's syntax ^ and $ are the ends of a line.
  return compile(translated, PCRE2_UCP | PCRE2_MULTILINE);
}
StatusOr<Pattern> Pattern::literal(std::string_view text) {
  return compile(text, PCRE2_LITERAL);
}
StatusOr<Pattern> Pattern::native(std::string_view pattern) {
  return compile(pattern, PCRE2_UCP);
}

Status Pattern::splitUtf8(std::string_view text, const OnPart &onPart) const {
  size_t done = 0; // end of what was handed out
  size_t from = 0; // where to look next
  while (from < text.size()) {
    int found = compiled->run(text, from);
    if (found == PCRE2_ERROR_NOMATCH)
      break;
    if (found < 0)
      return wrongInput("a pattern of the tokenizer gives up on a text of {} "
                        "bytes, {} bytes into it: {}",
                        text.size(), from, pcreMessage(found));
    const size_t *bounds = pcre2_get_ovector_pointer(compiled->match);
    size_t begin = bounds[0], end = bounds[1];
    if (begin > done)
      LMC_RETURN_IF_ERROR(onPart({text.substr(done, begin - done), Kind::Gap}));
    if (end > begin)
      LMC_RETURN_IF_ERROR(
          onPart({text.substr(begin, end - begin), Kind::Match}));
    done = from = end;
    // Behind an empty match, which parts the text too, look one further.
    if (end == begin)
      from += std::max<size_t>(1, utf8Length(text.substr(from)));
  }
  return done < text.size() ? onPart({text.substr(done), Kind::Gap}) : Status();
}

Status Pattern::split(std::string_view text, const OnPart &onPart) const {
  while (!text.empty()) {
    size_t whole = utf8Prefix(text);
    if (whole > 0)
      LMC_RETURN_IF_ERROR(splitUtf8(text.substr(0, whole), onPart));
    text.remove_prefix(whole);
    size_t broken = nonUtf8Prefix(text);
    if (broken > 0)
      LMC_RETURN_IF_ERROR(onPart({text.substr(0, broken), Kind::NoText}));
    text.remove_prefix(broken);
  }
  return Status();
}

bool Pattern::occursIn(std::string_view text) const {
  return compiled->run(text, 0) >= 0;
}

} // namespace lmc::runtime
