// Our declarations of cuBLASLt against those of the toolkit. Compiled only
// where <cublasLt.h> is; there is nothing to run.
#include "runtime/device/cuda/CublasLtApi.h"

#include <cublasLt.h>
#include <type_traits>

namespace ours = lmc::runtime::cuda;

/// Both are pointers, or both are numbers of the same size.
template <typename A, typename B>
constexpr bool passesAlike =
    sizeof(A) == sizeof(B) && std::is_pointer_v<A> == std::is_pointer_v<B>;

template <typename A, typename B> struct CallsAlike : std::false_type {};
template <typename A, typename... As, typename B, typename... Bs>
struct CallsAlike<A (*)(As...), B (*)(Bs...)> {
  static constexpr bool same() {
    if constexpr (sizeof...(As) == sizeof...(Bs))
      return passesAlike<A, B> && (passesAlike<As, Bs> && ...);
    return false;
  }
  static constexpr bool value = same();
};

#define LMC_CUBLASLT_CHECK(result, name, ...)                                  \
  static_assert(CallsAlike<ours::name##Function, decltype(&::name)>::value,    \
                #name);
LMC_CUBLASLT_FUNCTIONS(LMC_CUBLASLT_CHECK)

static_assert(sizeof(ours::LtLayout) == sizeof(cublasLtMatrixLayoutOpaque_t));
static_assert(sizeof(ours::LtMatmulDesc) == sizeof(cublasLtMatmulDescOpaque_t));
static_assert(sizeof(ours::LtPreference) ==
              sizeof(cublasLtMatmulPreferenceOpaque_t));
static_assert(sizeof(ours::LtAlgorithm) == sizeof(cublasLtMatmulAlgo_t));
using Theirs = cublasLtMatmulHeuristicResult_t;
static_assert(sizeof(ours::LtHeuristicResult) == sizeof(Theirs));
static_assert(offsetof(ours::LtHeuristicResult, workspaceBytes) ==
              offsetof(Theirs, workspaceSize));
static_assert(offsetof(ours::LtHeuristicResult, state) ==
              offsetof(Theirs, state));

static_assert(ours::ltAllocFailed == CUBLAS_STATUS_ALLOC_FAILED);
static_assert(ours::ltNotSupported == CUBLAS_STATUS_NOT_SUPPORTED);
static_assert(ours::ltFloat32 == CUDA_R_32F);
static_assert(ours::ltCompute32F == CUBLAS_COMPUTE_32F);
static_assert(ours::ltCompute32FFastTf32 == CUBLAS_COMPUTE_32F_FAST_TF32);
static_assert(ours::ltTranspose == CUBLAS_OP_T);
static_assert(ours::ltDescTransA == CUBLASLT_MATMUL_DESC_TRANSA);
static_assert(ours::ltDescTransB == CUBLASLT_MATMUL_DESC_TRANSB);
static_assert(ours::ltDescEpilogue == CUBLASLT_MATMUL_DESC_EPILOGUE);
static_assert(ours::ltDescBiasPointer == CUBLASLT_MATMUL_DESC_BIAS_POINTER);
static_assert(ours::ltEpilogueBias == CUBLASLT_EPILOGUE_BIAS);
static_assert(ours::ltLayoutColumns == CUBLASLT_MATRIX_LAYOUT_COLS);
static_assert(ours::ltPrefWorkspaceBytes ==
              CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES);
static_assert(ours::ltPrefReductionSchemes ==
              CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK);
static_assert(ours::ltPrefAlignmentA ==
              CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES);
static_assert(ours::ltPrefAlignmentB ==
              CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES);
static_assert(ours::ltPrefAlignmentC ==
              CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES);
static_assert(ours::ltPrefAlignmentD ==
              CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES);
static_assert(ours::ltReductionNone == CUBLASLT_REDUCTION_SCHEME_NONE);
static_assert(ours::ltReductionComputeType ==
              CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE);
static_assert(ours::ltAlgorithmSplitK == CUBLASLT_ALGO_CONFIG_SPLITK_NUM);
static_assert(ours::ltAlgorithmReductionScheme ==
              CUBLASLT_ALGO_CONFIG_REDUCTION_SCHEME);
