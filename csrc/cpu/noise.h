// Makes the seeded noise of consecutive variables, or reads explicit noise.
#pragma once

#if defined(__SSE2__)
#include <immintrin.h>
#endif

#include "../ops/noise.h"
#include "parallel.h"
#include "view.h"

namespace bfn {

// The operations of Philox on a SIMD register of 64-bit numbers. `product` multiplies only the low halves. The
// processor has one instruction for this, but compilers do not find it and use three. With AVX-512, `high` is a shuffle
// instead of a shift, since a shift would need the same execution port as the products.
struct WideWords {
#if defined(__AVX512F__)
  using Value = uint64_t __attribute__((vector_size(64)));
  static Value product(Value a, uint32_t b) { return (Value)_mm512_mul_epu32((__m512i)a, (__m512i)(Value{} + b)); }
  static Value high(Value a) { return (Value)_mm512_shuffle_epi32((__m512i)a, _MM_PERM_CDAB); }
#elif defined(__AVX2__)
  using Value = uint64_t __attribute__((vector_size(32)));
  static Value product(Value a, uint32_t b) { return (Value)_mm256_mul_epu32((__m256i)a, (__m256i)(Value{} + b)); }
  static Value high(Value a) { return a >> 32; }
#elif defined(__SSE2__)
  using Value = uint64_t __attribute__((vector_size(16)));
  static Value product(Value a, uint32_t b) { return (Value)_mm_mul_epu32((__m128i)a, (__m128i)(Value{} + b)); }
  static Value high(Value a) { return a >> 32; }
#else
  using Value = uint64_t __attribute__((vector_size(16)));
  static Value product(Value a, uint32_t b) { return (a & 0xFFFFFFFFu) * b; }
  static Value high(Value a) { return a >> 32; }
#endif
};

// The same operations on several registers. The processor works on some of them while others wait for a product.
template <int kCount>
struct Interleaved {
  struct Value {
    WideWords::Value registers[kCount];

    friend Value operator^(Value a, const Value& b) {
      for (int i = 0; i < kCount; ++i) a.registers[i] ^= b.registers[i];
      return a;
    }
    friend Value operator^(Value a, uint32_t b) {
      for (WideWords::Value& each : a.registers) each ^= b;
      return a;
    }
  };
  static Value product(Value a, uint32_t b) {
    for (WideWords::Value& each : a.registers) each = WideWords::product(each, b);
    return a;
  }
  static Value high(Value a) {
    for (WideWords::Value& each : a.registers) each = WideWords::high(each);
    return a;
  }
};

constexpr int kSetsAtOnce = 2;  // so many sets of kLanes Philox groups are made at a time

// Makes the words of kCount sets of Philox groups. A set has kLanes groups. Group j of set i has the number first_group
// + i * set_stride + j * group_stride.
template <int kCount>
void fill_words(uint32_t (&words)[4][kCount * kLanes], uint64_t seed, uint64_t first_group, uint64_t group_stride,
                uint64_t set_stride, uint32_t stream, uint32_t draw) {
  using Wide = WideWords::Value;
  constexpr int64_t kWide = sizeof(Wide) / sizeof(uint64_t);
  Wide even{};
  for (int64_t j = 0; j < kWide; ++j) even[j] = 2 * j * group_stride;
  for (int64_t i = 0; i < kLanes; i += 2 * kWide) {
    // Even and odd groups of a set are computed in different registers, and joined at the end.
    typename Interleaved<2 * kCount>::Value c[4];
    for (int k = 0; k < 2 * kCount; ++k) {
      c[0].registers[k] = even + (first_group + (i + k % 2) * group_stride + k / 2 * set_stride);
      c[1].registers[k] = c[0].registers[k] >> 32;
      c[2].registers[k] = Wide{} + stream;
      c[3].registers[k] = Wide{} + draw;
    }
    philox_rounds<Interleaved<2 * kCount>>(seed, c[0], c[1], c[2], c[3]);
    for (int set = 0; set < kCount; ++set) {
      for (int word = 0; word < 4; ++word) {
        const Wide both = (c[word].registers[2 * set] & 0xFFFFFFFFu) | (c[word].registers[2 * set + 1] << 32);
        std::memcpy(&words[word][set * kLanes + i], &both, sizeof(Wide));
      }
    }
  }
}

// Makes the normals of the groups that fill_words would make with these arguments.
template <int kCount, class T>
void fill_lanes(T (&normals)[4][kCount * kLanes], uint64_t seed, uint64_t first_group, uint64_t group_stride,
                uint64_t set_stride, uint32_t stream, uint32_t draw) {
  uint32_t words[4][kCount * kLanes];
  fill_words<kCount>(words, seed, first_group, group_stride, set_stride, stream, draw);
  for (int64_t i = 0; i < kCount * kLanes; ++i) box_muller(words[0][i], words[1][i], normals[0][i], normals[1][i]);
  for (int64_t i = 0; i < kCount * kLanes; ++i) box_muller(words[2][i], words[3][i], normals[2][i], normals[3][i]);
}

// Calls f(first, size) for `count` sets. It passes kSetsAtOnce sets at a time, and then the remaining sets one by one.
template <class F>
void for_sets(int64_t count, F&& f) {
  int64_t done = 0;
  for (; done + kSetsAtOnce <= count; done += kSetsAtOnce) f(done, std::integral_constant<int, kSetsAtOnce>());
  for (; done < count; ++done) f(done, std::integral_constant<int, 1>());
}

// Makes 4 * groups normals. `out` must have room for a multiple of kLanes groups. The loop also runs `prefetch`, which
// fetches one number for each normal.
template <class T>
void fill_normals(T* out, int64_t groups, uint64_t seed, uint64_t first_group, uint32_t stream, uint32_t draw,
                  const Prefetch<T>& prefetch) {
  for_sets((groups + kLanes - 1) / kLanes, [&](int64_t set, auto size) {
    constexpr int64_t kGroups = size * kLanes;
    T normals[4][kGroups];
    const int64_t done = set * kLanes;
    prefetch.run(4 * done, 4 * kGroups);
    fill_lanes<size>(normals, seed, first_group + done, 1, kLanes, stream, draw);
    for (int64_t i = 0; i < kGroups; ++i) {
      for (int j = 0; j < 4; ++j) out[4 * (done + i) + j] = normals[j][i];
    }
  });
}

inline uint64_t seed_of(const Noise& noise) { return static_cast<uint64_t>(*noise.seed); }

// The number of elements of the buffer that normals_of and uniforms_of need for `length` variables.
constexpr int64_t noise_buffer_size(int64_t length) {
  const int64_t groups = (length + 3) / 4 + 1;
  return (groups + kLanes - 1) / kLanes * kLanes * 4;
}

// Returns the normals of variables [start, start + length). `buffer` must have room for noise_buffer_size(length)
// numbers.
template <class T>
const T* normals_of(const Noise& noise, int64_t start, int64_t length, T* buffer, uint32_t draw = 0,
                    int64_t draw_stride = 0, const Prefetch<T>& prefetch = {}) {
  if (noise.explicit_values) return load(noise.explicit_values, draw * draw_stride + start, length, buffer);
  const int64_t skip = start % 4;
  const uint64_t group = static_cast<uint64_t>(start / 4);
  fill_normals(buffer, (skip + length + 3) / 4, seed_of(noise), group, noise.stream, draw, prefetch);
  return buffer + skip;
}

// Returns the normals of a step, or zeros if the step has no noise.
template <class T>
const T* normals_or_zeros(const Noise& noise, int64_t start, int64_t length, T* buffer,
                          const Prefetch<T>& prefetch = {}) {
  if (noise.any()) return normals_of(noise, start, length, buffer, 0, 0, prefetch);
  std::fill_n(buffer, length, T(0));
  return buffer;
}

// Returns f(word) for the words of variables [start, start + length). `buffer` must have room for
// noise_buffer_size(length) results.
template <class Result, class F>
const Result* each_word(uint64_t seed, uint32_t stream, int64_t start, int64_t length, Result* buffer, F&& f) {
  const int64_t skip = start % 4, groups = (skip + length + 3) / 4;
  for_sets((groups + kLanes - 1) / kLanes, [&](int64_t set, auto size) {
    constexpr int64_t kGroups = size * kLanes;
    uint32_t words[4][kGroups];
    const int64_t done = set * kLanes;
    fill_words<size>(words, seed, static_cast<uint64_t>(start / 4 + done), 1, kLanes, stream, 0);
    for (int64_t i = 0; i < kGroups; ++i) {
      for (int j = 0; j < 4; ++j) buffer[4 * (done + i) + j] = f(words[j][i]);
    }
  });
  return buffer + skip;
}

// Returns the uniform numbers that draw the classes or the mixture components of variables [start, start + length).
// `buffer` must have room for noise_buffer_size(length) numbers.
template <class T>
const T* uniforms_of(const Noise& noise, int64_t start, int64_t length, T* buffer) {
  if (noise.explicit_values) return load(noise.explicit_values, start, length, buffer);
  return each_word(seed_of(noise), noise.stream, start, length, buffer,
                   [](uint32_t word) { return static_cast<T>(unit(word)); });
}

// Returns the weight of a draw in the expectation.
template <class T>
T weight_of(const Draws& draws, int64_t draw) {
  return draws.n_samples ? T(1) / static_cast<T>(draws.n_samples) : static_cast<T>(draws.node_weights[draw]);
}

}  // namespace bfn
