// What devices have in common whose calls are done when they return: the host's
// clock is theirs, and there is nothing to gain from recording calls.
#ifndef LMC_RUNTIME_DEVICE_SYNCHRONOUSDEVICE_H
#define LMC_RUNTIME_DEVICE_SYNCHRONOUSDEVICE_H

#include "runtime/device/Device.h"

#include <chrono>

namespace lmc::runtime {

class SynchronousDevice : public Device {
public:
  Status synchronize() final { return Status(); }

  bool canRecord() const final { return false; }
  Status beginRecording() final { return doesNotRecord(); }
  StatusOr<std::unique_ptr<Recording>> endRecording() final {
    return doesNotRecord();
  }
  void replay(Recording &) final {}

  Status reserveMarks(size_t count) final {
    marks.resize(std::max(marks.size(), count));
    return Status();
  }
  void mark(size_t index) final { marks[index] = Clock::now(); }
  int64_t nanoseconds(size_t from, size_t to) final {
    return std::chrono::nanoseconds(marks[to] - marks[from]).count();
  }

private:
  using Clock = std::chrono::steady_clock;
  std::vector<Clock::time_point> marks;

  Status doesNotRecord() const {
    return makeError(ErrorKind::Bug, "the device {} does not record", name());
  }
};

} // namespace lmc::runtime

#endif // LMC_RUNTIME_DEVICE_SYNCHRONOUSDEVICE_H
