// See Heartbeat.h.
#include "runtime/job/Heartbeat.h"
#include "runtime/job/Frames.h"

namespace lmc::runtime {

Heartbeat Heartbeat::of(const Progress &progress) {
  Heartbeat now;
  now.instructions = progress.instructions.load(std::memory_order_relaxed);
  now.position = progress.position.load(std::memory_order_relaxed);
  now.exchanges = progress.exchanges.load(std::memory_order_relaxed);
  now.activity = progress.activity.load(std::memory_order_relaxed);
  for (uint64_t back = 1; back < Progress::kept; ++back)
    now.before[back - 1] =
        progress.recent[(now.instructions - back) % Progress::kept].load(
            std::memory_order_relaxed);
  return now;
}

std::string encode(const Heartbeat &heartbeat) {
  Writer writer;
  writer.number(heartbeat.instructions)
      .number(heartbeat.position)
      .number(heartbeat.exchanges)
      .number(heartbeat.activity);
  for (uint64_t position : heartbeat.before)
    writer.number(position);
  return writer.take();
}

bool decode(std::string_view payload, Heartbeat &heartbeat) {
  Reader reader(payload);
  heartbeat.instructions = reader.number();
  heartbeat.position = reader.number();
  heartbeat.exchanges = reader.number();
  heartbeat.activity = uint32_t(reader.number());
  for (uint64_t &position : heartbeat.before)
    position = reader.number();
  return reader.finished();
}

Status withPosition(Status status, std::string_view who,
                    const Heartbeat &heartbeat, const Describe &describe) {
  if (heartbeat.instructions == 0)
    return status;
  auto inWords = [&](uint64_t position) {
    return describe ? describe(position)
                    : fmt::format("instruction {}", position & 0xffffffff);
  };
  const char *doing = heartbeat.activity == Progress::Instruction ? "in"
                      : heartbeat.activity == Progress::Waiting
                          ? "waiting in"
                          : "outside of instructions, last in";
  status = std::move(status).note("{}: {} instructions done, {} {}", who,
                                  heartbeat.instructions, doing,
                                  inWords(heartbeat.position));
  std::string before;
  for (uint64_t i = 0;
       i < std::size(heartbeat.before) && i < heartbeat.instructions; ++i)
    if (heartbeat.before[i] != heartbeat.position)
      before += (before.empty() ? "" : "; ") + inWords(heartbeat.before[i]);
  if (!before.empty())
    status = std::move(status).note("{}: before it, {}", who, before);
  return status;
}

} // namespace lmc::runtime
