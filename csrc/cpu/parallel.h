// Threads. The blocks of a job do not depend on the number of threads, so the results do not either.
#pragma once

#include <algorithm>
#include <cstdint>
#include <type_traits>

namespace bfn {

// Calls body(context, begin, end) over parts of [0, count), at least `grain` long. The bindings define it, by torch's
// own threads.
void run_parallel(int64_t count, int64_t grain, void (*body)(void*, int64_t, int64_t), void* context);

constexpr int64_t kLanes = 16;  // the inner loops take so many numbers at a time, for SIMD
constexpr int64_t kBlock =
    1024;  // a thread works on so many variables at a time: a multiple of 4, so that Philox groups are whole
constexpr int64_t kGrain = 16384;  // below so many variables a second thread does not pay

template <class F>
void for_range(int64_t count, int64_t grain, F&& f) {
  run_parallel(
      count, grain,
      [](void* context, int64_t begin, int64_t end) {
        (*static_cast<std::remove_reference_t<F>*>(context))(begin, end);
      },
      &f);
}

// How many variables of `width` numbers a block has: a whole multiple of the lanes where there are as many.
inline int64_t block_of(int64_t width) {
  const int64_t most = std::max<int64_t>(1, kBlock / width);
  return most < kLanes ? most : most / kLanes * kLanes;
}

struct NoScratch {};

// Calls f(start, length, scratch) for the blocks of [0, count); make() gives each thread its scratch.
template <class M, class F>
void for_blocks(int64_t count, int64_t width, M&& make, F&& f) {
  const int64_t size = block_of(width), grain = std::max<int64_t>(1, kGrain / (size * width));
  for_range((count + size - 1) / size, grain, [&](int64_t begin, int64_t end) {
    auto scratch = make();
    for (int64_t block = begin; block < end; ++block) {
      f(block * size, std::min(size, count - block * size), scratch);
    }
  });
}

// Calls f(start, length), which needs no scratch.
template <class F>
void for_blocks(int64_t count, int64_t width, F&& f) {
  for_blocks(
      count, width, [] { return NoScratch{}; }, [&](int64_t start, int64_t length, NoScratch) { f(start, length); });
}

}  // namespace bfn
