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
constexpr size_t kHeld = size_t{32} << 20;  // offering so little memory to the system would cost more than it saves

struct Pages {
  void* at;
  size_t bytes;
  bool held;  // whether the system may not take them
};

struct Left {
  std::mutex mutex;
  std::vector<Pages> pages;  // in the order in which they were left
  size_t bytes = 0, held = 0, most = size_t{1} << 30;

  void add(Pages more) {
    pages.push_back(more);
    bytes += more.bytes;
    held += more.held ? more.bytes : 0;
  }
  void remove(size_t i) {
    bytes -= pages[i].bytes;
    held -= pages[i].held ? pages[i].bytes : 0;
    pages.erase(pages.begin() + static_cast<std::ptrdiff_t>(i));
  }
  void give_back() {
    while (bytes > most) {
      munmap(pages[0].at, pages[0].bytes);
      remove(0);
    }
  }
};

// Never destroyed: outputs may live longer than this library's statics.
Left& left() {
  static Left& pages = *new Left;
  return pages;
}

size_t whole_pages(size_t bytes) { return (bytes + kPage - 1) / kPage * kPage; }

// Returns memory that is aligned to a huge page: it asks for one page more than needed. The rest that does not fill a
// huge page lies in small pages.
void* fresh_pages(size_t bytes, size_t used) {
  void* got = mmap(nullptr, bytes + kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (got == MAP_FAILED) return nullptr;
  char* begin = static_cast<char*>(got);
  const size_t before = (kPage - reinterpret_cast<uintptr_t>(begin) % kPage) % kPage;
  if (before > 0) munmap(begin, before);
  if (before < kPage) munmap(begin + before + bytes, kPage - before);
  madvise(begin + before, used / kPage * kPage, MADV_HUGEPAGE);
  return begin + before;
}

}  // namespace

void* take_pages(size_t used) {
  if (used < kPage) return nullptr;
  const size_t bytes = whole_pages(used);
  {
    Left& kept = left();
    const std::lock_guard<std::mutex> lock(kept.mutex);
    if (kept.most == 0) return nullptr;
    for (size_t i = kept.pages.size(); i-- > 0;) {
      if (kept.pages[i].bytes != bytes) continue;
      void* const at = kept.pages[i].at;
      kept.remove(i);
      return at;
    }
  }
  return fresh_pages(bytes, used);
}

void leave_pages(void* pages, size_t used) {
  const size_t bytes = whole_pages(used);
  Left& kept = left();
  const std::lock_guard<std::mutex> lock(kept.mutex);
  const bool held = kept.held + bytes <= kHeld;
  if (bytes > kept.most || (!held && madvise(pages, bytes, MADV_FREE) != 0)) {
    munmap(pages, bytes);
    return;
  }
  kept.add({pages, bytes, held});
  kept.give_back();
}

void keep_pages(size_t bytes) {
  Left& kept = left();
  const std::lock_guard<std::mutex> lock(kept.mutex);
  kept.most = bytes;
  kept.give_back();
}

#else

void* take_pages(size_t) { return nullptr; }
void leave_pages(void*, size_t) {}
void keep_pages(size_t) {}

#endif

}  // namespace bfn
