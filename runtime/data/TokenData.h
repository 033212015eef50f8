// Token data for training and evaluation: one long row of token ids with
// document ends and an optional loss mask, mapped from a file.
//
// Three formats, told apart by their first bytes, never by their name:
//   - ours (below), made by `lmrun tokenize`;
//   - Megatron's pair NAME.bin and NAME.idx, given by either name or by NAME;
//   - llm.c's .bin (16-bit ids, version 1; 32-bit ids, version 7).
//
// Our file, little endian:
//   offset  bytes
//        0      8   "LMCTOKEN"
//        8      4   version (1)
//       12      4   bytes per token (2 or 4)
//       16      8   number of tokens
//       24      8   number of documents
//       32      4   1 when there is a loss mask, 2 when there is a tokenizer,
//                   3 for both
//       36      4   vocabulary size, 0 when not known
//       40     16   XXH3-128 of all bytes from 64 on, canonical form
//       56      8   XXH3-64 of the bytes [0, 56), little endian
//       64          tokens, then zeros up to a multiple of 8
//                   document ends (u64 each, exclusive, ascending; the last is
//                   the number of tokens)
//                   loss mask (bit i % 8 of byte i / 8: token i is trained on)
//                   tokenizer.json that the tokens were made with: its length
//                   (u64), then its bytes
#ifndef LMC_RUNTIME_DATA_TOKENDATA_H
#define LMC_RUNTIME_DATA_TOKENDATA_H

#include "runtime/base/MappedFile.h"

#include <cstdint>

namespace lmc::runtime {

class TokenData {
public:
  static StatusOr<TokenData> open(const std::string &path);
  /// The same for bytes in memory that begin like one of the single-file
  /// formats; for fuzzing. `bytes` must outlive the result.
  static StatusOr<TokenData> parse(std::string_view bytes,
                                   const std::string &name);
  /// The same for Megatron's pair.
  static StatusOr<TokenData> parsePair(std::string_view index,
                                       std::string_view bin,
                                       const std::string &name);

  int64_t size() const { return count; }
  /// The token at `index`, -1 when it does not fit into 31 bits.
  int32_t token(int64_t index) const;
  /// Whether the loss counts the prediction of the token at `index`.
  bool trained(int64_t index) const {
    return mask == nullptr || (mask[index / 8] >> (index % 8) & 1);
  }
  bool hasMask() const { return mask != nullptr; }
  /// The end (exclusive) of the document that holds token `index`.
  int64_t documentEnd(int64_t index) const;
  /// That of the tokenizer which made it, 0 when the file does not say.
  int64_t vocabulary() const { return theVocabulary; }
  /// The tokenizer.json that it was made with, "" when the file has none.
  std::string_view tokenizer() const { return theTokenizer; }
  int64_t numDocuments() const { return int64_t(documentEnds.size()); }
  const std::string &path() const { return name; }
  std::string_view formatName() const { return format; }
  /// MappedFile::nameWhenCut() of the tokens' file.
  void nameWhenCut() const { files.back().nameWhenCut(); }

private:
  TokenData() = default;
  Status parseOwn(std::string_view bytes);
  Status parseLlmC(std::string_view bytes);
  Status parseMegatron(std::string_view index, std::string_view tokens);

  std::string name;
  std::string_view format;
  std::vector<MappedFile> files;
  const char *tokens = nullptr;
  int width = 2;
  bool isSigned = false;
  int64_t count = 0;
  int64_t theVocabulary = 0;
  std::string_view theTokenizer;
  const uint8_t *mask = nullptr;
  std::vector<int64_t> documentEnds;
};

/// What a token file of ours is made from.
struct TokenFileContents {
  std::vector<uint32_t> tokens;
  std::vector<int64_t> documentEnds; ///< exclusive; the last is all tokens
  std::vector<bool> mask;            ///< empty, or one per token
  uint32_t vocabulary = 0;
  std::string tokenizer; ///< a tokenizer.json, or empty
};
std::string encodeTokenFile(const TokenFileContents &contents);

} // namespace lmc::runtime

#endif // LMC_RUNTIME_DATA_TOKENDATA_H
