// The version that the tools print and that the ranks of a job compare.
#ifndef LMC_RUNTIME_BASE_VERSION_H
#define LMC_RUNTIME_BASE_VERSION_H

namespace lmc::runtime {
inline constexpr const char *runtimeVersion = "0.1.0";
} // namespace lmc::runtime

#endif // LMC_RUNTIME_BASE_VERSION_H
