// Preloaded into lmrun: kills the process right before its N-th call that
// changes the file system below a folder, so that a test can see what is there
// at every such moment.
//
//   LD_PRELOAD=kill-at-call.so LMC_KILL_AT=7 LMC_KILL_BELOW=/dir lmrun ...
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

static atomic_long calls;

static int isBelow(const char *path) {
  const char *folder = getenv("LMC_KILL_BELOW");
  return folder && path && strncmp(path, folder, strlen(folder)) == 0;
}

static void count(void) {
  const char *at = getenv("LMC_KILL_AT");
  if (at && atomic_fetch_add(&calls, 1) + 1 == atol(at))
    raise(SIGKILL);
}

static void countPath(const char *path) {
  if (isBelow(path))
    count();
}

// Where a descriptor, and behind it a relative path, points to.
static void countAt(int descriptor) {
  char link[64], path[4096];
  snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
  ssize_t length = readlink(link, path, sizeof path - 1);
  if (length > 0) {
    path[length] = 0;
    countPath(path);
  }
}

#define NEXT(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

#define OPEN(name)                                                             \
  int name(const char *path, int flags, ...) {                                 \
    va_list rest;                                                              \
    va_start(rest, flags);                                                     \
    mode_t mode = flags & O_CREAT ? va_arg(rest, mode_t) : 0;                  \
    va_end(rest);                                                              \
    if (flags & (O_CREAT | O_TRUNC))                                           \
      countPath(path);                                                         \
    return NEXT(name)(path, flags, mode);                                      \
  }
OPEN(open)
OPEN(open64)

int mkdir(const char *path, mode_t mode) {
  countPath(path);
  return NEXT(mkdir)(path, mode);
}
int rename(const char *from, const char *to) {
  countPath(to);
  return NEXT(rename)(from, to);
}
int remove(const char *path) {
  countPath(path);
  return NEXT(remove)(path);
}
int unlink(const char *path) {
  countPath(path);
  return NEXT(unlink)(path);
}
int unlinkat(int folder, const char *path, int flags) {
  if (path[0] == '/')
    countPath(path);
  else
    countAt(folder);
  return NEXT(unlinkat)(folder, path, flags);
}
ssize_t write(int descriptor, const void *bytes, size_t size) {
  countAt(descriptor);
  return NEXT(write)(descriptor, bytes, size);
}
int fsync(int descriptor) {
  countAt(descriptor);
  return NEXT(fsync)(descriptor);
}
