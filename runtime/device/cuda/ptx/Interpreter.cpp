// Runs a grid; see Interpreter.h.
#include "runtime/device/cuda/ptx/Interpreter.h"
#include "runtime/device/cuda/ptx/Warp.h"

#include <algorithm>
#include <cstdlib>
#include <utility>

using namespace lmc::ptx;

namespace {
constexpr char kUnwritten = '\xff';   // a float of these is NaN
constexpr uint16_t kSeveral = 0xffff; // threads that read
} // namespace

Memory::~Memory() {
  for (auto &[end, region] : regions)
    std::free(region.traces);
}

void Memory::add(uint64_t address, char *bytes, uint64_t size) {
  if (size == 0)
    return;
  // Pages that no kernel touches are never there.
  auto *traces =
      static_cast<Trace *>(std::calloc((size + 3) / 4, sizeof(Trace)));
  regions[address + size] = {address, address + size, bytes, traces};
}

void Memory::remove(uint64_t address) {
  auto found = regions.upper_bound(address);
  if (found == regions.end() || found->second.begin != address)
    return;
  std::free(found->second.traces);
  regions.erase(found);
}

const Memory::Region *Memory::find(uint64_t address) const {
  auto found = regions.upper_bound(address);
  return found == regions.end() || address < found->second.begin
             ? nullptr
             : &found->second;
}

void Warp::reset(const Kernel &kernel) {
  file.assign(kernel.fileBytes, kUnwritten);
  for (const Kernel::Constant &constant : kernel.constants)
    for (unsigned lane = 0; lane < kWarp; ++lane)
      switch (constant.width) {
      case Width::Predicate:
        *at<uint32_t>(constant.at) = uint32_t(constant.value);
        break;
      case Width::Word:
        at<uint32_t>(constant.at)[lane] = uint32_t(constant.value);
        break;
      case Width::Double:
        at<uint64_t>(constant.at)[lane] = constant.value;
        break;
      }
  std::fill_n(states, kWarp, Running);
  std::fill_n(pcs, kWarp, 0);
}

namespace lmc::ptx {

class Block {
public:
  Block(const Module &module, const Launch &launch, Memory &memory)
      : module(module), launch(launch), kernel(*launch.kernel), memory(memory),
        launchBegan(memory.time + 1), warps(launch.threads / kWarp),
        shared(launch.sharedBytes), sharedTraces((launch.sharedBytes + 3) / 4) {
  }
  bool run(uint32_t number);
  std::string fault; // what went wrong

private:
  const Module &module;
  const Launch &launch;
  const Kernel &kernel;
  Memory &memory;
  const uint32_t launchBegan;
  uint32_t began = 0, number = 0;
  std::vector<Warp> warps;
  std::vector<char> shared;
  std::vector<Trace> sharedTraces;
  const Memory::Region *recent = nullptr;
  uint64_t counted = 0; // of the instruction: the address of the lane before

  bool resume(Warp &warp);
  bool step(Warp &warp, uint32_t lanes, uint32_t pc);
  void wait(Warp &warp, uint32_t lanes, uint32_t pc, Warp::State state);
  void shuffle(Warp &warp, const Instruction &instruction);
  void access(Warp &warp, const Instruction &instruction);
  void accessLane(Warp &warp, const Instruction &instruction, unsigned lane);
  char *translate(const Instruction &instruction, uint64_t address,
                  uint32_t bytes, Trace *&traces, std::string &why);
  const char *noteRead(Trace &trace, const Instruction &instruction,
                       uint16_t thread);
  const char *noteWrite(Trace &trace, const Instruction &instruction,
                        uint16_t thread);
  // What was done to a word before is nothing to it now: another block's shared
  // memory, another launch.
  uint32_t oldest(const Instruction &instruction) const {
    return instruction.space == Instruction::Shared ? began : launchBegan;
  }
  void fail(const Instruction &instruction, uint32_t thread,
            const std::string &what);
  void failToMeet();
};

void Block::fail(const Instruction &instruction, uint32_t thread,
                 const std::string &what) {
  if (fault.empty())
    fault = kernel.name + ": " + what + " (block " + std::to_string(number) +
            ", thread " + std::to_string(thread) + ", line " +
            std::to_string(instruction.line) + ": " +
            std::string(module.line(instruction.line)) + ")";
}

void Block::failToMeet() {
  fault = kernel.name + ": the threads of block " + std::to_string(number) +
          " do not meet:";
  const char *const names[] = {"runs", "waits at a shuffle",
                               "waits at a barrier", "is done"};
  auto describe = [&](uint32_t thread) {
    const Warp &warp = warps[thread / kWarp];
    Warp::State state = warp.states[thread % kWarp];
    std::string text = names[state];
    if (state != Warp::Done)
      text += ", line " +
              std::to_string(kernel.code[warp.pcs[thread % kWarp]].line);
    return text;
  };
  for (uint32_t thread = 0; thread < launch.threads; ++thread)
    if (thread == 0 || describe(thread) != describe(thread - 1))
      fault += "\n  from thread " + std::to_string(thread) +
               " on: " + describe(thread);
}

bool Block::run(uint32_t blockNumber) {
  number = blockNumber;
  began = ++memory.time;
  std::fill(shared.begin(), shared.end(), kUnwritten);
  for (size_t i = 0; i < warps.size(); ++i) {
    Warp &warp = warps[i];
    warp.reset(kernel);
    for (unsigned lane = 0; lane < kWarp; ++lane) {
      warp.at<uint32_t>(kernel.thread)[lane] = uint32_t(i * kWarp + lane);
      warp.at<uint32_t>(kernel.block)[lane] = number;
    }
  }
  while (true) {
    for (Warp &warp : warps)
      if (!resume(warp))
        return false;
    size_t done = 0, waiting = 0;
    uint32_t pc = warps[0].pcs[0];
    for (Warp &warp : warps)
      for (unsigned lane = 0; lane < kWarp; ++lane) {
        done += warp.states[lane] == Warp::Done;
        waiting += warp.states[lane] == Warp::AtBarrier && warp.pcs[lane] == pc;
      }
    if (done == launch.threads)
      return true;
    if (waiting != launch.threads)
      return failToMeet(), false;
    ++memory.time;
    for (Warp &warp : warps)
      for (unsigned lane = 0; lane < kWarp; ++lane) {
        warp.states[lane] = Warp::Running;
        ++warp.pcs[lane];
      }
  }
}

// Runs a warp until none of its lanes can go on; false after a fault.
bool Block::resume(Warp &warp) {
  while (true) {
    uint32_t pc = ~0u, lanes = 0, shuffling = 0;
    for (unsigned lane = 0; lane < kWarp; ++lane) {
      shuffling +=
          warp.states[lane] == Warp::AtShuffle && warp.pcs[lane] == warp.pcs[0];
      if (warp.states[lane] != Warp::Running || warp.pcs[lane] > pc)
        continue;
      if (warp.pcs[lane] < pc)
        lanes = 0;
      pc = warp.pcs[lane];
      lanes |= 1u << lane;
    }
    if (shuffling == kWarp) {
      warp.active = ~0u;
      shuffle(warp, kernel.code[warp.pcs[0]]);
      wait(warp, ~0u, warp.pcs[0] + 1, Warp::Running);
      continue;
    }
    if (lanes == 0)
      return true;
    if (!step(warp, lanes, pc))
      return false;
  }
}

void Block::wait(Warp &warp, uint32_t lanes, uint32_t pc, Warp::State state) {
  for (unsigned lane = 0; lane < kWarp; ++lane)
    if (lanes >> lane & 1) {
      warp.states[lane] = state;
      warp.pcs[lane] = pc;
    }
}

// Runs `lanes` from `pc` on until they part, wait, or reach others.
bool Block::step(Warp &warp, uint32_t lanes, uint32_t pc) {
  uint32_t others = ~0u; // where the next lane waits to be joined
  for (unsigned lane = 0; lane < kWarp; ++lane)
    if (!(lanes >> lane & 1) && warp.states[lane] == Warp::Running)
      others = std::min(others, warp.pcs[lane]);
  while (true) {
    if (pc >= others)
      return wait(warp, lanes, pc, Warp::Running), true;
    const Instruction &instruction = kernel.code[pc];
    warp.active = lanes;
    if (instruction.guard != Instruction::Always) {
      uint32_t holds = *warp.at<uint32_t>(instruction.predicate);
      warp.active &= instruction.guard == Instruction::If ? holds : ~holds;
    }
    uint32_t active = warp.active;
    switch (instruction.kind) {
    case Instruction::Lanewise:
      instruction.run(warp, instruction);
      break;
    case Instruction::Load:
    case Instruction::Store:
      access(warp, instruction);
      if (!fault.empty())
        return false;
      break;
    case Instruction::Parameter:
      for (unsigned lane = 0; lane < kWarp; ++lane)
        if (active >> lane & 1)
          warp.at<uint64_t>(instruction.targets[0])[lane] =
              launch.parameters[size_t(instruction.offset)];
      break;
    case Instruction::Shuffle:
      if (active == ~0u) {
        shuffle(warp, instruction);
        break;
      }
      wait(warp, lanes & ~active, pc + 1, Warp::Running);
      return wait(warp, active, pc, Warp::AtShuffle), true;
    case Instruction::Barrier:
      wait(warp, lanes & ~active, pc + 1, Warp::Running);
      return wait(warp, active, pc, Warp::AtBarrier), true;
    case Instruction::Return:
      wait(warp, lanes & ~active, pc + 1, Warp::Running);
      return wait(warp, active, pc, Warp::Done), true;
    case Instruction::Branch:
      if (active == lanes) {
        pc = instruction.label;
        continue;
      }
      if (active) {
        wait(warp, lanes & ~active, pc + 1, Warp::Running);
        return wait(warp, active, instruction.label, Warp::Running), true;
      }
      break;
    }
    ++pc;
  }
}

void Block::shuffle(Warp &warp, const Instruction &instruction) {
  uint32_t given[kWarp];
  std::copy_n(warp.at<uint32_t>(instruction.sources[0]), kWarp, given);
  const uint32_t *mask = warp.at<uint32_t>(instruction.sources[1]);
  for (unsigned lane = 0; lane < kWarp; ++lane)
    warp.at<uint32_t>(instruction.targets[0])[lane] =
        given[(lane ^ mask[lane]) % kWarp];
}

void Block::access(Warp &warp, const Instruction &instruction) {
  counted = ~uint64_t(0);
  for (unsigned lane = 0; lane < kWarp && fault.empty(); ++lane)
    if (warp.active >> lane & 1)
      accessLane(warp, instruction, lane);
}

char *Block::translate(const Instruction &instruction, uint64_t address,
                       uint32_t bytes, Trace *&traces, std::string &why) {
  if (address % bytes != 0) {
    why = "is not aligned";
    return nullptr;
  }
  if (instruction.space == Instruction::Shared) {
    if (address > shared.size() || shared.size() - address < bytes) {
      why =
          "lies outside of " + std::to_string(shared.size()) + " shared bytes";
      return nullptr;
    }
    traces = sharedTraces.data() + address / 4;
    return shared.data() + address;
  }
  if (!recent || address < recent->begin || address >= recent->end)
    recent = memory.find(address);
  if (!recent || recent->end - address < bytes) {
    why = "lies outside of what the launch may touch";
    return nullptr;
  }
  if (address != std::exchange(counted, address)) {
    memory.accessedBytes += bytes;
    memory.wideBytes += bytes == 16 ? bytes : 0;
  }
  traces = recent->traces + (address - recent->begin) / 4;
  return recent->bytes + (address - recent->begin);
}

template <typename T>
static void transfer(Warp &warp, const Instruction &instruction, unsigned lane,
                     char *at) {
  for (uint32_t i = 0; i < instruction.count; ++i) {
    T &value = warp.at<T>(instruction.targets[i])[lane];
    if (instruction.kind == Instruction::Store)
      std::memcpy(at + i * sizeof(T), &value, sizeof(T));
    else
      std::memcpy(&value, at + i * sizeof(T), sizeof(T));
  }
}

void Block::accessLane(Warp &warp, const Instruction &instruction,
                       unsigned lane) {
  auto thread = uint16_t(size_t(&warp - warps.data()) * kWarp + lane);
  uint32_t bytes = instruction.bytes * instruction.count;
  uint64_t address = warp.at<uint64_t>(instruction.sources[0])[lane] +
                     uint64_t(instruction.offset);
  bool stores = instruction.kind == Instruction::Store;
  Trace *traces = nullptr;
  std::string why;
  char *at = translate(instruction, address, bytes, traces, why);
  if (!at)
    return fail(instruction, thread,
                std::to_string(bytes) + " bytes at " + std::to_string(address) +
                    ": " + why);
  for (uint32_t word = 0; word < bytes / 4; ++word) {
    const char *wrong = stores ? noteWrite(traces[word], instruction, thread)
                               : noteRead(traces[word], instruction, thread);
    if (wrong)
      return fail(instruction, thread,
                  "address " + std::to_string(address + 4 * word) + " " +
                      wrong);
  }
  if (instruction.bytes == 4)
    transfer<uint32_t>(warp, instruction, lane, at);
  else
    transfer<uint64_t>(warp, instruction, lane, at);
}

const char *Block::noteRead(Trace &trace, const Instruction &instruction,
                            uint16_t thread) {
  uint32_t now = memory.time, first = oldest(instruction);
  bool readOnly = instruction.space == Instruction::ReadOnly;
  if (trace.written >= first) {
    if (readOnly)
      return "is read by ld.global.nc after this launch wrote it";
    if (trace.written < began)
      return "is read while another block writes it";
    if (trace.written == now && trace.writer != thread)
      return "is read while another thread writes it";
  }
  if (trace.read < first)
    trace.readByOtherBlock = trace.readOnly = false;
  else if (trace.read < began)
    trace.readByOtherBlock = true;
  trace.reader =
      trace.read == now && trace.reader != thread ? kSeveral : thread;
  trace.read = now;
  trace.readOnly |= readOnly;
  return nullptr;
}

const char *Block::noteWrite(Trace &trace, const Instruction &instruction,
                             uint16_t thread) {
  uint32_t now = memory.time, first = oldest(instruction);
  if (trace.read >= first) {
    if (trace.readOnly)
      return "is written after this launch read it by ld.global.nc";
    if (trace.read < began || trace.readByOtherBlock)
      return "is written while another block reads it";
    if (trace.read == now && trace.reader != thread)
      return "is written while another thread reads it";
  }
  if (trace.written >= first) {
    if (trace.written < began)
      return "is written by two blocks";
    if (trace.written == now && trace.writer != thread)
      return "is written by two threads";
  }
  trace.written = now;
  trace.writer = thread;
  return nullptr;
}

std::string run(const Module &module, const Launch &launch, Memory &memory) {
  const Kernel &kernel = *launch.kernel;
  if (launch.parameters.size() != kernel.parameters)
    return kernel.name + " has " + std::to_string(kernel.parameters) +
           " parameters and is given " +
           std::to_string(launch.parameters.size());
  if (launch.threads != kernel.threads || launch.threads % kWarp != 0)
    return kernel.name + " is made for " + std::to_string(kernel.threads) +
           " threads and launched with " + std::to_string(launch.threads);
  Block block(module, launch, memory);
  for (uint32_t i = 0; i < launch.blocks; ++i)
    if (!block.run(launch.firstBlock + i))
      break;
  return block.fault;
}

} // namespace lmc::ptx
