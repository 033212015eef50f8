// Fuzz target of the reader of .npy files, which `lmrun eval --input` takes.
//
//   clang++ -fsanitize=fuzzer,address NpyFuzz.cpp Npy.cpp <base>
#include "runtime/generate/Npy.h"

using namespace lmc::runtime;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  if (size == 0)
    return 0;
  std::string bytes(reinterpret_cast<const char *>(data) + 1, size - 1);
  // Half of the inputs begin as a file does.
  if (data[0] % 2)
    bytes.insert(0, std::string("\x93NUMPY\x01\x00", 8));
  StatusOr<TokenArray> array = parseTokenArray(bytes, "fuzz");
  static volatile size_t sink;
  if (array.ok())
    sink = array->values.size();
  return 0;
}
