// Shares work among threads. The blocks do not depend on the number of threads, so the results do not either.
#pragma once

#include <algorithm>
#include <cstdint>
#include <type_traits>

namespace bfn {

// Calls body(context, begin, end) for parts of [0, count) that are at least `grain` long. The bindings define this
// function; it uses the threads of torch.
void run_parallel(int64_t count, int64_t grain, void (*body)(void*, int64_t, int64_t), void* context);

constexpr int64_t kLanes = 16;  // how many numbers the inner loops take at a time, for SIMD
// How many variables a thread works on at a time: a multiple of 4, so that Philox groups are whole.
constexpr int64_t kBlock = 1024;
constexpr int64_t kGrain = 16384;  // with fewer variables a second thread does not pay

template <class F>
void for_range(int64_t count, int64_t grain, F&& f) {
  run_parallel(
      count, grain,
      [](void* context, int64_t begin, int64_t end) {
        (*static_cast<std::remove_reference_t<F>*>(context))(begin, end);
      },
      &f);
}

// How many variables of `width` numbers a block has. It is a multiple of kLanes if the block has room for that many.
inline int64_t block_of(int64_t width) {
  const int64_t most = std::max<int64_t>(1, kBlock / width);
  return most < kLanes ? most : most / kLanes * kLanes;
}

struct NoScratch {};

// Calls f(start, length, scratch) for the blocks of [0, count). make() makes the scratch of a thread.
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

// Calls f(start, length) for the blocks of [0, count).
template <class F>
void for_blocks(int64_t count, int64_t width, F&& f) {
  for_blocks(
      count, width, [] { return NoScratch{}; }, [&](int64_t start, int64_t length, NoScratch) { f(start, length); });
}

}  // namespace bfn
