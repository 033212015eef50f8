// Reading the three formats of token data, writing ours. See TokenData.h.
#include "runtime/data/TokenData.h"

#include "runtime/base/Checked.h"

#include <algorithm>
#include <cstring>
#include <unistd.h>
#include <xxhash.h>

namespace lmc::runtime {

static constexpr std::string_view ownMagic = "LMCTOKEN";
static constexpr std::string_view megatronMagic("MMIDIDX\0\0", 9);
static constexpr size_t ownHeaderBytes = 64;
// What may stand behind the documents: bits of the header's word at 32.
static constexpr uint32_t maskPart = 1, tokenizerPart = 2;
static constexpr size_t llmCHeaderBytes = 256 * 4;
// Up to here the checksum is verified when the file is opened; beyond, reading
// everything before the first step would take longer than it is worth.
static constexpr size_t verifiedBytes = size_t(1) << 30;

template <typename T> static T readAt(std::string_view bytes, size_t offset) {
  T value;
  std::memcpy(&value, bytes.data() + offset, sizeof value);
  return value;
}

int32_t TokenData::token(int64_t index) const {
  const char *at = tokens + index * width;
  switch (width) {
  case 1:
    return isSigned
               ? std::max<int32_t>(-1, *reinterpret_cast<const int8_t *>(at))
               : uint8_t(*at);
  case 2: {
    uint16_t value;
    std::memcpy(&value, at, 2);
    return isSigned ? std::max<int32_t>(-1, int16_t(value)) : value;
  }
  case 4: {
    uint32_t value;
    std::memcpy(&value, at, 4);
    return value <= INT32_MAX ? int32_t(value) : -1;
  }
  default: {
    int64_t value;
    std::memcpy(&value, at, 8);
    return value >= 0 && value <= INT32_MAX ? int32_t(value) : -1;
  }
  }
}

int64_t TokenData::documentEnd(int64_t index) const {
  auto end = std::upper_bound(documentEnds.begin(), documentEnds.end(), index);
  return end == documentEnds.end() ? count : *end;
}

Status TokenData::parseOwn(std::string_view bytes) {
  format = "lmc tokens";
  if (bytes.size() < ownHeaderBytes)
    return corrupt("{} is cut short: {} bytes, less than the {} of its header",
                   name, bytes.size(), ownHeaderBytes);
  if (readAt<uint32_t>(bytes, 8) != 1)
    return corrupt("{} is a token file of version {}; this build reads "
                   "version 1",
                   name, readAt<uint32_t>(bytes, 8));
  if (XXH3_64bits(bytes.data(), 56) != readAt<uint64_t>(bytes, 56))
    return corrupt("{} is damaged: the checksum of its header does not match",
                   name);
  width = int(readAt<uint32_t>(bytes, 12));
  uint64_t tokenCount = readAt<uint64_t>(bytes, 16);
  uint64_t documents = readAt<uint64_t>(bytes, 24);
  uint32_t parts = readAt<uint32_t>(bytes, 32);
  bool hasMask = parts & maskPart, hasTokenizer = parts & tokenizerPart;
  if (parts > (maskPart | tokenizerPart))
    return corrupt("{} has parts that this build does not know ({})", name,
                   parts);
  if ((width != 2 && width != 4) || tokenCount > bytes.size() ||
      documents > bytes.size())
    return corrupt("{} is damaged: {} tokens of {} bytes in {} documents do "
                   "not fit into {} bytes",
                   name, tokenCount, width, documents, bytes.size());
  uint64_t tokenBytes = (tokenCount * uint64_t(width) + 7) / 8 * 8;
  uint64_t maskBytes = hasMask ? (tokenCount + 7) / 8 : 0;
  uint64_t expected = ownHeaderBytes + tokenBytes + documents * 8 + maskBytes;
  size_t tokenizerAt = expected + 8;
  if (hasTokenizer)
    expected += tokenizerAt > bytes.size()
                    ? 8
                    : 8 + std::min<uint64_t>(readAt<uint64_t>(bytes, expected),
                                             UINT64_MAX / 2);
  if (expected != bytes.size())
    return corrupt("{} is damaged: {} bytes, its header says {}", name,
                   bytes.size(), expected);
  std::string_view body = bytes.substr(ownHeaderBytes);
  if (body.size() <= verifiedBytes) {
    XXH128_canonical_t sum;
    XXH128_canonicalFromHash(&sum, XXH3_128bits(body.data(), body.size()));
    if (std::memcmp(sum.digest, bytes.data() + 40, 16) != 0)
      return corrupt("{} is damaged: its checksum does not match", name);
  }
  tokens = body.data();
  count = int64_t(tokenCount);
  theVocabulary = readAt<uint32_t>(bytes, 36);
  int64_t previous = 0;
  for (uint64_t i = 0; i < documents; ++i) {
    uint64_t end = readAt<uint64_t>(body, tokenBytes + i * 8);
    if (end > tokenCount || int64_t(end) < previous)
      return corrupt("{} is damaged: document {} ends at token {} of {}", name,
                     i, end, tokenCount);
    previous = int64_t(end);
    documentEnds.push_back(previous);
  }
  if (!documentEnds.empty() && documentEnds.back() != count)
    return corrupt("{} is damaged: its documents end at token {} of {}", name,
                   documentEnds.back(), count);
  if (hasTokenizer)
    theTokenizer = bytes.substr(tokenizerAt);
  if (hasMask)
    mask = reinterpret_cast<const uint8_t *>(body.data()) + tokenBytes +
           documents * 8;
  return Status();
}

Status TokenData::parseLlmC(std::string_view bytes) {
  format = "llm.c tokens";
  if (bytes.size() < llmCHeaderBytes)
    return corrupt("{} is cut short: {} bytes, less than the {} of an llm.c "
                   "header",
                   name, bytes.size(), llmCHeaderBytes);
  int32_t magic = readAt<int32_t>(bytes, 0);
  int32_t version = readAt<int32_t>(bytes, 4);
  int32_t wanted = magic == 20240520 ? 1 : 7;
  if (version != wanted)
    return corrupt("{} is an llm.c file of version {}; version {} goes with "
                   "its magic number {}",
                   name, version, wanted, magic);
  width = magic == 20240520 ? 2 : 4;
  int64_t tokenCount = readAt<int32_t>(bytes, 8);
  if (tokenCount < 0)
    return corrupt("{} says that it has {} tokens", name, tokenCount)
        .help("llm.c's header counts up to {}: make a file of more with lmrun "
              "tokenize, or several",
              INT32_MAX);
  uint64_t expected = llmCHeaderBytes + uint64_t(tokenCount) * uint64_t(width);
  if (expected != bytes.size())
    return corrupt("{} is damaged: {} bytes, but {} tokens of {} bytes need {}",
                   name, bytes.size(), tokenCount, width, expected);
  tokens = bytes.data() + llmCHeaderBytes;
  count = tokenCount;
  return Status();
}

Status TokenData::parseMegatron(std::string_view index, std::string_view bin) {
  format = "Megatron indexed";
  constexpr size_t headerBytes = 9 + 8 + 1 + 8 + 8;
  if (index.size() < headerBytes)
    return corrupt("{} is cut short: its index has {} bytes, less than the {} "
                   "of a header",
                   name, index.size(), headerBytes);
  uint64_t version = readAt<uint64_t>(index, 9);
  if (version != 1)
    return corrupt("{} is a Megatron index of version {}; version 1 is read",
                   name, version);
  int code = uint8_t(index[17]);
  switch (code) {
  case 1:
  case 2:
    width = 1;
    break;
  case 3:
  case 8:
    width = 2;
    break;
  case 4:
    width = 4;
    break;
  case 5:
    width = 8;
    break;
  default:
    return corrupt("{} holds elements of type code {}, which are no tokens",
                   name, code);
  }
  isSigned = code == 2 || code == 3;
  uint64_t sequences = readAt<uint64_t>(index, 18);
  uint64_t documents = readAt<uint64_t>(index, 26);
  if (sequences > index.size() || documents > index.size() ||
      index.size() != headerBytes + sequences * 12 + documents * 8)
    return corrupt("{} is damaged: an index of {} bytes cannot hold {} "
                   "sequences and {} documents",
                   name, index.size(), sequences, documents);
  size_t offsets = headerBytes + sequences * 4;
  size_t documentIndex = offsets + sequences * 8;
  std::vector<int64_t> ends; // of sequences
  int64_t total = 0;
  for (uint64_t i = 0; i < sequences; ++i) {
    int32_t length = readAt<int32_t>(index, headerBytes + i * 4);
    int64_t offset = readAt<int64_t>(index, offsets + i * 8);
    if (length < 0)
      return corrupt("{} is damaged: sequence {} has {} tokens", name, i,
                     length);
    if (offset != total * width)
      return corrupt("{} cannot be read: sequence {} begins at byte {}, {} is "
                     "where the one before it ends",
                     name, i, offset, total * width)
          .help("merge it into one file without holes");
    total += length;
    ends.push_back(total);
  }
  if (uint64_t(total) * uint64_t(width) != bin.size())
    return corrupt("{} is damaged: its index counts {} bytes of tokens, the "
                   ".bin file has {}",
                   name, uint64_t(total) * uint64_t(width), bin.size());
  int64_t previous = 0;
  for (uint64_t i = 0; i < documents; ++i) {
    int64_t first = readAt<int64_t>(index, documentIndex + i * 8);
    if (first < previous || first > int64_t(sequences))
      return corrupt("{} is damaged: document {} begins at sequence {} of {}",
                     name, i, first, sequences);
    if (first > previous)
      documentEnds.push_back(ends[size_t(first - 1)]);
    previous = first;
  }
  if (documentEnds.empty() || documentEnds.back() != total)
    documentEnds.push_back(total);
  tokens = bin.data();
  count = total;
  return Status();
}

StatusOr<TokenData> TokenData::parse(std::string_view bytes,
                                     const std::string &name) {
  TokenData data;
  data.name = name;
  if (bytes.substr(0, ownMagic.size()) == ownMagic) {
    LMC_RETURN_IF_ERROR(data.parseOwn(bytes));
    return std::move(data);
  }
  int32_t first = bytes.size() >= 4 ? readAt<int32_t>(bytes, 0) : 0;
  if (first == 20240520 || first == 20240801) {
    LMC_RETURN_IF_ERROR(data.parseLlmC(bytes));
    return std::move(data);
  }
  return corrupt("{} is no token data: it begins like none of the formats",
                 name)
      .note("known are lmc token files, Megatron's .bin with .idx, and "
            "llm.c's .bin")
      .help("make a token file with: lmrun tokenize --input TEXT -o FILE");
}

StatusOr<TokenData> TokenData::parsePair(std::string_view index,
                                         std::string_view bin,
                                         const std::string &name) {
  TokenData data;
  data.name = name;
  if (index.substr(0, megatronMagic.size()) != megatronMagic)
    return corrupt("{}.idx is no Megatron index", name);
  LMC_RETURN_IF_ERROR(data.parseMegatron(index, bin));
  return std::move(data);
}

StatusOr<TokenData> TokenData::open(const std::string &path) {
  auto exists = [](const std::string &name) {
    return ::access(name.c_str(), F_OK) == 0;
  };
  auto endsWith = [&](std::string_view end) {
    return path.size() > end.size() &&
           path.compare(path.size() - end.size(), end.size(), end) == 0;
  };
  std::string stem = endsWith(".bin") || endsWith(".idx")
                         ? path.substr(0, path.size() - 4)
                         : path;
  std::vector<MappedFile> files;
  if (exists(path)) {
    LMC_ASSIGN_OR_RETURN(MappedFile file, MappedFile::open(path));
    files.push_back(std::move(file));
    std::string_view bytes = files[0].bytes();
    bool isIndex = bytes.substr(0, megatronMagic.size()) == megatronMagic;
    if (!isIndex) {
      StatusOr<TokenData> data = parse(bytes, path);
      bool known = bytes.substr(0, ownMagic.size()) == ownMagic || data.ok();
      if (known || !endsWith(".bin") || !exists(stem + ".idx")) {
        if (data.ok())
          data->files = std::move(files);
        return data;
      }
    }
  } else if (!exists(stem + ".idx")) {
    return wrongInput("there is no token data {}", path);
  }
  // Megatron's pair, by any of its names.
  files.clear();
  LMC_ASSIGN_OR_RETURN(MappedFile index, MappedFile::open(stem + ".idx"));
  LMC_ASSIGN_OR_RETURN(MappedFile bin, MappedFile::open(stem + ".bin"));
  LMC_ASSIGN_OR_RETURN(TokenData data,
                       parsePair(index.bytes(), bin.bytes(), stem));
  data.files.push_back(std::move(bin));
  return std::move(data);
}

std::string encodeTokenFile(const TokenFileContents &contents) {
  uint32_t largest = 0;
  for (uint32_t token : contents.tokens)
    largest = std::max(largest, token);
  uint32_t width = largest <= UINT16_MAX ? 2 : 4;
  std::string body;
  body.reserve(contents.tokens.size() * width + 8);
  for (uint32_t token : contents.tokens)
    body.append(reinterpret_cast<const char *>(&token), width);
  body.resize((body.size() + 7) / 8 * 8);
  for (int64_t end : contents.documentEnds)
    body.append(reinterpret_cast<const char *>(&end), 8);
  if (!contents.mask.empty()) {
    std::string bits((contents.mask.size() + 7) / 8, '\0');
    for (size_t i = 0; i < contents.mask.size(); ++i)
      if (contents.mask[i])
        bits[i / 8] = char(bits[i / 8] | (1 << (i % 8)));
    body += bits;
  }
  if (!contents.tokenizer.empty()) {
    uint64_t length = contents.tokenizer.size();
    body.append(reinterpret_cast<const char *>(&length), 8);
    body += contents.tokenizer;
  }
  std::string header(ownMagic);
  auto append = [&](auto value) {
    header.append(reinterpret_cast<const char *>(&value), sizeof value);
  };
  append(uint32_t(1));
  append(width);
  append(uint64_t(contents.tokens.size()));
  append(uint64_t(contents.documentEnds.size()));
  append((contents.mask.empty() ? 0 : maskPart) |
         (contents.tokenizer.empty() ? 0 : tokenizerPart));
  append(contents.vocabulary);
  XXH128_canonical_t sum;
  XXH128_canonicalFromHash(&sum, XXH3_128bits(body.data(), body.size()));
  header.append(reinterpret_cast<const char *>(sum.digest), 16);
  append(uint64_t(XXH3_64bits(header.data(), header.size())));
  return header + body;
}

} // namespace lmc::runtime
