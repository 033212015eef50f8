// Where what lives within a step lies: the part of the pass Assign that packs,
// by lifetime, saved values and scratch. See AssignArena.h for packing itself.
#include "passes/plan/Assigner.h"

using namespace mlir;
using namespace lmc::plan;

// One arena for everything that lives within a step.
void Assigner::packTogether() {
  struct Owner {
    size_t program;
    int home;
    int64_t offset;
  };
  std::vector<Owner> owners;
  StageBytes bytes(stages, 0);
  bool holdsSaved = false;
  for (int64_t stage = 0; stage < stages; ++stage) {
    std::vector<ArenaBlock> blocks;
    size_t firstOwner = owners.size();
    llvm::DenseMap<std::pair<size_t, int>, size_t> blockOf;
    for (auto [index, program] : llvm::enumerate(programs)) {
      if (program.stage != stage)
        continue;
      for (auto [number, home] : llvm::enumerate(program.homes.homes)) {
        if (home.parent >= 0 || home.begin < 0)
          continue;
        if (home.kind == Home::Saved && home.owner >= 0) {
          auto known = blockOf.find({size_t(home.ownerProgram), home.owner});
          if (known != blockOf.end())
            blocks[known->second].end = program.base + home.end;
          continue;
        }
        if (home.kind != Home::Scratch && home.kind != Home::Saved)
          continue;
        holdsSaved |= home.kind == Home::Saved;
        blockOf[{index, int(number)}] = blocks.size();
        blocks.push_back({program.base + home.begin, program.base + home.end,
                          home.bytes, 0});
        owners.push_back({index, int(number), 0});
      }
    }
    bytes[stage] = packArena(blocks);
    liveBytes = std::max(liveBytes, largestLiveBytes(blocks));
    for (auto [i, block] : llvm::enumerate(blocks))
      owners[firstOwner + i].offset = block.offset;
  }
  arenaBytes = *std::max_element(bytes.begin(), bytes.end());
  if (owners.empty())
    return;
  FlatSymbolRefAttr arena = allocate(holdsSaved ? "activations" : "scratch",
                                     holdsSaved ? "saved" : "scratch", bytes);
  for (const Owner &owner : owners) {
    AssignedProgram &program = programs[owner.program];
    program.slices[owner.home] = slice(arena, linear(owner.offset),
                                       program.homes.homes[owner.home].bytes);
  }
}

// What each program has to do with saved values.
std::vector<Assigner::SavedUse> Assigner::findSavedUses() {
  std::vector<SavedUse> uses(programs.size(), SavedUse::NoneAlive);
  llvm::StringMap<size_t> indices;
  for (auto [index, program] : llvm::enumerate(programs)) {
    indices[program.function.getName()] = index;
    for (const Home &home : program.homes.homes)
      if (home.parent < 0 && home.begin >= 0 && home.kind == Home::Saved)
        uses[index] = SavedUse::Touches;
  }
  for (const std::vector<CallOp> &calls : schedules) {
    auto touches = [&](CallOp call) {
      return uses[indices.lookup(call.getProgram())] == SavedUse::Touches;
    };
    auto first = llvm::find_if(calls, touches);
    auto last = std::find_if(calls.rbegin(), calls.rend(), touches).base();
    for (auto call = first; call < last; ++call)
      if (!touches(*call))
        uses[indices.lookup(CallOp(*call).getProgram())] = SavedUse::SomeAlive;
  }
  return uses;
}

// Saved values of a chunk lie at slot * stride: within a slot, a value may take
// the bytes of one that has had its last reader, for a micro-batch meets the
// programs of a chunk in their order. Scratch goes, the largest first, where
// saved values leave bytes free,
//
//   - in the gaps of the running micro-batch's own slot, for a program that
//     has to do with saved values;
//   - anywhere among them, for a program that runs when no micro-batch is
//     under way (the update, an evaluation);
//
// and what finds no place there into bytes that every program uses anew. Where
// a stage has one slot, scratch and saved values are packed together.
void Assigner::packApart() {
  struct Slot {
    std::vector<ArenaBlock> blocks;
    std::vector<std::pair<size_t, int>> owners; // program, home
    int64_t count = 1, base = 0, stride = 0;
  };
  llvm::MapVector<std::pair<int64_t, int64_t>, Slot> slotsOf; // stage, chunk
  llvm::DenseMap<std::pair<size_t, int>, size_t> blockOf;
  for (auto [index, program] : llvm::enumerate(programs)) {
    Slot &slot = slotsOf[{program.stage, program.chunk}];
    slot.count = std::max(slot.count, program.slots);
    for (auto [number, home] : llvm::enumerate(program.homes.homes)) {
      if (home.parent >= 0 || home.begin < 0 || home.kind != Home::Saved)
        continue;
      if (home.owner >= 0) {
        auto known = blockOf.find({size_t(home.ownerProgram), home.owner});
        if (known != blockOf.end())
          slot.blocks[known->second].end = program.base + home.end;
      } else {
        blockOf[{index, int(number)}] = slot.blocks.size();
        slot.blocks.push_back({program.base + home.begin,
                               program.base + home.end, home.bytes, 0});
        slot.owners.push_back({index, int(number)});
      }
    }
  }
  std::vector<SavedUse> uses = findSavedUses();
  // With one slot it is one line of time.
  llvm::DenseMap<int64_t, int> chunksOf; // of a stage
  for (auto &[place, slot] : slotsOf)
    chunksOf[place.first] += !slot.blocks.empty();
  for (auto [index, program] : llvm::enumerate(programs)) {
    Slot &slot = slotsOf[{program.stage, program.chunk}];
    if (slot.count > 1 || chunksOf[program.stage] > 1 ||
        uses[index] != SavedUse::Touches)
      continue;
    for (auto [number, home] : llvm::enumerate(program.homes.homes))
      if (home.parent < 0 && home.begin >= 0 && home.kind == Home::Scratch) {
        slot.blocks.push_back({program.base + home.begin,
                               program.base + home.end, home.bytes, 0});
        slot.owners.push_back({index, int(number)});
      }
  }
  StageBytes savedBytes(stages, 0), scratchBytes(stages, 0);
  for (auto &[place, slot] : slotsOf) {
    slot.stride = packArena(slot.blocks);
    slot.base = savedBytes[place.first];
    savedBytes[place.first] += slot.stride * slot.count;
  }
  auto most = [](const StageBytes &bytes) {
    return *std::max_element(bytes.begin(), bytes.end());
  };
  FlatSymbolRefAttr saved, scratch;
  if (most(savedBytes) > 0)
    saved = allocate("saved", "saved", savedBytes);
  auto inSlot = [&](const Slot &slot, const ArenaBlock &block) {
    LinearAttr where = linear(slot.base + block.offset);
    if (slot.count > 1)
      where = where.plus(slot.stride, kSlot);
    return slice(saved, where, block.bytes);
  };
  for (auto &[place, slot] : slotsOf)
    for (auto [owner, block] : llvm::zip(slot.owners, slot.blocks))
      programs[owner.first].slices[owner.second] = inSlot(slot, block);

  struct Left {
    size_t program;
    int home;
    ArenaBlock block;
  };
  std::vector<Left> left;
  for (auto [index, program] : llvm::enumerate(programs)) {
    const Slot &slot = slotsOf[{program.stage, program.chunk}];
    std::vector<ArenaBlock> blocks, placed;
    std::vector<int> numbers;
    int64_t room = 0;
    if (uses[index] == SavedUse::Touches) {
      room = slot.stride;
      placed = slot.blocks;
    } else if (uses[index] == SavedUse::NoneAlive) {
      room = savedBytes[program.stage];
    }
    for (auto [number, home] : llvm::enumerate(program.homes.homes)) {
      if (home.parent >= 0 || home.begin < 0 || home.kind != Home::Scratch ||
          program.slices[number])
        continue;
      blocks.push_back(
          {program.base + home.begin, program.base + home.end, home.bytes, -1});
      numbers.push_back(number);
    }
    std::vector<ArenaBlock> alive = placed;
    alive.insert(alive.end(), blocks.begin(), blocks.end());
    liveBytes =
        std::max(liveBytes, (uses[index] == SavedUse::NoneAlive
                                 ? 0
                                 : savedBytes[program.stage] - int64_t(room)) +
                                largestLiveBytes(alive));
    if (room > 0)
      fillGaps(blocks, std::move(placed), room);
    std::vector<ArenaBlock> others;
    for (auto [number, block] : llvm::zip(numbers, blocks)) {
      if (block.offset < 0) {
        others.push_back(block);
        left.push_back({index, number, block});
      } else {
        program.slices[number] =
            uses[index] == SavedUse::Touches
                ? inSlot(slot, block)
                : slice(saved, linear(block.offset), block.bytes);
      }
    }
    int64_t &bytes = scratchBytes[program.stage];
    bytes = std::max(bytes, packArena(others));
    for (auto [one, block] : llvm::zip(
             llvm::MutableArrayRef(left).take_back(others.size()), others))
      one.block.offset = block.offset;
  }
  if (most(scratchBytes) > 0)
    scratch = allocate("scratch", "scratch", scratchBytes);
  for (const Left &one : left)
    programs[one.program].slices[one.home] =
        slice(scratch, linear(one.block.offset), one.block.bytes);
  for (int64_t stage = 0; stage < stages; ++stage)
    arenaBytes = std::max(arenaBytes, savedBytes[stage] + scratchBytes[stage]);
}
