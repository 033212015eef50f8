// How the runtime says that something went wrong.
//
// A Status is success or a kind of failure with a sentence for people, any
// number of notes (the numbers behind it) and helps (what to do). The kind is
// the exit status of the tools, so that scripts can tell a wrong flag from a
// damaged file. A Status is returned or printed, never both; success costs one
// null pointer.
#ifndef LMC_RUNTIME_BASE_STATUS_H
#define LMC_RUNTIME_BASE_STATUS_H

#ifndef FMT_HEADER_ONLY
#define FMT_HEADER_ONLY
#endif
#include <fmt/format.h>

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace lmc::runtime {

/// The kinds of failure; the value is the exit status of a tool.
enum class ErrorKind : int {
  JobFailed = 1,  ///< the job failed for a reason outside of the kinds below
  WrongInput = 2, ///< the call or an input is wrong
  DoesNotFit = 3, ///< memory or disk is too small
  Corrupt = 4,    ///< a file is damaged or of another version
  PeerFailed = 5, ///< a peer or a collective failed
  BadNumbers = 6, ///< stopped on its numbers (NaN)
  Bug = 70,       ///< our mistake
  Stopped = 75,   ///< told to stop; a checkpoint is saved
};

class [[nodiscard]] Status {
public:
  Status() = default;
  Status(ErrorKind kind, std::string message)
      : rep(std::make_unique<Rep>(Rep{kind, std::move(message), {}})) {}
  Status(Status &&) = default;
  Status &operator=(Status &&) = default;
  Status(const Status &other)
      : rep(other.rep ? std::make_unique<Rep>(*other.rep) : nullptr) {}
  Status &operator=(const Status &other) {
    rep = other.rep ? std::make_unique<Rep>(*other.rep) : nullptr;
    return *this;
  }

  bool ok() const { return rep == nullptr; }
  ErrorKind kind() const { return rep->kind; }
  int exitStatus() const { return ok() ? 0 : static_cast<int>(rep->kind); }
  const std::string &message() const { return rep->message; }
  /// The notes and helps, as they are printed.
  const std::vector<std::string> &lines() const { return rep->lines; }

  /// Adds "note: ..." with the numbers behind the message.
  template <typename... Args>
  Status &&note(fmt::format_string<Args...> format, Args &&...args) && {
    rep->lines.push_back("  note: " +
                         fmt::format(format, std::forward<Args>(args)...));
    return std::move(*this);
  }
  /// Adds "help: ..." with what to do about it.
  template <typename... Args>
  Status &&help(fmt::format_string<Args...> format, Args &&...args) && {
    rep->lines.push_back("  help: " +
                         fmt::format(format, std::forward<Args>(args)...));
    return std::move(*this);
  }
  /// Adds a line as lines() gave it.
  Status &&line(std::string text) && {
    rep->lines.push_back(std::move(text));
    return std::move(*this);
  }
  /// Puts "context: " before the message.
  Status &&prepend(std::string_view context) && {
    rep->message = fmt::format("{}: {}", context, rep->message);
    return std::move(*this);
  }

  /// "error: ...", then its notes and helps, one per line.
  std::string toString() const;

private:
  struct Rep {
    ErrorKind kind;
    std::string message;
    std::vector<std::string> lines;
  };
  std::unique_ptr<Rep> rep;
};

template <typename... Args>
Status makeError(ErrorKind kind, fmt::format_string<Args...> format,
                 Args &&...args) {
  return Status(kind, fmt::format(format, std::forward<Args>(args)...));
}
template <typename... Args>
Status wrongInput(fmt::format_string<Args...> format, Args &&...args) {
  return makeError(ErrorKind::WrongInput, format, std::forward<Args>(args)...);
}
template <typename... Args>
Status corrupt(fmt::format_string<Args...> format, Args &&...args) {
  return makeError(ErrorKind::Corrupt, format, std::forward<Args>(args)...);
}
template <typename... Args>
Status jobFailed(fmt::format_string<Args...> format, Args &&...args) {
  return makeError(ErrorKind::JobFailed, format, std::forward<Args>(args)...);
}

/// A value or the failure that kept it from being made.
template <typename T> class [[nodiscard]] StatusOr {
public:
  StatusOr(Status failure) : failure(std::move(failure)) {}
  template <typename U, typename = std::enable_if_t<
                            std::is_convertible_v<U &&, T> &&
                            !std::is_same_v<std::decay_t<U>, Status> &&
                            !std::is_same_v<std::decay_t<U>, StatusOr>>>
  StatusOr(U &&value) : held(std::forward<U>(value)) {}

  bool ok() const { return held.has_value(); }
  const Status &status() const & { return failure; }
  Status status() && { return std::move(failure); }
  T &operator*() & { return *held; }
  const T &operator*() const & { return *held; }
  T &&operator*() && { return std::move(*held); }
  T *operator->() { return &*held; }
  const T *operator->() const { return &*held; }

private:
  Status failure;
  std::optional<T> held;
};

} // namespace lmc::runtime

#define LMC_RETURN_IF_ERROR(expression)                                        \
  do {                                                                         \
    if (::lmc::runtime::Status lmcStatus = (expression); !lmcStatus.ok())      \
      return lmcStatus;                                                        \
  } while (false)

#define LMC_CONCAT_INNER(a, b) a##b
#define LMC_CONCAT(a, b) LMC_CONCAT_INNER(a, b)
#define LMC_ASSIGN_OR_RETURN(declaration, expression)                          \
  LMC_ASSIGN_OR_RETURN_INNER(LMC_CONCAT(lmcOr, __LINE__), declaration,         \
                             expression)
#define LMC_ASSIGN_OR_RETURN_INNER(temporary, declaration, expression)         \
  auto temporary = (expression);                                               \
  if (!temporary.ok())                                                         \
    return std::move(temporary).status();                                      \
  declaration = *std::move(temporary)

#endif // LMC_RUNTIME_BASE_STATUS_H
