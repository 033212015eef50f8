// See CublasLt.h.
#include "runtime/device/cuda/CublasLt.h"
#include "runtime/base/Log.h"

#include <dlfcn.h>

namespace lmc::runtime::cuda {

// What the library asks of the workspace's address.
static constexpr uint32_t workspaceAlignment = 256;

static StatusOr<CublasLt> load(const Driver &driver) {
  int driverVersion = 0;
  LMC_RETURN_IF_ERROR(driver.check(driver.cuDriverGetVersion(&driverVersion),
                                   "cuDriverGetVersion"));
  // A library does not run on a driver of an earlier CUDA.
  void *library = nullptr;
  std::string words;
  for (int major = std::min(driverVersion / 1000, newestCublasLt);
       major >= oldestCublasLt && !library; --major) {
    library = ::dlopen(fmt::format("libcublasLt.so.{}", major).c_str(),
                       RTLD_NOW | RTLD_LOCAL);
    if (!library)
      words += (words.empty() ? "" : "; ") + std::string(::dlerror());
  }
  if (!library)
    return wrongInput("cuBLASLt cannot be loaded: {}", words);
  CublasLt lt;
#define LMC_CUBLASLT_FIND(result, name, ...)                                   \
  lt.name = reinterpret_cast<name##Function>(::dlsym(library, #name));         \
  if (!lt.name)                                                                \
    return wrongInput("cuBLASLt is too old: it has no {}", #name);
  LMC_CUBLASLT_FUNCTIONS(LMC_CUBLASLT_FIND)
#undef LMC_CUBLASLT_FIND
  return lt;
}

StatusOr<const CublasLt *> CublasLt::open(const Driver &driver) {
  static const StatusOr<CublasLt> library = load(driver);
  if (!library.ok())
    return library.status();
  return &*library;
}

Status CublasLt::check(LtStatus status, std::string_view what) const {
  if (status == 0)
    return Status();
  const char *words = cublasLtGetStatusString(status);
  return makeError(status == ltAllocFailed ? ErrorKind::DoesNotFit
                                           : ErrorKind::JobFailed,
                   "{}: cuBLASLt says {} ({})", what,
                   words ? words : "an error without a name", status);
}

std::string CublasLt::version() const {
  size_t number = cublasLtGetVersion();
  return fmt::format("{}.{}.{}", number / 10000, number % 10000 / 100,
                     number % 100);
}

static std::string inWords(const MatmulRequest &request) {
  return fmt::format("a matmul of {} x {} by {} x {}", request.rows,
                     request.depth, request.depth, request.columns);
}

Matmuls::~Matmuls() {
  if (handle)
    (void)library->cublasLtDestroy(handle);
}

Status Matmuls::describe(Prepared &matmul, bool tf32) const {
  const MatmulRequest &request = matmul.request;
  std::string what = inWords(request);
  auto check = [&](LtStatus status) { return library->check(status, what); };
  auto set = [&](int attribute, auto value) {
    return check(library->cublasLtMatmulDescSetAttribute(
        &matmul.product, attribute, &value, sizeof value));
  };
  LMC_RETURN_IF_ERROR(check(library->cublasLtMatmulDescInit_internal(
      &matmul.product, sizeof matmul.product,
      tf32 ? ltCompute32FFastTf32 : ltCompute32F, ltFloat32)));
  if (request.rightTransposed)
    LMC_RETURN_IF_ERROR(set(ltDescTransA, ltTranspose));
  if (request.leftTransposed)
    LMC_RETURN_IF_ERROR(set(ltDescTransB, ltTranspose));
  if (request.hasBias) {
    LMC_RETURN_IF_ERROR(set(ltDescEpilogue, ltEpilogueBias));
    // Each run gives its own; what is chosen may depend on how it is aligned.
    LMC_RETURN_IF_ERROR(
        set(ltDescBiasPointer, uintptr_t(request.alignments[MatmulBias])));
  }
  auto layout = [&](LtLayout &layout, int64_t ourRows, int64_t ourColumns) {
    return check(library->cublasLtMatrixLayoutInit_internal(
        &layout, sizeof layout, ltFloat32, uint64_t(ourColumns),
        uint64_t(ourRows), ourColumns));
  };
  LMC_RETURN_IF_ERROR(
      request.rightTransposed
          ? layout(matmul.right, request.columns, request.depth)
          : layout(matmul.right, request.depth, request.columns));
  LMC_RETURN_IF_ERROR(request.leftTransposed
                          ? layout(matmul.left, request.depth, request.rows)
                          : layout(matmul.left, request.rows, request.depth));
  return layout(matmul.target, request.rows, request.columns);
}

/// Fewer rows than the most; their distances stay.
LtStatus Matmuls::setRows(Prepared &matmul, int64_t rows) const {
  uint64_t columns = uint64_t(rows);
  LtStatus status = 0;
  for (LtLayout *layout : {&matmul.left, &matmul.target})
    if (status == 0)
      status = library->cublasLtMatrixLayoutSetAttribute(
          layout, ltLayoutColumns, &columns, sizeof columns);
  return status;
}

/// Whether an algorithm gives the same bits every time and, where rows vary,
/// computes one as well as all.
bool Matmuls::mayTake(Prepared &matmul, const LtHeuristicResult &result,
                      uint32_t reductions) const {
  int32_t splitK = 0;
  uint32_t scheme = 0;
  size_t written = 0;
  if (result.state != 0 || result.workspaceBytes > matmul.workspaceBytes ||
      library->cublasLtMatmulAlgoConfigGetAttribute(
          &result.algorithm, ltAlgorithmSplitK, &splitK, sizeof splitK,
          &written) != 0 ||
      library->cublasLtMatmulAlgoConfigGetAttribute(
          &result.algorithm, ltAlgorithmReductionScheme, &scheme, sizeof scheme,
          &written) != 0)
    return false;
  if (splitK > 1 && (scheme == ltReductionNone || (scheme & ~reductions)))
    return false;
  if (!matmul.request.rowsVary)
    return true;
  LtHeuristicResult ofOneRow{};
  bool takes =
      setRows(matmul, 1) == 0 &&
      library->cublasLtMatmulAlgoCheck(
          handle, &matmul.product, &matmul.right, &matmul.left, &matmul.target,
          &matmul.target, &result.algorithm, &ofOneRow) == 0 &&
      ofOneRow.workspaceBytes <= matmul.workspaceBytes;
  return setRows(matmul, matmul.request.rows) == 0 && takes;
}

Status Matmuls::choose(Prepared &matmul) const {
  const MatmulRequest &request = matmul.request;
  std::string what = inWords(request);
  LtPreference preference{};
  LMC_RETURN_IF_ERROR(
      library->check(library->cublasLtMatmulPreferenceInit_internal(
                         &preference, sizeof preference),
                     what));
  auto set = [&](int attribute, auto value) {
    return library->check(library->cublasLtMatmulPreferenceSetAttribute(
                              &preference, attribute, &value, sizeof value),
                          what);
  };
  // A token's bits do not depend on how many tokens there are.
  uint32_t reductions =
      request.rowsVary ? ltReductionNone : ltReductionComputeType;
  LMC_RETURN_IF_ERROR(
      set(ltPrefWorkspaceBytes, uint64_t(matmul.workspaceBytes)));
  LMC_RETURN_IF_ERROR(set(ltPrefReductionSchemes, reductions));
  auto alignment = [&](MatmulPointer pointer) {
    return request.alignments[pointer];
  };
  uint32_t target = alignment(MatmulTarget);
  LMC_RETURN_IF_ERROR(set(ltPrefAlignmentA, alignment(MatmulRight)));
  LMC_RETURN_IF_ERROR(set(ltPrefAlignmentB, alignment(MatmulLeft)));
  LMC_RETURN_IF_ERROR(
      set(ltPrefAlignmentC, std::min(target, alignment(MatmulAddend))));
  LMC_RETURN_IF_ERROR(set(ltPrefAlignmentD, target));
  LtHeuristicResult results[16] = {};
  int found = 0;
  while (true) {
    LtStatus status = library->cublasLtMatmulAlgoGetHeuristic(
        handle, &matmul.product, &matmul.right, &matmul.left, &matmul.target,
        &matmul.target, &preference, int(std::size(results)), results, &found);
    if (status == ltNotSupported)
      found = 0;
    else
      LMC_RETURN_IF_ERROR(library->check(status, what));
    // From the fastest to the slowest.
    for (int i = 0; i < found; ++i)
      if (mayTake(matmul, results[i], reductions)) {
        matmul.algorithm = results[i].algorithm;
        return Status();
      }
    if (reductions == ltReductionNone) {
      LMC_RETURN_IF_ERROR(library->check(status, what));
      break;
    }
    // What splits K has taken all places; there is always what does not.
    reductions = ltReductionNone;
    LMC_RETURN_IF_ERROR(set(ltPrefReductionSchemes, reductions));
  }
  return makeError(ErrorKind::JobFailed,
                   "{}: none of cuBLASLt's {} algorithms adds in one order "
                   "within {} of workspace",
                   what, found, formatBytes(double(matmul.workspaceBytes)));
}

Status Matmuls::prepare(const Driver &driver,
                        const std::vector<MatmulRequest> &requests, bool tf32) {
  prepared.clear();
  if (requests.empty())
    return Status();
  LMC_ASSIGN_OR_RETURN(library, CublasLt::open(driver));
  if (!handle)
    LMC_RETURN_IF_ERROR(library->check(library->cublasLtCreate(&handle),
                                       "cuBLASLt cannot start"));
  for (const MatmulRequest &request : requests) {
    Prepared &matmul = prepared.emplace_back();
    matmul.request = request;
    matmul.workspaceBytes = size_t(std::max<int64_t>(
        0,
        request.workspaceBytes -
            int64_t(workspaceAlignment - request.alignments[MatmulWorkspace])));
    if (request.rows == 0)
      continue; // never runs
    LMC_RETURN_IF_ERROR(describe(matmul, tf32));
    LMC_RETURN_IF_ERROR(choose(matmul));
  }
  return Status();
}

Status Matmuls::run(uint32_t number, void *const *pointers, int64_t rows,
                    bool adds, Stream stream) {
  Prepared &matmul = prepared[number];
  const MatmulRequest &request = matmul.request;
  LtStatus status = request.rowsVary ? setRows(matmul, rows) : 0;
  if (status == 0 && request.hasBias)
    status = library->cublasLtMatmulDescSetAttribute(
        &matmul.product, ltDescBiasPointer, &pointers[MatmulBias],
        sizeof pointers[MatmulBias]);
  uintptr_t workspace = uintptr_t(pointers[MatmulWorkspace]);
  workspace += -workspace % workspaceAlignment;
  float alpha = 1, beta = adds ? 1 : 0;
  if (status == 0)
    status = library->cublasLtMatmul(
        handle, &matmul.product, &alpha, pointers[MatmulRight], &matmul.right,
        pointers[MatmulLeft], &matmul.left, &beta,
        pointers[adds ? MatmulAddend : MatmulTarget], &matmul.target,
        pointers[MatmulTarget], &matmul.target, &matmul.algorithm,
        reinterpret_cast<void *>(workspace), matmul.workspaceBytes, stream);
  return status == 0 ? Status() : library->check(status, inWords(request));
}

} // namespace lmc::runtime::cuda
