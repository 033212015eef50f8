// What makes a checkpoint a folder that writes text, beside its weights: the
// tokenizer and what other programs keep with it, such as
// generation_config.json. Training does not use these files; it carries them
// from where the run began into every checkpoint.
#ifndef LMC_RUNTIME_TRAIN_COMPANIONS_H
#define LMC_RUNTIME_TRAIN_COMPANIONS_H

#include "runtime/data/TokenData.h"

#include <map>

namespace lmc::runtime {

/// Contents by file name.
using Companions = std::map<std::string, std::string>;

/// Those beside the weights that a run begins with (empty: none); without a
/// tokenizer there, the one that the data was made with. Warns when there are
/// two and they differ.
StatusOr<Companions> findCompanions(const std::string &weights,
                                    const TokenData &data);

} // namespace lmc::runtime

#endif // LMC_RUNTIME_TRAIN_COMPANIONS_H
