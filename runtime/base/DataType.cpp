// The table of element types and conversions between the float ones.
#include "runtime/base/DataType.h"

#include <cmath>

namespace lmc::runtime {

static constexpr DataTypeInfo table[] = {
    {DataType::F32, 4, true, "F32"},  {DataType::BF16, 2, true, "BF16"},
    {DataType::F16, 2, true, "F16"},  {DataType::I32, 4, false, "I32"},
    {DataType::I64, 8, false, "I64"}, {DataType::U8, 1, false, "U8"},
    {DataType::F64, 8, true, "F64"},
};

const DataTypeInfo *lookUpDataType(int value) {
  for (const DataTypeInfo &info : table)
    if (static_cast<int>(info.type) == value)
      return &info;
  return nullptr;
}

const DataTypeInfo *lookUpDataType(std::string_view name) {
  for (const DataTypeInfo &info : table)
    if (info.name == name)
      return &info;
  return nullptr;
}

float f16ToFloat(uint16_t bits) {
  int exponent = (bits >> 10) & 31;
  int mantissa = bits & 1023;
  float magnitude;
  if (exponent == 31)
    magnitude = mantissa ? NAN : INFINITY;
  else if (exponent == 0)
    magnitude = std::ldexp(float(mantissa), -24);
  else
    magnitude = std::ldexp(float(mantissa + 1024), exponent - 25);
  return bits & 0x8000 ? -magnitude : magnitude;
}

uint16_t floatToF16(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  uint16_t sign = uint16_t((bits >> 16) & 0x8000u);
  float magnitude = std::fabs(value);
  if (std::isnan(value))
    return sign | 0x7e00u;
  if (magnitude >= 65520.0f)
    return sign | 0x7c00u;
  if (magnitude < 0x1p-14f) // subnormal: the value is a multiple of 2^-24
    return sign | uint16_t(std::nearbyint(std::ldexp(double(magnitude), 24)));
  uint32_t rounded = (bits & 0x7fffffffu) + 0xfffu + ((bits >> 13) & 1u);
  return sign | uint16_t((rounded - (112u << 23)) >> 13);
}

static bool load(DataType type, const void *source, int64_t i, double &value) {
  switch (type) {
  case DataType::F32: {
    float f;
    std::memcpy(&f, static_cast<const char *>(source) + 4 * i, 4);
    value = f;
    return true;
  }
  case DataType::F64:
    std::memcpy(&value, static_cast<const char *>(source) + 8 * i, 8);
    return true;
  case DataType::BF16:
  case DataType::F16: {
    uint16_t half;
    std::memcpy(&half, static_cast<const char *>(source) + 2 * i, 2);
    value = type == DataType::BF16 ? bf16ToFloat(half) : f16ToFloat(half);
    return true;
  }
  default:
    return false;
  }
}

static bool store(DataType type, void *target, int64_t i, double value) {
  switch (type) {
  case DataType::F32: {
    float f = float(value);
    std::memcpy(static_cast<char *>(target) + 4 * i, &f, 4);
    return true;
  }
  case DataType::F64:
    std::memcpy(static_cast<char *>(target) + 8 * i, &value, 8);
    return true;
  case DataType::BF16:
  case DataType::F16: {
    uint16_t half = type == DataType::BF16 ? floatToBf16(float(value))
                                           : floatToF16(float(value));
    std::memcpy(static_cast<char *>(target) + 2 * i, &half, 2);
    return true;
  }
  default:
    return false;
  }
}

bool convertElements(DataType from, const void *source, DataType to,
                     void *target, int64_t count) {
  const DataTypeInfo *info = lookUpDataType(static_cast<int>(from));
  if (!info)
    return false;
  if (from == to) {
    std::memcpy(target, source, size_t(count * info->sizeBytes));
    return true;
  }
  double value;
  for (int64_t i = 0; i < count; ++i)
    if (!load(from, source, i, value) || !store(to, target, i, value))
      return false;
  return true;
}

} // namespace lmc::runtime
