// See Tokenizer.h.
#include "runtime/generate/Tokenizer.h"

namespace lmc::runtime {

namespace {

class ByteTokenizer final : public Tokenizer {
public:
  ByteTokenizer() {
    for (int i = 0; i < 256; ++i)
      bytes[size_t(i)] = char(i);
  }
  std::string_view name() const override { return "bytes"; }
  int64_t vocabulary() const override { return 256; }
  std::vector<int32_t> encode(std::string_view text) const override {
    std::vector<int32_t> tokens;
    for (char byte : text)
      tokens.push_back(uint8_t(byte));
    return tokens;
  }
  std::string_view bytesOf(int32_t token) const override {
    if (token < 0 || token > 255)
      return {};
    return {&bytes[size_t(token)], 1};
  }

private:
  char bytes[256];
};

} // namespace

std::unique_ptr<Tokenizer> makeByteTokenizer() {
  return std::make_unique<ByteTokenizer>();
}

} // namespace lmc::runtime
