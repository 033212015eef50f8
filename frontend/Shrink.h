// A small model of the same architecture: what `lmc check` runs in the place
// of one that no machine at hand could hold.
#ifndef LMC_FRONTEND_SHRINK_H
#define LMC_FRONTEND_SHRINK_H

#include <cstdint>
#include <string>

namespace lmc::frontend {

class ModelSpec;

struct ShrinkOptions {
  int64_t blocks = 0;  // keep so many at least, if there are; 0: change nothing
  int64_t divisor = 1; // what widths stay multiples of, if they are; and tokens
};

// Fewer blocks of each kind, a smaller vocabulary with the same remainder by
// 64, and all widths divided by one number that divides them. Heads, groups of
// heads and what blocks are made of stay. Widths stay, too, where an operation
// names shapes of its own.
//
// `spec` has passed checkSpec and passes it afterwards. Returns what kept
// widths from being made as small as they may be, and the sizes that would not
// have; empty where nothing did.
std::string shrinkSpec(ModelSpec &spec, const ShrinkOptions &options);

// Tokens of a sample that suffice.
int64_t shrunkSequence(const ModelSpec &spec, const ShrinkOptions &options);

} // namespace lmc::frontend

#endif // LMC_FRONTEND_SHRINK_H
