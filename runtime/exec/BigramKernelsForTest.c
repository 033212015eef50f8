// The kernels of the bigram model that the runtime's tests train: logits of
// the next token are a row of one table. Plain C, with the signature of
// plan.proto's Kernel; the compiler has no part in it.
#include <math.h>
#include <stdint.h>

// A test that wants to know which step runs defines this.
extern void bigramStepForTest(int32_t step) __attribute__((weak));

// tokens, targets, weights, table, gradient, sums; n, vocabulary, wantGradient
void bigram_forward(void *const *pointers, const int64_t *integers,
                    int64_t begin, int64_t end) {
  const int32_t *tokens = pointers[0];
  const int32_t *targets = pointers[1];
  const float *weights = pointers[2];
  const float *table = pointers[3];
  float *gradient = pointers[4];
  float *sums = pointers[5];
  int64_t n = integers[0], vocabulary = integers[1];
  (void)begin;
  (void)end;
  for (int64_t i = 0; i < n; ++i) {
    const float *row = table + tokens[i] * vocabulary;
    float largest = row[0], total = 0;
    for (int64_t v = 1; v < vocabulary; ++v)
      largest = row[v] > largest ? row[v] : largest;
    for (int64_t v = 0; v < vocabulary; ++v)
      total += expf(row[v] - largest);
    sums[0] += weights[i] * (logf(total) + largest - row[targets[i]]);
    sums[1] += weights[i];
    if (!integers[2])
      continue;
    float *out = gradient + tokens[i] * vocabulary;
    for (int64_t v = 0; v < vocabulary; ++v)
      out[v] += weights[i] * (expf(row[v] - largest) / total);
    out[targets[i]] -= weights[i];
  }
}

// sums, gradient, clipNorm, outputs {loss, norm, finite, scale}; elements
void bigram_finish(void *const *pointers, const int64_t *integers,
                   int64_t begin, int64_t end) {
  const float *sums = pointers[0];
  const float *gradient = pointers[1];
  const float *clip = pointers[2];
  float *outputs = pointers[3];
  (void)begin;
  (void)end;
  float scale = 1.0f / sums[1];
  double squares = 0;
  for (int64_t i = 0; i < integers[0]; ++i)
    squares += (double)(gradient[i] * scale) * (gradient[i] * scale);
  outputs[0] = sums[0] * scale;
  outputs[1] = (float)sqrt(squares);
  outputs[2] = isfinite(outputs[0]) && isfinite(outputs[1]) ? 1.0f : 0.0f;
  outputs[3] = scale;
  outputs[4] = clip[0] > 0 && outputs[1] > clip[0] ? clip[0] / outputs[1] : 1;
}

// parameter, gradient, m, v, outputs, {lr, beta1, beta2, eps, weight_decay,
// step}; elements. One row per element.
void bigram_adamw(void *const *pointers, const int64_t *integers, int64_t begin,
                  int64_t end) {
  float *parameter = pointers[0];
  const float *gradient = pointers[1];
  float *m = pointers[2];
  float *v = pointers[3];
  const float *outputs = pointers[4];
  const float *scalar = pointers[5];
  int32_t step = *(const int32_t *)pointers[6];
  if (bigramStepForTest)
    bigramStepForTest(step);
  if (outputs[2] == 0)
    return;
  int64_t rowsPerUnit = integers[1];
  int64_t to =
      end * rowsPerUnit < integers[0] ? end * rowsPerUnit : integers[0];
  for (int64_t i = begin * rowsPerUnit; i < to; ++i) {
    float g = gradient[i] * outputs[3] * outputs[4];
    m[i] = scalar[1] * m[i] + (1 - scalar[1]) * g;
    v[i] = scalar[2] * v[i] + (1 - scalar[2]) * g * g;
    float mHat = m[i] / (1 - powf(scalar[1], (float)step));
    float vHat = v[i] / (1 - powf(scalar[2], (float)step));
    parameter[i] -= scalar[0] * (mHat / (sqrtf(vHat) + scalar[3]) +
                                 scalar[4] * parameter[i]);
  }
}
