// See MappedFile.h.
#include "runtime/base/MappedFile.h"
#include "runtime/base/OpenFiles.h"

#include <cerrno>
#include <csignal>
#include <cstring>
#include <fcntl.h>
#include <filesystem>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

namespace lmc::runtime {

Status fileError(std::string_view what, const std::string &path) {
  int error = errno;
  return makeError(error == ENOSPC || error == EDQUOT || error == EFBIG ||
                           isOutOfFiles(error)
                       ? ErrorKind::DoesNotFit
                       : ErrorKind::WrongInput,
                   "cannot {} {}: {}", what, path, std::strerror(error));
}

StatusOr<MappedFile> MappedFile::open(const std::string &path) {
  // Not waiting for who might write into a pipe: that is refused below.
  int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
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
  file.identity = {int64_t(info.st_ino), info.st_size, info.st_ctim.tv_sec,
                   info.st_ctim.tv_nsec};
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
    : name(std::move(other.name)), data(other.data), size(other.size),
      identity(other.identity) {
  other.data = nullptr;
  other.size = 0;
}

MappedFile &MappedFile::operator=(MappedFile &&other) noexcept {
  std::swap(name, other.name);
  std::swap(data, other.data);
  std::swap(size, other.size);
  std::swap(identity, other.identity);
  return *this;
}

MappedFile::~MappedFile() {
  if (data)
    ::munmap(const_cast<char *>(data), size);
}

// Made beforehand: a signal handler can format nothing.
static struct {
  const char *begin = nullptr, *end = nullptr;
  std::string line;
} watchedFile;

static void onBusError(int signal, siginfo_t *info, void *) {
  const char *at = static_cast<const char *>(info->si_addr);
  if (at >= watchedFile.begin && at < watchedFile.end) {
    (void)!::write(STDERR_FILENO, watchedFile.line.data(),
                   watchedFile.line.size());
    ::_exit(int(ErrorKind::Corrupt));
  }
  std::signal(signal, SIG_DFL); // and once more
}

void MappedFile::nameWhenCut() const {
  watchedFile = {data, data + size,
                 fmt::format("error: {} became shorter while it was read\n"
                             "  help: leave it as it is during the run\n",
                             name)};
  struct sigaction action = {};
  action.sa_sigaction = onBusError;
  action.sa_flags = SA_SIGINFO;
  ::sigaction(SIGBUS, &action, nullptr);
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
  // A link keeps pointing to its file, and a device or pipe is written to.
  struct stat info;
  bool exists = ::stat(path.c_str(), &info) == 0;
  bool inPlace =
      exists ? !S_ISREG(info.st_mode) : ::lstat(path.c_str(), &info) == 0;
  std::error_code failed;
  std::string target = path;
  if (exists && !inPlace)
    target = std::filesystem::canonical(path, failed).string();
  if (failed)
    target = path;
  std::string part =
      inPlace ? target : fmt::format("{}.{}.part", target, ::getpid());
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
  if (status.ok() && !inPlace && ::fsync(fd) != 0)
    status = fileError("write", path);
  if (::close(fd) != 0 && status.ok())
    status = fileError("write", path);
  if (status.ok() && !inPlace && ::rename(part.c_str(), target.c_str()) != 0)
    status = fileError("write", path);
  if (!status.ok() && !inPlace)
    ::unlink(part.c_str());
  return status;
}

Status checkWritable(const std::string &path) {
  if (path.empty())
    return Status();
  struct stat info;
  bool exists = ::stat(path.c_str(), &info) == 0;
  // A pipe would wait for its reader.
  if (exists && !S_ISREG(info.st_mode) && !S_ISDIR(info.st_mode))
    return ::access(path.c_str(), W_OK) == 0 ? Status()
                                             : fileError("write", path);
  int fd = ::open(path.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0666);
  if (fd < 0)
    return fileError("write", path);
  ::close(fd);
  if (!exists)
    ::unlink(path.c_str());
  return Status();
}

static bool isSameFile(const struct stat &a, const std::string &path) {
  struct stat b;
  return ::stat(path.c_str(), &b) == 0 && a.st_dev == b.st_dev &&
         a.st_ino == b.st_ino;
}

/// Of a folder of weights or of checkpoints, which are folders in it.
static void addReadFiles(const std::filesystem::path &folder, int below,
                         std::vector<std::string> &files) {
  std::error_code failed;
  for (const auto &entry :
       std::filesystem::directory_iterator(folder, failed)) {
    std::string name = entry.path().filename().string();
    bool isWeights =
        name.rfind("model", 0) == 0 || name == "optimizer.safetensors";
    if (isWeights || name == "config.json" || name == "tokenizer.json" ||
        name == "generation_config.json" || name == "manifest.json" ||
        name == "trainer.json")
      files.push_back(entry.path().string());
    else if (below > 0 && entry.is_directory(failed))
      addReadFiles(entry.path(), below - 1, files);
  }
}

Status refuseOutputsAlike(
    const std::vector<std::pair<std::string, std::string>> &outputs) {
  auto placeOf = [](const std::string &path) {
    std::error_code failed;
    auto whole = std::filesystem::absolute(path, failed);
    auto place = std::filesystem::weakly_canonical(whole, failed);
    return failed ? whole : place;
  };
  for (size_t i = 0; i < outputs.size(); ++i)
    for (size_t j = 0; j < i; ++j)
      if (!outputs[i].second.empty() && !outputs[j].second.empty() &&
          placeOf(outputs[i].second) == placeOf(outputs[j].second))
        return wrongInput("{} and {} both name {}", outputs[j].first,
                          outputs[i].first, outputs[j].second);
  return Status();
}

Status refuseInputAsOutput(const std::string &output,
                           const std::vector<std::string> &inputs) {
  struct stat written;
  if (output.empty() || ::stat(output.c_str(), &written) != 0 ||
      !S_ISREG(written.st_mode))
    return Status();
  for (const std::string &input : inputs) {
    std::vector<std::string> files = {input, input + ".bin", input + ".idx"};
    addReadFiles(input, /*below=*/1, files);
    // Megatron's pair is named by either of its files.
    for (const char *extension : {".bin", ".idx"})
      files.push_back(
          std::filesystem::path(input).replace_extension(extension).string());
    for (const std::string &file : files)
      if (!input.empty() && isSameFile(written, file))
        return wrongInput("{} would be written over {}, which is read", output,
                          file)
            .help("name another file for the output");
  }
  return Status();
}

} // namespace lmc::runtime
