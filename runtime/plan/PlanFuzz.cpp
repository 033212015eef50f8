// Fuzz target of the plan reader and checker. The first byte chooses: the
// bytes as they are (the container), or put behind a right header, so that the
// message and the checks behind it are reached. Whatever the bytes: no crash.
//
//   clang++ -fsanitize=fuzzer,address PlanFuzz.cpp PlanFile.cpp PlanCheck.cpp
//       PlanFacts.cpp <base> plan.pb.cc -lprotobuf -lxxhash
#include "runtime/plan/PlanCheck.h"
#include "runtime/plan/PlanFile.h"

#include <xxhash.h>

using namespace lmc::runtime;

static std::string withHeader(std::string_view message) {
  std::string bytes("LMCPLAN\n");
  uint32_t version = planFormatVersion;
  uint64_t length = message.size();
  bytes.append(reinterpret_cast<const char *>(&version), 4);
  bytes.append(reinterpret_cast<const char *>(&length), 8);
  XXH128_canonical_t sum;
  XXH128_canonicalFromHash(&sum, XXH3_128bits(message.data(), message.size()));
  bytes.append(reinterpret_cast<const char *>(sum.digest), 16);
  return bytes.append(message);
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  if (size == 0)
    return 0;
  std::string_view bytes(reinterpret_cast<const char *>(data) + 1, size - 1);
  std::string sealed;
  if (data[0] % 2) {
    sealed = withHeader(bytes);
    bytes = sealed;
  }
  StatusOr<lmc::plan::Plan> plan = decodePlan(bytes, "fuzz");
  if (plan.ok() && checkPlan(*plan).ok() && !encodePlan(*plan).ok())
    __builtin_trap();
  return 0;
}
