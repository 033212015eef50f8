// See PagedCache.h.
#include "runtime/generate/PagedCache.h"

namespace lmc::runtime {

PagedCache::PagedCache(int64_t numPages, int64_t pageSize, int64_t maxSequences,
                       int64_t pagesPerSequence)
    : pageSize(pageSize), pagesPerSequence(pagesPerSequence),
      table(size_t(maxSequences * pagesPerSequence), 0),
      used(size_t(maxSequences), -1) {
  for (int64_t page = numPages; page-- > 0;)
    freePages.push_back(int32_t(page));
}

int PagedCache::open(int64_t length) {
  int64_t wanted = pagesFor(length);
  if (wanted > int64_t(freePages.size()) || wanted > pagesPerSequence)
    return -1;
  for (size_t row = 0; row < used.size(); ++row) {
    if (used[row] >= 0)
      continue;
    used[row] = wanted;
    for (int64_t i = 0; i < wanted; ++i) {
      table[row * size_t(pagesPerSequence) + size_t(i)] = freePages.back();
      freePages.pop_back();
    }
    return int(row);
  }
  return -1;
}

void PagedCache::close(int row) {
  for (int64_t i = used[size_t(row)]; i-- > 0;)
    freePages.push_back(table[size_t(row * pagesPerSequence + i)]);
  used[size_t(row)] = -1;
}

} // namespace lmc::runtime
