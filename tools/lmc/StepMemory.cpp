// See StepMemory.h.
#include "tools/lmc/StepMemory.h"

#include "runtime/plan/Linear.h"
#include "runtime/plan/PlanFacts.h"

#include <algorithm>
#include <iterator>
#include <map>
#include <vector>

using namespace lmc;

namespace {

// By how many bytes the sum of what is alive changes, by time.
using Changes = std::map<int64_t, int64_t>;

// That sum at each time in [0, times) is added to `alive`.
void addAlive(const Changes &changes, std::vector<int64_t> &alive) {
  int64_t sum = 0;
  auto change = changes.begin();
  for (size_t time = 0; time < alive.size(); ++time) {
    for (; change != changes.end() && change->first <= int64_t(time); ++change)
      sum += change->second;
    alive[time] += sum;
  }
}

int64_t mostAlive(const Changes &changes) {
  int64_t sum = 0, most = 0;
  for (auto [time, bytes] : changes)
    most = std::max(most, sum += bytes);
  return most;
}

// Which bytes of an allocation hold a value that is read later, by the chunk
// whose program wrote it. Time is a number that never falls.
class LiveBytes {
public:
  explicit LiveBytes(std::map<int64_t, Changes> &changes) : changes(changes) {}
  void read(int64_t begin, int64_t end, int64_t time) {
    cut(begin);
    cut(end);
    for (auto it = pieces.lower_bound(begin);
         it != pieces.end() && it->first < end; ++it)
      it->second.lastRead = time;
  }
  void write(int64_t begin, int64_t end, int64_t time, int64_t chunk) {
    cut(begin);
    cut(end);
    auto first = pieces.lower_bound(begin), last = pieces.lower_bound(end);
    for (auto it = first; it != last; ++it)
      retire(it->first, it->second, time - 1);
    pieces.erase(first, last);
    if (begin < end)
      pieces[begin] = {end, time, time, chunk};
  }
  // Nothing more is read or written.
  void finish() {
    for (auto &[begin, piece] : pieces)
      retire(begin, piece, piece.lastRead);
    pieces.clear();
  }

private:
  struct Piece {
    int64_t end, written, lastRead;
    int64_t chunk;
  };
  void cut(int64_t offset) {
    auto next = pieces.upper_bound(offset);
    if (next == pieces.begin())
      return;
    auto before = std::prev(next);
    if (before->first == offset || before->second.end <= offset)
      return;
    Piece rest = before->second;
    before->second.end = offset;
    pieces[offset] = rest;
  }
  // In place: old bytes end where new ones begin.
  void retire(int64_t begin, const Piece &piece, int64_t latest) {
    int64_t last = std::max(piece.written, std::min(piece.lastRead, latest));
    Changes &ofChunk = changes[piece.chunk];
    ofChunk[piece.written] += piece.end - begin;
    ofChunk[last + 1] -= piece.end - begin;
  }
  std::map<int64_t, Piece> pieces; // by their begin
  std::map<int64_t, Changes> &changes;
};

// The programs of a stage, such as its update, belong to none of its chunks.
constexpr int64_t kNoChunk = -1;
int64_t chunkOf(const plan::Program &program) {
  bool isOfChunk = program.name().rfind("forward", 0) == 0 ||
                   program.name().rfind("backward", 0) == 0;
  return isOfChunk ? int64_t(program.chunk()) : kNoChunk;
}

struct Use {
  const plan::Slice *slice;
  bool reads, writes;
};

std::vector<Use> usesOf(const plan::Instruction &instruction) {
  switch (instruction.kind_case()) {
  case plan::Instruction::kLaunch: {
    std::vector<Use> uses;
    for (const plan::Operand &operand : instruction.launch().operands())
      uses.push_back({&operand.slice(),
                      operand.access() != plan::Operand::WRITE,
                      operand.access() != plan::Operand::READ});
    return uses;
  }
  case plan::Instruction::kMatmul: {
    const plan::Matmul &matmul = instruction.matmul();
    std::vector<Use> uses = {{&matmul.left(), true, false},
                             {&matmul.right(), true, false},
                             {&matmul.target(), false, true},
                             {&matmul.workspace(), false, true}};
    if (matmul.has_bias())
      uses.push_back({&matmul.bias(), true, false});
    if (matmul.has_addend())
      uses.push_back({&matmul.addend(), true, false});
    return uses;
  }
  case plan::Instruction::kFill:
    return {{&instruction.fill().slice(), false, true}};
  case plan::Instruction::kCopy:
    return {{&instruction.copy().source(), true, false},
            {&instruction.copy().target(), false, true}};
  case plan::Instruction::kCollective:
    return {{&instruction.collective().source(), true, false},
            {&instruction.collective().target(), false, true}};
  case plan::Instruction::kSend:
    return {{&instruction.send().slice(), true, false}};
  case plan::Instruction::kReceive:
    return {{&instruction.receive().slice(), false, true}};
  default:
    return {};
  }
}

// What the plan's symbols are in a call, on the ranks of `stage` whose other
// coordinates are 0: like all others.
std::vector<int64_t> symbolsOf(const plan::Plan &plan, const plan::Call &call,
                               int64_t stage) {
  std::vector<int64_t> values;
  int slot = 0;
  for (const plan::Symbol &symbol : plan.symbols()) {
    bool isStage = symbol.kind() == plan::Symbol::COORDINATE &&
                   plan.mesh().axes(int(symbol.axis())).name() == "pp";
    values.push_back(symbol.kind() == plan::Symbol::MICRO_BATCH
                         ? call.micro_batch()
                     : symbol.kind() == plan::Symbol::SLOT ? call.slots(slot++)
                     : symbol.kind() == plan::Symbol::SIZE ? symbol.maximum()
                     : isStage                             ? stage
                                                           : 0);
  }
  return values;
}

bool isIn(const plan::Plan &plan, const plan::Slice &slice,
          plan::Allocation::Contents contents) {
  return plan.allocations(int(slice.allocation())).contents() == contents;
}

// The most scratch alive at one instruction of a program.
int64_t scratchOf(const plan::Plan &plan, const plan::Program &program,
                  const std::vector<int64_t> &symbols) {
  std::map<int64_t, Changes> changes;
  std::map<uint32_t, LiveBytes> live;
  for (int i = 0; i < program.instructions_size(); ++i) {
    std::vector<Use> uses = usesOf(program.instructions(i));
    for (bool writes : {false, true})
      for (const Use &use : uses) {
        if (!isIn(plan, *use.slice, plan::Allocation::SCRATCH) ||
            !(writes ? use.writes : use.reads))
          continue;
        int64_t begin = runtime::evaluateLinear(use.slice->offset(), symbols);
        int64_t end = begin + use.slice->bytes();
        LiveBytes &bytes =
            live.try_emplace(use.slice->allocation(), changes).first->second;
        writes ? bytes.write(begin, end, i, kNoChunk)
               : bytes.read(begin, end, i);
      }
  }
  for (auto &[allocation, bytes] : live)
    bytes.finish();
  return mostAlive(changes[kNoChunk]);
}

// The slices of saved values that a program touches, and where.
struct SavedUse {
  int instruction;
  Use use;
};
std::vector<SavedUse> savedUses(const plan::Plan &plan,
                                const plan::Program &program) {
  std::vector<SavedUse> saved;
  for (int i = 0; i < program.instructions_size(); ++i) {
    std::vector<Use> uses = usesOf(program.instructions(i));
    for (bool writes : {false, true})
      for (const Use &use : uses)
        if (isIn(plan, *use.slice, plan::Allocation::SAVED) &&
            (writes ? use.writes : use.reads))
          saved.push_back({i, {use.slice, !writes, writes}});
  }
  return saved;
}

// The most micro-batches of chunks between their first and their last call.
int64_t mostUnderWay(const plan::Plan &plan, const plan::Schedule &schedule) {
  std::map<uint32_t, int64_t> timesCalled; // programs
  for (const plan::Call &call : schedule.calls())
    ++timesCalled[call.program()];
  std::map<std::pair<uint32_t, int64_t>, std::pair<int, int>> spans;
  for (int i = 0; i < schedule.calls_size(); ++i) {
    const plan::Call &call = schedule.calls(i);
    if (timesCalled[call.program()] == 1 && plan.micro_batches() > 1)
      continue; // for all micro-batches
    uint32_t chunk = plan.programs(int(call.program())).chunk();
    auto [span, isNew] =
        spans.try_emplace({chunk, call.micro_batch()}, std::pair(i, i));
    span->second.second = i;
  }
  std::vector<int64_t> changes(size_t(schedule.calls_size()) + 1);
  for (auto &[key, span] : spans) {
    ++changes[size_t(span.first)];
    --changes[size_t(span.second) + 1];
  }
  int64_t now = 0, most = 0;
  for (int64_t change : changes)
    most = std::max(most, now += change);
  return most;
}

} // namespace

StageMemory lmc::memoryOf(const plan::Plan &plan,
                          const plan::Schedule &schedule) {
  StageMemory memory;
  for (const plan::Allocation &allocation : plan.allocations()) {
    if (allocation.memory() != plan::DEVICE)
      continue;
    int64_t bytes = runtime::bytesOnStage(allocation, schedule.stage());
    memory.allocated += bytes;
    if (allocation.contents() != plan::Allocation::SAVED &&
        allocation.contents() != plan::Allocation::SCRATCH)
      memory.fixed += bytes;
  }
  std::map<uint32_t, std::pair<int64_t, std::vector<SavedUse>>> programs;
  std::map<int64_t, Changes> changes; // by chunk
  std::map<uint32_t, LiveBytes> live;
  std::vector<int64_t> firstTime; // of each call; an instruction takes one
  int64_t time = 0;
  for (const plan::Call &call : schedule.calls()) {
    const plan::Program &program = plan.programs(int(call.program()));
    auto [found, isNew] = programs.try_emplace(call.program());
    auto &[scratch, uses] = found->second;
    std::vector<int64_t> symbols = symbolsOf(plan, call, schedule.stage());
    if (isNew) {
      scratch = scratchOf(plan, program, symbols);
      uses = savedUses(plan, program);
    }
    memory.calls.push_back({0, scratch});
    int64_t chunk = chunkOf(program);
    int64_t &most = memory.chunks[chunk];
    most = std::max(most, scratch);
    for (const auto &[instruction, use] : uses) {
      int64_t begin = runtime::evaluateLinear(use.slice->offset(), symbols);
      int64_t end = begin + use.slice->bytes();
      LiveBytes &bytes =
          live.try_emplace(use.slice->allocation(), changes).first->second;
      if (use.reads)
        bytes.read(begin, end, time + instruction);
      else
        bytes.write(begin, end, time + instruction, chunk);
    }
    firstTime.push_back(time);
    time += std::max(program.instructions_size(), 1);
  }
  firstTime.push_back(time);
  memory.slots = mostUnderWay(plan, schedule);
  for (auto &[allocation, bytes] : live)
    bytes.finish();
  std::vector<int64_t> saved(static_cast<size_t>(time));
  for (auto &[chunk, ofChunk] : changes) {
    addAlive(ofChunk, saved);
    int64_t &most = memory.chunks[chunk];
    most = std::max(most, mostAlive(ofChunk));
  }
  memory.chunks.erase(kNoChunk);
  if (!changes.empty()) {
    int64_t at = std::max_element(saved.begin(), saved.end()) - saved.begin();
    int64_t call = std::upper_bound(firstTime.begin(), firstTime.end(), at) -
                   firstTime.begin() - 1;
    memory.peak = {schedule.calls(int(call)).program(),
                   int(at - firstTime[size_t(call)])};
  }
  for (size_t i = 0; i < memory.calls.size(); ++i)
    memory.calls[i].saved = *std::max_element(saved.begin() + firstTime[i],
                                              saved.begin() + firstTime[i + 1]);
  return memory;
}
