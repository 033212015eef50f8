// States of all ranks, gathered on rank 0 into whole tensors in host memory, in
// the shape that files hold: for checkpoints and gradient dumps.
//
// Rank 0 asks for one part of one state at a time, so that no more of it is
// under way than the largest part.
#ifndef LMC_RUNTIME_TRAIN_SNAPSHOT_H
#define LMC_RUNTIME_TRAIN_SNAPSHOT_H

#include "runtime/weights/Boxes.h"

#include <functional>

namespace lmc::runtime {

/// Rank 0's bytes to all ranks.
Status tellAll(Executor &executor, void *data, int64_t bytes);

/// WrongInput on every rank that reads other tensors than rank 0 does. Files of
/// their own, as on a host's own disk, are read as a whole for it.
Status compareWithRank0(Executor &executor, const WeightFiles &files);

class Snapshot {
public:
  /// Which states, and as what type and times what they are stored.
  struct Selection {
    std::function<bool(const plan::State &)> wants;
    /// Put behind the name in the file, such as ".m" for a moment.
    std::function<std::string(const plan::State &)> suffix;
    /// Invalid: as in memory.
    DataType dtype = DataType::Invalid;
    double scale = 1;
  };

  /// Called by every rank; the tensors are rank 0's alone.
  Status gather(Executor &executor, const Selection &selection);

  std::vector<TensorToWrite> tensors() const;
  bool empty() const { return entries.empty(); }
  void clear() { entries.clear(); }

private:
  struct Entry {
    std::string name;
    DataType dtype;
    std::vector<int64_t> shape;
    std::unique_ptr<std::byte[]> data;
  };
  Status gatherState(Executor &executor, const Selection &selection,
                     const plan::State &state);
  std::map<std::string, Entry> entries;
};

} // namespace lmc::runtime

#endif // LMC_RUNTIME_TRAIN_SNAPSHOT_H
