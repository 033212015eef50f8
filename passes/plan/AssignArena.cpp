// Greedy packing: in some order, each block takes the tightest gap that the
// blocks placed before it and alive with it leave. No order is best for all
// programs, so several are tried; then the blocks that reach highest are moved
// to the front of the best order and it is tried again, until the arena is at
// most a thousandth above the largest live sum, nothing has helped for a while
// or the budget of work is spent. Few blocks are then searched for a place for
// all in less.
#include "passes/plan/AssignArena.h"

#include "llvm/ADT/BitVector.h"
#include "llvm/ADT/STLExtras.h"

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

// The search holds a frame of the stack for each block.
constexpr size_t kMostSearched = 512;

// Places the blocks one after the other, as they come alive, so that none
// reaches above `capacity`: each at an end of a gap between those placed before
// and alive with it, the tightest gap first. Where there is none, the last one
// that is in its way goes elsewhere (conflict-directed backjumping; Prosser,
// "Hybrid algorithms for the constraint satisfaction problem", 1993).
class Search {
public:
  Search(llvm::ArrayRef<ArenaBlock> blocks) : blocks(blocks) {
    for (unsigned i = 0; i < blocks.size(); ++i)
      order.push_back(i);
    llvm::stable_sort(order, [&](unsigned a, unsigned b) {
      int64_t beginA = lifetimeOf(blocks[a]).first;
      int64_t beginB = lifetimeOf(blocks[b]).first;
      return beginA != beginB ? beginA < beginB
                              : blocks[a].bytes() > blocks[b].bytes();
    });
    offsets.assign(blocks.size(), 0);
    rivals.resize(blocks.size());
    for (unsigned i = 0; i < order.size(); ++i)
      for (unsigned j = 0; j < i; ++j)
        addRivals(i, j);
  }
  // Whether it found a place for all, within so many steps.
  bool run(int64_t limit, int64_t steps) {
    capacity = limit;
    stepsLeft = steps;
    llvm::BitVector culprits;
    return placeFrom(0, culprits);
  }
  const std::vector<int64_t> &answer() const { return offsets; }

private:
  // A block that stands before forbids the offsets between its own plus `low`
  // and plus `high`, both excluded.
  struct Rival {
    unsigned place; // in the order
    int64_t low, high;
  };
  void addRivals(unsigned i, unsigned j) {
    for (const ArenaPart &part : blocks[order[i]].parts)
      for (const ArenaPart &other : blocks[order[j]].parts)
        if (part.begin <= other.end && other.begin <= part.end)
          rivals[i].push_back({j, other.offset - part.offset - part.bytes,
                               other.offset - part.offset + other.bytes});
  }
  // Where it fails, `culprits` are the blocks before whose places it is due to.
  bool placeFrom(unsigned i, llvm::BitVector &culprits);

  llvm::ArrayRef<ArenaBlock> blocks;
  std::vector<unsigned> order;
  std::vector<int64_t> offsets;           // of blocks
  std::vector<std::vector<Rival>> rivals; // by place in the order
  int64_t capacity = 0;
  int64_t stepsLeft = 0;
};

bool Search::placeFrom(unsigned i, llvm::BitVector &culprits) {
  culprits.clear();
  culprits.resize(unsigned(order.size()));
  if (i == order.size())
    return true;
  stepsLeft -= 1 + int64_t(rivals[i].size());
  if (stepsLeft <= 0)
    return false;
  Taken taken;
  for (const Rival &rival : rivals[i]) {
    int64_t offset = offsets[order[rival.place]];
    taken.push_back({offset + rival.low, offset + rival.high});
    culprits.set(rival.place);
  }
  int64_t last = capacity - blocks[order[i]].bytes();
  taken.push_back({last, std::numeric_limits<int64_t>::max()});
  llvm::sort(taken);
  llvm::SmallVector<std::pair<int64_t, int64_t>, 8> places; // gap, offset
  int64_t top = 0;
  for (auto [low, high] : taken) {
    if (low >= top) {
      int64_t highEnd = low / kAlignmentBytes * kAlignmentBytes;
      places.push_back({low - top, top});
      if (highEnd > top)
        places.push_back({low - top, highEnd});
    }
    if (high == std::numeric_limits<int64_t>::max())
      break;
    top = std::max(top, alignBytes(high));
  }
  llvm::sort(places);
  llvm::BitVector deeper;
  for (auto [gap, offset] : places) {
    offsets[order[i]] = offset;
    if (placeFrom(i + 1, deeper))
      return true;
    if (stepsLeft <= 0)
      return false;
    if (!deeper.test(i)) { // another place of this one does not help
      culprits = deeper;
      return false;
    }
    culprits |= deeper;
  }
  culprits.reset(i);
  return false;
}

// Makes the arena as small as a search finds, from the smallest capacity on.
void searchBelow(Candidate &best, llvm::ArrayRef<ArenaBlock> blocks,
                 double work) {
  Search search(blocks);
  int64_t live = largestLiveBytes(blocks);
  constexpr int64_t shares[] = {1024, 256, 128, 64, 48, 32, 28, 24, 20, 16, 12};
  for (int64_t share : shares) {
    int64_t capacity =
        (live + live / share) / kAlignmentBytes * kAlignmentBytes;
    if (capacity >= best.bytes)
      return;
    if (!search.run(capacity, int64_t(work / double(std::size(shares)))))
      continue;
    best.offsets = search.answer();
    best.bytes = 0;
    for (auto [block, offset] : llvm::zip(blocks, best.offsets))
      best.bytes = std::max(best.bytes, alignBytes(offset + block.bytes()));
    return;
  }
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
  int64_t live = largestLiveBytes(blocks);
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
    if (isTight(best.bytes, live) || triesLeft <= 0)
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
  while (!isTight(best.bytes, live) && triesLeft > 0 && sinceBetter < 24) {
    auto [better, candidate] = attempt(promoteHighest(blocks, current));
    current = std::move(candidate);
    sinceBetter = better ? 0 : sinceBetter + 1;
  }
  if (!isTight(best.bytes, live) && blocks.size() <= kMostSearched &&
      4 * pairsOfParts(blocks) < work)
    searchBelow(best, blocks, work);
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
