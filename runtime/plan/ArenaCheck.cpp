// See ArenaCheck.h. A program is walked once and what it does to an arena is
// summed up in a few ranges; a call then costs as many steps as it has ranges,
// whatever its instructions. Only a call whose slots place something over
// something else that it uses is walked itself.
#include "runtime/plan/ArenaCheck.h"

#include "runtime/base/Checked.h"
#include "runtime/plan/Linear.h"

#include <algorithm>
#include <iterator>
#include <map>
#include <optional>
#include <vector>

namespace lmc::runtime {

// More than any sane plan visits.
static constexpr int64_t maxVisits = int64_t(1) << 26;

namespace {

// Disjoint ranges, begin -> end; neighbours are one.
class ByteSet {
public:
  void add(int64_t begin, int64_t end) {
    if (begin >= end)
      return;
    auto it = ranges.upper_bound(begin);
    if (it != ranges.begin() && std::prev(it)->second >= begin)
      --it;
    while (it != ranges.end() && it->first <= end) {
      begin = std::min(begin, it->first);
      end = std::max(end, it->second);
      it = ranges.erase(it);
    }
    ranges[begin] = end;
  }
  void remove(int64_t begin, int64_t end) {
    auto it = ranges.upper_bound(begin);
    if (it != ranges.begin() && std::prev(it)->second > begin)
      --it;
    while (it != ranges.end() && it->first < end) {
      auto [first, last] = *it;
      it = ranges.erase(it);
      add(first, begin);
      add(end, last);
    }
  }
  bool meets(int64_t begin, int64_t end) const {
    auto it = ranges.lower_bound(end);
    return it != ranges.begin() && std::prev(it)->second > begin;
  }
  /// Calls `visit` with what of [begin, end) is not in the set.
  template <typename Visit>
  void visitMissing(int64_t begin, int64_t end, Visit visit) const {
    auto it = ranges.upper_bound(begin);
    if (it != ranges.begin())
      begin = std::max(begin, std::prev(it)->second);
    for (; begin < end; begin = std::max(begin, it->second), ++it) {
      if (it == ranges.end() || it->first >= end) {
        visit(begin, end);
        return;
      }
      if (begin < it->first)
        visit(begin, it->first);
    }
  }
  const std::map<int64_t, int64_t> &all() const { return ranges; }

private:
  std::map<int64_t, int64_t> ranges;
};

// What a program does to the bytes of the sets, moved by a sum of slots.
struct Summary {
  ByteSet found, written; // read before written; written
};

// Whether two sets, each moved by a distance, have a byte in common.
bool meet(const ByteSet &a, int64_t atA, const ByteSet &b, int64_t atB) {
  auto i = a.all().begin();
  auto j = b.all().begin();
  while (i != a.all().end() && j != b.all().end()) {
    if (atA + i->first < atB + j->second && atB + j->first < atA + i->second)
      return true;
    if (atA + i->second < atB + j->second)
      ++i;
    else
      ++j;
  }
  return false;
}

// An allocation, and the coefficient of each slot.
using ArenaUse = std::pair<uint32_t, std::vector<int64_t>>;
using Summaries = std::map<ArenaUse, Summary>;

// Whose bytes are where.
struct Piece {
  int64_t end;
  uint32_t chunk;
  int64_t microBatch;
};
using Pieces = std::map<int64_t, Piece>;

class ArenaChecker {
public:
  explicit ArenaChecker(const plan::Plan &plan)
      : plan(plan), slotOf(slotIndices(plan)) {}
  Status run();

private:
  bool isArena(uint32_t allocation) const {
    auto contents = plan.allocations(int(allocation)).contents();
    return contents == plan::Allocation::SCRATCH ||
           contents == plan::Allocation::SAVED;
  }
  Status use(Summaries &sums, const plan::Slice &slice, bool writes,
             const plan::Call *call);
  StatusOr<Summaries> sumUp(const plan::Program &program,
                            const plan::Call *call);
  Status checkReads(const plan::Schedule &schedule, int index,
                    const Summaries &sums);
  bool meetsItself(const plan::Call &call);
  void write(const plan::Call &call, const Summaries &sums);
  static int64_t distance(const ArenaUse &use, const plan::Call &call);
  static void cut(Pieces &pieces, int64_t offset);

  const plan::Plan &plan;
  std::vector<int> slotOf; // symbols
  std::vector<Summaries> programs;
  std::map<ArenaUse, ByteSet> written; // last, in the call that is walked
  std::vector<Pieces> pieces;          // of each allocation
  int64_t visits = 0;
};

// Adds a read or a write of a slice to what its program does, in a call or
// whatever the call.
Status ArenaChecker::use(Summaries &sums, const plan::Slice &slice, bool writes,
                         const plan::Call *call) {
  if (!isArena(slice.allocation()))
    return Status();
  std::vector<int64_t> coefficients(size_t(std::count_if(
      slotOf.begin(), slotOf.end(), [](int s) { return s >= 0; })));
  // What is nowhere negative has no sum above the whole, which is in bounds.
  int64_t begin = slice.offset().constant();
  bool fits = begin >= 0;
  for (const plan::Linear::Term &term : slice.offset().terms()) {
    const plan::Symbol &symbol = plan.symbols(int(term.symbol()));
    int slot = slotOf[term.symbol()];
    if (slot < 0)
      return corrupt("offset in allocation {} ({}) depends on symbol {}, which "
                     "is no slot",
                     slice.allocation(),
                     plan.allocations(int(slice.allocation())).name(),
                     symbol.name());
    int64_t &coefficient = coefficients[size_t(slot)];
    auto sum = checkedAdd(coefficient, term.coefficient());
    fits &= sum.has_value() && term.coefficient() >= 0;
    coefficient = sum.value_or(0);
  }
  std::optional<int64_t> end = checkedAdd(begin, slice.bytes());
  if (!fits || !end)
    return corrupt("offset in allocation {} ({}) overflows or is negative in "
                   "part",
                   slice.allocation(),
                   plan.allocations(int(slice.allocation())).name());
  ArenaUse where{slice.allocation(), std::move(coefficients)};
  if (call) {
    int64_t moved = distance(where, *call);
    begin += moved;
    *end += moved;
    for (auto &[other, bytes] : written) {
      if (other.first != where.first || other == where)
        continue;
      if (writes)
        bytes.remove(begin, *end);
      else if (bytes.meets(begin, *end))
        return corrupt("reads bytes [{}, {}) of allocation {} ({}), which it "
                       "has written through another slot",
                       begin, *end, where.first,
                       plan.allocations(int(where.first)).name());
    }
    if (writes)
      written[where].add(begin, *end);
    where.second.clear();
  }
  Summary &sum = sums[std::move(where)];
  if (writes)
    sum.written.add(begin, *end);
  else
    sum.written.visitMissing(begin, *end, [&](int64_t from, int64_t to) {
      sum.found.add(from, to);
    });
  return Status();
}

// What a program does to arenas: in a call, or whatever the call.
StatusOr<Summaries> ArenaChecker::sumUp(const plan::Program &program,
                                        const plan::Call *call) {
  Summaries sums;
  for (const plan::Instruction &instruction : program.instructions()) {
    std::vector<std::pair<const plan::Slice *, bool>> uses; // writes?
    switch (instruction.kind_case()) {
    case plan::Instruction::kLaunch:
      for (const plan::Operand &operand : instruction.launch().operands()) {
        if (operand.access() != plan::Operand::WRITE)
          uses.push_back({&operand.slice(), false});
        if (operand.access() != plan::Operand::READ)
          uses.push_back({&operand.slice(), true});
      }
      break;
    case plan::Instruction::kMatmul: {
      const plan::Matmul &matmul = instruction.matmul();
      uses = {{&matmul.left(), false},
              {&matmul.right(), false},
              {&matmul.target(), true},
              {&matmul.workspace(), true}};
      if (matmul.has_bias())
        uses.push_back({&matmul.bias(), false});
      if (matmul.has_addend())
        uses.push_back({&matmul.addend(), false});
      break;
    }
    case plan::Instruction::kFill:
      uses.push_back({&instruction.fill().slice(), true});
      break;
    case plan::Instruction::kCopy:
      uses.push_back({&instruction.copy().source(), false});
      uses.push_back({&instruction.copy().target(), true});
      break;
    case plan::Instruction::kCollective:
      uses.push_back({&instruction.collective().source(), false});
      uses.push_back({&instruction.collective().target(), true});
      break;
    case plan::Instruction::kSend:
      uses.push_back({&instruction.send().slice(), false});
      break;
    case plan::Instruction::kReceive:
      uses.push_back({&instruction.receive().slice(), true});
      break;
    case plan::Instruction::KIND_NOT_SET:
      break;
    }
    for (bool writes : {false, true})
      for (auto [slice, isWrite] : uses)
        if (isWrite == writes)
          LMC_RETURN_IF_ERROR(use(sums, *slice, writes, call));
  }
  return sums;
}

// How far a call moves what it uses.
int64_t ArenaChecker::distance(const ArenaUse &use, const plan::Call &call) {
  int64_t bytes = 0;
  for (size_t i = 0; i < use.second.size(); ++i)
    bytes += use.second[i] * call.slots(int(i));
  return bytes;
}

// Makes a piece begin at `offset` if one covers it.
void ArenaChecker::cut(Pieces &pieces, int64_t offset) {
  auto next = pieces.upper_bound(offset);
  if (next == pieces.begin())
    return;
  auto &[begin, piece] = *std::prev(next);
  if (begin == offset || piece.end <= offset)
    return;
  Piece rest = piece;
  piece.end = offset;
  pieces[offset] = rest;
}

// What a call reads before it writes it is its own micro-batch's.
Status ArenaChecker::checkReads(const plan::Schedule &schedule, int index,
                                const Summaries &sums) {
  const plan::Call &call = schedule.calls(index);
  const plan::Program &program = plan.programs(int(call.program()));
  auto wrong = [&](uint32_t allocation, int64_t begin, int64_t end,
                   const std::string &what) {
    return corrupt("schedule {} of stage {}, call {}: program {}, micro-batch "
                   "{}, reads bytes [{}, {}) of allocation {} ({}), {}",
                   schedule.name(), schedule.stage(), index, program.name(),
                   call.micro_batch(), begin, end, allocation,
                   plan.allocations(int(allocation)).name(), what);
  };
  for (const auto &[where, sum] : sums) {
    uint32_t allocation = where.first;
    const Pieces &map = pieces[allocation];
    int64_t base = distance(where, call);
    bool isScratch = plan.allocations(int(allocation)).contents() ==
                     plan::Allocation::SCRATCH;
    for (auto [begin, end] : sum.found.all()) {
      int64_t at = base + begin, last = base + end;
      if (isScratch)
        return wrong(allocation, at, last, "which it has not written before");
      auto it = map.upper_bound(at);
      if (it != map.begin() && std::prev(it)->second.end > at)
        --it;
      for (; at < last; at = it->second.end, ++it, ++visits) {
        if (it == map.end() || it->first > at)
          return wrong(allocation, at, last,
                       "which nothing has written before it");
        const Piece &piece = it->second;
        if (piece.chunk != program.chunk() ||
            piece.microBatch != call.micro_batch())
          return wrong(allocation, at, std::min(last, piece.end),
                       fmt::format("which chunk {}, micro-batch {}, has "
                                   "written over",
                                   piece.chunk, piece.microBatch));
      }
    }
  }
  return Status();
}

// Whether a call's slots place two of its uses in the same bytes, which the
// program's summaries take for different ones.
bool ArenaChecker::meetsItself(const plan::Call &call) {
  const Summaries &sums = programs[call.program()];
  for (auto a = sums.begin(); a != sums.end(); ++a)
    for (auto b = std::next(a);
         b != sums.end() && b->first.first == a->first.first; ++b) {
      int64_t atA = distance(a->first, call), atB = distance(b->first, call);
      visits += int64_t(a->second.written.all().size() +
                        b->second.written.all().size());
      if (meet(a->second.written, atA, b->second.written, atB) ||
          meet(a->second.written, atA, b->second.found, atB) ||
          meet(a->second.found, atA, b->second.written, atB))
        return true;
    }
  return false;
}

// What a call writes is its micro-batch's from here on.
void ArenaChecker::write(const plan::Call &call, const Summaries &sums) {
  uint32_t chunk = plan.programs(int(call.program())).chunk();
  for (const auto &[where, sum] : sums) {
    Pieces &map = pieces[where.first];
    int64_t base = distance(where, call);
    for (auto [begin, end] : sum.written.all()) {
      int64_t from = base + begin, to = base + end;
      cut(map, from);
      cut(map, to);
      auto first = map.lower_bound(from), last = map.lower_bound(to);
      visits += 1 + std::distance(first, last);
      map.erase(first, last);
      map[from] = {to, chunk, call.micro_batch()};
    }
  }
}

Status ArenaChecker::run() {
  for (const plan::Program &program : plan.programs()) {
    auto sums = sumUp(program, nullptr);
    if (!sums.ok())
      return std::move(sums).status().prepend("program " + program.name());
    programs.push_back(*std::move(sums));
  }
  for (const plan::Schedule &schedule : plan.schedules()) {
    pieces.assign(size_t(plan.allocations_size()), {});
    for (int i = 0; i < schedule.calls_size(); ++i) {
      const plan::Call &call = schedule.calls(i);
      const plan::Program &program = plan.programs(int(call.program()));
      const Summaries *sums = &programs[call.program()];
      Summaries exact;
      if (meetsItself(call)) {
        visits += program.instructions_size();
        written.clear();
        auto walked = sumUp(program, &call);
        if (!walked.ok())
          return std::move(walked).status().prepend(fmt::format(
              "schedule {} of stage {}, call {}: program {}, micro-batch {}",
              schedule.name(), schedule.stage(), i, program.name(),
              call.micro_batch()));
        exact = *std::move(walked);
        sums = &exact;
      }
      LMC_RETURN_IF_ERROR(checkReads(schedule, i, *sums));
      write(call, *sums);
      if (visits > maxVisits)
        return corrupt("the calls of schedule {} of stage {} use more than {} "
                       "ranges of bytes",
                       schedule.name(), schedule.stage(), maxVisits);
    }
  }
  return Status();
}

} // namespace

Status checkArenas(const plan::Plan &plan) { return ArenaChecker(plan).run(); }

} // namespace lmc::runtime
