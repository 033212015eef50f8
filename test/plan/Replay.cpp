// See Replay.h. Each allocation is a map from offsets to pieces; a piece is a
// run of bytes with one history: who wrote it, when, and when it was last read.
#include "test/plan/Replay.h"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>
#include <map>
#include <utility>

using namespace lmc;
using namespace lmc::test;

namespace {

struct Piece {
  int64_t end = 0;
  int64_t write = -1; // index into the writes
  int64_t begin = 0;  // time of the write
  int64_t lastRead = -1;
};

// One write: what it wrote at first, and whether somebody read of it.
struct Write {
  int64_t begin = 0, end = 0;
  bool isRead = false;
  std::string who;
};

struct Use {
  uint32_t allocation = 0;
  int64_t begin = 0, end = 0;
  bool reads = false, writes = false;
  bool isWorkspace = false; // what is written is the instruction's own
};

class Replayer {
public:
  // The rank of each axis with the last coordinate, or the first; of its own
  // on pp.
  Replayer(const plan::Plan &plan, int64_t stage, bool isLast)
      : plan(plan), pieces(allocationCount()) {
    for (const plan::Mesh::Axis &axis : plan.mesh().axes())
      coordinates.push_back(axis.name() == "pp" ? stage
                            : isLast            ? axis.size() - 1
                                                : 0);
    for (int i = 0; i < plan.symbols_size(); ++i)
      if (plan.symbols(i).kind() == plan::Symbol::SLOT)
        slotOf.insert({uint32_t(i), int(slotOf.size())});
  }

  ReplayResult run(const plan::Schedule &schedule);

private:
  using Pieces = std::map<int64_t, Piece>;

  size_t allocationCount() const { return size_t(plan.allocations_size()); }
  bool isArena(uint32_t allocation) const {
    auto contents = plan.allocations(int(allocation)).contents();
    return contents == plan::Allocation::SCRATCH ||
           contents == plan::Allocation::SAVED;
  }

  int64_t evaluate(const plan::Linear &linear) const;
  Use use(const plan::Slice &slice, bool reads, bool writes) const;
  std::vector<Use> usesOf(const plan::Instruction &instruction) const;
  bool isOwnPiece(const plan::Collective &collective, const Use &source,
                  const Use &target) const;
  void checkOverlap(const plan::Instruction &instruction,
                    const std::vector<Use> &uses);
  void cut(Pieces &map, int64_t offset);
  void read(const Use &use);
  void write(const Use &use);
  void retire(const Piece &piece, int64_t begin);
  void retireAll(uint32_t allocation);
  void report(std::string text);

  const plan::Plan &plan;
  std::vector<int64_t> coordinates;
  std::vector<Pieces> pieces;
  std::vector<Write> writes;
  std::map<int64_t, int64_t> changes; // of live bytes, by time
  const plan::Call *call = nullptr;
  std::map<uint32_t, int> slotOf; // symbols: which of the call's slots
  int64_t time = 0;
  std::string who;
  ReplayResult result;
};

int64_t Replayer::evaluate(const plan::Linear &linear) const {
  int64_t value = linear.constant();
  for (const plan::Linear::Term &term : linear.terms())
    switch (plan.symbols(int(term.symbol())).kind()) {
    case plan::Symbol::MICRO_BATCH:
      value += term.coefficient() * call->micro_batch();
      break;
    case plan::Symbol::SLOT:
      value += term.coefficient() * call->slots(slotOf.at(term.symbol()));
      break;
    case plan::Symbol::SIZE:
      value += term.coefficient() * plan.symbols(int(term.symbol())).maximum();
      break;
    case plan::Symbol::COORDINATE:
      value += term.coefficient() *
               coordinates[plan.symbols(int(term.symbol())).axis()];
      break;
    default:
      break;
    }
  return value;
}

Use Replayer::use(const plan::Slice &slice, bool reads, bool writes) const {
  int64_t begin = evaluate(slice.offset());
  return {slice.allocation(), begin, begin + slice.bytes(), reads, writes};
}

std::vector<Use> Replayer::usesOf(const plan::Instruction &instruction) const {
  std::vector<Use> uses;
  switch (instruction.kind_case()) {
  case plan::Instruction::kLaunch:
    for (const plan::Operand &operand : instruction.launch().operands())
      uses.push_back(use(operand.slice(),
                         operand.access() != plan::Operand::WRITE,
                         operand.access() != plan::Operand::READ));
    break;
  case plan::Instruction::kMatmul: {
    const plan::Matmul &matmul = instruction.matmul();
    uses.push_back(use(matmul.left(), true, false));
    uses.push_back(use(matmul.right(), true, false));
    if (matmul.has_bias())
      uses.push_back(use(matmul.bias(), true, false));
    uses.push_back(use(matmul.target(), false, true));
    if (matmul.has_addend()) {
      Use addend = use(matmul.addend(), true, false);
      if (addend.allocation == uses.back().allocation &&
          addend.begin == uses.back().begin)
        uses.back().reads = true;
      else
        uses.push_back(addend);
    }
    uses.push_back(use(matmul.workspace(), false, true));
    uses.back().isWorkspace = true;
    break;
  }
  case plan::Instruction::kFill:
    uses.push_back(use(instruction.fill().slice(), false, true));
    break;
  case plan::Instruction::kCopy:
    uses.push_back(use(instruction.copy().source(), true, false));
    uses.push_back(use(instruction.copy().target(), false, true));
    break;
  case plan::Instruction::kCollective:
    uses.push_back(use(instruction.collective().source(), true, false));
    uses.push_back(use(instruction.collective().target(), false, true));
    if (uses[0].allocation == uses[1].allocation &&
        uses[0].begin == uses[1].begin && uses[0].end == uses[1].end) {
      uses.pop_back();
      uses[0].writes = true;
    }
    break;
  case plan::Instruction::kSend:
    uses.push_back(use(instruction.send().slice(), true, false));
    break;
  case plan::Instruction::kReceive:
    uses.push_back(use(instruction.receive().slice(), false, true));
    break;
  default:
    break;
  }
  return uses;
}

void Replayer::report(std::string text) {
  if (result.findings.size() < 50)
    result.findings.push_back(who + " " + std::move(text));
}

// A gather may find its source, and a reduce-scatter leave its target, where
// this rank's piece of the other side lies.
bool Replayer::isOwnPiece(const plan::Collective &collective, const Use &source,
                          const Use &target) const {
  int64_t member = 0;
  for (uint32_t axis : collective.axes())
    member = member * plan.mesh().axes(int(axis)).size() + coordinates[axis];
  bool gathers = collective.kind() == plan::Collective::ALL_GATHER;
  const Use &piece = gathers ? source : target;
  const Use &whole = gathers ? target : source;
  return (gathers || collective.kind() == plan::Collective::REDUCE_SCATTER) &&
         piece.begin == whole.begin + member * (piece.end - piece.begin);
}

void Replayer::checkOverlap(const plan::Instruction &instruction,
                            const std::vector<Use> &uses) {
  if (instruction.has_collective() && uses.size() == 2 &&
      isOwnPiece(instruction.collective(), uses[0], uses[1]))
    return;
  for (size_t i = 0; i < uses.size(); ++i)
    for (size_t j = i + 1; j < uses.size(); ++j) {
      const Use &a = uses[i], &b = uses[j];
      if (a.allocation == b.allocation && a.begin < b.end && b.begin < a.end &&
          (a.writes || b.writes))
        report(fmt::format("writes operand {} or {}, which overlap in "
                           "allocation {}",
                           i, j, plan.allocations(int(a.allocation)).name()));
    }
}

// Makes a piece begin at `offset` if one covers it.
void Replayer::cut(Pieces &map, int64_t offset) {
  auto next = map.upper_bound(offset);
  if (next == map.begin())
    return;
  auto [begin, piece] = *std::prev(next);
  if (begin == offset || piece.end <= offset)
    return;
  std::prev(next)->second.end = offset;
  map[offset] = piece;
}

void Replayer::read(const Use &use) {
  auto contents = plan.allocations(int(use.allocation)).contents();
  if (!isArena(use.allocation) && contents != plan::Allocation::OUTPUT)
    return; // the host or an earlier step wrote it
  Pieces &map = pieces[use.allocation];
  cut(map, use.begin);
  cut(map, use.end);
  int64_t known = use.begin;
  for (auto it = map.lower_bound(use.begin);
       it != map.end() && it->first < use.end; ++it) {
    if (it->first > known)
      break;
    Piece &piece = it->second;
    // In place: the old bytes end where the new ones begin.
    piece.lastRead = use.writes ? time - 1 : time;
    Write &origin = writes[size_t(piece.write)];
    origin.isRead = true;
    known = piece.end;
    // A piece whose neighbour within the same read was overwritten by a write
    // that reaches out of the read range.
    bool reachesOut = origin.begin < use.begin || origin.end > use.end;
    bool isPartOfRead = use.end - use.begin > piece.end - it->first;
    if (reachesOut && isPartOfRead)
      report(fmt::format(
          "reads [{}, {}) of allocation {}, of which [{}, {}) was overwritten "
          "by {}",
          use.begin, use.end, plan.allocations(int(use.allocation)).name(),
          it->first, piece.end, origin.who));
  }
  if (known < use.end)
    report(fmt::format("reads [{}, {}) of allocation {}, of which nothing "
                       "wrote byte {}",
                       use.begin, use.end,
                       plan.allocations(int(use.allocation)).name(), known));
}

// The piece's bytes have had their last reader.
void Replayer::retire(const Piece &piece, int64_t begin) {
  int64_t bytes = piece.end - begin;
  changes[piece.begin] += bytes;
  changes[std::max(piece.lastRead, piece.begin) + 1] -= bytes;
}

void Replayer::write(const Use &use) {
  if (use.begin == use.end)
    return;
  Pieces &map = pieces[use.allocation];
  cut(map, use.begin);
  cut(map, use.end);
  auto first = map.lower_bound(use.begin), last = map.lower_bound(use.end);
  if (isArena(use.allocation))
    for (auto it = first; it != last; ++it)
      retire(it->second, it->first);
  map.erase(first, last);
  map[use.begin] = {use.end, int64_t(writes.size()), time, -1};
  writes.push_back(
      {use.begin, use.end, !isArena(use.allocation) || use.isWorkspace, who});
}

void Replayer::retireAll(uint32_t allocation) {
  for (auto &[begin, piece] : pieces[allocation])
    retire(piece, begin);
  pieces[allocation].clear();
}

ReplayResult Replayer::run(const plan::Schedule &schedule) {
  for (const plan::Call &next : schedule.calls()) {
    call = &next;
    const plan::Program &program = plan.programs(int(next.program()));
    for (int i = 0; i < program.instructions_size(); ++i) {
      const plan::Instruction &instruction = program.instructions(i);
      ++time;
      ++result.instructions;
      std::string what =
          instruction.has_launch()
              ? plan.kernels(int(instruction.launch().kernel())).name()
          : instruction.has_matmul() ? "matmul"
                                     : "copy, fill or transfer";
      who = fmt::format("{} micro-batch {}, instruction {} ({})",
                        program.name(), next.micro_batch(), i, what);
      std::vector<Use> uses = usesOf(instruction);
      checkOverlap(instruction, uses);
      for (const Use &use : uses)
        if (use.reads)
          read(use);
      for (const Use &use : uses)
        if (use.writes)
          write(use);
    }
    for (uint32_t a = 0; a < allocationCount(); ++a)
      if (plan.allocations(int(a)).contents() == plan::Allocation::SCRATCH)
        retireAll(a);
  }
  for (uint32_t a = 0; a < allocationCount(); ++a) {
    const plan::Allocation &allocation = plan.allocations(int(a));
    int64_t bytes = allocation.stage_bytes_size() > 0
                        ? allocation.stage_bytes(int(schedule.stage()))
                        : allocation.bytes();
    if (isArena(a)) {
      retireAll(a);
      result.arenaBytes += bytes;
    } else {
      result.fixedBytes += bytes;
    }
  }
  int64_t live = 0;
  for (auto [when, bytes] : changes) {
    live += bytes;
    result.liveBytes = std::max(result.liveBytes, live);
  }
  for (const Write &write : writes)
    if (!write.isRead && result.lostWrites.size() < 50)
      result.lostWrites.push_back(
          fmt::format("{} writes {} bytes that nobody reads", write.who,
                      write.end - write.begin));
  return std::move(result);
}

} // namespace

ReplayResult lmc::test::replay(const plan::Plan &plan,
                               const plan::Schedule &schedule) {
  ReplayResult result = Replayer(plan, schedule.stage(), false).run(schedule);
  bool isAlone = true;
  for (const plan::Mesh::Axis &axis : plan.mesh().axes())
    isAlone &= axis.size() <= 1;
  if (isAlone)
    return result;
  ReplayResult last = Replayer(plan, schedule.stage(), true).run(schedule);
  result.findings.insert(result.findings.end(), last.findings.begin(),
                         last.findings.end());
  return result;
}
