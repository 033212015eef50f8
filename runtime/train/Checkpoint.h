// Checkpoints: folders that another program can open as a Hugging Face model,
// and from which a run goes on bit for bit.
//
//   DIR/latest                 "step_200", replaced by renaming
//   DIR/step_200/
//     model.safetensors        weights under their Hugging Face names
//     model.safetensors.index.json, config.json
//     tokenizer.json, ...      see Companions.h
//     optimizer.safetensors    moments as NAME.m, NAME.v; scalars; float32
//                              masters as NAME.master when weights are bf16
//     trainer.json             step, samples used, seed, and the data and its
//                              order, which a resumed run has to keep
//     manifest.json            size and XXH3-128 of every other file
//   DIR/step_300.aside/        later than the step that --resume=step_200 went
//                              back to; nothing reads it
//
// Saving copies the states to host memory while training waits; a thread then
// writes them into a folder `.step_200.part`, the manifest last, and renames
// it. Whatever moment the process is killed at, `latest` names a whole
// checkpoint. A save that fails (disk full) is a warning: training goes on and
// the earlier checkpoints stay; only when the last save of a run fails is that
// the run's failure.
#ifndef LMC_RUNTIME_TRAIN_CHECKPOINT_H
#define LMC_RUNTIME_TRAIN_CHECKPOINT_H

#include "runtime/base/Thread.h"
#include "runtime/train/Companions.h"
#include "runtime/train/Snapshot.h"
#include "runtime/train/TrainOptions.h"

#include <filesystem>
#include <map>

namespace lmc::runtime {

struct CheckpointState {
  int64_t step = 0;
  int64_t samples = 0; ///< of training data used so far
  uint64_t seed = 0;
  /// orderFacts(); empty in checkpoints that were saved without them.
  std::map<std::string, std::string> order;
  /// rateFacts(); empty as above.
  std::map<std::string, std::string> rate;
  std::string folder; ///< where it was read from
};

/// One object per rank; every call is made by all ranks. Rank 0 chooses, and
/// writes; what it cannot do is its failure, which ends the job.
class Checkpointer {
public:
  explicit Checkpointer(const TrainOptions &options);
  ~Checkpointer();

  /// Loads all states from the newest intact checkpoint, or from that of
  /// TrainOptions::resumeStep, whose successors then get out of the way;
  /// nothing when there is none. Refuses to begin anew (`resume` false) over
  /// existing checkpoints, and to go on with other data or in another order
  /// than `order` says.
  StatusOr<std::optional<CheckpointState>>
  restore(Executor &executor, bool resume,
          const std::map<std::string, std::string> &order = {});

  /// Files that go into every checkpoint; rank 0's.
  void setCompanions(Companions files) { companions = std::move(files); }

  /// Gathers the states into files and starts flushing them; waits for the save
  /// before.
  Status save(Executor &executor, CheckpointState state);

  /// The newest checkpoint of at most this step, -1 when there is none. Waits
  /// for the writer.
  int64_t newestUpTo(int64_t step);

  /// Waits for the writer; the failure of the last save, if it failed.
  Status finish(Executor &executor);

private:
  StatusOr<std::optional<CheckpointState>> choose(bool resume);
  StatusOr<CheckpointState> chooseStep(const std::vector<int64_t> &steps);
  Status pointLatestTo(int64_t step);
  Status setAsideAfter(int64_t step);
  std::filesystem::path folderOf(int64_t step) const;
  Status lockFolder();
  std::filesystem::path partOf(int64_t step) const;
  std::vector<Selection> modelStates() const;
  std::vector<Selection> optimizerStates() const;
  Status createFiles(const plan::Plan &plan, int64_t step);
  void giveUp(int64_t step, Status status);
  Status writeFiles(const CheckpointState &state);
  Status write(const CheckpointState &state);
  void prune(const std::string &newest);
  void join();

  const TrainOptions &options;
  std::filesystem::path folder;
  std::string modelConfig;
  Companions companions;
  std::optional<SafetensorsFile> model, optimizer; ///< being saved; rank 0's
  std::thread writer;
  Status lastSave;
  int lockFile = -1; ///< rank 0's, held while the object lives
};

/// Reads a checkpoint folder's manifest and compares sizes and checksums.
StatusOr<CheckpointState> verifyCheckpoint(const std::string &folder);

/// --dump-gradients: the true gradients of a step as a safetensors file.
Status dumpGradients(Executor &executor, const std::string &path, double scale);

} // namespace lmc::runtime

#endif // LMC_RUNTIME_TRAIN_CHECKPOINT_H
