// cuBLASLt, found at run time, and the matrix products of a plan on it.
//
// A matrix of ours, row by row, is a matrix of the library's, column by column,
// turned:  target = left * right  is  target' = right' * left', so the
// library's A is our right factor and its B our left one. A bias of one number
// for each of our columns is one for each of its rows, as it wants it.
//
// Everything is made in `prepare`. A step writes into a descriptor what a call
// may change, the number of rows and where the bias lies, and calls.
#ifndef LMC_RUNTIME_DEVICE_CUDA_CUBLASLT_H
#define LMC_RUNTIME_DEVICE_CUDA_CUBLASLT_H

#include "runtime/device/Device.h"
#include "runtime/device/cuda/CublasLtApi.h"
#include "runtime/device/cuda/Driver.h"

namespace lmc::runtime::cuda {

struct CublasLt {
  /// The newest library that goes with the driver, or WrongInput with the
  /// loader's words. Opened once for a process, and stays.
  static StatusOr<const CublasLt *> open(const Driver &driver);

  /// Success, or "WHAT: the library's words (its number)".
  Status check(LtStatus status, std::string_view what) const;

  /// "12.4.5"
  std::string version() const;

#define LMC_CUBLASLT_MEMBER(result, name, ...) name##Function name = nullptr;
  LMC_CUBLASLT_FUNCTIONS(LMC_CUBLASLT_MEMBER)
#undef LMC_CUBLASLT_MEMBER
};

/// The products of one plan; belongs to a device, whose context is current.
class Matmuls {
public:
  Matmuls() = default;
  Matmuls(const Matmuls &) = delete;
  Matmuls &operator=(const Matmuls &) = delete;
  ~Matmuls();

  Status prepare(const Driver &driver,
                 const std::vector<MatmulRequest> &requests, bool tf32);
  /// As Device::matmul, on a stream; a failure is told.
  Status run(uint32_t number, void *const *pointers, int64_t rows, bool adds,
             Stream stream);

private:
  struct Prepared {
    MatmulRequest request;
    size_t workspaceBytes; // from a place where the library takes it
    LtMatmulDesc product;
    LtLayout left, right, target;
    LtAlgorithm algorithm;
  };
  Status describe(Prepared &matmul, bool tf32) const;
  LtStatus setRows(Prepared &matmul, int64_t rows) const;
  Status choose(Prepared &matmul) const;
  bool mayTake(Prepared &matmul, const LtHeuristicResult &result,
               uint32_t reductions) const;

  const CublasLt *library = nullptr;
  LtHandle handle = nullptr;
  std::vector<Prepared> prepared;
};

} // namespace lmc::runtime::cuda

#endif // LMC_RUNTIME_DEVICE_CUDA_CUBLASLT_H
