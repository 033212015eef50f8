// Fuzz target of the JSON and safetensors readers; the first byte chooses.
//
//   clang++ -fsanitize=fuzzer,address WeightsFuzz.cpp Json.cpp Safetensors.cpp
//       <base> -lxxhash
#include "runtime/weights/Json.h"
#include "runtime/weights/Safetensors.h"

using namespace lmc::runtime;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  if (size == 0)
    return 0;
  std::string_view bytes(reinterpret_cast<const char *>(data) + 1, size - 1);
  std::string sealed;
  switch (data[0] % 3) {
  case 0:
    (void)parseJson(bytes, "fuzz").ok();
    break;
  case 1:
    (void)parseSafetensors(bytes, "fuzz").ok();
    break;
  default: // the header's length made right, so that its JSON is reached
    uint64_t length = bytes.size();
    sealed.assign(reinterpret_cast<const char *>(&length), 8);
    sealed.append(bytes);
    (void)parseSafetensors(sealed, "fuzz").ok();
  }
  return 0;
}
