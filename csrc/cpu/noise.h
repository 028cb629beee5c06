// Makes runs of seeded noise, or reads explicit noise.
#pragma once

#if defined(__SSE2__)
#include <immintrin.h>
#endif

#include "../ops/noise.h"
#include "parallel.h"
#include "view.h"

namespace bfn {

// A register of unsigned 64-bit numbers. Philox multiplies only their low halves, which is one instruction; compilers
// do not see this and use three. With AVX-512 a shuffle moves the high halves down, since a shift would compete with
// the products for the same execution port.
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

// Several registers that go through the same steps, so that some of them compute while others wait for a product.
template <int kCount>
struct Together {
  struct Value {
    WideWords::Value at[kCount];

    friend Value operator^(Value a, const Value& b) {
      for (int i = 0; i < kCount; ++i) a.at[i] ^= b.at[i];
      return a;
    }
    friend Value operator^(Value a, uint32_t b) {
      for (WideWords::Value& each : a.at) each ^= b;
      return a;
    }
  };
  static Value product(Value a, uint32_t b) {
    for (WideWords::Value& each : a.at) each = WideWords::product(each, b);
    return a;
  }
  static Value high(Value a) {
    for (WideWords::Value& each : a.at) each = WideWords::high(each);
    return a;
  }
};

constexpr int kSets = 2;  // how many sets of kLanes groups are made at a time

// Makes the words of kCount sets of kLanes Philox groups. The numbers of a set's groups differ by `stride`, the numbers
// of the first groups of two sets by `apart`.
template <int kCount>
void fill_words(uint32_t (&words)[4][kCount * kLanes], uint64_t seed, uint64_t first_group, uint64_t stride,
                uint64_t apart, uint32_t stream, uint32_t draw) {
  using Wide = WideWords::Value;
  constexpr int64_t kWide = sizeof(Wide) / sizeof(uint64_t);
  Wide even{};
  for (int64_t j = 0; j < kWide; ++j) even[j] = 2 * j * stride;
  for (int64_t i = 0; i < kLanes; i += 2 * kWide) {
    typename Together<2 * kCount>::Value c[4];  // the even and odd groups of each set, which are joined at the end
    for (int k = 0; k < 2 * kCount; ++k) {
      c[0].at[k] = even + (first_group + (i + k % 2) * stride + k / 2 * apart);
      c[1].at[k] = c[0].at[k] >> 32;
      c[2].at[k] = Wide{} + stream;
      c[3].at[k] = Wide{} + draw;
    }
    philox_rounds<Together<2 * kCount>>(seed, c[0], c[1], c[2], c[3]);
    for (int set = 0; set < kCount; ++set) {
      for (int word = 0; word < 4; ++word) {
        const Wide both = (c[word].at[2 * set] & 0xFFFFFFFFu) | (c[word].at[2 * set + 1] << 32);
        std::memcpy(&words[word][set * kLanes + i], &both, sizeof(Wide));
      }
    }
  }
}

// Makes the normals of the groups that fill_words describes.
template <int kCount, class T>
void fill_lanes(T (&normals)[4][kCount * kLanes], uint64_t seed, uint64_t first_group, uint64_t stride, uint64_t apart,
                uint32_t stream, uint32_t draw) {
  uint32_t words[4][kCount * kLanes];
  fill_words<kCount>(words, seed, first_group, stride, apart, stream, draw);
  for (int64_t i = 0; i < kCount * kLanes; ++i) box_muller(words[0][i], words[1][i], normals[0][i], normals[1][i]);
  for (int64_t i = 0; i < kCount * kLanes; ++i) box_muller(words[2][i], words[3][i], normals[2][i], normals[3][i]);
}

// Calls f(first, size) for `count` sets: for kSets of them at a time, then for each remaining set.
template <class F>
void for_sets(int64_t count, F&& f) {
  int64_t done = 0;
  for (; done + kSets <= count; done += kSets) f(done, std::integral_constant<int, kSets>());
  for (; done < count; ++done) f(done, std::integral_constant<int, 1>());
}

// Makes 4 * groups normals. `out` must have room for a whole multiple of kLanes groups. Meanwhile `ahead` prefetches as
// many numbers.
template <class T>
void fill_normals(T* out, int64_t groups, uint64_t seed, uint64_t first_group, uint32_t stream, uint32_t draw,
                  const Ahead<T>& ahead) {
  for_sets((groups + kLanes - 1) / kLanes, [&](int64_t set, auto size) {
    constexpr int64_t kGroups = size * kLanes;
    T normals[4][kGroups];
    const int64_t done = set * kLanes;
    ahead.ask(4 * done, 4 * kGroups);
    fill_lanes<size>(normals, seed, first_group + done, 1, kLanes, stream, draw);
    for (int64_t i = 0; i < kGroups; ++i) {
      for (int j = 0; j < 4; ++j) out[4 * (done + i) + j] = normals[j][i];
    }
  });
}

inline uint64_t key_of(const Noise& noise) { return static_cast<uint64_t>(*noise.seed); }

// The size of the buffer that normals_of and uniforms_of need for `length` numbers.
constexpr int64_t noise_room(int64_t length) {
  const int64_t groups = (length + 3) / 4 + 1;
  return (groups + kLanes - 1) / kLanes * kLanes * 4;
}

// Returns the normals of variables [start, start + length). `buffer` must have room for noise_room(length) numbers.
template <class T>
const T* normals_of(const Noise& noise, int64_t start, int64_t length, T* buffer, uint32_t draw = 0,
                    int64_t draw_stride = 0, const Ahead<T>& ahead = {}) {
  if (noise.explicit_values) return load(noise.explicit_values, draw * draw_stride + start, length, buffer);
  const int64_t skip = start % 4;
  const uint64_t group = static_cast<uint64_t>(start / 4);
  fill_normals(buffer, (skip + length + 3) / 4, key_of(noise), group, noise.stream, draw, ahead);
  return buffer + skip;
}

// Returns the normals of a step, or zeros if the step has no noise.
template <class T>
const T* normals_or_zeros(const Noise& noise, int64_t start, int64_t length, T* buffer, const Ahead<T>& ahead = {}) {
  if (noise.any()) return normals_of(noise, start, length, buffer, 0, 0, ahead);
  std::fill_n(buffer, length, T(0));
  return buffer;
}

// Returns the uniforms that draw the classes of variables [start, start + length). `buffer` must have room for
// noise_room(length) numbers.
template <class T>
const T* uniforms_of(const Noise& noise, int64_t start, int64_t length, T* buffer) {
  if (noise.explicit_values) return load(noise.explicit_values, start, length, buffer);
  const int64_t skip = start % 4, groups = (skip + length + 3) / 4;
  for_sets((groups + kLanes - 1) / kLanes, [&](int64_t set, auto size) {
    constexpr int64_t kGroups = size * kLanes;
    uint32_t words[4][kGroups];
    const int64_t done = set * kLanes;
    fill_words<size>(words, key_of(noise), static_cast<uint64_t>(start / 4 + done), 1, kLanes, noise.stream, 0);
    for (int64_t i = 0; i < kGroups; ++i) {
      for (int j = 0; j < 4; ++j) buffer[4 * (done + i) + j] = static_cast<T>(unit(words[j][i]));
    }
  });
  return buffer + skip;
}

// The uniform that draws the class or the mixture component of a row.
template <class T>
T uniform_of(const Noise& noise, int64_t row) {
  T value;
  if (noise.explicit_values) return *load(noise.explicit_values, row, 1, &value);
  return unit_of_row<T>(key_of(noise), row, noise.stream);
}

template <class T>
T weight_of(const Draws& draws, int64_t draw) {
  return draws.n_samples ? T(1) / static_cast<T>(draws.n_samples) : static_cast<T>(draws.node_weights[draw]);
}

}  // namespace bfn
