// Memory for large outputs. Fresh pages must be cleared by the system, which costs as much as filling them; here those
// that earlier outputs left are filled again. All but a few MiB are left to the system meanwhile, which takes them when
// it needs memory.
#pragma once

#include <cstddef>

namespace bfn {

// Huge pages for `bytes`; null where there are none to be had, or so little is not worth them.
void* take_pages(size_t bytes);
void leave_pages(void* pages, size_t bytes);

// Bounds what is left at a time; 0 ends it.
void keep_pages(size_t bytes);

}  // namespace bfn
