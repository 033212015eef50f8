// Text to tokens and back.
#ifndef LMC_RUNTIME_GENERATE_TOKENIZER_H
#define LMC_RUNTIME_GENERATE_TOKENIZER_H

#include "runtime/base/Status.h"

#include <cstdint>
#include <memory>

namespace lmc::runtime {

class Tokenizer {
public:
  virtual ~Tokenizer() = default;

  virtual std::string_view name() const = 0;
  virtual int64_t vocabulary() const = 0;
  virtual std::vector<int32_t> encode(std::string_view text) const = 0;
  /// The bytes of one token: those of a text are those of its tokens, one
  /// after the other. Empty for a token that stands for no text.
  virtual std::string_view bytesOf(int32_t token) const = 0;
  /// Tokens at which a text ends.
  virtual std::vector<int32_t> stopTokens() const { return {}; }
};

/// One token per byte.
std::unique_ptr<Tokenizer> makeByteTokenizer();

} // namespace lmc::runtime

#endif // LMC_RUNTIME_GENERATE_TOKENIZER_H
