// What is written is read back: by the schema of upstream's numbers, spans lie
// in each other and behind each other, and cover the time that a run took.
#include "runtime/trace/Trace.h"
#include "runtime/base/MappedFile.h"
#include "runtime/device/cpu/CpuDevice.h"
#include "runtime/exec/BigramPlanForTest.h"
#include "runtime/exec/Executor.h"
#include "runtime/trace/Perfetto.pb.h"

#include <chrono>
#include <cstdio>
#include <ctime>
#include <gtest/gtest.h>
#include <thread>

using namespace lmc;
using namespace lmc::runtime;

namespace {
struct Slice {
  std::string name, category, layer, line;
  int64_t step = -1, microBatch = -1;
  size_t depth = 0;
  int64_t beginNs = 0, endNs = 0;
  int64_t ns() const { return endNs - beginNs; }
};

class TraceTest : public testing::Test {
protected:
  void SetUp() override {
    options.path = testing::TempDir() + "trace-test";
    BigramPlan bigram;
    bigram.vocabulary = 512;
    bigram.dpCollectives = hasCollectives;
    plan = bigram.build();
    for (plan::Program &program : *plan.mutable_programs())
      for (plan::Instruction &one : *program.mutable_instructions()) {
        one.set_location(uint32_t(plan.locations_size()));
        plan::Location *at = plan.add_locations();
        at->set_file("model.textproto");
        at->set_line(uint32_t(plan.locations_size()));
        at->set_column(3);
        at->set_layer("layer of " + program.name());
      }
  }
  void TearDown() override { std::remove(options.path.c_str()); }

  std::unique_ptr<Trace> open() {
    auto made = Trace::create(plan, options, /*rank=*/0);
    EXPECT_TRUE(made.ok()) << made.status().toString();
    return *std::move(made);
  }

  /// Reads the file into slices, in the order of their beginnings, and marks.
  void read() {
    auto file = MappedFile::open(options.path);
    ASSERT_TRUE(file.ok());
    trace::Trace parsed;
    ASSERT_TRUE(parsed.ParseFromString(std::string(file->bytes())));
    std::vector<size_t> stack;
    uint64_t thread = 0, process = 0;
    int64_t before = 0;
    for (const trace::TracePacket &packet : parsed.packet()) {
      EXPECT_EQ(packet.trusted_packet_sequence_id(), 1u);
      if (packet.has_track_descriptor()) {
        const trace::TrackDescriptor &track = packet.track_descriptor();
        if (track.has_thread()) {
          thread = track.uuid();
          EXPECT_EQ(track.parent_uuid(), process);
          EXPECT_EQ(track.thread().thread_name(), "instructions (cpu)");
        } else {
          process = track.uuid();
          EXPECT_EQ(track.process().process_name(), "rank 0");
        }
      }
      if (!packet.has_track_event())
        continue;
      const trace::TrackEvent &event = packet.track_event();
      EXPECT_EQ(event.track_uuid(), thread);
      EXPECT_EQ(packet.timestamp_clock_id(), 1u);
      int64_t now = int64_t(packet.timestamp());
      EXPECT_GE(now, before);
      before = now;
      if (event.type() == trace::TrackEvent::TYPE_INSTANT) {
        marks.push_back(event.name());
      } else if (event.type() == trace::TrackEvent::TYPE_SLICE_END) {
        ASSERT_FALSE(stack.empty());
        slices[stack.back()].endNs = now;
        stack.pop_back();
      } else {
        stack.push_back(slices.size());
        Slice &slice = slices.emplace_back();
        slice.depth = stack.size();
        slice.name = event.name();
        slice.category = event.categories(0);
        slice.beginNs = now;
        for (const trace::DebugAnnotation &one : event.debug_annotations()) {
          if (one.name() == "layer")
            slice.layer = one.string_value();
          if (one.name() == "line")
            slice.line = one.string_value();
          if (one.name() == "step")
            slice.step = one.int_value();
          if (one.name() == "micro_batch")
            slice.microBatch = one.int_value();
        }
      }
    }
    EXPECT_TRUE(stack.empty());
  }

  /// "2 zero(fill fill) forward(bigram_forward) …"
  std::string outline() const {
    std::string text;
    size_t depth = 1;
    for (const Slice &slice : slices) {
      for (; depth > slice.depth; --depth)
        text += depth == 3 ? ")" : "";
      depth = slice.depth;
      text += depth == 3 && text.back() != '(' ? " " : depth == 2 ? " " : "";
      text += (depth == 1 && !text.empty() ? "; " : "") + slice.name;
      text += depth == 2 ? "(" : "";
    }
    return text + ")";
  }

  bool hasCollectives = false;
  TraceOptions options;
  plan::Plan plan;
  std::vector<Slice> slices;
  std::vector<std::string> marks;
};

/// A communicator of one rank whose collectives fail after some.
class Failing final : public Communicator {
public:
  int left = 0;
  int rank() const override { return 0; }
  int numRanks() const override { return 1; }
  StatusOr<int> openGroup(const std::vector<int> &, int64_t) override {
    return 0;
  }
  Status collective(const CollectiveCall &, const std::byte *,
                    std::byte *) override {
    return left-- > 0 ? Status()
                      : makeError(ErrorKind::PeerFailed, "rank 1 has ended");
  }
  Status send(int, uint32_t, const std::byte *, int64_t) override {
    return Status();
  }
  Status receive(int, uint32_t, std::byte *, int64_t) override {
    return Status();
  }
  Status barrier() override { return Status(); }
  void abort(const Status &) override {}
};
} // namespace

static int64_t realNs() {
  timespec now;
  ::clock_gettime(CLOCK_REALTIME, &now);
  return int64_t(now.tv_sec) * 1000000000 + now.tv_nsec;
}

TEST_F(TraceTest, SpansNestAndCoverTheRun) {
  options.firstStep = 2;
  options.lastStep = 3;
  std::unique_ptr<Trace> trace = open();
  auto device = CpuDevice::create({});
  ASSERT_TRUE(device.ok());
  auto executor = Executor::create(plan, **device, nullptr, 0, {});
  ASSERT_TRUE(executor.ok()) << executor.status().toString();
  ASSERT_TRUE((*executor)->setTrace(trace.get()).ok());
  int64_t begin = realNs();
  std::vector<int64_t> took;
  for (int step = 1; step <= 5; ++step) {
    auto start = std::chrono::steady_clock::now();
    ASSERT_TRUE((*executor)->run((*executor)->findSchedule("train")).ok());
    took.push_back(
        std::chrono::nanoseconds(std::chrono::steady_clock::now() - start)
            .count());
    // Runs of another schedule are counted by themselves.
    if (step >= 4)
      ASSERT_TRUE((*executor)->run((*executor)->findSchedule("evaluate")).ok());
  }
  ASSERT_TRUE(closeTrace(trace.get(), Status()).ok());
  read();
  std::string train = "zero(fill fill) forward(bigram_forward) "
                      "forward(bigram_forward) update(bigram_finish "
                      "bigram_adamw)";
  EXPECT_EQ(outline(), "train 2 " + train + "; train 3 " + train +
                           "; evaluate 2 zero(fill fill) "
                           "evaluate(bigram_forward) evaluate(bigram_forward) "
                           "mean(bigram_finish)");
  EXPECT_TRUE(marks.empty());
  EXPECT_GE(slices.front().beginNs, begin);
  EXPECT_LE(slices.back().endNs, realNs());
  // Instructions stand for the time that the run took: whoever is interrupted
  // just outside of them is so in one of two runs.
  double best = 0;
  int64_t sum = 0, microBatches = 0;
  for (const Slice &slice : slices) {
    if (slice.depth == 1)
      sum = 0;
    microBatches += slice.depth == 2 ? slice.microBatch : 0;
    if (slice.depth < 3)
      continue;
    sum += slice.ns();
    EXPECT_EQ(slice.layer.find("layer of "), 0u) << slice.name;
    EXPECT_EQ(slice.line.find("model.textproto:"), 0u) << slice.name;
    EXPECT_EQ(slice.category, slice.name == "fill" ? "copy" : "compute");
    if (slice.name == "bigram_adamw") {
      int64_t step = &slice - slices.data() < 12 ? 2 : 3;
      EXPECT_LE(sum, took[size_t(step - 1)]);
      best = std::max(best, double(sum) / double(took[size_t(step - 1)]));
    }
  }
  EXPECT_GE(best, 0.95);
  EXPECT_EQ(microBatches, 3);
}

class TraceOfCollectives : public TraceTest {
protected:
  TraceOfCollectives() { hasCollectives = true; }
};

// The instruction in which a run broke off is the last one, and why is said.
TEST_F(TraceOfCollectives, EndsWithWhatFailed) {
  plan.mutable_mesh()->mutable_axes(0)->set_size(2);
  std::unique_ptr<Trace> trace = open();
  options.path += ".0";
  auto device = CpuDevice::create({});
  ASSERT_TRUE(device.ok());
  Failing comm;
  comm.left = 1;
  auto executor = Executor::create(plan, **device, &comm, 0, {});
  ASSERT_TRUE(executor.ok()) << executor.status().toString();
  ASSERT_TRUE((*executor)->setTrace(trace.get()).ok());
  Status status = (*executor)->run((*executor)->findSchedule("train"));
  ASSERT_FALSE(status.ok());
  Status end = closeTrace(trace.get(), status);
  EXPECT_EQ(end.toString(), status.toString());
  read();
  EXPECT_EQ(outline(), "train 1 zero(fill fill) forward(bigram_forward) "
                       "forward(bigram_forward) update(all_reduce all_reduce)");
  EXPECT_EQ(slices.back().category, "collective");
  EXPECT_EQ(slices.back().layer, "layer of update");
  EXPECT_EQ(marks, std::vector<std::string>{"rank 1 has ended"});
}

// Another thread writes while the rank hangs: the runs before, and that one is
// under way. What the rank writes later is nothing.
TEST_F(TraceTest, IsWrittenWhileARunHangs) {
  std::unique_ptr<Trace> trace = open();
  ASSERT_TRUE(trace->reserve("cpu", {{"train", {{0, 0, 0, 0}}}}).ok());
  trace->begin(0, 1);
  trace->add(1000);
  trace->end(Trace::now(), /*underWay=*/false);
  trace->begin(0, 2);
  trace->add(1000);
  Status verdict = makeError(ErrorKind::PeerFailed, "rank 0 hangs");
  std::thread([&] { ASSERT_TRUE(trace->write(verdict).ok()); }).join();
  trace->end(Trace::now(), /*underWay=*/false);
  EXPECT_TRUE(trace->write(Status()).ok());
  read();
  EXPECT_EQ(outline(), "train 1 zero(fill); train 2)");
  EXPECT_EQ(marks, std::vector<std::string>{"rank 0 hangs"});
}

TEST_F(TraceTest, RefusesWhatItCannotHoldOrWrite) {
  options.lastStep = 100000000;
  std::unique_ptr<Trace> trace = open();
  auto device = CpuDevice::create({});
  ASSERT_TRUE(device.ok());
  auto executor = Executor::create(plan, **device, nullptr, 0, {});
  ASSERT_TRUE(executor.ok());
  Status status = (*executor)->setTrace(trace.get());
  EXPECT_EQ(status.exitStatus(), 2);
  EXPECT_NE(status.toString().find("help: --trace-steps 1..2"),
            std::string::npos)
      << status.toString();
  options.path = "/nowhere/trace";
  EXPECT_EQ(Trace::create(plan, options, 0).status().exitStatus(), 2);
  options.path = "";
  EXPECT_EQ(*Trace::create(plan, options, 0), nullptr);
}
