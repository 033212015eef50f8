// The reshards of a step, as JSON and as text. What they cost is in the unit
// that the compiler minimises: bytes that a rank receives.
#ifndef LMC_TOOLS_LMC_INSPECTRESHARDS_H
#define LMC_TOOLS_LMC_INSPECTRESHARDS_H

#include "tools/lmc/InspectStep.h"

namespace lmc {

// Of one stage, layer by layer.
nlohmann::ordered_json describeReshards(const plan::Plan &plan,
                                        const StageFacts &stage);

// Of all stages; says so where there are none.
void printReshards(const plan::Plan &plan, const StepFacts &facts);

// "arith.addf model.textproto:20 h.*.attn.out", where that is not `at`.
std::string userText(const StepReshard &reshard);

} // namespace lmc

#endif // LMC_TOOLS_LMC_INSPECTRESHARDS_H
