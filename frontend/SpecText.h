// Reads the text form of a ModelSpec or TrainSpec.
#ifndef LMC_FRONTEND_SPECTEXT_H
#define LMC_FRONTEND_SPECTEXT_H

#include "frontend/Findings.h"

#include <string_view>

namespace lmc::frontend {

// Files of more bytes, and messages nested deeper, are refused.
inline constexpr size_t kMaxSpecBytes = 1 << 20;
inline constexpr int kMaxSpecDepth = 32;

// Fills `message` from `text` and `sources` with the places of everything in
// it. On false, `findings` says why; `message` is then of no use.
bool parseSpecText(std::string_view text, google::protobuf::Message &message,
                   SourceMap &sources, Findings &findings);

} // namespace lmc::frontend

#endif // LMC_FRONTEND_SPECTEXT_H
