// A program may be started with its standard streams closed. The next file it
// opens would then be its standard output or error, and what is printed would
// end up in a checkpoint or a metrics file.
#ifndef LMC_RUNTIME_BASE_STANDARDSTREAMS_H
#define LMC_RUNTIME_BASE_STANDARDSTREAMS_H

#include <fcntl.h>

namespace lmc::runtime {

/// Call first in main. A closed stream is opened the wrong way round, so that
/// using it fails as it would if it were closed: printing ends with an error,
/// not in nothing.
inline void reserveStandardStreams() {
  for (int stream = 0; stream < 3; ++stream)
    if (::fcntl(stream, F_GETFD) == -1)
      (void)::open("/dev/null", stream == 0 ? O_WRONLY : O_RDONLY);
}

} // namespace lmc::runtime

#endif // LMC_RUNTIME_BASE_STANDARDSTREAMS_H
