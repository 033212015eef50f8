// States of all ranks, gathered by rank 0 into the tensors of a file: for
// checkpoints and gradient dumps.
//
// Rank 0 asks for one part of one state at a time, so that no more of it is
// under way than the largest part, and has it written to the file's own pages.
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

/// Which states go into a file, and as what type and times what they are
/// stored.
struct Selection {
  std::function<bool(const plan::State &)> wants;
  /// Put behind the name in the file, such as ".m" for a moment.
  std::function<std::string(const plan::State &)> suffix;
  /// Invalid: as in memory.
  DataType dtype = DataType::Invalid;
  double scale = 1;
};

/// The file for these states, its tensors yet to be filled.
StatusOr<SafetensorsFile> createFileOf(const plan::Plan &plan,
                                       const std::vector<Selection> &selections,
                                       const std::string &path);

/// Called by every rank; rank 0, and it alone, has a file: that of
/// createFileOf(). Fails only with the communicator.
Status gather(Executor &executor, const std::vector<Selection> &selections,
              SafetensorsFile *file);

} // namespace lmc::runtime

#endif // LMC_RUNTIME_TRAIN_SNAPSHOT_H
