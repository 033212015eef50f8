// JSON from files that nobody vouches for: nlohmann's event parser under a
// depth limit, so that deep nesting is an error and not a stack overflow.
#ifndef LMC_RUNTIME_WEIGHTS_JSON_H
#define LMC_RUNTIME_WEIGHTS_JSON_H

#include "runtime/base/Status.h"

#include <nlohmann/json.hpp>

namespace lmc::runtime {

/// Deeper documents are refused.
inline constexpr int maxJsonDepth = 64;

/// Parses `text`; duplicate keys, depth and syntax are Corrupt errors that
/// name `name`.
StatusOr<nlohmann::json> parseJson(std::string_view text,
                                   const std::string &name);

} // namespace lmc::runtime

#endif // LMC_RUNTIME_WEIGHTS_JSON_H
