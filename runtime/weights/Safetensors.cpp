// See Safetensors.h.
#include "runtime/weights/Safetensors.h"
#include "runtime/base/Checked.h"
#include "runtime/weights/Json.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fcntl.h>
#include <filesystem>
#include <set>
#include <sys/mman.h>
#include <unistd.h>
#include <xxhash.h>

namespace lmc::runtime {

namespace fs = std::filesystem;

static constexpr uint64_t maxHeaderBytes = 100'000'000;

/// Bits per element of the types that the format knows; 0 for unknown names.
static int64_t elementBits(std::string_view name) {
  if (name == "BOOL" || name == "U8" || name == "I8" || name == "F8_E4M3" ||
      name == "F8_E5M2" || name == "F8_E8M0")
    return 8;
  if (name == "I16" || name == "U16" || name == "F16" || name == "BF16")
    return 16;
  if (name == "I32" || name == "U32" || name == "F32")
    return 32;
  if (name == "I64" || name == "U64" || name == "F64" || name == "C64")
    return 64;
  return 0;
}

static StatusOr<TensorView> parseEntry(const nlohmann::json &entry,
                                       std::string_view data,
                                       const std::string &where) {
  if (!entry.is_object() || entry.size() != 3 || !entry.contains("dtype") ||
      !entry.contains("shape") || !entry.contains("data_offsets"))
    return corrupt("{} is damaged: it has not just dtype, shape and "
                   "data_offsets",
                   where);
  const nlohmann::json &dtype = entry["dtype"], &shape = entry["shape"],
                       &offsets = entry["data_offsets"];
  TensorView view;
  if (!dtype.is_string() || !shape.is_array() || !offsets.is_array() ||
      offsets.size() != 2 || shape.size() > 64)
    return corrupt("{} is damaged: its dtype, shape or data_offsets is of the "
                   "wrong kind",
                   where);
  view.dtypeName = dtype.get<std::string>();
  int64_t bits = elementBits(view.dtypeName);
  if (bits == 0)
    return corrupt("{} has the unknown dtype \"{}\"", where,
                   view.dtypeName.substr(0, 40));
  if (const DataTypeInfo *info = lookUpDataType(view.dtypeName))
    view.dtype = info->type;
  for (const nlohmann::json &dim : shape) {
    if (!dim.is_number_unsigned() || dim.get<uint64_t>() > INT64_MAX)
      return corrupt("{} is damaged: its shape has a dim that is no size",
                     where);
    view.shape.push_back(dim.get<int64_t>());
  }
  for (const nlohmann::json &offset : offsets)
    if (!offset.is_number_unsigned())
      return corrupt("{} is damaged: an offset is no number", where);
  uint64_t begin = offsets[0].get<uint64_t>(), end = offsets[1].get<uint64_t>();
  if (begin > end || end > data.size())
    return corrupt("{} is damaged: bytes [{}, {}) of {}", where, begin, end,
                   data.size());
  std::optional<int64_t> elements = checkedElements(view.shape);
  std::optional<int64_t> bytes =
      elements ? checkedMultiply(*elements, bits / 8) : std::nullopt;
  if (!bytes || uint64_t(*bytes) != end - begin)
    return corrupt("{} is damaged: shape [{}] of {} does not take {} bytes",
                   where, fmt::join(view.shape, ", "), view.dtypeName,
                   end - begin);
  view.data = data.substr(begin, end - begin);
  return std::move(view);
}

StatusOr<TensorMap> parseSafetensors(std::string_view bytes,
                                     const std::string &name) {
  if (bytes.size() < 8)
    return corrupt("{} is no safetensors file: {} bytes", name, bytes.size());
  uint64_t headerBytes;
  std::memcpy(&headerBytes, bytes.data(), 8);
  if (headerBytes > maxHeaderBytes || headerBytes > bytes.size() - 8)
    return corrupt("{} is no intact safetensors file: its header of {} bytes "
                   "exceeds {}",
                   name, headerBytes,
                   std::min<uint64_t>(maxHeaderBytes, bytes.size() - 8));
  std::string_view header = bytes.substr(8, headerBytes);
  std::string_view data = bytes.substr(8 + headerBytes);
  if (header.empty() || header[0] != '{')
    return corrupt("{} is no safetensors file: its header is no JSON object",
                   name);
  LMC_ASSIGN_OR_RETURN(nlohmann::json json,
                       parseJson(header, name + " (header)"));
  if (!json.is_object())
    return corrupt("{} is damaged: its header is no JSON object", name);
  TensorMap tensors;
  std::vector<std::pair<size_t, size_t>> ranges;
  for (auto &[key, entry] : json.items()) {
    if (key == "__metadata__") {
      if (!entry.is_object())
        return corrupt("{} is damaged: its metadata is no object", name);
      for (const nlohmann::json &value : entry)
        if (!value.is_string())
          return corrupt("{} is damaged: its metadata has a value that is no "
                         "string",
                         name);
      continue;
    }
    LMC_ASSIGN_OR_RETURN(
        TensorView view,
        parseEntry(entry, data,
                   fmt::format("tensor {} of {}", key.substr(0, 200), name)));
    size_t begin = size_t(view.data.data() - data.data());
    ranges.push_back({begin, begin + view.data.size()});
    tensors.emplace(key, std::move(view));
  }
  std::sort(ranges.begin(), ranges.end());
  size_t position = 0;
  for (auto [begin, end] : ranges) {
    if (begin != position)
      return corrupt("{} is damaged: tensors {} at byte {}", name,
                     begin < position ? "overlap" : "leave a hole", position);
    position = end;
  }
  if (position != data.size())
    return corrupt("{} is damaged: {} bytes behind the last tensor", name,
                   data.size() - position);
  return std::move(tensors);
}

static std::string hexOf(XXH128_hash_t hash) {
  XXH128_canonical_t sum;
  XXH128_canonicalFromHash(&sum, hash);
  std::string hex;
  for (unsigned char byte : sum.digest)
    hex += fmt::format("{:02x}", byte);
  return hex;
}

static int64_t bytesOf(const TensorToWrite &tensor) {
  return *checkedElements(tensor.shape) *
         lookUpDataType(int(tensor.dtype))->sizeBytes;
}

WrittenFile describe(std::string_view bytes) {
  return {int64_t(bytes.size()),
          hexOf(XXH3_128bits(bytes.data(), bytes.size()))};
}

/// A manifest of something else says nothing about the file.
static Status verifyFile(const MappedFile &file) {
  fs::path path = file.path();
  fs::path beside = path.parent_path() / "manifest.json";
  std::error_code ignored;
  if (!fs::exists(beside, ignored))
    return Status();
  LMC_ASSIGN_OR_RETURN(MappedFile text, MappedFile::open(beside.string()));
  LMC_ASSIGN_OR_RETURN(nlohmann::json manifest,
                       parseJson(text.bytes(), beside.string()));
  std::string name = path.filename().string();
  if (!manifest.is_object() || !manifest.contains("files") ||
      !manifest["files"].is_object() || !manifest["files"].contains(name))
    return Status();
  const nlohmann::json &entry = manifest["files"][name];
  if (!entry.is_object() || !entry.contains("xxh3_128"))
    return Status();
  if (entry["xxh3_128"] == describe(file.bytes()).checksum)
    return Status();
  return corrupt("{} is damaged: it does not match its manifest", file.path())
      .help("take another checkpoint; if the file was changed on purpose, "
            "remove {}",
            beside.string());
}

StatusOr<WeightFiles> WeightFiles::openFile(const std::string &file,
                                            Verify verify) {
  WeightFiles weights;
  weights.name = file;
  LMC_ASSIGN_OR_RETURN(MappedFile mapped, MappedFile::open(file));
  if (verify == Verify::Yes)
    LMC_RETURN_IF_ERROR(verifyFile(mapped));
  LMC_ASSIGN_OR_RETURN(weights.all, parseSafetensors(mapped.bytes(), file));
  weights.files.push_back(std::move(mapped));
  return std::move(weights);
}

uint64_t WeightFiles::mark() const {
  std::vector<MappedFile::Mark> marks;
  for (const MappedFile &file : files)
    marks.push_back(file.mark());
  return XXH3_64bits(marks.data(), marks.size() * sizeof marks[0]);
}

uint64_t WeightFiles::checksum() const {
  std::string text;
  for (const auto &[tensor, view] : all)
    text += fmt::format("{} {} [{}] {:016x} ", tensor, view.dtypeName,
                        fmt::join(view.shape, ","),
                        XXH3_64bits(view.data.data(), view.data.size()));
  return XXH3_64bits(text.data(), text.size());
}

StatusOr<std::string> WeightFiles::folderOf(const std::string &path) {
  std::error_code error;
  fs::path folder = path;
  if (!fs::is_directory(folder, error))
    return folder.parent_path().string();
  if (!fs::exists(folder / "latest", error))
    return path;
  LMC_ASSIGN_OR_RETURN(MappedFile latest,
                       MappedFile::open((folder / "latest").string()));
  std::string step(latest.bytes().substr(0, 200));
  step = step.substr(0, step.find('\n'));
  if (step.empty() || step.find('/') != std::string::npos || step == "." ||
      step == "..")
    return corrupt("{} names no checkpoint", (folder / "latest").string());
  return (folder / step).string();
}

/// Where weights in a folder would begin; empty when there are none.
static fs::path weightsIn(const fs::path &folder) {
  std::error_code error;
  for (const char *name : {"model.safetensors.index.json", "model.safetensors"})
    if (fs::exists(folder / name, error))
      return folder / name;
  return {};
}

/// That a folder holds no weights, and the folders in it that do.
static Status noWeights(const std::string &folder, const std::string &given) {
  Status status = wrongInput("{} holds no weights: neither model.safetensors "
                             "nor model.safetensors.index.json",
                             folder);
  std::vector<std::string> names;
  std::error_code error;
  for (const fs::directory_entry &entry : fs::directory_iterator(given, error))
    if (!weightsIn(entry.path()).empty())
      names.push_back(entry.path().filename().string());
  if (names.empty())
    return status;
  // step_20 before step_100.
  std::sort(names.begin(), names.end(), [](const auto &a, const auto &b) {
    return std::pair(a.size(), a) < std::pair(b.size(), b);
  });
  constexpr size_t most = 10;
  size_t first = names.size() > most ? names.size() - most : 0;
  return std::move(status).help(
      "give one of the folders in {} that do: {}{}", given,
      first > 0 ? "..., " : "",
      fmt::join(names.begin() + ptrdiff_t(first), names.end(), ", "));
}

StatusOr<WeightFiles> WeightFiles::open(const std::string &given,
                                        Verify verify) {
  std::error_code error;
  if (!fs::is_directory(given, error))
    return openFile(given, verify);
  LMC_ASSIGN_OR_RETURN(std::string path, folderOf(given));
  fs::path folder = path, index = weightsIn(folder);
  if (index.empty())
    return noWeights(path, given);
  if (index.extension() != ".json")
    return openFile(index.string(), verify);
  LMC_ASSIGN_OR_RETURN(MappedFile text, MappedFile::open(index.string()));
  LMC_ASSIGN_OR_RETURN(nlohmann::json json,
                       parseJson(text.bytes(), index.string()));
  if (!json.is_object() || !json.contains("weight_map") ||
      !json["weight_map"].is_object())
    return corrupt("{} has no weight_map", index.string());
  WeightFiles weights;
  weights.name = path;
  std::map<std::string, TensorMap> shards;
  for (auto &[tensor, shard] : json["weight_map"].items()) {
    std::string file = shard.is_string() ? shard.get<std::string>() : "";
    if (file.empty() || file.find('/') != std::string::npos ||
        file.find('\\') != std::string::npos || file == "." || file == "..")
      return corrupt("{}: tensor {} is in \"{}\", which is no file name beside "
                     "it",
                     index.string(), tensor.substr(0, 200),
                     file.substr(0, 200));
    if (!shards.count(file)) {
      std::string full = (folder / file).string();
      LMC_ASSIGN_OR_RETURN(MappedFile mapped, MappedFile::open(full));
      if (verify == Verify::Yes)
        LMC_RETURN_IF_ERROR(verifyFile(mapped));
      LMC_ASSIGN_OR_RETURN(shards[file],
                           parseSafetensors(mapped.bytes(), full));
      weights.files.push_back(std::move(mapped));
    }
    auto found = shards[file].find(tensor);
    if (found == shards[file].end())
      return corrupt("{} says that {} is in {}, which lacks it", index.string(),
                     tensor.substr(0, 200), file);
    weights.all.emplace(tensor, found->second);
  }
  return std::move(weights);
}

std::string WeightFiles::folder() const {
  std::error_code ignored;
  return fs::is_directory(name, ignored)
             ? name
             : fs::path(name).parent_path().string();
}

const TensorView *WeightFiles::find(const std::string &name) const {
  auto found = all.find(name);
  return found == all.end() ? nullptr : &found->second;
}

StatusOr<SafetensorsFile>
SafetensorsFile::create(const std::string &path,
                        std::vector<TensorToWrite> tensors) {
  // Large elements first keeps every tensor aligned; then by name.
  std::sort(tensors.begin(), tensors.end(), [](const auto &a, const auto &b) {
    int64_t aBytes = lookUpDataType(int(a.dtype))->sizeBytes;
    int64_t bBytes = lookUpDataType(int(b.dtype))->sizeBytes;
    return aBytes != bBytes ? aBytes > bBytes : a.name < b.name;
  });
  nlohmann::json header = nlohmann::json::object();
  header["__metadata__"] = {{"format", "pt"}};
  size_t end = 0;
  std::vector<size_t> offsets;
  for (const TensorToWrite &tensor : tensors) {
    offsets.push_back(end);
    end += size_t(bytesOf(tensor));
    header[tensor.name] = {
        {"dtype", std::string(lookUpDataType(int(tensor.dtype))->name)},
        {"shape", tensor.shape},
        {"data_offsets", {offsets.back(), end}}};
  }
  std::string text = header.dump();
  text.resize((text.size() + 7) / 8 * 8, ' ');
  const uint64_t headerBytes = text.size();

  SafetensorsFile file;
  file.path = path;
  file.list = std::move(tensors);
  file.size = sizeof headerBytes + text.size() + end;
  file.fd = ::open(path.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
  if (file.fd < 0)
    return fileError("write", path);
  // A page that the disk has no room for would be a SIGBUS later.
  if ((errno = ::posix_fallocate(file.fd, 0, off_t(file.size))) != 0)
    return fileError("write", path);
  void *pages = ::mmap(nullptr, file.size, PROT_READ | PROT_WRITE, MAP_SHARED,
                       file.fd, 0);
  if (pages == MAP_FAILED)
    return fileError("write", path);
  file.data = static_cast<char *>(pages);
  std::memcpy(file.data, &headerBytes, sizeof headerBytes);
  std::memcpy(file.data + sizeof headerBytes, text.data(), text.size());
  auto *first = reinterpret_cast<std::byte *>(file.data) + file.size - end;
  for (size_t i = 0; i < offsets.size(); ++i)
    file.places[file.list[i].name] = first + offsets[i];
  return std::move(file);
}

void SafetensorsFile::swap(SafetensorsFile &other) noexcept {
  std::swap(path, other.path);
  std::swap(list, other.list);
  std::swap(places, other.places);
  std::swap(fd, other.fd);
  std::swap(data, other.data);
  std::swap(size, other.size);
}

SafetensorsFile::~SafetensorsFile() {
  if (data)
    ::munmap(data, size);
  if (fd >= 0)
    ::close(fd);
}

std::byte *SafetensorsFile::find(const std::string &tensor) const {
  auto found = places.find(tensor);
  return found == places.end() ? nullptr : found->second;
}

StatusOr<WrittenFile> SafetensorsFile::finish() {
  WrittenFile written = describe({data, size});
  if (::fsync(fd) != 0)
    return fileError("write", path);
  return written;
}

StatusOr<WrittenFile> writeSafetensors(const std::string &path,
                                       std::vector<TensorToWrite> tensors) {
  LMC_ASSIGN_OR_RETURN(SafetensorsFile file,
                       SafetensorsFile::create(path, std::move(tensors)));
  for (const TensorToWrite &tensor : file.tensors())
    if (int64_t bytes = bytesOf(tensor))
      std::memcpy(file.find(tensor.name), tensor.data, size_t(bytes));
  return file.finish();
}

} // namespace lmc::runtime
