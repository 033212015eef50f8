// Where blocks of bytes lie in one arena, given when each is alive.
//
// Two blocks may share bytes if their lifetimes do not touch. No packing can
// be smaller than the largest sum of blocks alive at one time:
//
//   time ->   0  1  2  3        a lies at 0, b behind it; c is alive only
//   a 100     ######            after a is dead and takes a's bytes: the
//   b  50        ######         arena has 150 bytes, and 150 are alive at
//   c 100              ###      time 1.
#ifndef LMC_PASSES_PLAN_ASSIGNARENA_H
#define LMC_PASSES_PLAN_ASSIGNARENA_H

#include "llvm/ADT/ArrayRef.h"

#include <cstdint>
#include <vector>

namespace lmc::plan {

inline constexpr int64_t kAlignmentBytes = 64;

inline int64_t alignBytes(int64_t bytes) {
  return (bytes + kAlignmentBytes - 1) / kAlignmentBytes * kAlignmentBytes;
}

// A block is alive in the times [begin, end], both included.
struct ArenaBlock {
  int64_t begin = 0;
  int64_t end = 0;
  int64_t bytes = 0;
  int64_t offset = 0; // the answer
};

// The largest sum of (aligned) bytes alive at one time.
int64_t largestLiveBytes(llvm::ArrayRef<ArenaBlock> blocks);

// Sets every block's offset, a multiple of kAlignmentBytes, and returns the
// bytes of the arena. The same blocks give the same offsets.
int64_t packArena(llvm::MutableArrayRef<ArenaBlock> blocks);

// Sets the offsets of those blocks, the largest first, that find a gap between
// `placed` ones and below `bytes`; leaves the others' alone.
void fillGaps(llvm::MutableArrayRef<ArenaBlock> blocks,
              std::vector<ArenaBlock> placed, int64_t bytes);

} // namespace lmc::plan

#endif // LMC_PASSES_PLAN_ASSIGNARENA_H
