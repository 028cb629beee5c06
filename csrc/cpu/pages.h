// Memory for large outputs. The system clears every fresh page, which costs as much as filling it. So pages that
// earlier outputs left are used again. Until then the system may take all of them but a few MiB when it needs memory.
#pragma once

#include <cstddef>

namespace bfn {

// Returns huge pages for `bytes`, or null if the system has none or `bytes` is too small to be worth them.
void* take_pages(size_t bytes);
void leave_pages(void* pages, size_t bytes);

// Bounds the memory that outputs leave for reuse. 0 turns the reuse off.
void keep_pages(size_t bytes);

}  // namespace bfn
