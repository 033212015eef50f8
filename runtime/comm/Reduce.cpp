// See Reduce.h. In blocks that stay in the first cache, one source after the
// other, so that the inner loops are vector loops. The first pass takes two
// sources, the last stores the result: two float32 sources take as long as a
// copy of as many bytes.
#include "runtime/comm/Reduce.h"

#include <algorithm>
#include <cstring>

// Float16's conversions have branches: its loops stay scalar.
#pragma clang diagnostic ignored "-Wpass-failed"

namespace lmc::runtime {

static constexpr int64_t blockElements = 2048;

template <typename T> static T loadAt(const std::byte *data, int64_t i) {
  T value;
  std::memcpy(&value, data + i * int64_t(sizeof(T)), sizeof value);
  return value;
}

template <Reduction reduction, typename Sum>
static Sum combine(Sum left, Sum right) {
  if (reduction == Reduction::Sum)
    return Sum(left + right);
  if (right <= left) // takes a NaN of either side
    return left;
  return left == left ? right : left;
}

/// One pass over a block. What is written may be what is read at the same
/// index, so that no element depends on another.
template <Reduction reduction, typename Left, typename Right, typename Write>
static void combineBlock(int64_t count, Left left, Right right, Write write) {
#pragma clang loop vectorize(assume_safety)
  for (int64_t i = 0; i < count; ++i)
    write(i, combine<reduction>(left(i), right(i)));
}

template <typename T, typename Sum, Sum (*load)(T), T (*store)(Sum),
          Reduction reduction>
static void reduce(const std::byte *const *sources, size_t numSources,
                   int64_t elements, std::byte *target) {
  const size_t last = numSources - 1;
  if (last == 0 && target != sources[0])
    std::memcpy(target, sources[0], size_t(elements) * sizeof(T));
  if (last == 0)
    return;
  Sum block[blockElements], *values = block;
  auto sum = [values](int64_t i) { return values[i]; };
  auto keep = [values](int64_t i, Sum value) { values[i] = value; };
  for (int64_t begin = 0; begin < elements; begin += blockElements) {
    const int64_t count = std::min(blockElements, elements - begin);
    const int64_t offset = begin * int64_t(sizeof(T));
    auto source = [&](size_t number) {
      return [from = sources[number] + offset](int64_t i) {
        return load(loadAt<T>(from, i));
      };
    };
    auto finish = [to = target + offset](int64_t i, Sum value) {
      T rounded = store(value);
      std::memcpy(to + i * int64_t(sizeof(T)), &rounded, sizeof(T));
    };
    if (last == 1) {
      combineBlock<reduction>(count, source(0), source(1), finish);
      continue;
    }
    combineBlock<reduction>(count, source(0), source(1), keep);
    for (size_t s = 2; s < last; ++s)
      combineBlock<reduction>(count, sum, source(s), keep);
    combineBlock<reduction>(count, sum, source(last), finish);
  }
}

template <typename T, typename Sum, Sum (*load)(T), T (*store)(Sum)>
static void reduce(Reduction reduction, const std::byte *const *sources,
                   size_t numSources, int64_t elements, std::byte *target) {
  if (reduction == Reduction::Sum)
    reduce<T, Sum, load, store, Reduction::Sum>(sources, numSources, elements,
                                                target);
  else
    reduce<T, Sum, load, store, Reduction::Max>(sources, numSources, elements,
                                                target);
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
