// What saving and restoring know alike of a checkpoint: which states are in
// which file, under which names, and which steps a folder holds.
#ifndef LMC_RUNTIME_TRAIN_CHECKPOINTPARTS_H
#define LMC_RUNTIME_TRAIN_CHECKPOINTPARTS_H

#include "runtime/plan/PlanFacts.h"

#include <filesystem>

namespace lmc::runtime {

inline bool isParameter(const plan::State &state) {
  return state.kind() == plan::State::PARAMETER;
}
inline bool isOptimizer(const plan::State &state) {
  return state.kind() == plan::State::MOMENT ||
         state.kind() == plan::State::SCALAR;
}
/// Behind a parameter's name, those of its moments, ".m" and ".v", and of its
/// exact value where the model is stored in fewer bits.
inline std::string roleSuffix(const plan::State &state) {
  return state.role().empty() ? "" : "." + state.role();
}
inline constexpr const char *masterSuffix = ".master";

/// The steps of the checkpoints in a folder, the newest first.
std::vector<int64_t> savedSteps(const std::filesystem::path &folder);

} // namespace lmc::runtime

#endif // LMC_RUNTIME_TRAIN_CHECKPOINTPARTS_H
