// The safetensors format, read strictly and written canonically.
//
//   8 bytes   length N of the header, little endian (at most 100 MB)
//   N bytes   JSON: { "name": {"dtype": "F32", "shape": [2, 3],
//                               "data_offsets": [0, 24]}, ...,
//                     "__metadata__": {"key": "value"} }
//   the rest  the tensors' bytes; offsets count from here
//
// Refused (Corrupt): a header that does not fit, JSON that is not exactly
// that, tensors that overlap or leave holes, sizes that do not match shape and
// dtype, bytes after the last tensor.
#ifndef LMC_RUNTIME_WEIGHTS_SAFETENSORS_H
#define LMC_RUNTIME_WEIGHTS_SAFETENSORS_H

#include "runtime/base/DataType.h"
#include "runtime/base/MappedFile.h"

#include <map>

namespace lmc::runtime {

struct TensorView {
  std::string dtypeName;
  /// Invalid for types that a file may hold but no plan uses (BOOL, F8, ...).
  DataType dtype = DataType::Invalid;
  std::vector<int64_t> shape;
  std::string_view data;
};

using TensorMap = std::map<std::string, TensorView>;

/// The tensors in the bytes of a file; views into `bytes`.
StatusOr<TensorMap> parseSafetensors(std::string_view bytes,
                                     const std::string &name);

/// Weights as one file, as a folder with model.safetensors, or as a folder
/// with model.safetensors.index.json and its shards.
class WeightFiles {
public:
  /// Whether files are compared with the checksums of a checkpoint's manifest
  /// beside them, if there is one; Corrupt when they differ.
  enum class Verify { No, Yes };

  /// The folder in which weights given by `path` lie: a file's folder, the
  /// latest of a folder of checkpoints, or the folder itself.
  static StatusOr<std::string> folderOf(const std::string &path);
  /// A folder of checkpoints stands for its latest one.
  static StatusOr<WeightFiles> open(const std::string &path,
                                    Verify verify = Verify::Yes);
  static StatusOr<WeightFiles> openFile(const std::string &file,
                                        Verify verify = Verify::Yes);

  /// Null when there is none.
  const TensorView *find(const std::string &name) const;
  const TensorMap &tensors() const { return all; }
  const std::string &path() const { return name; }
  /// The same for the same files (MappedFile::mark).
  uint64_t mark() const;
  /// Of every tensor's name, type, shape and bytes, which are all read.
  uint64_t checksum() const;
  /// Where the files lie.
  std::string folder() const;

private:
  std::string name;
  std::vector<MappedFile> files;
  TensorMap all;
};

/// A tensor of a file that is to be written.
struct TensorToWrite {
  std::string name;
  DataType dtype = DataType::F32;
  std::vector<int64_t> shape;
  const void *data = nullptr; ///< its elements row-major; null: comes later
};

/// Size and checksum of a written file, for manifests.
struct WrittenFile {
  int64_t bytes = 0;
  std::string checksum; ///< XXH3-128, 32 hexadecimal digits
};

/// Size and checksum of bytes in memory.
WrittenFile describe(std::string_view bytes);

/// A safetensors file that is filled in any order. Its pages are what is
/// written to, so that the system keeps in memory what it has room for. Room on
/// the disk is taken at the start. The same tensors give the same bytes.
class SafetensorsFile {
public:
  /// A file of zeros with the header of these tensors. WrongInput for what is
  /// no regular file, DoesNotFit when the disk is full.
  static StatusOr<SafetensorsFile> create(const std::string &path,
                                          std::vector<TensorToWrite> tensors);
  SafetensorsFile(SafetensorsFile &&other) noexcept { swap(other); }
  SafetensorsFile &operator=(SafetensorsFile &&other) noexcept {
    swap(other);
    return *this;
  }
  ~SafetensorsFile();

  /// Where the elements of a tensor lie; null if there is none of that name.
  std::byte *find(const std::string &tensor) const;
  /// As they were created, in the order of the file.
  const std::vector<TensorToWrite> &tensors() const { return list; }
  /// Flushes it to the disk.
  StatusOr<WrittenFile> finish();

private:
  SafetensorsFile() = default;
  void swap(SafetensorsFile &other) noexcept;
  std::string path;
  std::vector<TensorToWrite> list;
  std::map<std::string, std::byte *> places;
  int fd = -1;
  char *data = nullptr;
  size_t size = 0;
};

/// Writes a file of tensors that are in memory (no renaming), as above.
StatusOr<WrittenFile> writeSafetensors(const std::string &path,
                                       std::vector<TensorToWrite> tensors);

} // namespace lmc::runtime

#endif // LMC_RUNTIME_WEIGHTS_SAFETENSORS_H
