// Sleep until another thread changes a 32-bit word. The two calls of Linux that
// the thread pool and the communicators of one machine wait with.
#ifndef LMC_RUNTIME_BASE_FUTEX_H
#define LMC_RUNTIME_BASE_FUTEX_H

#include <atomic>
#include <climits>
#include <cstdint>
#include <ctime>
#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace lmc::runtime {

/// Who else waits at the word: threads of this process, or of others that map
/// the same memory.
enum class FutexScope : int { Process = FUTEX_PRIVATE_FLAG, Shared = 0 };

/// Returns at once when the word is not `expected`; else when woken, after
/// `timeoutNs`, or for no reason. A negative timeout waits for ever.
inline void futexWait(const std::atomic<uint32_t> &word, uint32_t expected,
                      int64_t timeoutNs = -1,
                      FutexScope scope = FutexScope::Process) {
  timespec timeout = {time_t(timeoutNs / 1000000000),
                      long(timeoutNs % 1000000000)};
  ::syscall(SYS_futex, &word, FUTEX_WAIT | int(scope), expected,
            timeoutNs < 0 ? nullptr : &timeout, nullptr, 0);
}

inline void futexWake(const std::atomic<uint32_t> &word, int count = INT_MAX,
                      FutexScope scope = FutexScope::Process) {
  ::syscall(SYS_futex, &word, FUTEX_WAKE | int(scope), count, nullptr, nullptr,
            0);
}

} // namespace lmc::runtime

#endif // LMC_RUNTIME_BASE_FUTEX_H
