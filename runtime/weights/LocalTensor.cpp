// Local parts of tensors and their first values.
#include "runtime/weights/LocalTensor.h"
#include "runtime/base/Philox.h"
#include "runtime/plan/Linear.h"

#include <cmath>

namespace lmc::runtime {

LocalTensor LocalTensor::of(Executor &executor, const plan::State &state) {
  return of(state, executor.symbolValues(), executor.address(state.slice()));
}

LocalTensor LocalTensor::of(const plan::State &state,
                            const std::vector<int64_t> &symbolValues,
                            std::byte *data) {
  LocalTensor tensor;
  tensor.state = &state;
  const DataTypeInfo *info = lookUpDataType(state.dtype());
  tensor.dtype = info->type;
  tensor.elementBytes = info->sizeBytes;
  tensor.globalShape.assign(state.global_shape().begin(),
                            state.global_shape().end());
  tensor.localShape.assign(state.local_shape().begin(),
                           state.local_shape().end());
  for (const plan::Linear &offset : state.local_offset())
    tensor.offset.push_back(evaluateLinear(offset, symbolValues));
  for (int64_t dim : tensor.localShape)
    tensor.localElements *= dim;
  tensor.data = data;
  return tensor;
}

// Two uniform words to two normal numbers (Box and Muller), in double so that
// the float32 result does not depend on the precision of a vector library.
static void normalPair(uint32_t a, uint32_t b, double &x, double &y) {
  double radius = std::sqrt(-2.0 * std::log((double(a) + 1.0) * 0x1p-32));
  double angle = 2.0 * M_PI * double(b) * 0x1p-32;
  x = radius * std::cos(angle);
  y = radius * std::sin(angle);
}

namespace {
struct FillContext {
  LocalTensor tensor;
  plan::State::Initialization::Kind kind;
  double scale;
  uint64_t key;
};
} // namespace

static void drawRun(const FillContext &fill, int64_t global, int64_t count,
                    double *out) {
  int64_t done = 0;
  while (done < count) {
    uint64_t element = uint64_t(global + done);
    PhiloxBlock words = philoxBlock(fill.key, /*step=*/0, element / 4);
    double values[4];
    if (fill.kind == plan::State::Initialization::NORMAL) {
      normalPair(words[0], words[1], values[0], values[1]);
      normalPair(words[2], words[3], values[2], values[3]);
    } else {
      for (int i = 0; i < 4; ++i)
        values[i] = double(words[size_t(i)]) * 0x1p-31 - 1.0;
    }
    for (uint64_t lane = element % 4; lane < 4 && done < count; ++lane)
      out[done++] = fill.scale * values[lane];
  }
}

void initializeState(Executor &executor, const plan::State &state,
                     uint64_t seed) {
  FillContext fill{LocalTensor::of(executor, state),
                   state.initialization().kind(),
                   state.initialization().scale(),
                   philoxKey(seed, state.initialization().id())};
  Device &device = executor.device();
  if (!device.hostAccessible())
    return;
  device.fillZero(fill.tensor.data,
                  fill.tensor.localElements * fill.tensor.elementBytes);
  if (fill.kind == plan::State::Initialization::ZEROS)
    return;
  constexpr int64_t blockElements = 4096;
  device.parallelHost(
      [](void *context, int64_t begin, int64_t end) {
        const FillContext &fill = *static_cast<const FillContext *>(context);
        const LocalTensor &tensor = fill.tensor;
        double values[blockElements];
        for (int64_t block = begin; block < end; ++block)
          tensor.forEachRun(
              block * blockElements,
              std::min((block + 1) * blockElements, tensor.localElements),
              [&](int64_t local, int64_t global, int64_t count) {
                if (fill.kind == plan::State::Initialization::NORMAL ||
                    fill.kind == plan::State::Initialization::UNIFORM)
                  drawRun(fill, global, count, values);
                else
                  std::fill_n(values, count,
                              fill.kind == plan::State::Initialization::ONES
                                  ? 1.0
                                  : fill.scale);
                convertElements(DataType::F64, values, tensor.dtype,
                                tensor.data + local * tensor.elementBytes,
                                count);
              });
      },
      &fill, (fill.tensor.localElements + blockElements - 1) / blockElements);
}

} // namespace lmc::runtime
