// The law of what lives within a step: a call finds what its own micro-batch
// left in the arenas, and nothing else.
#ifndef LMC_RUNTIME_PLAN_ARENACHECK_H
#define LMC_RUNTIME_PLAN_ARENACHECK_H

#include "runtime/base/Status.h"
#include "runtime/plan/plan.pb.h"

namespace lmc::runtime {

/// Runs every schedule over the bytes of scratch and saved values. What a call
/// reads there before it writes it was written last by a call of the same chunk
/// and micro-batch; of scratch it reads nothing that it did not write. So two
/// slots that collide are found, wherever they lie. Slices and calls are
/// checked already.
Status checkArenas(const plan::Plan &plan);

} // namespace lmc::runtime

#endif // LMC_RUNTIME_PLAN_ARENACHECK_H
