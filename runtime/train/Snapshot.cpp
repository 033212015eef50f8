// See Snapshot.h.
#include "runtime/train/Snapshot.h"

namespace lmc::runtime {

// Beyond those of a plan's transfers.
static constexpr uint32_t askChannel = 0xfffffffe;
static constexpr uint32_t partChannel = 0xffffffff;
static constexpr int64_t pieceBytes = 16 << 20;

Status tellAll(Executor &executor, void *data, int64_t bytes) {
  Communicator *comm = executor.comm();
  if (!comm)
    return Status();
  auto *at = static_cast<std::byte *>(data);
  if (comm->rank() != 0)
    return comm->receive(0, askChannel, at, bytes);
  for (int rank = 1; rank < comm->numRanks(); ++rank)
    LMC_RETURN_IF_ERROR(comm->send(rank, askChannel, at, bytes));
  return Status();
}

Status compareWithRank0(Executor &executor, const WeightFiles &files) {
  Communicator *comm = executor.comm();
  if (!comm)
    return Status();
  const uint64_t own = files.mark();
  uint64_t first = own;
  LMC_RETURN_IF_ERROR(tellAll(executor, &first, sizeof first));
  uint8_t isOther = own != first;
  auto *answer = reinterpret_cast<std::byte *>(&isOther);
  if (comm->rank() != 0)
    LMC_RETURN_IF_ERROR(comm->send(0, askChannel, answer, 1));
  bool someOther = isOther;
  for (int rank = 1; rank < comm->numRanks() && comm->rank() == 0; ++rank) {
    LMC_RETURN_IF_ERROR(comm->receive(rank, askChannel, answer, 1));
    someOther = someOther || isOther;
  }
  uint64_t sum = someOther ? files.checksum() : 0, sumOfFirst = sum;
  LMC_RETURN_IF_ERROR(tellAll(executor, &sumOfFirst, sizeof sumOfFirst));
  if (!someOther || sum == sumOfFirst)
    return Status();
  return wrongInput("rank {} reads other weights than rank 0, from {}",
                    executor.rank(), files.path())
      .help("give every rank the same files; what lies on a host's own disk "
            "may differ from host to host");
}

/// This rank's part of a state to rank 0, when that asks for it.
static Status sendPart(Executor &executor, const plan::State &state) {
  Communicator &comm = *executor.comm();
  LocalTensor part = LocalTensor::of(executor, state);
  std::byte asked;
  LMC_RETURN_IF_ERROR(comm.receive(0, askChannel, &asked, 1));
  for (int64_t at = 0; at < part.bytes(); at += pieceBytes)
    LMC_RETURN_IF_ERROR(comm.send(0, partChannel, part.data + at,
                                  std::min(pieceBytes, part.bytes() - at)));
  return Status();
}

static Status receivePart(Communicator &comm, int rank,
                          const LocalTensor &part) {
  std::byte ask{1};
  LMC_RETURN_IF_ERROR(comm.send(rank, askChannel, &ask, 1));
  for (int64_t at = 0; at < part.bytes(); at += pieceBytes)
    LMC_RETURN_IF_ERROR(comm.receive(rank, partChannel, part.data + at,
                                     std::min(pieceBytes, part.bytes() - at)));
  return Status();
}

static DataType typeIn(const Selection &selection, const plan::State &state) {
  return selection.dtype == DataType::Invalid ? DataType(state.dtype())
                                              : selection.dtype;
}

StatusOr<SafetensorsFile> createFileOf(const plan::Plan &plan,
                                       const std::vector<Selection> &selections,
                                       const std::string &path) {
  std::map<std::string, TensorToWrite> tensors; // some have several states
  for (const Selection &selection : selections)
    for (const plan::State &state : plan.states())
      if (selection.wants(state))
        for (const BoxMap &box : boxesOf(plan, state, selection.suffix(state)))
          tensors.emplace(box.names[0],
                          TensorToWrite{box.names[0], typeIn(selection, state),
                                        box.fileShape});
  std::vector<TensorToWrite> list;
  for (auto &[name, tensor] : tensors)
    list.push_back(std::move(tensor));
  return SafetensorsFile::create(path, std::move(list));
}

static Status gatherState(Executor &executor, const Selection &selection,
                          const plan::State &state, SafetensorsFile *file) {
  const plan::Plan &plan = executor.plan();
  if (executor.rank() != 0)
    return ownsPart(plan, executor.coordinates(), state)
               ? sendPart(executor, state)
               : Status();
  std::vector<BoxMap> boxes = boxesOf(plan, state, selection.suffix(state));
  std::vector<std::byte *> places;
  for (const BoxMap &box : boxes)
    places.push_back(file->find(box.names[0]));
  Device &device = executor.device();
  auto store = [&](const LocalTensor &part) {
    storePart(device, part, boxes, typeIn(selection, state), selection.scale,
              places);
  };
  int ranks = executor.comm() ? executor.comm()->numRanks() : 1;
  std::vector<std::byte> staging;
  for (int rank = 0; rank < ranks; ++rank) {
    std::vector<int64_t> coordinates = rankCoordinates(plan.mesh(), rank);
    if (!ownsPart(plan, coordinates, state))
      continue;
    if (rank == 0) {
      readOnHost(device, LocalTensor::of(executor, state), store);
      continue;
    }
    LocalTensor part = LocalTensor::of(plan, state, coordinates);
    staging.resize(size_t(part.bytes()));
    part.data = staging.data();
    LMC_RETURN_IF_ERROR(receivePart(*executor.comm(), rank, part));
    store(part);
  }
  return Status();
}

Status gather(Executor &executor, const std::vector<Selection> &selections,
              SafetensorsFile *file) {
  for (const Selection &selection : selections)
    for (const plan::State &state : executor.plan().states())
      if (selection.wants(state))
        LMC_RETURN_IF_ERROR(gatherState(executor, selection, state, file));
  return Status();
}

} // namespace lmc::runtime
