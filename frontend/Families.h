// The families of checkpoints: how their tensors are named and laid out, as
// data, and which family an architecture belongs to.
#ifndef LMC_FRONTEND_FAMILIES_H
#define LMC_FRONTEND_FAMILIES_H

#include "frontend/ModelSpec.pb.h"

#include <cstdint>
#include <string>
#include <vector>

namespace lmc::frontend {

// What a parameter is for; with its shape, all that a family needs to name it.
enum class Role {
  TokenTable,      // [V, D]
  TokenProjection, // [E, D]
  PositionTable,   // [P, D]
  NormWeight,
  NormBias,
  QkvWeight, // [D, G, R+2, K]
  QkvBias,   // [G, R+2, K]
  OutWeight, // [G, R, K, D]
  OutBias,
  GateWeight, // [D, F]
  GateBias,
  UpWeight,
  UpBias,
  DownWeight, // [F, D]
  DownBias,
  HeadWeight, // [D, V]
  HeadBias,
  Other,
};

struct ParameterUse {
  Role role;
  std::string name;           // the parameter's own
  std::vector<int64_t> shape; // global
  int64_t block = 0;          // index over the whole model
  int64_t norm = 0;           // 1, 2, ... within the block; 0: the final norm
  int64_t contracted = 1;     // leading dims that a linear sums over
};

// One piece of a parameter in a checkpoint; see State.Box in plan.proto.
struct CheckpointBox {
  std::vector<std::string> names;
  std::vector<int64_t> fileShape, splitShape, permutation, boxShape, boxOffset;
};

// `family` is not AUTO.
std::vector<CheckpointBox> checkpointBoxes(CheckpointNaming family,
                                           const ParameterUse &parameter);

// The architecture alone, spelled in one way: defaults removed, like
// neighbouring blocks merged, without names, rates and initialisation.
// `spec` has been checked.
ModelSpec canonicalArchitecture(const ModelSpec &spec);

// The family whose config.json can say this architecture, else PLAIN.
CheckpointNaming findFamily(const ModelSpec &spec);

// Empty if `family` can say the architecture, else what it cannot say.
std::string familyMismatch(CheckpointNaming family, const ModelSpec &spec);

} // namespace lmc::frontend

#endif // LMC_FRONTEND_FAMILIES_H
