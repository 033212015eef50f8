// See Boxes.h.
#include "runtime/weights/Boxes.h"
#include "runtime/base/Checked.h"
#include "runtime/base/Log.h"
#include "runtime/plan/PlanFacts.h"
#include "runtime/weights/ModelConfig.h"

namespace lmc::runtime {

static BoxMap makeMap(std::vector<std::string> names,
                      std::vector<int64_t> fileShape,
                      const std::vector<int64_t> &split,
                      const std::vector<int64_t> &permutation,
                      std::vector<int64_t> boxShape,
                      std::vector<int64_t> boxOffset) {
  BoxMap map;
  map.names = std::move(names);
  map.elements = *checkedElements(fileShape);
  map.fileShape = std::move(fileShape);
  map.boxShape = std::move(boxShape);
  map.boxOffset = std::move(boxOffset);
  std::vector<int64_t> strides(split.size(), 1);
  for (size_t d = split.size(); d-- > 1;)
    strides[d - 1] = strides[d] * split[d];
  for (int64_t from : permutation) {
    int64_t size = split[size_t(from)], stride = strides[size_t(from)];
    // Neighbours that stay neighbours are one dim: longer pieces.
    if (!map.permutedShape.empty() &&
        map.permutedStride.back() == stride * size) {
      map.permutedShape.back() *= size;
      map.permutedStride.back() = stride;
    } else {
      map.permutedShape.push_back(size);
      map.permutedStride.push_back(stride);
    }
  }
  return map;
}

std::vector<BoxMap> boxesOf(const plan::Plan &plan, const plan::State &state,
                            const std::string &suffix) {
  const plan::State *owner = &state;
  if (state.boxes_size() == 0 && !state.parameter().empty())
    for (const plan::State &other : plan.states())
      if (other.name() == state.parameter())
        owner = &other;
  std::vector<BoxMap> maps;
  for (const plan::State::Box &box : owner->boxes()) {
    std::vector<std::string> names;
    for (const std::string &name : box.names())
      names.push_back(name + suffix);
    maps.push_back(makeMap(std::move(names),
                           {box.file_shape().begin(), box.file_shape().end()},
                           {box.split_shape().begin(), box.split_shape().end()},
                           {box.permutation().begin(), box.permutation().end()},
                           {box.box_shape().begin(), box.box_shape().end()},
                           {box.box_offset().begin(), box.box_offset().end()}));
  }
  if (maps.empty()) {
    std::vector<int64_t> shape(state.global_shape().begin(),
                               state.global_shape().end());
    std::vector<int64_t> order;
    for (size_t d = 0; d < shape.size(); ++d)
      order.push_back(int64_t(d));
    maps.push_back(makeMap({owner->name() + suffix}, shape, shape, order, shape,
                           std::vector<int64_t>(shape.size(), 0)));
  }
  return maps;
}

static const TensorView *findBox(const BoxMap &box,
                                 const WeightFiles &weights) {
  for (const std::string &name : box.names)
    if (const TensorView *view = weights.find(name))
      return view;
  return nullptr;
}

void checkState(const plan::Plan &plan, const plan::State &state,
                const WeightFiles &weights, const std::string &suffix,
                std::vector<std::string> &problems) {
  for (const BoxMap &box : boxesOf(plan, state, suffix)) {
    const TensorView *view = findBox(box, weights);
    const DataTypeInfo *info = lookUpDataType(state.dtype());
    if (!view)
      problems.push_back(fmt::format("{} is missing (for {})",
                                     fmt::join(box.names, " or "),
                                     state.name()));
    else if (view->shape != box.fileShape)
      problems.push_back(fmt::format("{} has shape [{}], the model wants [{}]",
                                     box.names[0], fmt::join(view->shape, ", "),
                                     fmt::join(box.fileShape, ", ")));
    else if (view->dtype != info->type &&
             (!info->isFloat || view->dtype == DataType::Invalid ||
              !lookUpDataType(int(view->dtype))->isFloat))
      problems.push_back(fmt::format("{} has elements of {}, the model wants "
                                     "{}",
                                     box.names[0], view->dtypeName,
                                     info->name));
  }
}

namespace {
struct LoadContext {
  const LocalTensor &tensor;
  const BoxMap &box;
  const TensorView &view;
  int64_t fileBytes;
};
} // namespace

/// Fills what lies in the boxes of a part that is zero.
static void loadPart(Device &device, const LocalTensor &tensor,
                     const std::vector<BoxMap> &boxes,
                     const WeightFiles &weights) {
  constexpr int64_t blockElements = 1 << 16;
  for (const BoxMap &box : boxes) {
    const TensorView *view = findBox(box, weights);
    LoadContext context{tensor, box, *view,
                        lookUpDataType(int(view->dtype))->sizeBytes};
    device.parallelHost(
        [](void *opaque, int64_t begin, int64_t end) {
          const LoadContext &load = *static_cast<LoadContext *>(opaque);
          const LocalTensor &tensor = load.tensor;
          for (int64_t block = begin; block < end; ++block)
            forEachBoxPiece(
                tensor, load.box, tensor.first + block * blockElements,
                std::min(tensor.first + (block + 1) * blockElements,
                         tensor.end),
                [&](int64_t local, int64_t file, int64_t stride,
                    int64_t count) {
                  const char *from =
                      load.view.data.data() + file * load.fileBytes;
                  std::byte *to = tensor.at(local);
                  if (stride == 1) {
                    convertElements(load.view.dtype, from, tensor.dtype, to,
                                    count);
                    return;
                  }
                  for (int64_t i = 0; i < count; ++i)
                    convertElements(
                        load.view.dtype, from + i * stride * load.fileBytes,
                        tensor.dtype, to + i * tensor.elementBytes, 1);
                });
        },
        &context, (tensor.elements() + blockElements - 1) / blockElements);
  }
}

void loadState(Executor &executor, const plan::State &state,
               const WeightFiles &weights, const std::string &suffix) {
  Device &device = executor.device();
  std::vector<BoxMap> boxes = boxesOf(executor.plan(), state, suffix);
  writeOnHost(
      device, LocalTensor::of(executor, state),
      [&](const LocalTensor &part) { loadPart(device, part, boxes, weights); });
}

Status loadParameters(Executor &executor, const WeightFiles &weights) {
  std::vector<std::string> problems;
  for (const plan::State &state : executor.plan().states())
    if (state.kind() == plan::State::PARAMETER)
      checkState(executor.plan(), state, weights, /*suffix=*/"", problems);
  if (!problems.empty()) {
    Status status = wrongInput(
        "{} does not hold the weights of this model: {} tensor{} missing or of "
        "another shape",
        weights.path(), problems.size(), problems.size() == 1 ? "" : "s");
    for (const std::string &problem : problems)
      status = std::move(status).note("{}", problem);
    return status;
  }
  LMC_RETURN_IF_ERROR(checkModelConfig(executor.plan(), weights));
  std::vector<std::string> unused = unusedTensors(executor.plan(), weights);
  if (!unused.empty() && executor.rank() == 0)
    logWarning("{} tensor{} of {} {} not used by the plan; the first is {}",
               unused.size(), unused.size() == 1 ? "" : "s", weights.path(),
               unused.size() == 1 ? "is" : "are", unused[0]);
  for (const plan::State &state : executor.plan().states())
    if (state.kind() == plan::State::PARAMETER &&
        isOnStage(state, executor.stage()))
      loadState(executor, state, weights, /*suffix=*/"");
  return Status();
}

bool ownsPart(const plan::Plan &plan, const std::vector<int64_t> &coordinates,
              const plan::State &state) {
  std::vector<bool> cut(coordinates.size());
  auto note = [&](const plan::Linear &linear) {
    for (const plan::Linear::Term &term : linear.terms())
      if (term.coefficient() != 0)
        cut[plan.symbols(int(term.symbol())).axis()] = true;
  };
  for (const plan::Linear &offset : state.local_offset())
    note(offset);
  for (uint32_t axis : state.piece().axes())
    cut[axis] = true;
  for (size_t axis = 0; axis < cut.size(); ++axis) {
    if (state.stages_size() > 0 && plan.mesh().axes(int(axis)).name() == "pp") {
      if (coordinates[axis] != state.stages(0))
        return false;
    } else if (!cut[axis] && coordinates[axis] != 0) {
      return false;
    }
  }
  return true;
}

namespace {
struct StoreContext {
  const LocalTensor &tensor;
  const BoxMap &box;
  DataType dtype;
  double scale;
  std::byte *buffer;
};
} // namespace

void storePart(Device &device, const LocalTensor &tensor,
               const std::vector<BoxMap> &boxes, DataType dtype, double scale,
               const std::vector<std::byte *> &buffers) {
  constexpr int64_t blockElements = 1 << 16;
  for (size_t b = 0; b < boxes.size(); ++b) {
    StoreContext context{tensor, boxes[b], dtype, scale, buffers[b]};
    device.parallelHost(
        [](void *opaque, int64_t begin, int64_t end) {
          const StoreContext &store = *static_cast<StoreContext *>(opaque);
          const LocalTensor &tensor = store.tensor;
          int64_t bytes = lookUpDataType(int(store.dtype))->sizeBytes;
          auto put = [&](const std::byte *from, std::byte *to, int64_t count) {
            if (store.scale == 1.0) {
              convertElements(tensor.dtype, from, store.dtype, to, count);
              return;
            }
            for (int64_t i = 0; i < count; ++i) {
              double value;
              convertElements(tensor.dtype, from + i * tensor.elementBytes,
                              DataType::F64, &value, 1);
              value *= store.scale;
              convertElements(DataType::F64, &value, store.dtype,
                              to + i * bytes, 1);
            }
          };
          for (int64_t block = begin; block < end; ++block)
            forEachBoxPiece(
                tensor, store.box, tensor.first + block * blockElements,
                std::min(tensor.first + (block + 1) * blockElements,
                         tensor.end),
                [&](int64_t local, int64_t file, int64_t stride,
                    int64_t count) {
                  const std::byte *from = tensor.at(local);
                  if (stride == 1) {
                    put(from, store.buffer + file * bytes, count);
                    return;
                  }
                  for (int64_t i = 0; i < count; ++i)
                    put(from + i * tensor.elementBytes,
                        store.buffer + (file + i * stride) * bytes, 1);
                });
        },
        &context, (tensor.elements() + blockElements - 1) / blockElements);
  }
}

} // namespace lmc::runtime
