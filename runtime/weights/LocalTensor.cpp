// Local parts of tensors and their first values.
#include "runtime/weights/LocalTensor.h"
#include "runtime/base/Philox.h"
#include "runtime/plan/Linear.h"

#include <cmath>

namespace lmc::runtime {

/// Where the rank's piece of a bucket begins.
static int64_t pieceBegin(const plan::Plan &plan, const plan::State &state,
                          const std::vector<int64_t> &coordinates) {
  int64_t number = 0;
  for (uint32_t axis : state.piece().axes())
    number = number * plan.mesh().axes(int(axis)).size() + coordinates[axis];
  return number * state.piece().elements();
}

LocalTensor LocalTensor::of(Executor &executor, const plan::State &state) {
  LocalTensor tensor = of(executor.plan(), state, executor.coordinates());
  tensor.data = executor.address(state.slice());
  if (state.has_piece())
    tensor.data +=
        (state.piece().offset() + tensor.first -
         pieceBegin(executor.plan(), state, executor.coordinates())) *
        tensor.elementBytes;
  return tensor;
}

LocalTensor LocalTensor::of(const plan::Plan &plan, const plan::State &state,
                            const std::vector<int64_t> &coordinates) {
  std::vector<int64_t> symbolValues(size_t(plan.symbols_size()));
  for (int i = 0; i < plan.symbols_size(); ++i)
    if (plan.symbols(i).kind() == plan::Symbol::COORDINATE)
      symbolValues[size_t(i)] = coordinates[plan.symbols(i).axis()];
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
    tensor.end *= dim;
  if (state.has_piece()) {
    int64_t begin =
        pieceBegin(plan, state, coordinates) - state.piece().offset();
    int64_t elements = tensor.end;
    tensor.first = std::clamp<int64_t>(begin, 0, elements);
    tensor.end =
        std::clamp<int64_t>(begin + state.piece().elements(), 0, elements);
  }
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

/// The part is zero.
static void fillPart(Device &device, FillContext &fill) {
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
              tensor.first + block * blockElements,
              std::min(tensor.first + (block + 1) * blockElements, tensor.end),
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
                                tensor.at(local), count);
              });
      },
      &fill, (fill.tensor.elements() + blockElements - 1) / blockElements);
}

void initializeState(Executor &executor, const plan::State &state,
                     uint64_t seed) {
  FillContext fill{{},
                   state.initialization().kind(),
                   state.initialization().scale(),
                   philoxKey(seed, state.initialization().id())};
  Device &device = executor.device();
  writeOnHost(device, LocalTensor::of(executor, state),
              [&](const LocalTensor &part) {
                fill.tensor = part;
                fillPart(device, fill);
              });
}

} // namespace lmc::runtime
