// Lines for people, on stderr. Data goes to stdout and never through here.
#ifndef LMC_RUNTIME_BASE_LOG_H
#define LMC_RUNTIME_BASE_LOG_H

#include "runtime/base/Status.h"

namespace lmc::runtime {

/// Writes one or more whole lines to stderr in one piece, so that lines of
/// several threads do not mix. Coloured only on a terminal without NO_COLOR.
void printLines(std::string_view text);

/// Prints the status as `error:`, `note:` and `help:` lines; returns its exit
/// status for use at the end of main().
int report(const Status &status);

template <typename... Args>
void logInfo(fmt::format_string<Args...> format, Args &&...args) {
  printLines(fmt::format(format, std::forward<Args>(args)...) + "\n");
}
template <typename... Args>
void logWarning(fmt::format_string<Args...> format, Args &&...args) {
  printLines("warning: " + fmt::format(format, std::forward<Args>(args)...) +
             "\n");
}

/// Writes out what was printed to stdout; a failure when any of it was lost.
Status flushStdout();

/// The number for a message: a NaN has a sign, which says nothing but would be
/// printed.
double withoutNanSign(double value);

/// "1.5 GiB", for messages.
std::string formatBytes(double bytes);

/// The candidate that is closest to `name` by edit distance, or "" when none
/// is near; for "did you mean".
std::string nearestName(std::string_view name,
                        const std::vector<std::string> &candidates);

} // namespace lmc::runtime

#endif // LMC_RUNTIME_BASE_LOG_H
