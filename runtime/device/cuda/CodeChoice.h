// Which of a plan's code entries a GPU runs: a pure function, so that it can be
// tested where there is no GPU.
#ifndef LMC_RUNTIME_DEVICE_CUDA_CODECHOICE_H
#define LMC_RUNTIME_DEVICE_CUDA_CODECHOICE_H

#include "runtime/device/Device.h"

namespace lmc::runtime::cuda {

/// The index of the entry for a GPU of this compute capability (90: sm_90): a
/// cubin of the very one, which needs no compilation at run time; else the
/// newest PTX that is not newer than the GPU. WrongInput with a note for each
/// entry when none runs.
StatusOr<size_t> chooseCode(const std::vector<CodeObject> &code,
                            int capability);

} // namespace lmc::runtime::cuda

#endif // LMC_RUNTIME_DEVICE_CUDA_CODECHOICE_H
