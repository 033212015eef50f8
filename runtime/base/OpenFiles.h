// How many files and connections this process may have open.
#ifndef LMC_RUNTIME_BASE_OPENFILES_H
#define LMC_RUNTIME_BASE_OPENFILES_H

#include "runtime/base/Status.h"

#include <cerrno>

namespace lmc::runtime {

/// Raises the limit to what the system allows this process. DoesNotFit when
/// `more` than are open now would not fit below it.
Status allowOpenFiles(int64_t more);

/// Whether errno says that no more can be opened.
inline bool isOutOfFiles(int error) {
  return error == EMFILE || error == ENFILE;
}

} // namespace lmc::runtime

#endif // LMC_RUNTIME_BASE_OPENFILES_H
