// A warp that runs: its file of registers, and how an operation reads and
// writes it. Only the interpreter and its operations include this.
#ifndef LMC_RUNTIME_DEVICE_CUDA_PTX_WARP_H
#define LMC_RUNTIME_DEVICE_CUDA_PTX_WARP_H

#include "runtime/device/cuda/ptx/Module.h"

#include <cstring>

namespace lmc::ptx {

class Warp {
public:
  uint32_t active = 0; // the lanes that an operation writes

  void reset(const Kernel &kernel);
  template <typename T> T *at(uint32_t offset) {
    return reinterpret_cast<T *>(file.data() + offset);
  }

  enum State { Running, AtShuffle, AtBarrier, Done };
  State states[kWarp];
  uint32_t pcs[kWarp]; // where each lane goes on, or waits

private:
  std::vector<char> file;
};

} // namespace lmc::ptx

#endif // LMC_RUNTIME_DEVICE_CUDA_PTX_WARP_H
