// A file read through memory, closed with its owner. The bytes are read-only.
#ifndef LMC_RUNTIME_BASE_MAPPEDFILE_H
#define LMC_RUNTIME_BASE_MAPPEDFILE_H

#include "runtime/base/Status.h"

#include <array>

namespace lmc::runtime {

class MappedFile {
public:
  /// WrongInput when the file cannot be opened or is no regular file.
  static StatusOr<MappedFile> open(const std::string &path);
  MappedFile(MappedFile &&other) noexcept;
  MappedFile &operator=(MappedFile &&other) noexcept;
  ~MappedFile();

  std::string_view bytes() const { return {data, size}; }
  const std::string &path() const { return name; }
  /// The same for every host that sees the same file, another one for a copy,
  /// whose ctime no tool keeps: of its inode, size and ctime.
  using Mark = std::array<int64_t, 4>;
  const Mark &mark() const { return identity; }

  /// Gives back the pages of [offset, offset + bytes), which are read again
  /// when touched; keeps resident memory low while a large file is walked.
  void release(size_t offset, size_t bytes) const;

  /// Reading what has been cut off the file since it was mapped is a SIGBUS.
  /// It then ends the process with a line that names the file, and the exit
  /// status of a damaged one. One file per process: the last that asked.
  void nameWhenCut() const;

private:
  MappedFile() = default;
  std::string name;
  const char *data = nullptr;
  size_t size = 0;
  Mark identity = {};
};

/// Writes a whole file beside `path`, flushes it to the disk and renames it
/// into place; what is no regular file is written to, and links are followed.
/// DoesNotFit when the disk is full.
Status writeWholeFile(const std::string &path, std::string_view bytes);

/// Why a file at `path` could not be written, before there is anything to
/// write; what is there stays as it is. An empty name is no file.
Status checkWritable(const std::string &path);

/// WrongInput when `output` is the same file as an input, by whatever name.
/// Folders among the inputs stand for what is read of a folder of weights or
/// checkpoints (model*, config.json, ...) and those of their folders, a name
/// without an ending for Megatron's pair; empty names for none.
Status refuseInputAsOutput(const std::string &output,
                           const std::vector<std::string> &inputs);

/// WrongInput when two flags name one file, by whatever name; of pairs of flag
/// and path, of which empty paths are none.
Status refuseOutputsAlike(
    const std::vector<std::pair<std::string, std::string>> &outputs);

/// "cannot {what} {path}: {reason}" from errno.
Status fileError(std::string_view what, const std::string &path);

} // namespace lmc::runtime

#endif // LMC_RUNTIME_BASE_MAPPEDFILE_H
