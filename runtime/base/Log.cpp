// Lines on stderr, sizes for people, and the nearest name to a misspelt one.
#include "runtime/base/Log.h"

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <unistd.h>

namespace lmc::runtime {

static bool useColour() {
  static const bool colour = [] {
    const char *noColour = std::getenv("NO_COLOR");
    return isatty(STDERR_FILENO) && !(noColour && *noColour);
  }();
  return colour;
}

void printLines(std::string_view text) {
  std::string coloured;
  if (useColour()) {
    for (auto [prefix, code] :
         {std::pair<std::string_view, const char *>("error: ", "\033[1;31m"),
          {"warning: ", "\033[1;33m"}}) {
      if (text.substr(0, prefix.size()) == prefix) {
        coloured = fmt::format("{}{}\033[0m{}", code,
                               prefix.substr(0, prefix.size() - 1),
                               text.substr(prefix.size() - 1));
        text = coloured;
        break;
      }
    }
  }
  while (!text.empty()) {
    ssize_t written = ::write(STDERR_FILENO, text.data(), text.size());
    if (written <= 0)
      return; // nobody to tell
    text.remove_prefix(static_cast<size_t>(written));
  }
}

int report(const Status &status) {
  if (!status.ok())
    printLines(status.toString());
  return status.exitStatus();
}

Status flushStdout() {
  errno = 0;
  if (std::fflush(stdout) == 0 && !std::ferror(stdout))
    return Status();
  // Of what failed before this call the reason is lost.
  return makeError(errno == ENOSPC ? ErrorKind::DoesNotFit
                                   : ErrorKind::JobFailed,
                   "cannot write to stdout{}{}", errno ? ": " : "",
                   errno ? std::strerror(errno) : "");
}

double withoutNanSign(double value) {
  return std::isnan(value) ? double(NAN) : value;
}

std::string formatBytes(double bytes) {
  const char *units[] = {"bytes", "KiB", "MiB", "GiB", "TiB", "PiB"};
  int unit = 0;
  while (bytes >= 1024 && unit < 5) {
    bytes /= 1024;
    ++unit;
  }
  return unit == 0 ? fmt::format("{:.0f} bytes", bytes)
                   : fmt::format("{:.1f} {}", bytes, units[unit]);
}

static size_t editDistance(std::string_view a, std::string_view b) {
  std::vector<size_t> row(b.size() + 1);
  for (size_t j = 0; j <= b.size(); ++j)
    row[j] = j;
  for (size_t i = 1; i <= a.size(); ++i) {
    size_t diagonal = row[0];
    row[0] = i;
    for (size_t j = 1; j <= b.size(); ++j) {
      size_t substitute = diagonal + (a[i - 1] != b[j - 1]);
      diagonal = row[j];
      row[j] = std::min({row[j] + 1, row[j - 1] + 1, substitute});
    }
  }
  return row[b.size()];
}

std::string nearestName(std::string_view name,
                        const std::vector<std::string> &candidates) {
  std::string best;
  size_t bestDistance = std::max<size_t>(name.size() / 3, 2) + 1;
  for (const std::string &candidate : candidates) {
    size_t distance = editDistance(name.substr(0, 256), candidate);
    if (distance < bestDistance && distance < candidate.size()) {
      bestDistance = distance;
      best = candidate;
    }
  }
  return best;
}

} // namespace lmc::runtime
