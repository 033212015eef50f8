// What a device has recorded of an executor's runs: one recording for each
// schedule and the sizes of the step, so a decode of one token has one and a
// decode of four another.
//
// The first run of an entry is not recorded: a device may load what kernels
// need when they first run, and most prompts' lengths come once. The entry that
// was not used for longest makes room for a new one.
#ifndef LMC_RUNTIME_EXEC_RECORDINGS_H
#define LMC_RUNTIME_EXEC_RECORDINGS_H

#include "runtime/device/Device.h"

#include <algorithm>

namespace lmc::runtime {

class Recordings {
public:
  static constexpr size_t most = 64;

  struct Entry {
    int schedule = -1;
    std::vector<int64_t> sizes;
    uint64_t lastUse = 0;
    int runs = 0;
    std::unique_ptr<Recording> recording; ///< null until the second run
  };

  /// Valid until the next call. `values` are those of all symbols, `symbols`
  /// the numbers of those that are sizes.
  Entry &find(int schedule, const std::vector<int64_t> &values,
              const std::vector<uint32_t> &symbols) {
    auto found =
        std::find_if(entries.begin(), entries.end(), [&](const Entry &entry) {
          bool same = entry.schedule == schedule;
          for (size_t i = 0; i < symbols.size(); ++i)
            same = same && entry.sizes[i] == values[symbols[i]];
          return same;
        });
    if (found == entries.end()) {
      if (entries.size() == most)
        entries.erase(std::min_element(entries.begin(), entries.end(),
                                       [](const Entry &a, const Entry &b) {
                                         return a.lastUse < b.lastUse;
                                       }));
      found = entries.insert(entries.end(), Entry());
      found->schedule = schedule;
      for (uint32_t symbol : symbols)
        found->sizes.push_back(values[symbol]);
    }
    found->lastUse = ++uses;
    return *found;
  }
  void clear() { entries.clear(); }

private:
  std::vector<Entry> entries;
  uint64_t uses = 0;
};

} // namespace lmc::runtime

#endif // LMC_RUNTIME_EXEC_RECORDINGS_H
