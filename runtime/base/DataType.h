// The element types of a plan and what the runtime must know of each.
#ifndef LMC_RUNTIME_BASE_DATATYPE_H
#define LMC_RUNTIME_BASE_DATATYPE_H

#include <cstdint>
#include <cstring>
#include <string_view>

namespace lmc::runtime {

/// The values are those of plan.proto's DataType.
enum class DataType : int {
  Invalid = 0,
  F32 = 1,
  BF16 = 2,
  F16 = 3,
  I32 = 4,
  I64 = 5,
  U8 = 6,
  F64 = 7,
};

struct DataTypeInfo {
  DataType type;
  int64_t sizeBytes;
  bool isFloat;
  std::string_view name; ///< as safetensors spells it
};

/// The row of the table, or null for Invalid and unknown values.
const DataTypeInfo *lookUpDataType(int value);
/// The type that safetensors spells so, or null.
const DataTypeInfo *lookUpDataType(std::string_view name);

inline float bf16ToFloat(uint16_t bits) {
  uint32_t wide = uint32_t(bits) << 16;
  float value;
  std::memcpy(&value, &wide, 4);
  return value;
}
/// Rounds to nearest, ties to even; NaN stays NaN.
inline uint16_t floatToBf16(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  const uint32_t nan = (bits >> 16) | 0x40u;
  const uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  return uint16_t((bits & 0x7fffffffu) > 0x7f800000u ? nan : rounded);
}
float f16ToFloat(uint16_t bits);
uint16_t floatToF16(float value);

/// Converts `count` elements between float types (F32, BF16, F16, F64), or
/// copies where the types are equal. False when there is no conversion.
bool convertElements(DataType from, const void *source, DataType to,
                     void *target, int64_t count);

} // namespace lmc::runtime

#endif // LMC_RUNTIME_BASE_DATATYPE_H
