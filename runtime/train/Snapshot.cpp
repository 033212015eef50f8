// See Snapshot.h.
#include "runtime/train/Snapshot.h"

#include <new>

namespace lmc::runtime {

static Status meet(Executor &executor) {
  return executor.comm() ? executor.comm()->barrier() : Status();
}

Status Snapshot::gather(Executor &executor, const Selection &selection) {
  const plan::Plan &plan = executor.plan();
  LMC_RETURN_IF_ERROR(meet(executor));
  if (executor.rank() == 0)
    for (const plan::State &state : plan.states()) {
      if (!selection.wants(state))
        continue;
      DataType dtype = selection.dtype == DataType::Invalid
                           ? DataType(state.dtype())
                           : selection.dtype;
      for (const BoxMap &box : boxesOf(plan, state, selection.suffix(state))) {
        int64_t bytes = box.elements * lookUpDataType(int(dtype))->sizeBytes;
        std::unique_ptr<std::byte[]> data(new (std::nothrow)
                                              std::byte[size_t(bytes)]);
        if (!data) {
          Status status = makeError(ErrorKind::DoesNotFit,
                                    "{} bytes of host memory for a copy of {} "
                                    "are not there",
                                    bytes, state.name());
          if (executor.comm())
            executor.comm()->abort(status);
          return status;
        }
        entries.emplace(box.names[0], Entry{box.names[0], dtype, box.fileShape,
                                            std::move(data)});
      }
    }
  LMC_RETURN_IF_ERROR(meet(executor));
  for (const plan::State &state : plan.states()) {
    if (!selection.wants(state))
      continue;
    DataType dtype = selection.dtype == DataType::Invalid
                         ? DataType(state.dtype())
                         : selection.dtype;
    std::vector<BoxMap> boxes = boxesOf(plan, state, selection.suffix(state));
    std::vector<std::byte *> buffers;
    for (const BoxMap &box : boxes)
      buffers.push_back(entries.find(box.names[0])->second.data.get());
    storeState(executor, state, boxes, dtype, selection.scale, buffers);
  }
  return meet(executor);
}

std::vector<TensorToWrite> Snapshot::tensors() const {
  std::vector<TensorToWrite> list;
  for (const auto &[name, entry] : entries)
    list.push_back({entry.name, entry.dtype, entry.shape, entry.data.get()});
  return list;
}

} // namespace lmc::runtime
