// Where what lives within a step lies: the part of the pass Assign that packs,
// by lifetime, saved values and scratch. See AssignArena.h for packing itself.
#include "passes/plan/Assigner.h"

#include <limits>
#include <map>
#include <optional>
#include <set>
#include <tuple>
#include <utility>

using namespace mlir;
using namespace lmc::plan;

namespace {

using Parts = SmallVector<ArenaPart, 1>;

// One use of some bytes of a block.
struct Touch {
  int64_t time, offset, bytes;
  bool isNew; // writes without reading: what was there is dead before
};

// A block's runs of bytes with one history each.
Parts partsOf(ArrayRef<Touch> touches) {
  llvm::SmallSetVector<int64_t, 8> cuts;
  for (const Touch &touch : touches) {
    cuts.insert(touch.offset);
    cuts.insert(touch.offset + touch.bytes);
  }
  SmallVector<int64_t> bounds = cuts.takeVector();
  llvm::sort(bounds);
  // By lifetime, so that neighbours of one lifetime become one part.
  std::map<std::pair<int64_t, int64_t>, Parts> byLifetime;
  for (size_t i = 0; i + 1 < bounds.size(); ++i) {
    std::vector<std::pair<int64_t, int64_t>> lives;
    for (const Touch &touch : touches) {
      if (touch.offset > bounds[i] ||
          touch.offset + touch.bytes < bounds[i + 1])
        continue;
      if (lives.empty() || (touch.isNew && touch.time > lives.back().second))
        lives.push_back({touch.time, touch.time});
      lives.back().second = touch.time;
    }
    for (auto life : lives) {
      auto &parts = byLifetime[life];
      int64_t bytes = bounds[i + 1] - bounds[i];
      if (!parts.empty() &&
          parts.back().offset + parts.back().bytes == bounds[i])
        parts.back().bytes += bytes;
      else
        parts.push_back({life.first, life.second, bounds[i], bytes});
    }
  }
  Parts all;
  for (auto &[life, parts] : byLifetime)
    all.append(parts);
  return all;
}

// A root home in the arena: of the program that writes it first.
using Owner = std::pair<int, int>; // program, home

struct Blocks {
  std::vector<ArenaBlock> blocks;
  std::vector<Owner> owners;
};

// Values that the micro-batches of a chunk save and that lie together.
struct Slot {
  Blocks values; // saved, and scratch in their gaps
  int64_t bytes = 0;
};

// A call may be cut into phases, so that what is dead in the middle of it is
// dead there: this many, or one where the time to pack does not suffice.
constexpr int64_t kPhases = 16;

// Parts that are given by the phases of programs, by the calls of a schedule
// that need not call all of these programs: when each is called.
Parts partsAt(ArrayRef<ArenaPart> parts, const std::map<int, int64_t> &times,
              int64_t phases) {
  Parts result;
  for (ArenaPart part : parts) {
    auto first = times.lower_bound(int(part.begin / phases));
    auto behind = times.upper_bound(int(part.end / phases));
    if (first == behind)
      continue;
    auto last = std::prev(behind);
    part.begin =
        first->second * phases +
        (first->first == part.begin / phases ? part.begin % phases : 0);
    part.end =
        last->second * phases +
        (last->first == part.end / phases ? part.end % phases : phases - 1);
    result.push_back(part);
  }
  return result;
}

// What has slots: a micro-batch of a chunk in one of the schedules.
using SlotKey = std::tuple<size_t, int64_t, int64_t>; // schedule, chunk, it

// In which order the values that a chunk saves are stacked: by the programs
// that hold them, and within what the first one saves for the last one, whether
// the early dead lie high. And whether a program's scratch is packed so that it
// sinks into them, not for itself. No layout is best for all schedules.
struct Layout {
  enum Order { FirstWriter, LastWriter } order;
  bool lateLow;
  bool scratchSinks = false;
};

constexpr Layout kLayouts[] = {{Layout::FirstWriter, true},
                               {Layout::LastWriter, false},
                               {Layout::FirstWriter, false},
                               {Layout::FirstWriter, true, true}};

// The slot of a program's scratch; those of its chunk's saved values follow.
constexpr unsigned kScratchSlot = 0;

} // namespace

// One stage's arena in the making.
class lmc::plan::StagePacker {
public:
  StagePacker(Assigner &assigner, int64_t stage)
      : assigner(assigner), programs(assigner.programs), stage(stage) {}
  // Takes the answer of another one of the same stage.
  StagePacker &operator=(StagePacker &&other) {
    placed = std::move(other.placed);
    slotsOf = std::move(other.slotsOf);
    bytes = other.bytes;
    liveBytes = other.liveBytes;
    return *this;
  }

  void packTogether();
  void packApart(Layout layout);
  struct Placed {
    Owner owner;
    int64_t offset;
    std::optional<unsigned> slot; // of the call, to be added
  };
  std::vector<Placed> placed;
  llvm::DenseMap<Operation *, SmallVector<int64_t, 4>> slotsOf; // calls
  int64_t bytes = 0, liveBytes = 0;
  bool mayTryAgain = false; // there is time for another layout

private:
  Blocks blocksOf(llvm::function_ref<bool(int program, const Home &)> wants);
  Blocks scratchOf(int program);
  int programAt(int64_t time) const;
  Slot layOut(int64_t chunk, Layout layout);
  std::vector<Slot> cutSlot(const Slot &slot) const;
  int64_t phaseAt(int64_t time, int64_t phases) const;
  Parts partsIn(ArrayRef<ArenaBlock> blocks, int64_t phases) const;
  std::vector<ArenaBlock> takenFor(const Slot &slot, int program) const;
  void packOnTop(const Slot &slot, int program, Blocks &scratch) const;
  Blocks fillSlots(std::vector<Slot> &slots, int program);
  void readCalls(Layout layout);
  std::vector<ArenaBlock> blocksOfCalls(int64_t phases) const;
  void packCalls(Layout layout);

  struct Called {
    CallOp op;
    SlotKey key;
    int program;
  };

  Assigner &assigner;
  std::vector<AssignedProgram> &programs;
  int64_t stage;
  std::map<int64_t, std::vector<Slot>> slots; // by chunk
  llvm::DenseSet<int> savedUsers; // programs that touch saved values
  std::vector<Called> calls;      // by time
  std::map<SlotKey, std::map<int, int64_t>> timesOf; // of programs
  std::map<int, Blocks> outsides; // scratch that lies in no slot, by program
};

// The homes of this stage's programs that `wants` takes, on the line of time.
Blocks StagePacker::blocksOf(
    llvm::function_ref<bool(int program, const Home &)> wants) {
  llvm::MapVector<Owner, SmallVector<Touch>> touches;
  for (auto [index, program] : llvm::enumerate(programs)) {
    if (program.stage != stage)
      continue;
    for (auto [number, step] : llvm::enumerate(program.homes.steps))
      for (const Step::Use &use : step.uses) {
        const Home &home = program.homes.homes[use.place.home];
        if ((home.kind != Home::Scratch && home.kind != Home::Saved) ||
            !wants(index, home))
          continue;
        Owner owner = home.owner >= 0 ? Owner(home.ownerProgram, home.owner)
                                      : Owner(index, use.place.home);
        touches[owner].push_back({program.base + int64_t(number),
                                  use.place.offset, use.bytes,
                                  use.access == Step::Use::Write});
      }
  }
  Blocks result;
  for (auto &[owner, list] : touches) {
    result.owners.push_back(owner);
    result.blocks.push_back({partsOf(list), 0});
  }
  return result;
}

// All programs on one line of time.
void StagePacker::packTogether() {
  Blocks all = blocksOf([](int, const Home &) { return true; });
  bytes = packArena(all.blocks);
  liveBytes = largestLiveBytes(all.blocks);
  mayTryAgain =
      assigner.stages > 1 && pairsOfParts(all.blocks) < kPackingWork / 1024;
  for (auto [owner, block] : llvm::zip(all.owners, all.blocks))
    placed.push_back({owner, block.offset, std::nullopt});
}

// What lives within a program.
Blocks StagePacker::scratchOf(int program) {
  return blocksOf([&](int index, const Home &home) {
    return index == program && home.kind == Home::Scratch;
  });
}

// The program that runs at a point of the line of time.
int StagePacker::programAt(int64_t time) const {
  auto behind = llvm::upper_bound(
      programs, time, [](int64_t time, const AssignedProgram &program) {
        return time < program.base;
      });
  return int(behind - programs.begin()) - 1;
}

// Values that the same programs hold lie together, and what is dead early lies
// at an end, so that there the bytes are free together: for other slots, for
// scratch, for what later programs save.
Slot StagePacker::layOut(int64_t chunk, Layout layout) {
  Blocks saved = blocksOf([&](int program, const Home &home) {
    return home.kind == Home::Saved && programs[program].chunk == chunk;
  });
  std::vector<std::pair<std::tuple<int, int, int64_t>, size_t>> order;
  int firstProgram = std::numeric_limits<int>::max(), lastProgram = 0;
  for (const ArenaBlock &block : saved.blocks) {
    auto [begin, end] = lifetimeOf(block);
    firstProgram = std::min(firstProgram, programAt(begin));
    lastProgram = std::max(lastProgram, programAt(end));
  }
  for (auto [index, block] : llvm::enumerate(saved.blocks)) {
    auto [begin, end] = lifetimeOf(block);
    int first = programAt(begin), last = programAt(end);
    int64_t within = first != firstProgram                   ? begin
                     : layout.lateLow && last == lastProgram ? -end
                                                             : end;
    order.push_back({layout.order == Layout::FirstWriter
                         ? std::tuple(first, -last, within)
                         : std::tuple(-last, -first, within),
                     index});
  }
  llvm::sort(order);
  Slot slot;
  for (auto &[key, index] : order) {
    slot.values.blocks.push_back(saved.blocks[index]);
    slot.values.owners.push_back(saved.owners[index]);
  }
  slot.bytes = stackBlocks(slot.values.blocks);
  return slot;
}

// Cuts a slot where other programs hold the bytes than below, as soon as no
// value lies over the cut: each piece has a place of its own in a call, so that
// what is dead need not lie between what is alive.
std::vector<Slot> StagePacker::cutSlot(const Slot &slot) const {
  std::map<int64_t, std::pair<int64_t, int64_t>> holders{{0, {}}}; // by offset
  for (const ArenaPart &part : partsIn(slot.values.blocks, 1))
    holders[part.offset] = {part.begin, part.end};
  std::set<int64_t> borders;
  for (const ArenaBlock &block : slot.values.blocks)
    borders.insert(block.offset);
  SmallVector<int64_t> bounds{0};
  auto below = holders.begin()->second;
  for (int64_t border : borders) {
    auto above = std::prev(holders.upper_bound(border))->second;
    if (above == below ||
        llvm::any_of(slot.values.blocks, [border](const ArenaBlock &block) {
          return block.offset < border && border < block.offset + block.bytes();
        }))
      continue;
    bounds.push_back(border);
    below = above;
  }
  std::vector<Slot> pieces(bounds.size());
  bounds.push_back(slot.bytes);
  for (auto [index, piece] : llvm::enumerate(pieces))
    piece.bytes = bounds[index + 1] - bounds[index];
  for (auto [owner, block] :
       llvm::zip(slot.values.owners, slot.values.blocks)) {
    // The last piece has what has no bytes, too, and lies at the very end.
    size_t index = llvm::upper_bound(bounds, block.offset) - bounds.begin() - 1;
    index = std::min(index, pieces.size() - 1);
    pieces[index].values.owners.push_back(owner);
    pieces[index].values.blocks.push_back(block);
    pieces[index].values.blocks.back().offset -= bounds[index];
  }
  return pieces;
}

// The phase that a point of the line of time is in, if each program has so
// many.
int64_t StagePacker::phaseAt(int64_t time, int64_t phases) const {
  int index = programAt(time);
  const AssignedProgram &program = programs[index];
  int64_t steps = std::max<int64_t>(1, program.homes.steps.size());
  return index * phases + (time - program.base) * phases / steps;
}

// In which phases the bytes of some blocks hold something.
Parts StagePacker::partsIn(ArrayRef<ArenaBlock> blocks, int64_t phases) const {
  SmallVector<Touch> touches;
  for (const ArenaBlock &block : blocks)
    for (const ArenaPart &part : block.parts) {
      int64_t offset = block.offset + part.offset;
      touches.push_back(
          {phaseAt(part.begin, phases), offset, part.bytes, true});
      touches.push_back({phaseAt(part.end, phases), offset, part.bytes, false});
    }
  // Within a phase what is dead then comes first.
  llvm::sort(touches, [](const Touch &a, const Touch &b) {
    return std::tuple(a.time, a.isNew, a.offset) <
           std::tuple(b.time, b.isNew, b.offset);
  });
  return partsOf(touches);
}

// What scratch of `program` has to leave alone in a slot that it holds.
std::vector<ArenaBlock> StagePacker::takenFor(const Slot &slot,
                                              int program) const {
  std::vector<ArenaBlock> taken = slot.values.blocks;
  // What the program does not hold is another micro-batch's.
  for (ArenaPart part : partsIn(slot.values.blocks, 1))
    if (program < part.begin || part.end < program) {
      part.begin = 0;
      part.end = std::numeric_limits<int64_t>::max() - 1;
      taken.push_back({{part}, 0});
    }
  return taken;
}

// Puts scratch of `program` into gaps of bytes that slots hold then; returns
// what is left.
Blocks StagePacker::fillSlots(std::vector<Slot> &slots, int program) {
  Blocks left = scratchOf(program);
  for (Slot &slot : slots) {
    std::vector<ArenaBlock> taken = takenFor(slot, program);
    Blocks scratch = std::exchange(left, {});
    for (ArenaBlock &block : scratch.blocks)
      block.offset = -1;
    fillGaps(scratch.blocks, taken, slot.bytes);
    for (auto [owner, block] : llvm::zip(scratch.owners, scratch.blocks)) {
      Blocks &to = block.offset < 0 ? left : slot.values;
      to.owners.push_back(owner);
      to.blocks.push_back(block);
    }
  }
  return left;
}

// Packs scratch as if it lay on top of a slot: what is written late sinks into
// bytes that are dead by then, though not all of it is (a bucket whose members
// are written one by one while saved values die).
void StagePacker::packOnTop(const Slot &slot, int program,
                            Blocks &scratch) const {
  fillGaps(scratch.blocks, takenFor(slot, program),
           std::numeric_limits<int64_t>::max());
  int64_t lowest = std::numeric_limits<int64_t>::max();
  for (const ArenaBlock &block : scratch.blocks)
    lowest = std::min(lowest, block.offset);
  for (ArenaBlock &block : scratch.blocks)
    block.offset -= lowest;
}

// When the stage's schedules call what, and what scratch of each program finds
// no gap in the slots that it holds.
void StagePacker::readCalls(Layout layout) {
  for (auto [schedule, list] : llvm::enumerate(assigner.schedules))
    for (CallOp call : list) {
      int index = assigner.indexOf(call.getProgram());
      AssignedProgram &program = programs[index];
      if (program.stage != stage)
        continue;
      SlotKey key{schedule, program.chunk, call.getMicroBatch()};
      bool holdsSlots = savedUsers.contains(index);
      if (holdsSlots)
        timesOf[key][index] = int64_t(calls.size());
      calls.push_back({call, key, index});
      auto [outside, isNew] = outsides.try_emplace(index);
      if (!isNew)
        continue;
      Blocks &scratch = outside->second;
      scratch = holdsSlots ? fillSlots(slots[program.chunk], index)
                           : scratchOf(index);
      if (holdsSlots && layout.scratchSinks)
        packOnTop(slots[program.chunk].back(), index, scratch);
      else
        packArena(scratch.blocks);
    }
}

// The slots of each micro-batch of a chunk, then the scratch of each call. A
// slot's part is alive from the first call that holds it to the last one.
std::vector<ArenaBlock> StagePacker::blocksOfCalls(int64_t phases) const {
  std::vector<ArenaBlock> blocks;
  std::map<int64_t, std::vector<Parts>> slotParts; // by chunk
  for (auto &[chunk, list] : slots)
    for (const Slot &slot : list)
      slotParts[chunk].push_back(partsIn(slot.values.blocks, phases));
  for (auto &[key, times] : timesOf)
    for (const Parts &parts : slotParts[std::get<1>(key)])
      blocks.push_back({partsAt(parts, times, phases), 0});
  std::map<int, Parts> scratchParts; // by program
  for (auto &[program, scratch] : outsides)
    scratchParts[program] = partsIn(scratch.blocks, phases);
  for (auto [time, call] : llvm::enumerate(calls))
    blocks.push_back({partsAt(scratchParts[call.program],
                              {{call.program, int64_t(time)}}, phases),
                      0});
  return blocks;
}

// Slots, and scratch that found no gap in them, by the calls of the stage's
// schedules.
void StagePacker::packCalls(Layout layout) {
  readCalls(layout);
  // All stages and layouts share the time of one.
  double work = kPackingWork / double(assigner.stages * std::size(kLayouts));
  std::vector<ArenaBlock> blocks = blocksOfCalls(kPhases);
  if (4 * pairsOfParts(blocks) > work)
    blocks = blocksOfCalls(1);
  bytes = packArena(blocks, work);
  liveBytes = largestLiveBytes(blocks);
  mayTryAgain = pairsOfParts(blocks) < work;

  auto block = blocks.begin();
  std::map<SlotKey, SmallVector<int64_t, 4>> savedSlots;
  for (auto &[key, times] : timesOf)
    for (size_t i = 0; i < slots[std::get<1>(key)].size(); ++i)
      savedSlots[key].push_back((block++)->offset / kAlignmentBytes);
  for (const Called &call : calls) {
    auto &values = slotsOf[call.op];
    values.push_back((block++)->offset / kAlignmentBytes);
    if (savedUsers.contains(call.program))
      llvm::append_range(values, savedSlots[call.key]);
  }

  auto place = [&](const Blocks &values, unsigned slot) {
    for (auto [owner, each] : llvm::zip(values.owners, values.blocks))
      placed.push_back({owner, each.offset, slot});
  };
  for (auto &[program, scratch] : outsides)
    place(scratch, kScratchSlot);
  for (auto &[chunk, list] : slots)
    for (auto [index, slot] : llvm::enumerate(list))
      place(slot.values, kScratchSlot + 1 + unsigned(index));
}

// Each micro-batch of a chunk has places for what it saves, its slots, from its
// first call to its last one; those of a chunk are laid out alike.
void StagePacker::packApart(Layout layout) {
  for (auto [index, program] : llvm::enumerate(programs))
    for (const Step &step : program.homes.steps)
      for (const Step::Use &use : step.uses)
        if (program.stage == stage &&
            program.homes.homes[use.place.home].kind == Home::Saved) {
          savedUsers.insert(index);
          slots[program.chunk];
        }
  for (auto &[chunk, pieces] : slots)
    pieces = cutSlot(layOut(chunk, layout));
  packCalls(layout);
}

// Packs each stage, with the best of the layouts that there is time for, and
// turns what came out into slots of calls, allocations and slices.
void Assigner::packStages() {
  StageBytes bytes(stages, 0);
  std::vector<StagePacker::Placed> placed;
  llvm::DenseMap<Operation *, SmallVector<int64_t, 4>> slotsOf; // calls
  for (int64_t stage = 0; stage < stages; ++stage) {
    StagePacker packer(*this, stage);
    if (fitsOneLineOfTime(stage))
      packer.packTogether();
    else
      packer.packApart(kLayouts[0]);
    for (const Layout &layout : kLayouts) {
      if (!packer.mayTryAgain || isTight(packer.bytes, packer.liveBytes))
        break;
      StagePacker other(*this, stage);
      other.packApart(layout);
      if (other.bytes < packer.bytes)
        packer = std::move(other);
    }
    bytes[stage] = packer.bytes;
    arenaBytes = std::max(arenaBytes, packer.bytes);
    liveBytes = std::max(liveBytes, packer.liveBytes);
    llvm::append_range(placed, packer.placed);
    for (auto &[call, values] : packer.slotsOf) {
      slotsOf[call] = values;
      lastSlots.resize(std::max(lastSlots.size(), values.size()));
      for (auto [last, value] : llvm::zip(lastSlots, values))
        last = std::max(last, value);
    }
  }
  for (std::vector<CallOp> &calls : schedules)
    for (CallOp call : calls) {
      SmallVector<int64_t> values;
      SmallVector<int64_t, 4> known = slotsOf.lookup(call);
      known.resize(lastSlots.size());
      for (auto [last, value] : llvm::zip(lastSlots, known))
        if (last > 0)
          values.push_back(value);
      if (!values.empty())
        call.setSlotValues(values);
    }
  if (placed.empty())
    return;
  bool holdsSaved = llvm::any_of(placed, [&](auto &one) {
    return programs[one.owner.first].homes.homes[one.owner.second].kind ==
           Home::Saved;
  });
  FlatSymbolRefAttr arena = allocate(holdsSaved ? "activations" : "scratch",
                                     holdsSaved ? "saved" : "scratch", bytes);
  for (const StagePacker::Placed &one : placed) {
    AssignedProgram &program = programs[one.owner.first];
    LinearAttr offset = linear(one.offset);
    if (one.slot && lastSlots[*one.slot] > 0)
      offset = offset.plus(kAlignmentBytes, slotName(*one.slot));
    program.slices[one.owner.second] =
        slice(arena, offset, program.homes.homes[one.owner.second].bytes);
  }
}
