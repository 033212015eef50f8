// Greedy packing: in some order, each block takes the tightest gap that the
// blocks placed before it and alive with it leave. No order is best for all
// programs, so several are tried; then the blocks that reach highest are moved
// to the front of the best order and it is tried again, until the arena is at
// most a thousandth above the largest live sum, nothing has helped for a while
// or the budget of work is spent.
#include "passes/plan/AssignArena.h"

#include "llvm/ADT/STLExtras.h"

#include <limits>
#include <numeric>
#include <random>
#include <vector>

using namespace lmc::plan;

namespace {

struct Candidate {
  std::vector<unsigned> order;
  std::vector<int64_t> offsets;
  int64_t bytes = std::numeric_limits<int64_t>::max();
};

// The parts that are placed, at their offsets in the arena.
using PlacedParts = std::vector<ArenaPart>;

// Adds a block's parts, at their offsets in the arena.
void addPlaced(PlacedParts &placed, const ArenaBlock &block, int64_t offset) {
  for (ArenaPart part : block.parts) {
    part.offset += offset;
    placed.push_back(part);
  }
}

// Offsets at which the block would lie upon a placed part that is alive with
// it: those between first and second, both excluded; by their first.
using Taken = llvm::SmallVector<std::pair<int64_t, int64_t>, 64>;

Taken findTaken(const PlacedParts &placed, const ArenaBlock &block) {
  Taken taken;
  for (const ArenaPart &other : placed)
    for (const ArenaPart &part : block.parts)
      if (part.begin <= other.end && other.begin <= part.end)
        taken.push_back({other.offset - part.offset - part.bytes,
                         other.offset - part.offset + other.bytes});
  llvm::sort(taken);
  return taken;
}

// The offset in the tightest gap that `placed` leave for `block`, or -1; and
// the lowest one above all that are alive with it.
std::pair<int64_t, int64_t> findGap(const PlacedParts &placed,
                                    const ArenaBlock &block) {
  int64_t top = 0, best = -1;
  int64_t bestGap = std::numeric_limits<int64_t>::max();
  for (auto [low, high] : findTaken(placed, block)) {
    if (low >= top && low - top < bestGap) {
      bestGap = low - top;
      best = top;
    }
    top = std::max(top, alignBytes(high));
  }
  return {best, top};
}

// Places the blocks in `order`, each into the tightest gap.
Candidate place(llvm::ArrayRef<ArenaBlock> blocks,
                std::vector<unsigned> order) {
  Candidate result;
  result.offsets.assign(blocks.size(), 0);
  result.bytes = 0;
  PlacedParts placed;
  for (unsigned index : order) {
    auto [gap, top] = findGap(placed, blocks[index]);
    int64_t offset = gap >= 0 ? gap : top;
    result.offsets[index] = offset;
    result.bytes =
        std::max(result.bytes, alignBytes(offset + blocks[index].bytes()));
    addPlaced(placed, blocks[index], offset);
  }
  result.order = std::move(order);
  return result;
}

// The order with the blocks that reach highest in front.
std::vector<unsigned> promoteHighest(llvm::ArrayRef<ArenaBlock> blocks,
                                     const Candidate &candidate) {
  std::vector<unsigned> order, others;
  for (unsigned index : candidate.order) {
    bool isHighest = alignBytes(candidate.offsets[index] +
                                blocks[index].bytes()) == candidate.bytes;
    (isHighest ? order : others).push_back(index);
  }
  order.insert(order.end(), others.begin(), others.end());
  return order;
}

} // namespace

int64_t ArenaBlock::bytes() const {
  int64_t end = 0;
  for (const ArenaPart &part : parts)
    end = std::max(end, part.offset + part.bytes);
  return end;
}

std::pair<int64_t, int64_t> lmc::plan::lifetimeOf(const ArenaBlock &block) {
  int64_t begin = std::numeric_limits<int64_t>::max(), end = 0;
  for (const ArenaPart &part : block.parts) {
    begin = std::min(begin, part.begin);
    end = std::max(end, part.end);
  }
  return {begin, end};
}

int64_t lmc::plan::largestLiveBytes(llvm::ArrayRef<ArenaBlock> blocks) {
  std::vector<std::pair<int64_t, int64_t>> changes; // (time, bytes)
  for (const ArenaBlock &block : blocks)
    for (const ArenaPart &part : block.parts) {
      changes.push_back({part.begin, part.bytes});
      changes.push_back({part.end + 1, -part.bytes});
    }
  llvm::sort(changes); // at one time, what dies goes first
  int64_t live = 0, largest = 0;
  for (auto [time, bytes] : changes) {
    live += bytes;
    largest = std::max(largest, live);
  }
  return largest;
}

double lmc::plan::pairsOfParts(llvm::ArrayRef<ArenaBlock> blocks) {
  double parts = 0;
  for (const ArenaBlock &block : blocks)
    parts += double(block.parts.size());
  return 0.5 * parts * parts + 1;
}

int64_t lmc::plan::packArena(llvm::MutableArrayRef<ArenaBlock> blocks,
                             double work) {
  if (blocks.empty())
    return 0;
  int64_t enough = largestLiveBytes(blocks);
  enough += enough / 1024;
  std::vector<unsigned> natural(blocks.size());
  std::iota(natural.begin(), natural.end(), 0);

  int64_t triesLeft =
      std::clamp<int64_t>(int64_t(work / pairsOfParts(blocks)), 1, 400);
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
  attemptBy([](const ArenaBlock &b) { return b.bytes(); });
  attemptBy([](const ArenaBlock &b) {
    auto [begin, end] = lifetimeOf(b);
    return end - begin;
  });
  attemptBy([](const ArenaBlock &b) {
    double area = 0;
    for (const ArenaPart &part : b.parts)
      area += double(part.bytes) * double(part.end - part.begin + 1);
    return area;
  });
  attemptBy([](const ArenaBlock &b) { return -lifetimeOf(b).first; });

  Candidate current = best;
  int64_t sinceBetter = 0;
  while (best.bytes > enough && triesLeft > 0 && sinceBetter < 24) {
    auto [better, candidate] = attempt(promoteHighest(blocks, current));
    current = std::move(candidate);
    sinceBetter = better ? 0 : sinceBetter + 1;
  }
  // Few blocks are cheap to try again and again: one of the best order's goes
  // somewhere else. The same numbers on every machine.
  std::minstd_rand random;
  while (best.bytes > enough && triesLeft > 0) {
    std::vector<unsigned> order = best.order;
    for (int move = 0; move < 2; ++move) {
      auto from = order.begin() + random() % order.size();
      unsigned index = *from;
      order.erase(from);
      order.insert(order.begin() + random() % (order.size() + 1), index);
    }
    Candidate candidate = place(blocks, std::move(order));
    --triesLeft;
    if (candidate.bytes <= best.bytes)
      best = std::move(candidate);
  }
  for (auto [index, block] : llvm::enumerate(blocks))
    block.offset = best.offsets[index];
  return best.bytes;
}

int64_t lmc::plan::stackBlocks(llvm::MutableArrayRef<ArenaBlock> blocks) {
  PlacedParts placed;
  int64_t bytes = 0;
  for (ArenaBlock &block : blocks) {
    block.offset = 0;
    // The lowest gap: whatever is taken above it comes later in the order.
    for (auto [low, high] : findTaken(placed, block)) {
      if (low >= block.offset)
        break;
      block.offset = std::max(block.offset, alignBytes(high));
    }
    bytes = std::max(bytes, alignBytes(block.offset + block.bytes()));
    addPlaced(placed, block, block.offset);
  }
  return bytes;
}

void lmc::plan::fillGaps(llvm::MutableArrayRef<ArenaBlock> blocks,
                         llvm::ArrayRef<ArenaBlock> placed, int64_t bytes) {
  PlacedParts parts;
  for (const ArenaBlock &block : placed)
    addPlaced(parts, block, block.offset);
  std::vector<unsigned> order(blocks.size());
  std::iota(order.begin(), order.end(), 0);
  llvm::sort(order, [&](unsigned a, unsigned b) {
    int64_t bytesA = blocks[a].bytes(), bytesB = blocks[b].bytes();
    return bytesA != bytesB ? bytesA > bytesB : a < b;
  });
  for (unsigned index : order) {
    auto [gap, top] = findGap(parts, blocks[index]);
    int64_t offset = gap >= 0 ? gap : top;
    if (offset + blocks[index].bytes() > bytes)
      continue;
    blocks[index].offset = offset;
    addPlaced(parts, blocks[index], offset);
  }
}
