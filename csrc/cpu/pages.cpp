#include "pages.h"

#if defined(__linux__)
#include <sys/mman.h>

#include <cstdint>
#include <mutex>
#include <vector>
#endif

namespace bfn {

#if defined(__linux__)

namespace {

constexpr size_t kPage = size_t{2} << 20;
// The system may reclaim all cached pages but 32 MiB. Offering these few pages to the system, too, would take more time
// than so little memory is worth.
constexpr size_t kMostResident = size_t{32} << 20;

struct Pages {
  void* at;
  size_t bytes;
  bool resident;  // the system must not reclaim these pages
};

// A process may be forked while another thread holds the mutex. In the child, the mutex then stays locked forever. So
// allocate_pages and free_pages never wait for the mutex. If another thread holds it, they do not use the cache.
struct FreedPages {
  std::mutex mutex;
  std::vector<Pages> pages;  // in the order in which they were freed
  size_t bytes = 0, resident = 0, limit = size_t{1} << 30;

  void add(Pages range) {
    pages.push_back(range);
    bytes += range.bytes;
    resident += range.resident ? range.bytes : 0;
  }
  void remove(size_t i) {
    bytes -= pages[i].bytes;
    resident -= pages[i].resident ? pages[i].bytes : 0;
    pages.erase(pages.begin() + static_cast<std::ptrdiff_t>(i));
  }
  void trim() {
    while (bytes > limit) {
      munmap(pages[0].at, pages[0].bytes);
      remove(0);
    }
  }
};

// It is never destroyed, since outputs may live longer than the static variables of this library.
FreedPages& freed_pages() {
  static FreedPages& pages = *new FreedPages;
  return pages;
}

size_t whole_pages(size_t bytes) { return (bytes + kPage - 1) / kPage * kPage; }

// Returns fresh memory that begins at a huge page. It maps one page more than needed, and unmaps the memory before and
// after the aligned memory. The end of the `used` bytes, which does not fill a huge page, lies in small pages.
void* fresh_pages(size_t bytes, size_t used) {
  void* got = mmap(nullptr, bytes + kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (got == MAP_FAILED) return nullptr;
  char* begin = static_cast<char*>(got);
  const size_t before = (kPage - reinterpret_cast<uintptr_t>(begin) % kPage) % kPage;
  if (before > 0) munmap(begin, before);
  munmap(begin + before + bytes, kPage - before);
  madvise(begin + before, used / kPage * kPage, MADV_HUGEPAGE);
  return begin + before;
}

}  // namespace

void* allocate_pages(size_t used) {
  if (used < kPage) return nullptr;
  const size_t bytes = whole_pages(used);
  {
    FreedPages& freed = freed_pages();
    const std::unique_lock<std::mutex> lock(freed.mutex, std::try_to_lock);
    if (!lock || freed.limit == 0) return nullptr;
    for (size_t i = freed.pages.size(); i-- > 0;) {
      if (freed.pages[i].bytes != bytes) continue;
      void* const at = freed.pages[i].at;
      freed.remove(i);
      return at;
    }
  }
  return fresh_pages(bytes, used);
}

void free_pages(void* pages, size_t used) {
  const size_t bytes = whole_pages(used);
  FreedPages& freed = freed_pages();
  const std::unique_lock<std::mutex> lock(freed.mutex, std::try_to_lock);
  const bool resident = lock && freed.resident + bytes <= kMostResident;
  if (!lock || bytes > freed.limit || (!resident && madvise(pages, bytes, MADV_FREE) != 0)) {
    munmap(pages, bytes);
    return;
  }
  freed.add({pages, bytes, resident});
  freed.trim();
}

void limit_cached_pages(size_t bytes) {
  FreedPages& freed = freed_pages();
  const std::lock_guard<std::mutex> lock(freed.mutex);
  freed.limit = bytes;
  freed.trim();
}

#else

void* allocate_pages(size_t) { return nullptr; }
void free_pages(void*, size_t) {}
void limit_cached_pages(size_t) {}

#endif

}  // namespace bfn
