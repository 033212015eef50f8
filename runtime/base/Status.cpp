// The printed form of a Status.
#include "runtime/base/Status.h"

namespace lmc::runtime {

std::string Status::toString() const {
  if (ok())
    return "ok\n";
  std::string text = "error: " + rep->message + "\n";
  for (const std::string &line : rep->lines)
    text += line + "\n";
  return text;
}

} // namespace lmc::runtime
