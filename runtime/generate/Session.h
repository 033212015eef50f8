// A plan with weights on this machine, for one rank and without training:
// what eval and generate share.
//
// Kernels keep their packing areas on the stack, so the work of a session runs
// on a thread of its own: runSession makes it, opens the session there and
// calls the body.
#ifndef LMC_RUNTIME_GENERATE_SESSION_H
#define LMC_RUNTIME_GENERATE_SESSION_H

#include "runtime/exec/Executor.h"

#include <functional>

namespace lmc::runtime {

struct SessionOptions {
  std::string plan; ///< a file
  /// A folder or file; empty: none are set, the memory is as it was mapped.
  std::string weights;
  int threads = 0; ///< 0: as many as there are cores
  bool pinThreads = true;
  bool guardPages = false;
  bool profile = false; ///< measure every op and print a table at the end
  bool measure = false; ///< measure every op
  std::vector<std::string> settings; ///< --set: NAME=NUMBER
  TraceOptions trace;
};

Status runSession(const SessionOptions &options,
                  const std::function<Status(Executor &)> &body);

/// The port of that name, or null.
const plan::Port *findInput(const plan::Plan &plan, std::string_view name);
const plan::Port *findOutput(const plan::Plan &plan, std::string_view name);

} // namespace lmc::runtime

#endif // LMC_RUNTIME_GENERATE_SESSION_H
