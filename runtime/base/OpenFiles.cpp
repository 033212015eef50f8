// See OpenFiles.h.
#include "runtime/base/OpenFiles.h"

#include <dirent.h>
#include <sys/resource.h>

namespace lmc::runtime {

/// 0 where the system does not say.
static int64_t countOpenFiles() {
  DIR *folder = ::opendir("/proc/self/fd");
  if (!folder)
    return 0;
  int64_t count = -3; // ".", ".." and the folder itself
  while (::readdir(folder))
    ++count;
  ::closedir(folder);
  return count;
}

Status allowOpenFiles(int64_t more) {
  rlimit limit = {};
  if (::getrlimit(RLIMIT_NOFILE, &limit) != 0)
    return Status();
  limit.rlim_cur = limit.rlim_max;
  (void)::setrlimit(RLIMIT_NOFILE, &limit);
  int64_t needed = countOpenFiles() + more;
  if (limit.rlim_max == RLIM_INFINITY || needed <= int64_t(limit.rlim_max))
    return Status();
  return makeError(ErrorKind::DoesNotFit,
                   "{} open files and connections are needed, {} are allowed",
                   needed, limit.rlim_max)
      .help("ulimit -n {}", needed);
}

} // namespace lmc::runtime
