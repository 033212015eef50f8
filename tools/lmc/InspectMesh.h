// What lies where, in few words: the mesh, the pipeline, the sharding strategy
// and how training state is shared out, read from the plan's own states.
#ifndef LMC_TOOLS_LMC_INSPECTMESH_H
#define LMC_TOOLS_LMC_INSPECTMESH_H

#include "runtime/plan/plan.pb.h"

#include <nlohmann/json.hpp>

#include <string>
#include <utility>
#include <vector>

namespace lmc {

nlohmann::ordered_json describeMesh(const plan::Plan &plan);

// A word and what it says: {"mesh", "4 ranks: pp=2, tp=2"}.
std::vector<std::pair<std::string, std::string>>
meshLines(const plan::Plan &plan);

// "fsdp dp": the axes over which the ranks share out a state's bucket, beside
// those that split its dims; empty: each holds it whole.
std::string sharedOver(const plan::Plan &plan, const plan::State &state);

} // namespace lmc

#endif // LMC_TOOLS_LMC_INSPECTMESH_H
