// The device that a plan is made for.
#ifndef LMC_RUNTIME_DEVICE_OPENDEVICE_H
#define LMC_RUNTIME_DEVICE_OPENDEVICE_H

#include "runtime/device/cpu/CpuDevice.h"

namespace lmc::runtime {

/// Whether this machine has the device of a plan's target, and the library for
/// its `matmuls` if it has any: nothing is looked for and nothing loaded when
/// that is the CPU. WrongInput with a way out.
Status checkDevice(std::string_view target, bool matmuls);

/// The device of a plan's target, "cpu" or "cuda". `host` says which cores
/// compute, and for a GPU which do the host's work beside it.
StatusOr<std::unique_ptr<Device>> openDevice(std::string_view target,
                                             bool matmuls,
                                             const CpuDevice::Options &host);

} // namespace lmc::runtime

#endif // LMC_RUNTIME_DEVICE_OPENDEVICE_H
