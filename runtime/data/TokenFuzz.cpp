// Fuzz target of the token files: ours, llm.c's and, split at a length that
// the first two bytes give, Megatron's pair. Every token, document end
// and byte of a tokenizer of what is accepted is read.
//
//   clang++ -fsanitize=fuzzer,address TokenFuzz.cpp TokenData.cpp <base>
//       -lxxhash
#include "runtime/data/TokenData.h"

#include <cstring>
#include <xxhash.h>

using namespace lmc::runtime;

static void readAll(const StatusOr<TokenData> &data) {
  if (!data.ok())
    return;
  int64_t sum = 0;
  for (int64_t i = 0; i < data->size(); ++i)
    sum += data->token(i) + data->trained(i) + data->documentEnd(i);
  for (char byte : data->tokenizer())
    sum += byte;
  static volatile int64_t sink;
  sink = sum;
}

/// Our format with right checksums.
static std::string seal(std::string bytes) {
  if (bytes.size() < 64)
    return bytes;
  std::memcpy(bytes.data(), "LMCTOKEN\1\0\0\0", 12);
  XXH128_canonical_t sum;
  XXH128_canonicalFromHash(&sum,
                           XXH3_128bits(bytes.data() + 64, bytes.size() - 64));
  std::memcpy(bytes.data() + 40, sum.digest, 16);
  uint64_t header = XXH3_64bits(bytes.data(), 56);
  std::memcpy(bytes.data() + 56, &header, 8);
  return bytes;
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  if (size < 3)
    return 0;
  std::string bytes(reinterpret_cast<const char *>(data) + 3, size - 3);
  size_t split = std::min(bytes.size(), size_t(data[1]) * 256 + data[2]);
  switch (data[0] % 3) {
  case 0:
    readAll(TokenData::parse(bytes, "fuzz"));
    break;
  case 1: {
    std::string sealed = seal(bytes);
    readAll(TokenData::parse(sealed, "fuzz"));
    break;
  }
  default: {
    std::string index = bytes.substr(0, split), bin = bytes.substr(split);
    readAll(TokenData::parsePair(index, bin, "fuzz"));
  }
  }
  return 0;
}
