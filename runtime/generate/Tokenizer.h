// Text to tokens and back.
//
// Two kinds: plain bytes, and byte-level BPE read from a tokenizer.json (see
// TokenizerJson.h). Any bytes can be encoded, also such as are no UTF-8. An
// object serves one thread at a time.
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
  /// One more than the greatest token.
  virtual int64_t vocabulary() const = 0;
  /// The tokens of a text; with `addSpecial` also those that the tokenizer
  /// puts around every text, such as <|begin_of_text|>.
  virtual StatusOr<std::vector<int32_t>> encode(std::string_view text,
                                                bool addSpecial = false) = 0;
  /// The bytes of one token: those of a text are those of its tokens, one
  /// after the other. Empty for a token that stands for no text.
  virtual std::string_view bytesOf(int32_t token) const = 0;
  /// Whether the token stands for a mark, such as <|endoftext|>, and not for
  /// text.
  virtual bool isSpecial(int32_t token) const { return false; }
  /// The token whose text is exactly this, -1 when there is none.
  virtual int32_t find(std::string_view text) const = 0;
};

/// One token per byte.
std::unique_ptr<Tokenizer> makeByteTokenizer();

/// "bytes", a tokenizer.json, or a folder that has one. WrongInput when there
/// is none or it is of a kind that is not supported, Corrupt when it is
/// damaged.
StatusOr<std::unique_ptr<Tokenizer>> openTokenizer(const std::string &path);

/// The file that openTokenizer reads; "" for "bytes".
StatusOr<std::string> tokenizerFile(const std::string &path);

/// The tokens at which a text ends, as a Hugging Face folder says: of its
/// generation_config.json, else of its config.json; none when neither does.
StatusOr<std::vector<int32_t>> readEndTokens(const std::string &folder);

} // namespace lmc::runtime

#endif // LMC_RUNTIME_GENERATE_TOKENIZER_H
