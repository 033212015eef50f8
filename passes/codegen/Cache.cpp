// Compiled kernels kept between runs; see Cache.h.
#include "passes/codegen/Cache.h"

#include "llvm/ADT/StringExtras.h"
#include "llvm/Config/llvm-config.h"
#include "llvm/Support/FileSystem.h"
#include "llvm/Support/MemoryBuffer.h"
#include "llvm/Support/Path.h"
#include "llvm/Support/SHA256.h"
#include "llvm/Support/raw_ostream.h"
#include "llvm/Support/xxhash.h"

#include <cstdlib>
#include <dlfcn.h>

using namespace lmc::codegen;

static std::string digest(llvm::StringRef bytes) {
  llvm::SHA256 hash;
  hash.update(bytes);
  auto result = hash.final();
  return llvm::toHex(llvm::ArrayRef<uint8_t>(result), /*LowerCase=*/true);
}

// The compiler that runs: the digest of the library or program that holds this
// code. A rebuilt compiler finds none of its predecessor's entries.
static const std::string &buildIdentity() {
  static const std::string identity = [] {
    Dl_info info;
    if (!dladdr(reinterpret_cast<void *>(&buildIdentity), &info) ||
        !info.dli_fname)
      return std::string();
    auto file = llvm::MemoryBuffer::getFile(info.dli_fname, /*IsText=*/false,
                                            /*RequiresNullTerminator=*/false);
    if (!file)
      return std::string();
    // Of many megabytes: told apart from other builds, not guarded from foes.
    llvm::StringRef bytes = (*file)->getBuffer();
    llvm::XXH128_hash_t hash = llvm::xxh3_128bits(
        llvm::ArrayRef(bytes.bytes_begin(), bytes.bytes_end()));
    return llvm::utohexstr(hash.high64) + "-" + llvm::utohexstr(hash.low64);
  }();
  return identity;
}

Cache::Cache(std::string directory, const Target &target)
    : directory(std::move(directory)) {
  if (this->directory.empty())
    return;
  const std::string &identity = buildIdentity();
  if (identity.empty() || llvm::sys::fs::create_directories(this->directory)) {
    this->directory.clear();
    return;
  }
  prefix = identity + "\n" LLVM_VERSION_STRING "\n" + target.level + "\n" +
           target.features + "\n";
}

std::string Cache::keyOf(const std::string &text) const {
  return digest(prefix + text);
}

bool Cache::find(const std::string &text, std::string &object) const {
  if (directory.empty())
    return false;
  std::string key = keyOf(text);
  llvm::SmallString<128> path(directory);
  llvm::sys::path::append(path, key + ".o");
  auto file = llvm::MemoryBuffer::getFile(path, /*IsText=*/false,
                                          /*RequiresNullTerminator=*/false);
  if (!file)
    return false;
  llvm::StringRef bytes = (*file)->getBuffer();
  if (!bytes.consume_front(key) || bytes.size() < 64)
    return false;
  llvm::StringRef checksum = bytes.take_front(64);
  bytes = bytes.drop_front(64);
  if (digest(bytes) != checksum)
    return false;
  object = bytes.str();
  return true;
}

void Cache::insert(const std::string &text, const std::string &object) const {
  if (directory.empty())
    return;
  std::string key = keyOf(text);
  llvm::SmallString<128> path(directory), temporary;
  llvm::sys::path::append(path, key + ".o");
  int descriptor;
  if (llvm::sys::fs::createUniqueFile(path + ".%%%%%%%%", descriptor,
                                      temporary))
    return;
  bool failed;
  {
    llvm::raw_fd_ostream stream(descriptor, /*shouldClose=*/true);
    stream << key << digest(object) << object;
    stream.flush();
    failed = stream.has_error();
    stream.clear_error();
  }
  // A full disk costs the entry, never the compilation.
  if (failed || llvm::sys::fs::rename(temporary, path))
    llvm::sys::fs::remove(temporary);
}

std::string lmc::codegen::defaultCacheDirectory() {
  llvm::SmallString<128> path;
  if (const char *base = std::getenv("XDG_CACHE_HOME"); base && *base) {
    path = base;
  } else if (const char *home = std::getenv("HOME"); home && *home) {
    path = home;
    llvm::sys::path::append(path, ".cache");
  } else {
    return {};
  }
  llvm::sys::path::append(path, "lmc");
  return path.str().str();
}
