// `lmc inspect --html`: a page with the schedule, the memory of each stage
// over the step, the reshards and the sharding of every parameter. One file
// that loads nothing else.
#ifndef LMC_TOOLS_LMC_INSPECTHTML_H
#define LMC_TOOLS_LMC_INSPECTHTML_H

#include "tools/lmc/InspectStep.h"

namespace lmc {

std::string htmlPage(const plan::Plan &plan, const StepFacts &facts,
                     const std::string &title);

} // namespace lmc

#endif // LMC_TOOLS_LMC_INSPECTHTML_H
