// See Npy.h. The header is the text of a Python dict of three known keys.
#include "runtime/generate/Npy.h"
#include "runtime/base/Checked.h"
#include "runtime/base/MappedFile.h"

#include <cstring>
#include <sys/stat.h>
#include <unistd.h>

namespace lmc::runtime {

static constexpr std::string_view kMagic = "\x93NUMPY";

/// What follows `'key':` in the header, without leading blanks.
static std::string_view valueOf(std::string_view header, std::string_view key) {
  size_t at = header.find(fmt::format("'{}':", key));
  if (at == std::string_view::npos)
    return {};
  std::string_view rest = header.substr(at + key.size() + 3);
  return rest.substr(std::min(rest.find_first_not_of(' '), rest.size()));
}

static bool parseShape(std::string_view text, std::vector<int64_t> &shape) {
  size_t end = text.find(')');
  if (text.empty() || text[0] != '(' || end == std::string_view::npos)
    return false;
  std::string list(text.substr(1, end - 1));
  for (const char *at = list.c_str(); *at;) {
    if (*at == ' ' || *at == ',') {
      ++at;
      continue;
    }
    char *next = nullptr;
    errno = 0;
    long long size = std::strtoll(at, &next, 10);
    if (next == at || errno != 0 || size < 0)
      return false;
    shape.push_back(size);
    at = next;
  }
  return true;
}

StatusOr<TokenArray> parseTokenArray(std::string_view bytes,
                                     const std::string &path) {
  if (bytes.size() < 12 || bytes.substr(0, 6) != kMagic)
    return corrupt("{} is no .npy file", path);
  size_t lengthBytes = bytes[6] == 1 ? 2 : 4;
  uint32_t length = 0;
  std::memcpy(&length, bytes.data() + 8, lengthBytes);
  size_t start = 8 + lengthBytes + length;
  if (start > bytes.size())
    return corrupt("{} ends within its header", path);
  std::string_view header = bytes.substr(8 + lengthBytes, length);
  TokenArray array;
  if (!parseShape(valueOf(header, "shape"), array.shape))
    return corrupt("{} has no shape in its header", path);
  std::string_view type = valueOf(header, "descr").substr(0, 5);
  int64_t width = type == "'<i4'"   ? 4
                  : type == "'<i8'" ? 8
                  : type == "'<u2'" ? 2
                                    : 0;
  if (width == 0)
    return wrongInput("{} holds elements of type {}; int32, int64 or uint16, "
                      "little-endian, is wanted",
                      path, type)
        .help("save it with numpy.save(path, tokens.astype('int32'))");
  if (valueOf(header, "fortran_order").substr(0, 5) != "False")
    return wrongInput("{} is in Fortran order; C order is wanted", path)
        .help("save it with numpy.save(path, numpy.ascontiguousarray(tokens))");
  std::optional<int64_t> count = checkedElements(array.shape);
  std::string_view data = bytes.substr(start);
  if (!count || int64_t(data.size()) / width != *count ||
      int64_t(data.size()) % width != 0)
    return corrupt("{} has {} bytes of elements for the shape [{}]", path,
                   data.size(), fmt::join(array.shape, ", "));
  for (int64_t i = 0; i < *count; ++i) {
    int64_t value = 0;
    std::memcpy(&value, data.data() + i * width, size_t(width));
    if (width == 4)
      value = int32_t(value);
    if (value < 0 || value > INT32_MAX)
      return wrongInput("{} holds {} as element {}; a token is within 0 and {}",
                        path, value, i, INT32_MAX)
          .help("make the tokens with the tokenizer of this model");
    array.values.push_back(int32_t(value));
  }
  return std::move(array);
}

StatusOr<TokenArray> readTokenArray(const std::string &path) {
  LMC_ASSIGN_OR_RETURN(MappedFile file, MappedFile::open(path));
  return parseTokenArray(file.bytes(), path);
}

StatusOr<NpyWriter> NpyWriter::create(const std::string &path,
                                      const std::vector<int64_t> &shape) {
  NpyWriter writer;
  writer.path = path;
  // A device or pipe is written in place.
  struct stat existing;
  bool isRegular =
      ::stat(path.c_str(), &existing) != 0 || S_ISREG(existing.st_mode);
  if (isRegular)
    writer.part = fmt::format("{}.{}.part", path, ::getpid());
  writer.stream.open(isRegular ? writer.part : path, std::ios::binary);
  if (!writer.stream)
    return wrongInput("cannot write {}: {}", path, std::strerror(errno));
  std::string header = fmt::format(
      "{{'descr': '<f4', 'fortran_order': False, 'shape': ({},), }}",
      fmt::join(shape, ", "));
  // Elements begin at a multiple of 64 bytes.
  header.resize((10 + header.size() + 1 + 63) / 64 * 64 - 11, ' ');
  header += '\n';
  uint16_t length = uint16_t(header.size());
  writer.stream << kMagic << char(1) << char(0);
  writer.stream.write(reinterpret_cast<const char *>(&length), 2);
  writer.stream << header;
  return std::move(writer);
}

void NpyWriter::write(const float *values, int64_t count) {
  stream.write(reinterpret_cast<const char *>(values), count * 4);
}

Status NpyWriter::finish() {
  stream.close();
  if (!stream || (!part.empty() && ::rename(part.c_str(), path.c_str()) != 0))
    return makeError(ErrorKind::DoesNotFit, "cannot write {}: {}", path,
                     std::strerror(errno));
  part.clear();
  return Status();
}

NpyWriter::~NpyWriter() {
  if (!part.empty())
    ::unlink(part.c_str());
}

} // namespace lmc::runtime
