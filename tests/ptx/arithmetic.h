// The number types of PTX and their arithmetic. A register has 64 bits. An instruction reads and writes as many of them
// as its type has.
#pragma once

#include <algorithm>
#include <cfenv>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>

namespace ptx {

template <class T>
T from_bits(uint64_t bits) {
  T x;
  std::memcpy(&x, &bits, sizeof(T));
  return x;
}

// Replaces any NaN by the NaN that every operation on float32 gives.
inline float canonical(float x) { return x == x ? x : from_bits<float>(0x7fffffff); }

// A signed number is sign-extended, since the register may be read as a wider type.
template <class T>
uint64_t to_bits(T x) {
  if constexpr (std::is_integral_v<T> && std::is_signed_v<T>) return static_cast<uint64_t>(static_cast<int64_t>(x));
  uint64_t bits = 0;
  std::memcpy(&bits, &x, sizeof(T));
  return bits;
}

// bfloat16 or float16, given the number of bits of the exponent and of the fraction.
template <int kExponent, int kFraction>
struct Narrow {
  uint16_t bits;

  static constexpr int kBias = (1 << (kExponent - 1)) - 1;
  static constexpr int kInfinity = ((1 << kExponent) - 1) << kFraction;

  // Rounds by the current rounding mode.
  static Narrow of(double x) {
    if (x != x) return {0x7fff};
    const int sign = std::signbit(x) ? 0x8000 : 0;
    const bool truncates = std::fegetround() == FE_TOWARDZERO;
    if (std::isinf(x)) return {static_cast<uint16_t>(sign | kInfinity)};
    const int exponent = std::max(x == 0 ? 1 - kBias : std::ilogb(x), 1 - kBias);
    if (exponent > kBias) return {static_cast<uint16_t>(sign | (kInfinity - truncates))};
    const double places = std::ldexp(std::fabs(x), kFraction - exponent);  // in units of the last place, exactly
    const int rounded = static_cast<int>(std::nearbyint(places));
    // the leading one of a normal number adds one to the exponent, and so does a carry
    return {static_cast<uint16_t>(sign | (((exponent + kBias - 1) << kFraction) + rounded))};
  }
  float wide() const {
    const int exponent = (bits & kInfinity) >> kFraction, fraction = bits & ((1 << kFraction) - 1);
    const float sign = bits & 0x8000 ? -1.0f : 1.0f;
    if (exponent == (1 << kExponent) - 1) return fraction ? canonical(NAN) : sign * INFINITY;
    const int whole = exponent ? fraction | 1 << kFraction : fraction;
    return sign * std::ldexp(static_cast<float>(whole), std::max(exponent, 1) - kBias - kFraction);
  }
};
using BFloat16 = Narrow<8, 7>;
using Half = Narrow<5, 10>;

// Subnormal numbers become 0 of the same sign.
inline float flush(float x) { return std::fabs(x) < std::numeric_limits<float>::min() ? std::copysign(0.0f, x) : x; }

// Whether a is less than b, where -0 is less than 0.
template <class T>
bool is_less(T a, T b) {
  if constexpr (std::is_floating_point_v<T>) {
    if (a == b) return std::signbit(a) && !std::signbit(b);
  }
  return a < b;
}

// Return the smaller and the larger of two numbers. If one number is NaN, they return the other number.
template <class T>
T smaller(T a, T b) {
  return a != a || is_less(b, a) ? b : a;
}
template <class T>
T larger(T a, T b) {
  return a != a || is_less(a, b) ? b : a;
}

// Rounds to an integer by the current rounding mode. Numbers out of range become the least or the largest integer.
template <class D, class S>
D to_integer(S x) {
  constexpr bool kNanIsLowest = sizeof(S) == 8 || sizeof(D) == 8;
  if (x != x) return kNanIsLowest ? static_cast<D>(uint64_t{1} << (8 * sizeof(D) - 1)) : D(0);
  const S rounded = std::nearbyint(x);
  if (rounded < static_cast<S>(std::numeric_limits<D>::min())) return std::numeric_limits<D>::min();
  if (rounded >= std::ldexp(S(1), std::numeric_limits<D>::digits)) return std::numeric_limits<D>::max();
  return static_cast<D>(rounded);
}

template <class T>
using Unsigned = std::make_unsigned_t<T>;

// Each function maps an integer type to the type of twice the width. No code calls these functions.
uint32_t wider(uint16_t);
int32_t wider(int16_t);
uint64_t wider(uint32_t);
int64_t wider(int32_t);
unsigned __int128 wider(uint64_t);
__int128 wider(int64_t);
template <class T>
using Wider = decltype(wider(T()));

template <class T>
Wider<T> product(T a, T b) {
  return static_cast<Wider<T>>(a) * static_cast<Wider<T>>(b);
}
template <class T>
T high_half(Wider<T> x) {
  return static_cast<T>(x >> (8 * sizeof(T)));
}

// Results of approximate instructions are shifted by this multiple of their documented error.
inline int approximation_shift = 0;

// A documented error, which is given in units of the last place, as a relative error, or as an absolute error.
struct Error {
  double ulps = 0, relative = 0, absolute = 0;
};

// The result of an instruction that the hardware approximates.
inline float approximate(double exact, Error error) {
  if (approximation_shift == 0 || exact == 0 || !std::isfinite(exact)) return static_cast<float>(exact);
  const double size = std::fabs(exact), last_place = std::ldexp(1.0, std::max(std::ilogb(exact), -126) - 23);
  return static_cast<float>(exact +
                            approximation_shift * (error.ulps * last_place + error.relative * size + error.absolute));
}

// Sets the rounding mode of an instruction, and sets it back to nearest even at the end.
class RoundingMode {
 public:
  explicit RoundingMode(int mode) : directed_(mode != FE_TONEAREST) {
    if (directed_) std::fesetround(mode);
  }
  ~RoundingMode() {
    if (directed_) std::fesetround(FE_TONEAREST);
  }
  RoundingMode(const RoundingMode&) = delete;
  RoundingMode& operator=(const RoundingMode&) = delete;

 private:
  bool directed_;
};

}  // namespace ptx
