// Compiled kernels kept from one run of the compiler to the next.
//
// A file's name is the hash of everything its object depends on: the kernel's
// text, the target and the build of the compiler. It opens with that key's and
// the object's checksums; an entry that does not match is ignored and written
// anew, so a damaged or forged one costs a compilation and nothing else.
// Entries appear by rename: readers and writers of other processes see whole
// files only.
#ifndef LMC_PASSES_CODEGEN_CACHE_H
#define LMC_PASSES_CODEGEN_CACHE_H

#include "passes/codegen/Object.h"

namespace lmc::codegen {

class Cache {
public:
  // An empty folder means no cache. May be used from several threads.
  Cache(std::string directory, const Target &target);
  bool find(const std::string &text, std::string &object) const;
  void insert(const std::string &text, const std::string &object) const;

private:
  std::string directory, prefix;
  std::string keyOf(const std::string &text) const;
};

// $XDG_CACHE_HOME/lmc, else ~/.cache/lmc; empty if neither is set.
std::string defaultCacheDirectory();

} // namespace lmc::codegen

#endif // LMC_PASSES_CODEGEN_CACHE_H
