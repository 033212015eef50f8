// See MappedFile.h.
#include "runtime/base/MappedFile.h"

#include <cerrno>
#include <cstring>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

namespace lmc::runtime {

Status fileError(std::string_view what, const std::string &path) {
  int error = errno;
  return makeError(error == ENOSPC || error == EDQUOT || error == EFBIG
                       ? ErrorKind::DoesNotFit
                       : ErrorKind::WrongInput,
                   "cannot {} {}: {}", what, path, std::strerror(error));
}

StatusOr<MappedFile> MappedFile::open(const std::string &path) {
  int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0)
    return fileError("read", path);
  struct stat info;
  if (::fstat(fd, &info) != 0 || !S_ISREG(info.st_mode)) {
    ::close(fd);
    return wrongInput("cannot read {}: not a regular file", path);
  }
  MappedFile file;
  file.name = path;
  file.size = size_t(info.st_size);
  if (file.size > 0) {
    void *address = ::mmap(nullptr, file.size, PROT_READ, MAP_PRIVATE, fd, 0);
    if (address == MAP_FAILED) {
      Status status = fileError("map", path);
      ::close(fd);
      file.size = 0;
      return status;
    }
    file.data = static_cast<const char *>(address);
  }
  ::close(fd);
  return std::move(file);
}

MappedFile::MappedFile(MappedFile &&other) noexcept
    : name(std::move(other.name)), data(other.data), size(other.size) {
  other.data = nullptr;
  other.size = 0;
}

MappedFile &MappedFile::operator=(MappedFile &&other) noexcept {
  std::swap(name, other.name);
  std::swap(data, other.data);
  std::swap(size, other.size);
  return *this;
}

MappedFile::~MappedFile() {
  if (data)
    ::munmap(const_cast<char *>(data), size);
}

void MappedFile::release(size_t offset, size_t bytes) const {
  size_t page = size_t(::sysconf(_SC_PAGESIZE));
  size_t begin = offset / page * page;
  size_t end = std::min(size, offset + bytes);
  if (begin < end)
    (void)::madvise(const_cast<char *>(data) + begin, end - begin,
                    MADV_DONTNEED);
}

Status writeWholeFile(const std::string &path, std::string_view bytes) {
  std::string part = fmt::format("{}.{}.part", path, ::getpid());
  int fd = ::open(part.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
  if (fd < 0)
    return fileError("write", path);
  Status status;
  while (!bytes.empty() && status.ok()) {
    ssize_t written = ::write(fd, bytes.data(), bytes.size());
    if (written >= 0)
      bytes.remove_prefix(size_t(written));
    else if (errno != EINTR)
      status = fileError("write", path);
  }
  if (status.ok() && ::fsync(fd) != 0)
    status = fileError("write", path);
  if (::close(fd) != 0 && status.ok())
    status = fileError("write", path);
  if (status.ok() && ::rename(part.c_str(), path.c_str()) != 0)
    status = fileError("write", path);
  if (!status.ok())
    ::unlink(part.c_str());
  return status;
}

} // namespace lmc::runtime
