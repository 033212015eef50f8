// Runs a GPU's kernels without one, from their PTX, and finds what
// compute-sanitizer would. Tests alone link it.
//
//   Memory memory;                      // what kernels may touch
//   memory.add(address, bytes, size);   // as kernels see it, as we do
//   std::string wrong = run(*module, {kernel, 0, blocks, threads, shared,
//                                     parameters}, memory);
//
// Blocks run one after the other, a block's warps in turn from barrier to
// barrier. Lanes of a warp that part at a branch run from the earliest
// instruction on, and together again where they meet.
//
// A launch ends at the first of these, with kernel, line, block and thread:
//   an access outside of what was added or of shared memory, or one that its
//     own size does not divide (a GPU faults);
//   a race: two threads touch a word, one writes, and no barrier of their block
//     stands between them; of two blocks nothing does;
//   a word that is read by ld.global.nc and written by the same launch;
//   a barrier or shuffle that not all threads of the block or warp reach, or at
//     different places; a block of another size than the kernel is made for.
// Registers and shared memory hold NaN until they are written.
//
// Not found: what depends on the order of blocks across launches, and time.
#ifndef LMC_RUNTIME_DEVICE_CUDA_PTX_INTERPRETER_H
#define LMC_RUNTIME_DEVICE_CUDA_PTX_INTERPRETER_H

#include "runtime/device/cuda/ptx/Module.h"

namespace lmc::ptx {

// Who touched a word last. A time is a barrier's, counted over all launches.
struct Trace {
  uint32_t written, read;
  uint16_t writer, reader; // threads of a block
  bool readByOtherBlock, readOnly;
};

class Memory {
public:
  ~Memory();
  void add(uint64_t address, char *bytes, uint64_t size);
  void remove(uint64_t address);

  // What all launches accessed, and of it by 16 bytes at once; what neighbours
  // in a warp have in common once.
  uint64_t accessedBytes = 0, wideBytes = 0;

private:
  struct Region {
    uint64_t begin, end;
    char *bytes;
    Trace *traces; // of each four bytes
  };
  std::map<uint64_t, Region> regions; // by end
  uint32_t time = 0;
  const Region *find(uint64_t address) const; // null: none
  friend class Block;
  friend std::string run(const Module &, const struct Launch &, Memory &);
};

struct Launch {
  const Kernel *kernel;
  uint32_t firstBlock, blocks, threads, sharedBytes;
  std::vector<uint64_t> parameters;
};

// What went wrong; empty if nothing did.
std::string run(const Module &module, const Launch &launch, Memory &memory);

} // namespace lmc::ptx

#endif // LMC_RUNTIME_DEVICE_CUDA_PTX_INTERPRETER_H
