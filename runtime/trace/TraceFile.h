// The two formats of a trace: Perfetto's TrackEvent and Chrome's JSON. Both get
// the same calls, in the order of time, and turn them into bytes.
#ifndef LMC_RUNTIME_TRACE_TRACEFILE_H
#define LMC_RUNTIME_TRACE_TRACEFILE_H

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

namespace lmc::runtime {

/// What stands beside a span: its layer, its line of the model.
using TraceArguments =
    std::vector<std::pair<const char *, std::variant<int64_t, std::string>>>;

/// One rank's, with one track. Times are nanoseconds of CLOCK_MONOTONIC.
class TraceFile {
public:
  struct Track {
    int64_t rank = 0;
    std::string name;                        ///< of what runs the instructions
    int64_t monotonicNs = 0, realtimeNs = 0; ///< of one moment
  };
  virtual ~TraceFile() = default;
  /// A span lies within those that have begun and not ended.
  virtual void begin(int64_t ns, std::string_view name,
                     std::string_view category,
                     const TraceArguments &arguments) = 0;
  virtual void end(int64_t ns) = 0;
  virtual void instant(int64_t ns, std::string_view name,
                       const TraceArguments &arguments) = 0;
  /// The whole file.
  virtual std::string take() = 0;
};

std::unique_ptr<TraceFile> makePerfettoFile(const TraceFile::Track &track);
std::unique_ptr<TraceFile> makeJsonFile(const TraceFile::Track &track);

} // namespace lmc::runtime

#endif // LMC_RUNTIME_TRACE_TRACEFILE_H
