// `lmc compile --memory=SIZE`: whether a plan fits, and what to do if not.
#ifndef LMC_TOOLS_LMC_FIT_H
#define LMC_TOOLS_LMC_FIT_H

#include "tools/lmc/Compile.h"

namespace lmc {

// kDone where every stage of the plan fits into the memory of the settings, or
// they name none. Else prints what takes the space, and which other settings
// would do: each was compiled.
int checkFit(const plan::Plan &plan, const CompileSettings &settings);

} // namespace lmc

#endif // LMC_TOOLS_LMC_FIT_H
