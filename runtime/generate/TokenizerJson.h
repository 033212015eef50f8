// Hugging Face's tokenizer.json, as far as it is byte-level BPE.
//
// Read are: the model BPE with its merges as "a b" or as pairs, and
// ignore_merges; the pre-tokenizers ByteLevel, Split (Isolated; Removed) and
// Digits, alone or as a Sequence that ends in ByteLevel; added tokens with all
// their flags; the post-processors ByteLevel and TemplateProcessing, of which
// the part for a single text counts; the decoder ByteLevel. `truncation` and
// `padding` are not applied: they say how to call a tokenizer, not what it is.
//
// Everything else, be it a component or a key of one, is refused by name and
// place: a tokenizer that is off by one rule gives wrong tokens and no error.
// A byte that the vocabulary lacks gives no token, as in the reference.
//
// One thing is not the reference's: an added token's bytes are its content. The
// reference takes its characters for the byte alphabet's, so that an added
// "é" comes back as the byte E9, which is no text.
#ifndef LMC_RUNTIME_GENERATE_TOKENIZERJSON_H
#define LMC_RUNTIME_GENERATE_TOKENIZERJSON_H

#include "runtime/generate/Tokenizer.h"

namespace lmc::runtime {

/// WrongInput for what is not supported, Corrupt for what is damaged; each
/// names `file` and the place in it, such as model.merges[17].
StatusOr<std::unique_ptr<Tokenizer>>
parseTokenizerJson(std::string_view text, const std::string &file);

} // namespace lmc::runtime

#endif // LMC_RUNTIME_GENERATE_TOKENIZERJSON_H
