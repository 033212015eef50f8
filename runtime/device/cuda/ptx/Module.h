// PTX as code generation writes it, read into arrays that the interpreter
// walks.
//
// A kernel's registers, constants and special registers lie in one file of a
// warp, 32 lanes each: 4 or 8 bytes a lane, and one bit a lane of predicates.
// An operand of an instruction is an offset into that file. Labels, parameters
// and names are resolved.
//
// What is read is what LLVM writes for our kernels. Everything else is refused
// with its line: a new instruction is a line in Operations.cpp.
#ifndef LMC_RUNTIME_DEVICE_CUDA_PTX_MODULE_H
#define LMC_RUNTIME_DEVICE_CUDA_PTX_MODULE_H

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace lmc::ptx {

inline constexpr unsigned kWarp = 32;

// Of a register: bytes in each lane; a predicate is one word for all lanes.
enum class Width { Predicate = 0, Word = 4, Double = 8 };

class Warp;
struct Instruction;
using Operation = void (*)(Warp &, const Instruction &);

// What operates on each lane by itself.
struct LanewiseForm {
  Operation run;
  Width target;
  std::vector<Width> sources;
};
// Null if there is no such instruction.
const LanewiseForm *findLanewise(std::string_view mnemonic);

struct Instruction {
  enum Kind {
    Lanewise,
    Load,
    Store,
    Parameter, // a load of one
    Shuffle,
    Barrier,
    Branch,
    Return
  } kind;
  enum Space { Global, ReadOnly, Shared } space = Global; // of Load, Store
  enum Guard { Always, If, IfNot } guard = Always;
  uint32_t predicate = 0;
  Operation run = nullptr;
  uint32_t targets[4] = {}; // Store: what is stored
  uint32_t sources[3] = {}; // Load, Store: the address
  uint32_t count = 1;       // of targets
  uint32_t bytes = 4;       // of each
  int64_t offset = 0;       // of an address; Parameter: its number
  uint32_t label = 0;       // Branch: the instruction it goes to
  uint32_t line = 0;        // in the module's text
};

struct Kernel {
  std::string name;
  uint32_t parameters = 0;
  uint32_t threads = 0; // .maxntid
  uint32_t fileBytes = 0;
  uint32_t thread = 0, block = 0; // %tid.x and %ctaid.x in the file
  struct Constant {
    uint32_t at;
    Width width;
    uint64_t value;
  };
  std::vector<Constant> constants;
  std::vector<Instruction> code; // ends with a Return
};

class Module {
public:
  // Null if `text` is not understood; then `error` says what and where.
  static std::unique_ptr<Module> parse(const std::string &text,
                                       std::string &error);
  const Kernel *find(const std::string &name) const;
  std::string_view line(uint32_t number) const; // of the text, from 1 on

private:
  std::vector<std::string> lines;
  std::map<std::string, Kernel> kernels;
  friend class Parser;
};

} // namespace lmc::ptx

#endif // LMC_RUNTIME_DEVICE_CUDA_PTX_MODULE_H
