// See Thread.h.
#include "runtime/base/Thread.h"

#include <pthread.h>
#include <system_error>

namespace lmc::runtime {

StatusOr<std::thread> startThread(const char *name,
                                  std::function<void()> body) {
  try {
    return std::thread([name, body = std::move(body)] {
      ::pthread_setname_np(::pthread_self(), name);
      body();
    });
  } catch (const std::system_error &error) {
    return makeError(ErrorKind::DoesNotFit, "cannot start a thread ({}): {}",
                     name, error.code().message())
        .help("allow more threads (ulimit -u) or more memory (ulimit -v)");
  }
}

} // namespace lmc::runtime
