// See Reduce.h. In blocks that stay in the first cache, one source after the
// other, so that the inner loops are vector loops.
#include "runtime/comm/Reduce.h"

#include <algorithm>
#include <cstring>

namespace lmc::runtime {

static constexpr int64_t blockElements = 2048;

template <typename T> static T loadAt(const std::byte *data, int64_t i) {
  T value;
  std::memcpy(&value, data + i * int64_t(sizeof(T)), sizeof value);
  return value;
}

template <typename T, typename Sum, Sum (*load)(T), T (*store)(Sum)>
static void reduce(Reduction reduction, const std::byte *const *sources,
                   size_t numSources, int64_t elements, std::byte *target) {
  Sum values[blockElements];
  for (int64_t begin = 0; begin < elements; begin += blockElements) {
    int64_t count = std::min(blockElements, elements - begin);
    const std::byte *source = sources[0] + begin * int64_t(sizeof(T));
    for (int64_t i = 0; i < count; ++i)
      values[i] = load(loadAt<T>(source, i));
    for (size_t s = 1; s < numSources; ++s) {
      source = sources[s] + begin * int64_t(sizeof(T));
      if (reduction == Reduction::Sum) {
        for (int64_t i = 0; i < count; ++i)
          values[i] = Sum(values[i] + load(loadAt<T>(source, i)));
        continue;
      }
      for (int64_t i = 0; i < count; ++i) {
        Sum next = load(loadAt<T>(source, i));
        if (!(next <= values[i])) // takes a NaN of either side
          values[i] = values[i] == values[i] ? next : values[i];
      }
    }
    for (int64_t i = 0; i < count; ++i) {
      T rounded = store(values[i]);
      std::memcpy(target + (begin + i) * int64_t(sizeof(T)), &rounded,
                  sizeof(T));
    }
  }
}

template <typename T> static T same(T value) { return value; }

void reduceInOrder(DataType dtype, Reduction reduction,
                   const std::byte *const *sources, size_t numSources,
                   int64_t elements, std::byte *target) {
  switch (dtype) {
  case DataType::F32:
    return reduce<float, float, same<float>, same<float>>(
        reduction, sources, numSources, elements, target);
  case DataType::F64:
    return reduce<double, double, same<double>, same<double>>(
        reduction, sources, numSources, elements, target);
  case DataType::BF16:
    return reduce<uint16_t, float, bf16ToFloat, floatToBf16>(
        reduction, sources, numSources, elements, target);
  case DataType::F16:
    return reduce<uint16_t, float, f16ToFloat, floatToF16>(
        reduction, sources, numSources, elements, target);
  case DataType::I32:
    return reduce<int32_t, int32_t, same<int32_t>, same<int32_t>>(
        reduction, sources, numSources, elements, target);
  case DataType::I64:
    return reduce<int64_t, int64_t, same<int64_t>, same<int64_t>>(
        reduction, sources, numSources, elements, target);
  case DataType::U8:
    return reduce<uint8_t, uint8_t, same<uint8_t>, same<uint8_t>>(
        reduction, sources, numSources, elements, target);
  case DataType::Invalid:
    return;
  }
}

int64_t elementBytes(const CollectiveCall &call) {
  return lookUpDataType(static_cast<int>(call.dtype))->sizeBytes;
}

uint32_t signatureOf(const CollectiveCall &call, size_t members) {
  uint64_t hash = 0x9e3779b97f4a7c15ull;
  for (uint64_t part :
       {uint64_t(call.kind), uint64_t(call.reduction), uint64_t(call.dtype),
        uint64_t(call.elements), uint64_t(members)})
    hash = (hash ^ part) * 0xff51afd7ed558ccdull ^ (hash >> 29);
  return uint32_t(hash >> 32);
}

} // namespace lmc::runtime
