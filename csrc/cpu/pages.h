// A cache of memory for large outputs. The operating system clears every fresh page, which takes as long as filling the
// page with numbers. So the pages of freed outputs are cached and used again. If the system runs short of memory, it
// may reclaim all cached pages but 32 MiB.
#pragma once

#include <cstddef>

namespace bfn {

// Returns `bytes` of memory in huge pages, or null if the caller must allocate the memory itself: if `bytes` is less
// than one huge page, if the cache is off or another thread uses it, if the system is not Linux, or if it refuses the
// memory.
void* allocate_pages(size_t bytes);
void free_pages(void* pages, size_t bytes);

// Sets the most bytes that are cached. 0 turns the cache off.
void limit_cached_pages(size_t bytes);

}  // namespace bfn
