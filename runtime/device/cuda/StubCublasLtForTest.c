// A double of libcublasLt.so.12 beside the one of the driver
// (StubDriverForTest.c), which it needs: it computes each product in plain loops
// from the descriptors that it is given, on the driver's double's memory and
// stream, and refuses what the library refuses: sizes of attributes, shapes that
// do not meet, a workspace that is too small, addresses that an algorithm cannot
// take, a bias that is missing.
//
// Its heuristic offers, where preferences allow them, one algorithm that is not
// supported, one that adds parts along K in place, one that adds them in the
// workspace, one that wants addresses at multiples of 16 and 32 rows, and one
// for everything. LMC_STUB_CUBLASLT=inplace makes it offer the second alone,
// whatever the preferences say, =splits where they allow K to be split;
// LMC_STUB_CUDA_FAIL names a call that fails.
//
// Lines of the log: lt_create, lt_heuristic COMPUTE REDUCTIONS, and where it is
// done: matmul M N K TRANSA TRANSB BIAS BETA COMPUTE SPLITK SCHEME
#include <dlfcn.h>
#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
  notInitialized = 1,
  invalidValue = 7,
  executionFailed = 13,
  notSupported = 15
};
enum { inPlace = 1, computeType = 2 };
enum {
  layoutMark = 0x1a40,
  productMark,
  preferenceMark,
  algorithmMark,
  handleMark
};
static const uint64_t deviceBit = 1ull << 62;
static float *real(const void *address) {
  return (float *)((uintptr_t)address & ~deviceBit);
}

struct Layout {
  uint64_t mark, rows, columns;
  int64_t stride;
};
struct Product {
  uint64_t mark;
  int32_t compute, transA, transB;
  uint32_t epilogue;
  const float *bias;
};
struct Preference {
  uint64_t mark, workspace;
  uint32_t reductions, alignment[4];
};
struct Algorithm {
  uint64_t mark, workspace, alignment, leastRows;
  int32_t splitK;
  uint32_t scheme;
};
struct Result {
  struct Algorithm algorithm;
  uint64_t padding[8 - sizeof(struct Algorithm) / 8];
  size_t workspace;
  int state;
  float waves;
  int reserved[4];
};

static void *ofDriver(const char *name) {
  void *driver = dlopen("libcuda.so.1", RTLD_NOW);
  void *found = driver ? dlsym(driver, name) : NULL;
  if (!found)
    abort(); // not the double
  return found;
}
static void record(const char *line) {
  ((void (*)(const char *))ofDriver("lmcStubRecord"))(line);
}
static int fails(const char *name) {
  const char *wanted = getenv("LMC_STUB_CUDA_FAIL");
  return wanted && !strcmp(wanted, name);
}

size_t cublasLtGetVersion(void) { return 120405; }
const char *cublasLtGetStatusString(int status) {
  return status == invalidValue ? "an unsupported value" : "the stub fails";
}
int cublasLtCreate(uint64_t **handle) {
  record("lt_create\n");
  if (fails("cublasLtCreate"))
    return notInitialized;
  *handle = malloc(sizeof **handle);
  return **handle = handleMark, 0;
}
int cublasLtDestroy(uint64_t *handle) { return free(handle), 0; }

int cublasLtMatmulDescInit_internal(struct Product *product, size_t bytes,
                                    int compute, int scale) {
  if (bytes != 256 || scale != 0 || (compute != 68 && compute != 77))
    return invalidValue;
  *product = (struct Product){productMark, compute, 0, 0, 1, NULL};
  return 0;
}
static int set(void *field, size_t wanted, const void *value, size_t bytes) {
  if (bytes != wanted || !value)
    return invalidValue;
  return memcpy(field, value, bytes), 0;
}
int cublasLtMatmulDescSetAttribute(struct Product *product, int attribute,
                                   const void *value, size_t bytes) {
  if (product->mark != productMark)
    return invalidValue;
  switch (attribute) {
  case 3:
    return set(&product->transA, 4, value, bytes);
  case 4:
    return set(&product->transB, 4, value, bytes);
  case 7:
    return set(&product->epilogue, 4, value, bytes);
  case 8:
    return set(&product->bias, 8, value, bytes);
  }
  return invalidValue;
}
int cublasLtMatrixLayoutInit_internal(struct Layout *layout, size_t bytes,
                                      int type, uint64_t rows, uint64_t columns,
                                      int64_t stride) {
  if (bytes != 64 || type != 0 || stride < (int64_t)rows)
    return invalidValue;
  *layout = (struct Layout){layoutMark, rows, columns, stride};
  return 0;
}
int cublasLtMatrixLayoutSetAttribute(struct Layout *layout, int attribute,
                                     const void *value, size_t bytes) {
  if (layout->mark != layoutMark || attribute != 3)
    return invalidValue;
  return set(&layout->columns, 8, value, bytes);
}
int cublasLtMatmulPreferenceInit_internal(struct Preference *preference,
                                          size_t bytes) {
  if (bytes != 64)
    return invalidValue;
  *preference =
      (struct Preference){preferenceMark, 0, 7, {256, 256, 256, 256}};
  return 0;
}
int cublasLtMatmulPreferenceSetAttribute(struct Preference *preference,
                                         int attribute, const void *value,
                                         size_t bytes) {
  if (preference->mark != preferenceMark)
    return invalidValue;
  if (attribute == 1)
    return set(&preference->workspace, 8, value, bytes);
  if (attribute == 3)
    return set(&preference->reductions, 4, value, bytes);
  if (attribute >= 5 && attribute <= 8)
    return set(&preference->alignment[attribute - 5], 4, value, bytes);
  return invalidValue;
}

// The sizes of a product whose layouts meet.
struct Sizes {
  uint64_t m, n, k;
};
static int meet(const struct Product *product, const struct Layout *a,
                const struct Layout *b, const struct Layout *c,
                const struct Layout *d, struct Sizes *sizes) {
  if (product->mark != productMark || a->mark != layoutMark ||
      b->mark != layoutMark || c->mark != layoutMark || d->mark != layoutMark)
    return invalidValue;
  uint64_t m = product->transA ? a->columns : a->rows;
  uint64_t k = product->transA ? a->rows : a->columns;
  uint64_t kOfB = product->transB ? b->columns : b->rows;
  uint64_t n = product->transB ? b->rows : b->columns;
  if (k != kOfB || d->rows != m || d->columns != n || c->rows != m ||
      c->columns != n || m == 0 || n == 0 || k == 0)
    return invalidValue;
  *sizes = (struct Sizes){m, n, k};
  return 0;
}

int cublasLtMatmulAlgoGetHeuristic(uint64_t *handle, struct Product *product,
                                   struct Layout *a, struct Layout *b,
                                   struct Layout *c, struct Layout *d,
                                   struct Preference *preference, int wanted,
                                   struct Result *results, int *found) {
  struct Sizes sizes;
  if (!handle || *handle != handleMark || wanted < 1 ||
      preference->mark != preferenceMark ||
      meet(product, a, b, c, d, &sizes) != 0)
    return invalidValue;
  char line[100];
  snprintf(line, sizeof line, "lt_heuristic %d %u\n", product->compute,
           preference->reductions);
  record(line);
  if (fails("cublasLtMatmulAlgoGetHeuristic"))
    return notSupported;
  const char *mode = getenv("LMC_STUB_CUBLASLT");
  int onlyInPlace =
      mode && (!strcmp(mode, "inplace") ||
               (!strcmp(mode, "splits") && preference->reductions != 0));
  uint64_t parts = 2 * sizes.m * sizes.n * 4;
  uint64_t alignment = 256;
  for (int i = 0; i < 4; ++i)
    if (preference->alignment[i] < alignment)
      alignment = preference->alignment[i];
  struct Result offers[] = {
      {.algorithm = {algorithmMark, 0, 4, 0, 1, 0}, .state = notSupported},
      {.algorithm = {algorithmMark, 64, 4, 0, 2, inPlace}, .workspace = 64},
      {.algorithm = {algorithmMark, parts, 4, 0, 2, computeType},
       .workspace = parts},
      {.algorithm = {algorithmMark, 0, 16, 32, 1, 0}},
      {.algorithm = {algorithmMark, 0, 4, 0, 1, 0}}};
  *found = 0;
  for (int i = 0; i < 5 && *found < wanted; ++i) {
    const struct Algorithm *offer = &offers[i].algorithm;
    int fits = (preference->reductions & offer->scheme) == offer->scheme &&
               offer->workspace <= preference->workspace &&
               offer->alignment <= alignment && offer->leastRows <= sizes.n &&
               sizes.k % (uint64_t)offer->splitK == 0;
    if (onlyInPlace ? i == 1 : fits)
      results[(*found)++] = offers[i];
  }
  return 0;
}
int cublasLtMatmulAlgoCheck(uint64_t *handle, struct Product *product,
                            struct Layout *a, struct Layout *b,
                            struct Layout *c, struct Layout *d,
                            const struct Algorithm *algorithm,
                            struct Result *result) {
  struct Sizes sizes;
  if (meet(product, a, b, c, d, &sizes) != 0)
    return invalidValue;
  result->workspace = algorithm->workspace;
  return sizes.n < algorithm->leastRows ? notSupported : 0;
}
int cublasLtMatmulAlgoConfigGetAttribute(const struct Algorithm *algorithm,
                                         int attribute, void *value,
                                         size_t bytes, size_t *written) {
  if (algorithm->mark != algorithmMark || bytes != 4 ||
      (attribute != 2 && attribute != 3))
    return invalidValue;
  memcpy(value,
         attribute == 2 ? (const void *)&algorithm->splitK
                        : (const void *)&algorithm->scheme,
         4);
  return *written = 4, 0;
}

struct Call {
  struct Product product;
  struct Layout a, b, c, d;
  struct Algorithm algorithm;
  struct Sizes sizes;
  const float *pa, *pb, *pc;
  float *pd, *workspace;
  float alpha, beta;
};

// To TF32: 10 bits behind the point, ties to even.
static float rounded(float value, int compute) {
  uint32_t bits;
  memcpy(&bits, &value, 4);
  if (compute == 77)
    bits = (bits + 0xfff + (bits >> 13 & 1)) & ~0x1fffu;
  memcpy(&value, &bits, 4);
  return value;
}
static float at(const float *matrix, const struct Layout *layout, int transposed,
                uint64_t row, uint64_t column) {
  uint64_t r = transposed ? column : row, c = transposed ? row : column;
  return matrix[r + c * (uint64_t)layout->stride];
}
// As the sums read it: the rows of each column side by side.
static float *pack(const float *matrix, const struct Layout *layout,
                   int transposed, uint64_t rows, uint64_t columns,
                   int compute) {
  float *packed = malloc((rows * columns + 1) * sizeof *packed);
  for (uint64_t column = 0; column < columns; ++column)
    for (uint64_t row = 0; row < rows; ++row)
      packed[column * rows + row] =
          rounded(at(matrix, layout, transposed, row, column), compute);
  return packed;
}
static void multiply(const void *context) {
  const struct Call *call = context;
  const struct Product *product = &call->product;
  uint64_t m = call->sizes.m, n = call->sizes.n, k = call->sizes.k,
           parts = (uint64_t)call->algorithm.splitK;
  float *a = pack(call->pa, &call->a, product->transA, m, k, product->compute),
        *b = pack(call->pb, &call->b, product->transB, k, n, product->compute),
        *sums = malloc((m * n + 1) * parts * sizeof *sums);
  for (uint64_t part = 0; part < parts; ++part)
    for (uint64_t j = 0; j < n; ++j) {
      float *sum = sums + (part * n + j) * m;
      memset(sum, 0, m * sizeof *sum);
      for (uint64_t l = part * k / parts; l < (part + 1) * k / parts; ++l)
        for (uint64_t i = 0; i < m; ++i)
          sum[i] += a[l * m + i] * b[j * k + l];
    }
  // The library's scratch is anybody's.
  if (parts > 1)
    memcpy(call->workspace, sums, m * n * parts * sizeof *sums);
  else if (call->workspace)
    call->workspace[0] = sums[0];
  for (uint64_t j = 0; j < n; ++j)
    for (uint64_t i = 0; i < m; ++i) {
      float sum = 0;
      for (uint64_t part = 0; part < parts; ++part)
        sum += sums[(part * n + j) * m + i];
      call->pd[i + j * (uint64_t)call->d.stride] =
          call->alpha * sum +
          (call->beta != 0 ? call->beta * at(call->pc, &call->c, 0, i, j) : 0) +
          (product->bias ? product->bias[i] : 0);
    }
  free(a);
  free(b);
  free(sums);
}

int cublasLtMatmul(uint64_t *handle, struct Product *product,
                   const float *alpha, const float *pa, struct Layout *a,
                   const float *pb, struct Layout *b, const float *beta,
                   const float *pc, struct Layout *c, float *pd,
                   struct Layout *d, const struct Algorithm *algorithm,
                   void *workspace, size_t workspaceBytes, void *stream) {
  struct Sizes sizes;
  if (!handle || *handle != handleMark || stream != (void *)2 ||
      !algorithm || algorithm->mark != algorithmMark ||
      meet(product, a, b, c, d, &sizes) != 0 ||
      workspaceBytes < algorithm->workspace || (uintptr_t)workspace % 256 != 0 ||
      sizes.n < algorithm->leastRows || product->transA > 1 ||
      product->transB > 1)
    return invalidValue;
  const void *pointers[] = {pa, pb, pc, pd};
  for (int i = 0; i < 4; ++i)
    if ((uintptr_t)pointers[i] % algorithm->alignment != 0 ||
        !((uintptr_t)pointers[i] & deviceBit))
      return invalidValue;
  if ((product->epilogue != 1 && product->epilogue != 4) ||
      (product->epilogue == 4) != (product->bias != NULL))
    return invalidValue;
  if (fails("cublasLtMatmul"))
    return executionFailed;
  struct Call call = {*product,      *a,       *b,        *c,      *d,
                      *algorithm,    sizes,    real(pa),  real(pb), real(pc),
                      real(pd),      real(workspace), *alpha, *beta};
  if (product->bias)
    call.product.bias = real(product->bias);
  char line[300];
  snprintf(line, sizeof line,
           "matmul %" PRIu64 " %" PRIu64 " %" PRIu64 " %d %d %d %g %d %d %u",
           sizes.m, sizes.n, sizes.k, product->transA, product->transB,
           product->epilogue == 4, (double)*beta, product->compute,
           algorithm->splitK, algorithm->scheme);
  typedef int (*Submit)(void (*)(const void *), const void *, size_t,
                        const char *);
  return ((Submit)ofDriver("lmcStubSubmit"))(multiply, &call, sizeof call,
                                             line);
}
