// Whether weights are of a plan's model, beyond the shapes of its tensors: the
// number of heads is in no shape, and a layer too many is not asked for.
#ifndef LMC_RUNTIME_WEIGHTS_MODELCONFIG_H
#define LMC_RUNTIME_WEIGHTS_MODELCONFIG_H

#include "runtime/plan/plan.pb.h"
#include "runtime/weights/Safetensors.h"

namespace lmc::runtime {

/// Compares config.json beside the weights with that of the plan, where both
/// are there and both say something; what does not change the mathematics,
/// such as token ids, may differ.
Status checkModelConfig(const plan::Plan &plan, const WeightFiles &weights);

/// The tensors that no parameter is loaded from, in order, without those that
/// other programs are known to store beside the weights.
std::vector<std::string> unusedTensors(const plan::Plan &plan,
                                       const WeightFiles &weights);

} // namespace lmc::runtime

#endif // LMC_RUNTIME_WEIGHTS_MODELCONFIG_H
