// `lmc inspect`: what a plan holds, for people, as JSON and as a page.
#ifndef LMC_TOOLS_LMC_INSPECT_H
#define LMC_TOOLS_LMC_INSPECT_H

#include <string>

namespace lmc {

// Writes the page to `html` if that is not empty, else prints. Returns the exit
// status; has printed why if it is not 0.
int inspect(const std::string &path, bool json, const std::string &html);

} // namespace lmc

#endif // LMC_TOOLS_LMC_INSPECT_H
