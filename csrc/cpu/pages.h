// A cache of memory for large outputs. The operating system clears every fresh page, which costs as much as filling the
// page. So the pages of freed outputs are cached and used again. If the system needs memory, it may reclaim all cached
// pages but a few MiB.
#pragma once

#include <cstddef>

namespace bfn {

// Returns huge pages for `bytes`, or null if the system has none or `bytes` is too small to be worth them.
void* allocate_pages(size_t bytes);
void free_pages(void* pages, size_t bytes);

// Bounds the memory of the cache. 0 turns the cache off.
void limit_cached_pages(size_t bytes);

}  // namespace bfn
