// Shares work among threads. The work is divided into blocks. The blocks do not depend on the number of threads, and so
// the results do not, either.
#pragma once

#include <algorithm>
#include <cstdint>
#include <type_traits>

namespace bfn {

// Divides [0, count) into ranges of at least `grain` numbers, and calls body(context, begin, end) for each range. The
// bindings define this function with torch's parallel_for.
void run_parallel(int64_t count, int64_t grain, void (*body)(void*, int64_t, int64_t), void* context);

constexpr int64_t kLanes = 16;  // inner loops work on 16 numbers at a time, so that they are vectorised
// A thread works on at most so many numbers at a time, one or more for each variable of a block. It is a multiple of 4,
// so that Philox groups are whole.
constexpr int64_t kBlock = 1024;
constexpr int64_t kGrain = 16384;  // for fewer variables another thread costs more time than it saves

template <class F>
void for_range(int64_t count, int64_t grain, F&& f) {
  run_parallel(
      count, grain,
      [](void* context, int64_t begin, int64_t end) {
        (*static_cast<std::remove_reference_t<F>*>(context))(begin, end);
      },
      &f);
}

// The number of variables in a block if each variable has `width` numbers. If kLanes variables fit, it is a multiple of
// kLanes.
inline int64_t block_size(int64_t width) {
  const int64_t most = std::max<int64_t>(1, kBlock / width);
  return most < kLanes ? most : most / kLanes * kLanes;
}

struct NoScratch {};

// Calls f(start, length, scratch) for the blocks of [0, count). Each thread calls make() once, which makes its scratch
// memory.
template <class M, class F>
void for_blocks(int64_t count, int64_t width, M&& make, F&& f) {
  const int64_t size = block_size(width), grain = std::max<int64_t>(1, kGrain / (size * width));
  for_range((count + size - 1) / size, grain, [&](int64_t begin, int64_t end) {
    auto scratch = make();
    for (int64_t block = begin; block < end; ++block) {
      f(block * size, std::min(size, count - block * size), scratch);
    }
  });
}

// Calls f(start, length) for the blocks of [0, count).
template <class F>
void for_blocks(int64_t count, int64_t width, F&& f) {
  for_blocks(
      count, width, [] { return NoScratch{}; }, [&](int64_t start, int64_t length, NoScratch) { f(start, length); });
}

}  // namespace bfn
