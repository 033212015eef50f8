// Where blocks of bytes lie in one arena, given when each is alive.
//
// Two blocks may share bytes if their lifetimes do not touch. No packing can
// be smaller than the largest sum of bytes alive at one time:
//
//   time ->   0  1  2  3        a lies at 0, b behind it; c is alive only
//   a 100     ######            after a is dead and takes a's bytes: the
//   b  50        ######         arena has 150 bytes, and 150 are alive at
//   c 100              ###      time 1.
//
// A block whose bytes are not all alive at the same times has a part for each
// run of them (a gathered bucket whose members have their last readers one
// after the other): others take the bytes of a part that is dead.
#ifndef LMC_PASSES_PLAN_ASSIGNARENA_H
#define LMC_PASSES_PLAN_ASSIGNARENA_H

#include "llvm/ADT/ArrayRef.h"
#include "llvm/ADT/SmallVector.h"

#include <cstdint>

namespace lmc::plan {

inline constexpr int64_t kAlignmentBytes = 64;

// A second of the search for a better packing, at most.
inline constexpr double kPackingWork = 1.5e8;

inline int64_t alignBytes(int64_t bytes) {
  return (bytes + kAlignmentBytes - 1) / kAlignmentBytes * kAlignmentBytes;
}

// Bytes [offset, offset + bytes) of a block, alive in the times [begin, end],
// both included. The parts of a block share no bytes at the same time.
struct ArenaPart {
  int64_t begin = 0;
  int64_t end = 0;
  int64_t offset = 0;
  int64_t bytes = 0;
};

struct ArenaBlock {
  llvm::SmallVector<ArenaPart, 1> parts;
  int64_t offset = 0; // the answer

  int64_t bytes() const; // from its first byte to the end of its last part
};

// When a block is alive: from its first part's begin to its last part's end.
std::pair<int64_t, int64_t> lifetimeOf(const ArenaBlock &block);

// The visits of one try.
double pairsOfParts(llvm::ArrayRef<ArenaBlock> blocks);

// The largest sum of bytes alive at one time.
int64_t largestLiveBytes(llvm::ArrayRef<ArenaBlock> blocks);

// Whether an arena is so little above the largest live sum that no search for a
// better packing is worth its time.
inline bool isTight(int64_t bytes, int64_t liveBytes) {
  return bytes <= liveBytes + liveBytes / 1024;
}

// Sets every block's offset, a multiple of kAlignmentBytes, and returns the
// bytes of the arena. The same blocks give the same offsets. One try visits
// every pair of parts; there are as many as `work` pairs allow, one at least.
int64_t packArena(llvm::MutableArrayRef<ArenaBlock> blocks,
                  double work = kPackingWork);

// The same, each block as low as those before it in the list leave room.
int64_t stackBlocks(llvm::MutableArrayRef<ArenaBlock> blocks);

// Sets the offsets of those blocks, the largest first, that find a gap between
// `placed` ones and below `bytes`; leaves the others' alone.
void fillGaps(llvm::MutableArrayRef<ArenaBlock> blocks,
              llvm::ArrayRef<ArenaBlock> placed, int64_t bytes);

} // namespace lmc::plan

#endif // LMC_PASSES_PLAN_ASSIGNARENA_H
