// See KernelLoader.h.
#include "runtime/device/cpu/KernelLoader.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <dlfcn.h>
#include <fstream>
#include <iterator>
#include <sstream>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace lmc::runtime {

std::set<std::string> parseCpuFeatures(std::string_view cpuinfo) {
  std::istringstream lines{std::string(cpuinfo)};
  for (std::string line; std::getline(lines, line);) {
    if (line.compare(0, 5, "flags") != 0)
      continue;
    size_t colon = line.find(':');
    if (colon == std::string::npos)
      continue;
    std::istringstream words(line.substr(colon + 1));
    return {std::istream_iterator<std::string>(words), {}};
  }
  return {};
}

std::set<std::string> cpuFeatures() {
  std::ifstream file("/proc/cpuinfo");
  std::stringstream text;
  text << file.rdbuf();
  return parseCpuFeatures(text.str());
}

StatusOr<size_t> chooseCode(const std::vector<CodeObject> &code,
                            const std::set<std::string> &features) {
  size_t best = code.size();
  std::vector<std::string> lines;
  for (size_t i = 0; i < code.size(); ++i) {
    std::vector<std::string> missing;
    for (const std::string &feature : code[i].cpuFeatures)
      if (!features.count(feature))
        missing.push_back(feature);
    if (!missing.empty())
      lines.push_back(fmt::format("the code for {} needs {}", code[i].targetCpu,
                                  fmt::join(missing, ", ")));
    else if (best == code.size() ||
             code[i].cpuFeatures.size() > code[best].cpuFeatures.size())
      best = i;
  }
  if (best < code.size())
    return best;
  if (code.empty())
    return corrupt("the plan has kernels but no code for them");
  Status status = wrongInput("this CPU runs none of the plan's {} code "
                             "object{}",
                             code.size(), code.size() == 1 ? "" : "s");
  for (const std::string &line : lines)
    status = std::move(status).note("{}, which this CPU lacks", line);
  return std::move(status).help(
      "compile with --target-cpu=native on this machine, or with "
      "--target-cpu=x86-64-v3");
}

/// Tile registers are off until a process asks for them.
static Status requestTiles() {
  constexpr long archRequestPermission = 0x1023;
  constexpr long tileData = 18;
  if (::syscall(SYS_arch_prctl, archRequestPermission, tileData) != 0)
    return wrongInput("the kernel of this machine refuses the use of AMX "
                      "tiles: {}",
                      std::strerror(errno))
        .help("compile with a --target-cpu without AMX");
  return Status();
}

StatusOr<LoadedCode> LoadedCode::load(const CodeObject &code) {
  for (const std::string &feature : code.cpuFeatures)
    if (feature.compare(0, 3, "amx") == 0) {
      LMC_RETURN_IF_ERROR(requestTiles());
      break;
    }
  int fd = ::memfd_create("lmc-kernels", MFD_CLOEXEC);
  if (fd < 0)
    return jobFailed("cannot make a memory file for kernels: {}",
                     std::strerror(errno));
  std::string_view rest = code.object;
  while (!rest.empty()) {
    ssize_t written = ::write(fd, rest.data(), rest.size());
    if (written < 0 && errno == EINTR)
      continue;
    if (written <= 0) {
      int error = errno;
      ::close(fd);
      return jobFailed("cannot write {} bytes of kernels: {}",
                       code.object.size(), std::strerror(error));
    }
    rest.remove_prefix(size_t(written));
  }
  std::string path = fmt::format("/proc/self/fd/{}", fd);
  void *library = ::dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (!library) {
    const char *reason = ::dlerror();
    Status status = corrupt("the plan's code for {} cannot be loaded: {}",
                            code.targetCpu, reason ? reason : "unknown");
    ::close(fd);
    return status;
  }
  return LoadedCode(fd, library);
}

LoadedCode::LoadedCode(LoadedCode &&other) noexcept
    : fd(other.fd), library(other.library) {
  other.fd = -1;
  other.library = nullptr;
}

LoadedCode::~LoadedCode() {
  if (library)
    ::dlclose(library);
  if (fd >= 0)
    ::close(fd);
}

void *LoadedCode::find(const std::string &symbol) const {
  return ::dlsym(library, symbol.c_str());
}

} // namespace lmc::runtime
