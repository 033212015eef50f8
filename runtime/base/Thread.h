// Starts threads. A system that has no room for one more thread is a failure
// like others, where std::thread would throw.
#ifndef LMC_RUNTIME_BASE_THREAD_H
#define LMC_RUNTIME_BASE_THREAD_H

#include "runtime/base/Status.h"

#include <functional>
#include <thread>

namespace lmc::runtime {

/// A thread that runs `body`, under a name of at most 15 characters for ps and
/// top; DoesNotFit when none can be made.
StatusOr<std::thread> startThread(const char *name, std::function<void()> body);

} // namespace lmc::runtime

#endif // LMC_RUNTIME_BASE_THREAD_H
