// Memory for large outputs. Fresh pages must be cleared by the system, which costs as much as filling them; here those
// that earlier outputs left are filled again. They are left to the system meanwhile, which takes them when it needs
// memory.
#pragma once

#include <cstddef>

namespace bfn {

constexpr size_t kWorthwhile = size_t{4} << 20;  // bytes from which on this is used

// Huge pages for `bytes`; null where there are none to be had.
void* take_pages(size_t bytes);
void leave_pages(void* pages, size_t bytes);

}  // namespace bfn
