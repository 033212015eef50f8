// config.json of Hugging Face's GPT-2, GPT-J and Llama families: to a
// ModelSpec and back.
#ifndef LMC_FRONTEND_HUGGINGFACE_H
#define LMC_FRONTEND_HUGGINGFACE_H

#include "frontend/Findings.h"
#include "frontend/ModelSpec.pb.h"

#include <string>
#include <string_view>

namespace lmc::frontend {

// Translates `text`. A key that is not known is a warning, or an error when
// `strict`; one that changes the mathematics in a way that is not supported is
// an error. `sources` then knows the key that each field came from.
bool readHuggingFaceConfig(std::string_view text, ModelSpec &spec,
                           SourceMap &sources, bool strict, Findings &findings);

// The config.json with which transformers opens a checkpoint of `spec`, which
// has been checked. Of a PLAIN model: one that holds the spec itself and that
// readHuggingFaceConfig reads. What the family cannot say is left out.
std::string writeHuggingFaceConfig(CheckpointNaming family,
                                   const ModelSpec &spec);

} // namespace lmc::frontend

#endif // LMC_FRONTEND_HUGGINGFACE_H
