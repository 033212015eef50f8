/* The kernels of the double of the CUDA driver: their PTX, interpreted
 * (runtime/device/cuda/ptx), on the addresses that the double hands out. */
#ifndef LMC_RUNTIME_DEVICE_CUDA_STUBKERNELSFORTEST_H
#define LMC_RUNTIME_DEVICE_CUDA_STUBKERNELSFORTEST_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* What kernels may touch: `bytes` at `address`, as they see it. */
void lmcStubAllocated(uint64_t address, void *bytes, size_t size);
void lmcStubFreed(uint64_t address);

/* Kept as long as the process; null, with a line on stderr, if the PTX is not
 * understood. */
const void *lmcStubLoadKernels(const char *ptx);

/* 0, or 700 with a line on stderr: what is wrong with the launch. */
int lmcStubRunKernel(const void *kernels, const char *name, unsigned blocks,
                     unsigned threads, unsigned sharedBytes,
                     const uint64_t *parameters, unsigned parameterCount);

#ifdef __cplusplus
}
#endif

#endif
