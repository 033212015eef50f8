// The part of cuBLASLt's interface that we call: a few types, numbers and
// function types, so that a build needs no CUDA toolkit. They are those of
// <cublasLt.h>, <cublas_api.h> and <library_types.h> of CUDA 12 and 13, and of
// NVIDIA's cuBLAS documentation, "Using the cuBLASLt API";
// CublasLtApiTest.cpp holds them against the headers where there are any.
//
// Names are the library's; none of them is linked against. CublasLt.h finds
// the functions at run time.
#ifndef LMC_RUNTIME_DEVICE_CUDA_CUBLASLTAPI_H
#define LMC_RUNTIME_DEVICE_CUDA_CUBLASLTAPI_H

#include "runtime/device/cuda/DriverApi.h"

namespace lmc::runtime::cuda {

using LtStatus = int; ///< cublasStatus_t; 0 is success
using LtHandle = struct LtContext *;
/// Descriptors are memory of ours that the library writes.
struct LtLayout {
  uint64_t data[8];
};
struct LtMatmulDesc {
  uint64_t data[32];
};
struct LtPreference {
  uint64_t data[8];
};
struct LtAlgorithm {
  uint64_t data[8];
};
struct LtHeuristicResult {
  LtAlgorithm algorithm;
  size_t workspaceBytes;
  LtStatus state;
  float waves;
  int reserved[4];
};

/// Major versions that have the interface below.
constexpr int oldestCublasLt = 12, newestCublasLt = 13;

constexpr LtStatus ltAllocFailed = 3, ltNotSupported = 15;
constexpr int ltFloat32 = 0; ///< CUDA_R_32F
constexpr int ltCompute32F = 68, ltCompute32FFastTf32 = 77;
constexpr int32_t ltTranspose = 1; ///< CUBLAS_OP_T
/// Attributes of a product; the first two are int32_t, the epilogue uint32_t.
constexpr int ltDescTransA = 3, ltDescTransB = 4, ltDescEpilogue = 7,
              ltDescBiasPointer = 8;
constexpr uint32_t ltEpilogueBias = 4;
constexpr int ltLayoutColumns = 3; ///< attribute of a layout, uint64_t
/// Attributes of a preference: uint64_t, then uint32_t.
constexpr int ltPrefWorkspaceBytes = 1, ltPrefReductionSchemes = 3,
              ltPrefAlignmentA = 5, ltPrefAlignmentB = 6, ltPrefAlignmentC = 7,
              ltPrefAlignmentD = 8;
/// How sums that were parted along K are joined; a mask.
constexpr uint32_t ltReductionNone = 0, ltReductionComputeType = 2;
/// Attributes of an algorithm, int32_t and uint32_t.
constexpr int ltAlgorithmSplitK = 2, ltAlgorithmReductionScheme = 3;

/// F(result, name, parameters...) for every function.
// clang-format off
#define LMC_CUBLASLT_FUNCTIONS(F)                                              \
  F(size_t, cublasLtGetVersion)                                                \
  F(const char *, cublasLtGetStatusString, LtStatus status)                    \
  F(LtStatus, cublasLtCreate, LtHandle *handle)                                \
  F(LtStatus, cublasLtDestroy, LtHandle handle)                                \
  F(LtStatus, cublasLtMatmulDescInit_internal, LtMatmulDesc *product,          \
    size_t bytes, int compute, int scale)                                      \
  F(LtStatus, cublasLtMatmulDescSetAttribute, LtMatmulDesc *product,           \
    int attribute, const void *value, size_t bytes)                            \
  F(LtStatus, cublasLtMatrixLayoutInit_internal, LtLayout *layout,             \
    size_t bytes, int type, uint64_t rows, uint64_t columns, int64_t stride)   \
  F(LtStatus, cublasLtMatrixLayoutSetAttribute, LtLayout *layout,              \
    int attribute, const void *value, size_t bytes)                            \
  F(LtStatus, cublasLtMatmulPreferenceInit_internal, LtPreference *preference, \
    size_t bytes)                                                              \
  F(LtStatus, cublasLtMatmulPreferenceSetAttribute, LtPreference *preference,  \
    int attribute, const void *value, size_t bytes)                            \
  F(LtStatus, cublasLtMatmulAlgoGetHeuristic, LtHandle handle,                 \
    LtMatmulDesc *product, LtLayout *a, LtLayout *b, LtLayout *c, LtLayout *d, \
    LtPreference *preference, int wanted, LtHeuristicResult *results,          \
    int *found)                                                                \
  F(LtStatus, cublasLtMatmulAlgoCheck, LtHandle handle, LtMatmulDesc *product, \
    LtLayout *a, LtLayout *b, LtLayout *c, LtLayout *d,                        \
    const LtAlgorithm *algorithm, LtHeuristicResult *result)                   \
  F(LtStatus, cublasLtMatmulAlgoConfigGetAttribute,                            \
    const LtAlgorithm *algorithm, int attribute, void *value, size_t bytes,    \
    size_t *written)                                                           \
  F(LtStatus, cublasLtMatmul, LtHandle handle, LtMatmulDesc *product,          \
    const void *alpha, const void *a, LtLayout *aLayout, const void *b,        \
    LtLayout *bLayout, const void *beta, const void *c, LtLayout *cLayout,     \
    void *d, LtLayout *dLayout, const LtAlgorithm *algorithm, void *workspace, \
    size_t workspaceBytes, Stream stream)
// clang-format on

/// The type of each: cublasLtCreateFunction, ...
#define LMC_CUBLASLT_TYPE(result, name, ...)                                   \
  using name##Function = result (*)(__VA_ARGS__);
LMC_CUBLASLT_FUNCTIONS(LMC_CUBLASLT_TYPE)
#undef LMC_CUBLASLT_TYPE

} // namespace lmc::runtime::cuda

#endif // LMC_RUNTIME_DEVICE_CUDA_CUBLASLTAPI_H
