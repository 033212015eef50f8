// Chrome's trace events as JSON. Their times are microseconds that readers take
// as doubles, too coarse for nanoseconds since 1970: they are those of
// CLOCK_MONOTONIC, one clock per host, and otherData says how far from the real
// time that is.
#include "runtime/trace/TraceFile.h"

#include <nlohmann/json.hpp>

namespace lmc::runtime {

namespace {
using Json = nlohmann::json;

class JsonFile final : public TraceFile {
public:
  explicit JsonFile(const Track &track)
      : rank(track.rank), realtimeOffset(track.realtimeNs - track.monotonicNs) {
    add({{"ph", "M"},
         {"name", "process_name"},
         {"args", {{"name", "rank " + std::to_string(rank)}}}});
    add({{"ph", "M"},
         {"name", "thread_name"},
         {"args", {{"name", track.name}}}});
  }
  void begin(int64_t ns, std::string_view name, std::string_view category,
             const TraceArguments &arguments) override {
    add({{"ph", "B"},
         {"ts", microseconds(ns)},
         {"name", name},
         {"cat", category},
         {"args", object(arguments)}});
  }
  void end(int64_t ns) override {
    add({{"ph", "E"}, {"ts", microseconds(ns)}});
  }
  void instant(int64_t ns, std::string_view name,
               const TraceArguments &arguments) override {
    add({{"ph", "i"},
         {"s", "t"},
         {"ts", microseconds(ns)},
         {"name", name},
         {"args", object(arguments)}});
  }
  std::string take() override {
    Json other = {{"clock", "CLOCK_MONOTONIC"},
                  {"realtime_minus_clock_ns", std::to_string(realtimeOffset)}};
    return "{\"displayTimeUnit\": \"ns\", \"otherData\": " + other.dump() +
           ", \"traceEvents\": [\n" + events + "\n]}\n";
  }

private:
  static double microseconds(int64_t ns) { return double(ns) / 1e3; }
  static Json object(const TraceArguments &arguments) {
    Json json = Json::object();
    for (const auto &[name, value] : arguments)
      std::visit([&, name = name](const auto &it) { json[name] = it; }, value);
    return json;
  }
  void add(Json event) {
    event["pid"] = rank;
    event["tid"] = 0;
    if (!events.empty())
      events += ",\n";
    events += event.dump(/*indent=*/-1, ' ', /*ensure_ascii=*/false,
                         Json::error_handler_t::replace);
  }

  int64_t rank, realtimeOffset;
  std::string events;
};
} // namespace

std::unique_ptr<TraceFile> makeJsonFile(const TraceFile::Track &track) {
  return std::make_unique<JsonFile>(track);
}

} // namespace lmc::runtime
