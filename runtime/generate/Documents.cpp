// See Documents.h.
#include "runtime/generate/Documents.h"
#include "runtime/base/MappedFile.h"
#include "runtime/weights/Json.h"

namespace lmc::runtime {

using Document = std::function<Status(std::string_view text)>;

static Status readRecord(std::string_view line, const std::string &where,
                         const std::string &key, const Document &document) {
  if (line.find_first_not_of(" \t\r") == std::string_view::npos)
    return Status();
  LMC_ASSIGN_OR_RETURN(nlohmann::json record, parseJson(line, where));
  auto text = record.is_object() ? record.find(key) : record.end();
  if (text == record.end() || !text->is_string()) {
    Status status =
        wrongInput("{} has no text under the key \"{}\"", where, key);
    std::vector<std::string> keys;
    if (record.is_object())
      for (const auto &[name, value] : record.items())
        if (value.is_string())
          keys.push_back(name.substr(0, 100));
    if (!keys.empty())
      return std::move(status).help("it has text under: {}; --key names one",
                                    fmt::join(keys, ", "));
    return status;
  }
  return document(text->get_ref<const std::string &>());
}

Status forEachDocument(const std::string &path, DocumentFormat format,
                       const std::string &key, const Document &document) {
  LMC_ASSIGN_OR_RETURN(MappedFile file, MappedFile::open(path));
  std::string_view rest = file.bytes();
  if (format == DocumentFormat::Text)
    return document(rest);
  for (int64_t number = 1; !rest.empty(); ++number) {
    size_t end = std::min(rest.find('\n'), rest.size());
    std::string_view line = rest.substr(0, end);
    rest.remove_prefix(std::min(end + 1, rest.size()));
    if (format == DocumentFormat::JsonLines) {
      LMC_RETURN_IF_ERROR(readRecord(
          line, fmt::format("{}, line {}", path, number), key, document));
      continue;
    }
    if (!line.empty() && line.back() == '\r')
      line.remove_suffix(1);
    if (!line.empty())
      LMC_RETURN_IF_ERROR(document(line));
  }
  return Status();
}

} // namespace lmc::runtime
