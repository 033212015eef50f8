// `lmc inspect`: what a plan holds, for people and as JSON.
#ifndef LMC_TOOLS_LMC_INSPECT_H
#define LMC_TOOLS_LMC_INSPECT_H

#include <string>

namespace lmc {

// Returns the exit status; has printed why if it is not 0.
int inspect(const std::string &path, bool json);

} // namespace lmc

#endif // LMC_TOOLS_LMC_INSPECT_H
