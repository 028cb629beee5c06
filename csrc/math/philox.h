// Seeded noise: Philox4x32-10 (Salmon et al. 2011) and Box-Muller. The noise of a variable depends only on the seed and
// on the variable's position. A group is the four words that Philox makes from one counter.
#pragma once

#include "elementary.h"

namespace bfn {

// The streams; bfn_kernels/noise.py repeats them. A new use of noise gets a new number.
enum Stream : uint32_t {
  kSender = 0,      // normals of the sender or of the Bayesian flow
  kClass = 1,       // uniforms that draw a class
  kMonteCarlo = 2,  // normals of a Monte-Carlo expectation
  kOutput = 3,      // normals that draw a value from a discretised output distribution
  kFoldIn = 4,      // words from which a new seed is made
  kComponent = 5,   // uniforms that draw a component of a mixture
  kAngle = 6,       // words that draw an angle; where `draw` is not 0, `group` is the variable
};

struct Words {
  uint32_t w0, w1, w2, w3;
};

// The operations of a Philox round. A word lies in the low half of a 64-bit number, whose high half is ignored.
// cpu/noise.h has the same operations for SIMD registers.
struct WideWord {
  using Value = uint64_t;
  static BFN_HD Value product(Value a, uint32_t b) { return static_cast<uint64_t>(static_cast<uint32_t>(a)) * b; }
  static BFN_HD Value high(Value a) { return a >> 32; }
};

// Applies the ten rounds to the counter c0..c3.
template <class Wide, class Value = typename Wide::Value>
BFN_HD void philox_rounds(uint64_t seed, Value& c0, Value& c1, Value& c2, Value& c3) {
  uint32_t k0 = static_cast<uint32_t>(seed), k1 = static_cast<uint32_t>(seed >> 32);
#if defined(__CUDA_ARCH__)
#pragma unroll
#elif defined(__GNUC__) && !defined(__CUDACC__)
#pragma GCC unroll 10
#endif
  for (int round = 0; round < 10; ++round) {
    const Value p0 = Wide::product(c0, 0xD2511F53u), p1 = Wide::product(c2, 0xCD9E8D57u);
    c0 = Wide::high(p1) ^ c1 ^ k0;
    c1 = p1;
    c2 = Wide::high(p0) ^ c3 ^ k1;
    c3 = p0;
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
}

BFN_HD Words philox(uint64_t seed, uint64_t group, uint32_t stream, uint32_t draw) {
  uint64_t c0 = group, c1 = group >> 32, c2 = stream, c3 = draw;
  philox_rounds<WideWord>(seed, c0, c1, c2, c3);
  return {static_cast<uint32_t>(c0), static_cast<uint32_t>(c1), static_cast<uint32_t>(c2), static_cast<uint32_t>(c3)};
}

// A uniform number in (0, 1]. It is the same float32 on every backend.
BFN_HD float unit(uint32_t word) { return static_cast<float>(word) * 0x1p-32f + 0x1p-33f; }

// The word of a row or of a variable: number r uses word r % 4 of group r / 4.
BFN_HD uint32_t word_of_row(uint64_t seed, int64_t row, uint32_t stream) {
  const Words w = philox(seed, static_cast<uint64_t>(row / 4), stream, 0);
  const int word = row % 4;
  return word == 0 ? w.w0 : word == 1 ? w.w1 : word == 2 ? w.w2 : w.w3;
}

// The uniform number that draws the class or the mixture component of a row.
template <class T>
BFN_HD T unit_of_row(uint64_t seed, int64_t row, uint32_t stream) {
  return static_cast<T>(unit(word_of_row(seed, row, stream)));
}

template <class T>
BFN_HD void box_muller(uint32_t radius, uint32_t angle, T& first, T& second) {
  const T square_radius = T(-2) * log_normal(static_cast<T>(unit(radius)));
  const T r = sqrt_normal(square_radius > T(0) ? square_radius : T(0));
  T sine, cosine;
  sincospi(static_cast<T>(static_cast<float>(static_cast<int32_t>(angle)) * 0x1p-31f), sine, cosine);
  first = r * cosine;
  second = r * sine;
}

}  // namespace bfn
