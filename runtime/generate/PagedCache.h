// Which pages of the cache hold which sequence.
//
// The cache of every layer is cut alike into pages of pageSize tokens. A
// sequence has a row of the page table while it is under way: position p lies
// in page row[p / pageSize]. Pages are handed out and taken back here; nothing
// is moved or cleared, because a token is written before it is read.
#ifndef LMC_RUNTIME_GENERATE_PAGEDCACHE_H
#define LMC_RUNTIME_GENERATE_PAGEDCACHE_H

#include <cstddef>
#include <cstdint>
#include <vector>

namespace lmc::runtime {

class PagedCache {
public:
  PagedCache(int64_t numPages, int64_t pageSize, int64_t maxSequences,
             int64_t pagesPerSequence);

  /// A free row with pages for `length` tokens, or -1 when rows or pages are
  /// not there.
  int open(int64_t length);
  void close(int row);

  int64_t pagesFor(int64_t length) const {
    return (length + pageSize - 1) / pageSize;
  }
  /// Where a position lies in every layer's cache.
  int32_t slot(int row, int64_t position) const {
    int64_t page = table[size_t(row * pagesPerSequence + position / pageSize)];
    return int32_t(page * pageSize + position % pageSize);
  }
  /// [maxSequences, pagesPerSequence], as a step reads it.
  const std::vector<int32_t> &pageTable() const { return table; }
  int64_t numFreePages() const { return int64_t(freePages.size()); }

private:
  int64_t pageSize, pagesPerSequence;
  std::vector<int32_t> table;
  std::vector<int64_t> used; ///< pages of each row; -1: the row is free
  std::vector<int32_t> freePages;
};

} // namespace lmc::runtime

#endif // LMC_RUNTIME_GENERATE_PAGEDCACHE_H
