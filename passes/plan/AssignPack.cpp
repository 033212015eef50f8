// Where what lives within a step lies: the part of the pass Assign that packs,
// by lifetime, saved values and scratch. See AssignArena.h for packing itself.
#include "passes/plan/Assigner.h"

#include <limits>
#include <map>
#include <tuple>

using namespace mlir;
using namespace lmc::plan;

namespace {

// One use of some bytes of a block.
struct Touch {
  int64_t time, offset, bytes;
  bool isNew; // writes without reading: what was there is dead before
};

// A block's runs of bytes with one history each.
SmallVector<ArenaPart, 1> partsOf(ArrayRef<Touch> touches) {
  llvm::SmallSetVector<int64_t, 8> cuts;
  for (const Touch &touch : touches) {
    cuts.insert(touch.offset);
    cuts.insert(touch.offset + touch.bytes);
  }
  SmallVector<int64_t> bounds = cuts.takeVector();
  llvm::sort(bounds);
  // By lifetime, so that neighbours of one lifetime become one part.
  std::map<std::pair<int64_t, int64_t>, SmallVector<ArenaPart, 1>> byLifetime;
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
  SmallVector<ArenaPart, 1> all;
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

// Bytes of a slot, and which of a chunk's programs are the first and the last
// between which they hold something.
struct SlotPart {
  int64_t offset, bytes;
  int first, last;
};

// What the micro-batches of a chunk save.
struct Slot {
  Blocks values; // saved, and scratch in their gaps
  int64_t bytes = 0;
  std::vector<SlotPart> parts;
};

// What has a slot: a micro-batch of a chunk in one of the schedules.
using SlotKey = std::tuple<size_t, int64_t, int64_t>; // schedule, chunk, it

// How the values of a slot lie: in which order of the programs that hold them,
// and whether of what the first one saves for the last one the early dead lie
// high. No layout is best for all schedules.
struct Layout {
  enum Order { FirstWriter, LastReader, LastWriter } order = FirstWriter;
  bool lateLow = false;
};

} // namespace

// One stage's arena in the making.
class lmc::plan::StagePacker {
public:
  StagePacker(Assigner &assigner, int64_t stage)
      : assigner(assigner), programs(assigner.programs), stage(stage) {}
  // Takes the answer of another one of the same stage.
  StagePacker &operator=(StagePacker &&other) {
    placed = std::move(other.placed);
    slotOf = std::move(other.slotOf);
    savedUsers = std::move(other.savedUsers);
    bytes = other.bytes;
    liveBytes = other.liveBytes;
    return *this;
  }

  void packTogether();
  void packApart(Layout layout);
  struct Placed {
    Owner owner;
    int64_t offset;
    bool isInSlot; // the call's slot is to be added
  };
  std::vector<Placed> placed;
  std::map<SlotKey, int64_t> slotOf;
  llvm::DenseSet<int> savedUsers; // programs that touch saved values
  int64_t bytes = 0, liveBytes = 0;
  bool mayTryAgain = false; // there is time for another layout

private:
  Blocks blocksOf(llvm::function_ref<bool(int program, const Home &)> wants);
  Blocks scratchOf(int program);
  int programAt(int64_t time) const;
  void layOut(Slot &slot, Layout layout, Blocks saved);
  void findParts(Slot &slot);
  Blocks fillSlot(Slot &slot, int program);
  void packCalls();

  Assigner &assigner;
  std::vector<AssignedProgram> &programs;
  int64_t stage;
  std::map<int64_t, Slot> slots; // by chunk
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
  for (auto [owner, block] : llvm::zip(all.owners, all.blocks))
    placed.push_back({owner, block.offset, false});
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
void StagePacker::layOut(Slot &slot, Layout layout, Blocks saved) {
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
    std::tuple<int, int, int64_t> key{first, -last, within};
    if (layout.order == Layout::LastReader)
      key = {-last, first, within};
    if (layout.order == Layout::LastWriter)
      key = {-last, -first, within};
    order.push_back({key, index});
  }
  llvm::sort(order);
  for (auto &[key, index] : order) {
    slot.values.blocks.push_back(saved.blocks[index]);
    slot.values.owners.push_back(saved.owners[index]);
  }
  slot.bytes = stackBlocks(slot.values.blocks);
}

// Which of the chunk's programs hold what bytes of a slot.
void StagePacker::findParts(Slot &slot) {
  SmallVector<Touch> touches;
  for (const ArenaBlock &block : slot.values.blocks)
    for (const ArenaPart &part : block.parts)
      for (int64_t time : {part.begin, part.end})
        touches.push_back(
            {programAt(time), block.offset + part.offset, part.bytes, false});
  llvm::sort(touches,
             [](const Touch &a, const Touch &b) { return a.time < b.time; });
  for (const ArenaPart &part : partsOf(touches))
    slot.parts.push_back(
        {part.offset, part.bytes, int(part.begin), int(part.end)});
}

// Puts scratch of `program` into gaps of bytes that the slot holds then;
// returns what is left.
Blocks StagePacker::fillSlot(Slot &slot, int program) {
  std::vector<ArenaBlock> taken = slot.values.blocks;
  for (const SlotPart &part : slot.parts)
    if (program < part.first || part.last < program)
      taken.push_back({{ArenaPart{0, std::numeric_limits<int64_t>::max() - 1,
                                  part.offset, part.bytes}},
                       0});
  Blocks scratch = scratchOf(program), left;
  for (ArenaBlock &block : scratch.blocks)
    block.offset = -1;
  fillGaps(scratch.blocks, taken, slot.bytes);
  for (auto [owner, block] : llvm::zip(scratch.owners, scratch.blocks)) {
    Blocks &to = block.offset < 0 ? left : slot.values;
    to.owners.push_back(owner);
    to.blocks.push_back(block);
  }
  return left;
}

// Slots, and scratch that found no gap in them, by the calls of the stage's
// schedules: a slot is alive from its micro-batch's first call to its last one,
// a program's scratch, in one place, at its calls.
void StagePacker::packCalls() {
  struct Outside {
    Blocks values;
    ArenaBlock whole;
  };
  std::map<int, Outside> outsides;                   // by program
  std::map<SlotKey, std::map<int, int64_t>> timesOf; // of programs
  int64_t time = -1;
  for (auto [schedule, calls] : llvm::enumerate(assigner.schedules))
    for (CallOp call : calls) {
      int index = assigner.indexOf(call.getProgram());
      AssignedProgram &program = programs[index];
      if (program.stage != stage)
        continue;
      ++time;
      bool holdsSlot = savedUsers.contains(index);
      if (holdsSlot)
        timesOf[{schedule, program.chunk, call.getMicroBatch()}][index] = time;
      auto [entry, isNew] = outsides.try_emplace(index);
      Outside &outside = entry->second;
      if (isNew) {
        outside.values = holdsSlot ? fillSlot(slots[program.chunk], index)
                                   : scratchOf(index);
        outside.whole.parts.push_back(
            {time, time, 0, packArena(outside.values.blocks)});
      }
      auto &parts = outside.whole.parts;
      if (time <= parts.back().end + 1)
        parts.back().end = time;
      else
        parts.push_back({time, time, 0, parts.back().bytes});
    }

  std::vector<ArenaBlock> blocks;
  for (auto &[key, times] : timesOf) {
    blocks.emplace_back();
    for (const SlotPart &part : slots[std::get<1>(key)].parts) {
      // A schedule need not call all of the chunk's programs.
      auto first = times.lower_bound(part.first);
      auto behind = times.upper_bound(part.last);
      if (first != behind)
        blocks.back().parts.push_back({first->second, std::prev(behind)->second,
                                       part.offset, part.bytes});
    }
  }
  for (auto &[program, outside] : outsides)
    blocks.push_back(outside.whole);
  // All stages share the time of one.
  double work = kPackingWork / double(assigner.stages);
  bytes = packArena(blocks, work);
  liveBytes = largestLiveBytes(blocks);
  mayTryAgain = 8 * pairsOfParts(blocks) < work;

  auto block = blocks.begin();
  for (auto &[key, times] : timesOf)
    slotOf[key] = (block++)->offset;
  for (auto &[program, outside] : outsides) {
    int64_t base = (block++)->offset;
    for (auto [owner, each] :
         llvm::zip(outside.values.owners, outside.values.blocks))
      placed.push_back({owner, base + each.offset, false});
  }
  for (auto &[chunk, slot] : slots)
    for (auto [owner, each] : llvm::zip(slot.values.owners, slot.values.blocks))
      placed.push_back({owner, each.offset, true});
}

// Each micro-batch of a chunk has a place for what it saves, its slot, from its
// first call to its last one; all slots of a chunk are laid out alike.
void StagePacker::packApart(Layout layout) {
  for (auto [index, program] : llvm::enumerate(programs))
    for (const Step &step : program.homes.steps)
      for (const Step::Use &use : step.uses)
        if (program.stage == stage &&
            program.homes.homes[use.place.home].kind == Home::Saved) {
          savedUsers.insert(index);
          slots[program.chunk];
        }
  for (auto &[chunk, slot] : slots) {
    layOut(slot, layout,
           blocksOf([&, chunk = chunk](int program, const Home &home) {
             return home.kind == Home::Saved &&
                    programs[program].chunk == chunk;
           }));
    findParts(slot);
  }
  packCalls();
}

// Packs each stage, with the best of the layouts that there is time for, and
// turns what came out into slots of calls, allocations and slices.
void Assigner::packStages() {
  StageBytes bytes(stages, 0);
  std::vector<StagePacker::Placed> placed;
  for (int64_t stage = 0; stage < stages; ++stage) {
    StagePacker packer(*this, stage);
    if (fitsOneLineOfTime(stage)) {
      packer.packTogether();
    } else {
      packer.packApart({});
      for (Layout layout : {Layout{Layout::FirstWriter, true},
                            {Layout::LastReader, false},
                            {Layout::LastReader, true},
                            {Layout::LastWriter, false},
                            {Layout::LastWriter, true}}) {
        if (!packer.mayTryAgain)
          break;
        StagePacker other(*this, stage);
        other.packApart(layout);
        if (other.bytes < packer.bytes)
          packer = std::move(other);
      }
    }
    bytes[stage] = packer.bytes;
    arenaBytes = std::max(arenaBytes, packer.bytes);
    liveBytes = std::max(liveBytes, packer.liveBytes);
    llvm::append_range(placed, packer.placed);
    for (auto [schedule, calls] : llvm::enumerate(schedules))
      for (CallOp call : calls) {
        int index = indexOf(call.getProgram());
        if (programs[index].stage != stage)
          continue;
        auto slot = packer.slotOf.find(
            {schedule, programs[index].chunk, call.getMicroBatch()});
        call.setSlot(packer.savedUsers.contains(index) ? slot->second : 0);
        lastSlot = std::max<int64_t>(lastSlot, call.getSlot());
      }
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
    if (one.isInSlot)
      offset = offset.plus(1, kSlot);
    program.slices[one.owner.second] =
        slice(arena, offset, program.homes.homes[one.owner.second].bytes);
  }
}
