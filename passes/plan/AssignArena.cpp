// Greedy packing: in some order, each block takes the tightest gap that the
// blocks placed before it and alive with it leave. No order is best for all
// programs, so several are tried; then the blocks that reach highest are moved
// to the front of the best order and it is tried again, until the arena is at
// most a thousandth above the largest live sum, nothing has helped for a while
// or the budget of work is spent.
#include "passes/plan/AssignArena.h"

#include "llvm/ADT/STLExtras.h"
#include "llvm/ADT/SmallVector.h"

#include <limits>
#include <numeric>
#include <vector>

using namespace lmc::plan;

namespace {

struct Candidate {
  std::vector<unsigned> order;
  std::vector<int64_t> offsets;
  int64_t bytes = std::numeric_limits<int64_t>::max();
};

bool alive(const ArenaBlock &a, const ArenaBlock &b) {
  return a.begin <= b.end && b.begin <= a.end;
}

// The tightest gap for `block` between those of `placed`, ordered by offset,
// that are alive with it, or -1; and where the highest of them ends.
std::pair<int64_t, int64_t> findGap(llvm::ArrayRef<ArenaBlock> placed,
                                    const ArenaBlock &block) {
  int64_t top = 0, best = -1;
  int64_t bestGap = std::numeric_limits<int64_t>::max();
  for (const ArenaBlock &other : placed) {
    if (!alive(block, other))
      continue;
    int64_t gap = other.offset - top;
    if (gap >= block.bytes && gap < bestGap) {
      bestGap = gap;
      best = top;
    }
    top = std::max(top, other.offset + other.bytes);
  }
  return {best, top};
}

bool isBelow(const ArenaBlock &a, const ArenaBlock &b) {
  return a.offset < b.offset;
}

void insertByOffset(std::vector<ArenaBlock> &placed, const ArenaBlock &block) {
  placed.insert(std::upper_bound(placed.begin(), placed.end(), block, isBelow),
                block);
}

// Places the blocks in `order`, each into the tightest gap.
Candidate place(llvm::ArrayRef<ArenaBlock> blocks,
                std::vector<unsigned> order) {
  Candidate result;
  result.offsets.assign(blocks.size(), 0);
  result.bytes = 0;
  std::vector<ArenaBlock> placed; // by offset
  placed.reserve(blocks.size());
  for (unsigned index : order) {
    ArenaBlock block = blocks[index];
    block.bytes = alignBytes(block.bytes);
    auto [gap, top] = findGap(placed, block);
    block.offset = gap >= 0 ? gap : top;
    result.offsets[index] = block.offset;
    result.bytes = std::max(result.bytes, block.offset + block.bytes);
    insertByOffset(placed, block);
  }
  result.order = std::move(order);
  return result;
}

// The order with the blocks that reach highest in front.
std::vector<unsigned> promoteHighest(llvm::ArrayRef<ArenaBlock> blocks,
                                     const Candidate &candidate) {
  std::vector<unsigned> order, others;
  for (unsigned index : candidate.order) {
    bool isHighest =
        candidate.offsets[index] + alignBytes(blocks[index].bytes) ==
        candidate.bytes;
    (isHighest ? order : others).push_back(index);
  }
  order.insert(order.end(), others.begin(), others.end());
  return order;
}

} // namespace

int64_t lmc::plan::largestLiveBytes(llvm::ArrayRef<ArenaBlock> blocks) {
  std::vector<std::pair<int64_t, int64_t>> changes; // (time, bytes)
  for (const ArenaBlock &block : blocks) {
    changes.push_back({block.begin, alignBytes(block.bytes)});
    changes.push_back({block.end + 1, -alignBytes(block.bytes)});
  }
  llvm::sort(changes); // at one time, what dies goes first
  int64_t live = 0, largest = 0;
  for (auto [time, bytes] : changes) {
    live += bytes;
    largest = std::max(largest, live);
  }
  return largest;
}

int64_t lmc::plan::packArena(llvm::MutableArrayRef<ArenaBlock> blocks) {
  if (blocks.empty())
    return 0;
  int64_t enough = largestLiveBytes(blocks);
  enough += enough / 1024;
  std::vector<unsigned> natural(blocks.size());
  std::iota(natural.begin(), natural.end(), 0);

  // One try visits every pair of blocks.
  double pairs = 0.5 * blocks.size() * blocks.size() + 1;
  int64_t triesLeft =
      static_cast<int64_t>(std::min(400.0, std::max(4.0, 1.5e8 / pairs)));
  Candidate best;
  auto attempt = [&](std::vector<unsigned> order) {
    Candidate candidate = place(blocks, std::move(order));
    --triesLeft;
    bool better = candidate.bytes < best.bytes;
    if (better)
      best = candidate;
    return std::make_pair(better, std::move(candidate));
  };
  auto attemptBy = [&](auto key) {
    if (best.bytes <= enough || triesLeft <= 0)
      return;
    std::vector<unsigned> order = natural;
    llvm::sort(order, [&](unsigned a, unsigned b) {
      auto keyA = key(blocks[a]), keyB = key(blocks[b]);
      return keyA != keyB ? keyA > keyB : a < b;
    });
    attempt(std::move(order));
  };
  auto duration = [](const ArenaBlock &b) { return b.end - b.begin + 1; };
  attemptBy([&](const ArenaBlock &b) { return b.bytes; });
  attemptBy([&](const ArenaBlock &b) { return duration(b); });
  attemptBy([&](const ArenaBlock &b) {
    return static_cast<double>(b.bytes) * static_cast<double>(duration(b));
  });
  attemptBy([&](const ArenaBlock &b) { return -b.begin; });

  Candidate current = best;
  int64_t sinceBetter = 0;
  while (best.bytes > enough && triesLeft > 0 && sinceBetter < 24) {
    auto [better, candidate] = attempt(promoteHighest(blocks, current));
    current = std::move(candidate);
    sinceBetter = better ? 0 : sinceBetter + 1;
  }
  for (auto [index, block] : llvm::enumerate(blocks))
    block.offset = best.offsets[index];
  return best.bytes;
}

void lmc::plan::fillGaps(llvm::MutableArrayRef<ArenaBlock> blocks,
                         std::vector<ArenaBlock> placed, int64_t bytes) {
  for (ArenaBlock &block : placed)
    block.bytes = alignBytes(block.bytes);
  llvm::sort(placed, isBelow);
  std::vector<unsigned> order(blocks.size());
  std::iota(order.begin(), order.end(), 0);
  llvm::sort(order, [&](unsigned a, unsigned b) {
    return blocks[a].bytes != blocks[b].bytes
               ? blocks[a].bytes > blocks[b].bytes
               : a < b;
  });
  for (unsigned index : order) {
    ArenaBlock block = blocks[index];
    block.bytes = alignBytes(block.bytes);
    auto [gap, top] = findGap(placed, block);
    block.offset = gap >= 0 ? gap : top;
    if (block.offset + block.bytes > bytes)
      continue;
    blocks[index].offset = block.offset;
    insertByOffset(placed, block);
  }
}
