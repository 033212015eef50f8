// Native code from a plan into this process.
//
// A plan carries its kernels as ELF shared objects, one per instruction set.
// The best one that this CPU runs is written to an anonymous file and opened
// with dlopen. The descriptor stays open as long as the code: dlopen matches
// by name, so a reused /proc/self/fd/N would give the old library again.
#ifndef LMC_RUNTIME_DEVICE_CPU_KERNELLOADER_H
#define LMC_RUNTIME_DEVICE_CPU_KERNELLOADER_H

#include "runtime/device/Device.h"

#include <set>

namespace lmc::runtime {

/// The features that /proc/cpuinfo lists for this machine.
std::set<std::string> cpuFeatures();

/// The features in /proc/cpuinfo text.
std::set<std::string> parseCpuFeatures(std::string_view cpuinfo);

/// The index of the object to run: the one with the most features, all of
/// which the machine has. WrongInput, naming what is missing, when none runs.
StatusOr<size_t> chooseCode(const std::vector<CodeObject> &code,
                            const std::set<std::string> &features);

class LoadedCode {
public:
  static StatusOr<LoadedCode> load(const CodeObject &code);
  ~LoadedCode();
  LoadedCode(LoadedCode &&other) noexcept;
  LoadedCode &operator=(LoadedCode &&) = delete;

  /// Null when the object has no such symbol.
  void *find(const std::string &symbol) const;

private:
  LoadedCode(int fd, void *library) : fd(fd), library(library) {}
  int fd = -1;
  void *library = nullptr;
};

} // namespace lmc::runtime

#endif // LMC_RUNTIME_DEVICE_CPU_KERNELLOADER_H
