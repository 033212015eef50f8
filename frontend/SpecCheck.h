// What holds of a ModelSpec before a model is built from it.
#ifndef LMC_FRONTEND_SPECCHECK_H
#define LMC_FRONTEND_SPECCHECK_H

#include "frontend/Findings.h"

#include <cstdint>

namespace lmc::frontend {

class ModelSpec;
class TrainSpec;
class ShardingSpec;
class Rotary;
class Attention;

// Checks every number of `spec` and then sets what is derived from others
// where it is absent: kv_heads, head_dim, scale, residual, positions. False if
// something is wrong; `findings` says what.
bool checkSpec(ModelSpec &spec, const SourceMap &sources, Findings &findings);

// Checks every number of `spec`.
bool checkTrainSpec(const TrainSpec &spec, const SourceMap &sources,
                    Findings &findings);

// Checks that every rule says what it is for. What it names is looked up
// where the model and the mesh are known.
bool checkShardingSpec(const ShardingSpec &spec, const SourceMap &sources,
                       Findings &findings);

// The number of elements of a head that turn.
int64_t rotaryWidth(const Rotary &rotary, int64_t headDim);

// Number of attentions and MLPs whose result is added to the stream.
int64_t countResidualBranches(const ModelSpec &spec);

} // namespace lmc::frontend

#endif // LMC_FRONTEND_SPECCHECK_H
