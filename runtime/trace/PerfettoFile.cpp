// Perfetto's TrackEvent. Times are those of the real-time clock, which hosts
// share as well as they are kept in step, and numbers of ranks tell tracks and
// sequences apart: files of several ranks can be opened together.
#include "runtime/trace/Perfetto.pb.h"
#include "runtime/trace/TraceFile.h"

namespace lmc::runtime {

namespace {
class PerfettoFile final : public TraceFile {
public:
  explicit PerfettoFile(const Track &track)
      : number(int32_t(track.rank + 1)), // 0 is the idle process
        realtimeOffset(track.realtimeNs - track.monotonicNs) {
    trace::ClockSnapshot *clocks = next().mutable_clock_snapshot();
    clocks->set_primary_trace_clock(trace::BUILTIN_CLOCK_REALTIME);
    for (auto [clock, ns] :
         {std::pair(trace::BUILTIN_CLOCK_REALTIME, track.realtimeNs),
          std::pair(trace::BUILTIN_CLOCK_MONOTONIC, track.monotonicNs)}) {
      trace::ClockSnapshot::Clock *one = clocks->add_clocks();
      one->set_clock_id(uint32_t(clock));
      one->set_timestamp(uint64_t(ns));
    }
    append();
    trace::TrackDescriptor *process = next().mutable_track_descriptor();
    process->set_uuid(uuid() + 1);
    process->mutable_process()->set_pid(number);
    process->mutable_process()->set_process_name("rank " +
                                                 std::to_string(track.rank));
    append();
    trace::TrackDescriptor *thread = next().mutable_track_descriptor();
    thread->set_uuid(uuid());
    thread->set_parent_uuid(uuid() + 1);
    thread->mutable_thread()->set_pid(number);
    thread->mutable_thread()->set_tid(number);
    thread->mutable_thread()->set_thread_name(track.name);
    append();
  }

  void begin(int64_t ns, std::string_view name, std::string_view category,
             const TraceArguments &arguments) override {
    trace::TrackEvent &event = at(ns, trace::TrackEvent::TYPE_SLICE_BEGIN);
    event.set_name(std::string(name));
    event.add_categories(std::string(category));
    addArguments(event, arguments);
    append();
  }
  void end(int64_t ns) override {
    at(ns, trace::TrackEvent::TYPE_SLICE_END);
    append();
  }
  void instant(int64_t ns, std::string_view name,
               const TraceArguments &arguments) override {
    trace::TrackEvent &event = at(ns, trace::TrackEvent::TYPE_INSTANT);
    event.set_name(std::string(name));
    addArguments(event, arguments);
    append();
  }
  std::string take() override { return std::move(bytes); }

private:
  uint64_t uuid() const { return uint64_t(number) << 8; }
  trace::TracePacket &next() {
    one.Clear();
    trace::TracePacket &packet = *one.add_packet();
    packet.set_trusted_packet_sequence_id(uint32_t(number));
    return packet;
  }
  trace::TrackEvent &at(int64_t ns, trace::TrackEvent::Type type) {
    trace::TracePacket &packet = next();
    packet.set_timestamp(uint64_t(ns + realtimeOffset));
    packet.set_timestamp_clock_id(trace::BUILTIN_CLOCK_REALTIME);
    packet.mutable_track_event()->set_type(type);
    packet.mutable_track_event()->set_track_uuid(uuid());
    return *packet.mutable_track_event();
  }
  static void addArguments(trace::TrackEvent &event,
                           const TraceArguments &arguments) {
    for (const auto &[name, value] : arguments) {
      trace::DebugAnnotation *annotation = event.add_debug_annotations();
      annotation->set_name(name);
      if (const auto *number = std::get_if<int64_t>(&value))
        annotation->set_int_value(*number);
      else
        annotation->set_string_value(std::get<std::string>(value));
    }
  }
  void append() { (void)one.AppendToString(&bytes); }

  int32_t number;
  int64_t realtimeOffset;
  trace::Trace one; ///< of one packet
  std::string bytes;
};
} // namespace

std::unique_ptr<TraceFile> makePerfettoFile(const TraceFile::Track &track) {
  return std::make_unique<PerfettoFile>(track);
}

} // namespace lmc::runtime
