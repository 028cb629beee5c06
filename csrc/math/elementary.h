// exp, log, and the sine and cosine of pi v. In float they are polynomials without branches, so that compilers
// vectorise them. The polynomials were fitted in the relative maximum norm. The comments give the errors of the
// polynomials in exact arithmetic. In double they are functions of the C library, except `exp_and_expm1`: the row
// scalars, which are computed in double, need it vectorised.
#pragma once

#include "common.h"

namespace bfn {

constexpr double kPi = 3.14159265358979323846;
constexpr double kLogOfTwo = 0.69314718055994530942;
constexpr double kLogTwoPi = 1.83787706640934548356;
constexpr double kSqrtTwoPi = 2.50662827463100050242;

// The reduction x = n ln 2 + r with |r| <= ln 2 / 2. `excess` is e^r - 1, with an error of 3e-9. The low bits of `bits`
// hold n: adding 12582912 to a float rounds it to an integer in its low bits.
struct ReducedExp {
  int32_t bits;
  float excess;
};

BFN_HD ReducedExp reduced_exp(float x) {
  const float shifted = x * 1.44269504f + 12582912.0f;
  const float n = shifted - 12582912.0f;
  const float r = x - n * 0.693359375f + n * 2.12194440e-4f;
  const float q = 0.49999994f + r * (0.16666515f + r * (0.041668456f + r * (0.0083694188f + r * 0.0013813145f)));
  return {bit_cast<int32_t>(shifted), r + r * r * q};
}

// 2^n; only the nine lowest bits of n count.
BFN_HD float power_of_two(int32_t n) { return bit_cast<float>((static_cast<uint32_t>(n) << 23) + 0x3f800000u); }

// 2^n; only the twelve lowest bits of n count.
BFN_HD double power_of_two(int64_t n) {
  return bit_cast<double>((static_cast<uint64_t>(n) << 52) + 0x3ff0000000000000u);
}

// e^x. It multiplies by 2^n in two factors, so that results below the normal range lose no digits.
BFN_HD float exp(float x) {
  const ReducedExp e = reduced_exp(clamp(x, -104.0f, 89.0f));
  const int32_t exponent = e.bits - bit_cast<int32_t>(12582912.0f), half = exponent >> 1;
  return (1.0f + e.excess) * power_of_two(half) * power_of_two(exponent - half);
}

// e^x for |x| <= 87
BFN_HD float exp_normal(float x) {
  const ReducedExp e = reduced_exp(x);
  return (1.0f + e.excess) * power_of_two(e.bits);
}

// e^x for x <= 0, as a term of a sum whose largest term is 1. A result below the normal range of float is 0.
BFN_HD float exp_term(float x) {
  const float value = exp_normal(x < -87.0f ? -87.0f : x);
  return x < -87.0f ? 0.0f : value;
}

// (2^r - 1)/r for |r| <= 1/2, which gives 2^r with an error of 2e-8.
BFN_HD float exp2_growth(float r) {
  float p = 0.00015353359f;
  p = p * r + 0.0013398875f;
  p = p * r + 0.009618437f;
  p = p * r + 0.055503324f;
  p = p * r + 0.24022648f;
  return p * r + 0.6931472f;
}

// 2^x for x < 127, as a term of a sum whose largest term is about 1. A result below the normal range is 0. On a GPU,
// results have an error of 2e-7.
BFN_HD float exp2_term(float x) {
#if defined(__CUDA_ARCH__)
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
#else
  const float capped = x < -126.0f ? -126.0f : x, shifted = capped + 12582912.0f;
  const float r = capped - (shifted - 12582912.0f);
  const float value = (1.0f + exp2_growth(r) * r) * power_of_two(bit_cast<int32_t>(shifted));
  return x < -126.0f ? 0.0f : value;
#endif
}

// 2^x - less, where less is 0 or 1. The difference does not cancel. The result is NaN if x is above 127.5.
BFN_HD float exp2_less(float x, float less) {
  const float capped = clamp(x, -126.0f, 128.0f);
  const float shifted = capped + 12582912.0f, r = capped - (shifted - 12582912.0f);
  const float scale = power_of_two(bit_cast<int32_t>(shifted));
  return scale * (exp2_growth(r) * r) + (scale - less);
}

// 2^x. If x is above 127.5, the result may be infinite or NaN. On a GPU its error is 2e-7.
BFN_HD float exp2_fast(float x) {
#if defined(__CUDA_ARCH__)
  return exp2_term(x);
#else
  return exp2_less(x, 0.0f);
#endif
}

// e^x - 1 for x < 88
BFN_HD float expm1(float x) {
  const ReducedExp e = reduced_exp(clamp(x, -80.0f, 88.0f));
  const float scale = power_of_two(e.bits);
  return scale * e.excess + (scale - 1.0f);
}

// e^x and e^x - 1, by one reduction.
template <class T>
struct ExpAndExpm1 {
  T exp, expm1;
};

// Below x = -87, both are up to e^-87 too large. Above x = 88, e^x is infinite, but e^x - 1 is e^88 - 1.
BFN_HD ExpAndExpm1<float> exp_and_expm1(float x) {
  const ReducedExp e = reduced_exp(clamp(x, -87.0f, 88.0f));
  const float scale = power_of_two(e.bits);
  const float value = x > 88.0f ? std::numeric_limits<float>::infinity() : scale * (1.0f + e.excess);
  return {value, scale * e.excess + (scale - 1.0f)};
}

// ln(1 + f) - f for 1 + f in [sqrt 1/2, sqrt 2). The error is 8e-10.
BFN_HD float log1p_bend(float f) {
  float q = 0.067466386f;
  q = q * f - 0.11675651f;
  q = q * f + 0.11888163f;
  q = q * f - 0.12405589f;
  q = q * f + 0.14219552f;
  q = q * f - 0.16667996f;
  q = q * f + 0.20002119f;
  q = q * f - 0.25000009f;
  q = q * f + 0.33333313f;
  return f * f * (f * q - 0.5f);
}

// ln(1 + x) for x in [0, 1]. It does not round 1 + x.
BFN_HD float log1p_of_unit(float x) {
  const bool upper = x > 0.41421356f;
  const float f = upper ? 0.5f * x - 0.5f : x;  // 1 + x is 2 (1 + f) or 1 + f
  return f + ((upper ? -2.12194440e-4f : 0.0f) + log1p_bend(f)) + (upper ? 0.693359375f : 0.0f);
}

// ln(2^scale x) for x that is positive, finite and not subnormal. The error is 8e-10.
BFN_HD float log_normal(float x, int32_t scale = 0) {
  constexpr int32_t kLeast = 0x3f3504f3;  // the mantissa lies in [sqrt 1/2, sqrt 2)
  const int32_t bits = bit_cast<int32_t>(x) - kLeast, exponent = bits >> 23;
  const float f = bit_cast<float>((bits & 0x7fffff) + kLeast) - 1.0f;
  const float e = static_cast<float>(exponent + scale);
  return f + (e * -2.12194440e-4f + log1p_bend(f)) + e * 0.693359375f;
}

BFN_HD float log(float x) {
  const bool subnormal = x < 1.17549435e-38f;
  const float value = log_normal(subnormal ? x * 8388608.0f : x, subnormal ? -23 : 0);
  const float infinity = std::numeric_limits<float>::infinity();
  const float edge = x == 0.0f ? -infinity : (x > 0.0f ? x : std::numeric_limits<float>::quiet_NaN());
  return x > 0.0f && x < infinity ? value : edge;
}

// log2(x) for x that is positive, finite and not subnormal. On a GPU its error is 2e-7, or two units in the last place.
BFN_HD float log2_normal(float x) {
#if defined(__CUDA_ARCH__)
  float y;
  asm("lg2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
#else
  return log_normal(x) * 1.44269504f;
#endif
}

// ln(1 + x) for x > -1. ln of the rounded 1 + x is multiplied by the ratio of x and (1 + x) - 1, which corrects the
// rounding (Kahan).
BFN_HD float log1p(float x) {
  const float one_plus = 1.0f + x, rounding = one_plus - 1.0f, value = log(one_plus);
  const float corrected = value * (x / rounding), small = rounding == 0.0f ? x : corrected;
  return x > 1e8f ? value : small;
}

// -x if the top bit of `top_bit` is set, else x. It has no branch, so that compilers vectorise it.
BFN_HD float flip_sign(float x, uint32_t top_bit) {
  return bit_cast<float>(bit_cast<uint32_t>(x) ^ (top_bit & 0x80000000u));
}

// sin and cos of pi v for v in [-1, 1]; the error is 3e-9.
BFN_HD void sincospi(float v, float& sine, float& cosine) {
  const float shifted = 2.0f * v + 12582912.0f, q = shifted - 12582912.0f;
  const float x = v - 0.5f * q, z = x * x;
  const float s = x * (3.1415926439f + z * (-5.1677078291f + z * (2.5497672981f - z * 0.5890786556f)));
  const float c = 1.0f + z * (-4.9348021734f + z * (4.0587079045f + z * (-1.3350584645f + z * 0.2314295473f)));
  const uint32_t quadrant = bit_cast<uint32_t>(shifted);  // its two lowest bits are the quadrant
  const bool swap = quadrant & 1;
  sine = flip_sign(swap ? c : s, quadrant << 30);
  cosine = flip_sign(swap ? s : c, (quadrant + 1) << 30);
}

BFN_HD double exp(double x) { return ::exp(x); }
BFN_HD double exp_normal(double x) { return ::exp(x); }
BFN_HD double exp_term(double x) { return ::exp(x); }
BFN_HD double exp2_term(double x) { return ::exp2(x); }
BFN_HD double exp2_less(double x, double less) { return less > 0 ? ::expm1(x * kLogOfTwo) : ::exp2(x); }
BFN_HD double exp2_fast(double x) { return ::exp2(x); }
BFN_HD double log(double x) { return ::log(x); }
BFN_HD double log_normal(double x) { return ::log(x); }
BFN_HD double log2_normal(double x) { return ::log2(x); }
BFN_HD double log1p(double x) { return ::log1p(x); }
BFN_HD double log1p_of_unit(double x) { return ::log1p(x); }
BFN_HD double expm1(double x) { return ::expm1(x); }

// It has no branches, so that compilers vectorise it. With |r| <= ln 2 / 2, the first omitted term of the series of
// e^r - 1 is 1.2e-17 of the sum. 2^n is the product of two factors, so that only results out of range overflow or lose
// digits.
BFN_HD ExpAndExpm1<double> exp_and_expm1(double x) {
#if defined(__CUDA_ARCH__)
  return {::exp(x), ::expm1(x)};
#else
  constexpr double kRounds = 6755399441055744.0;  // numbers added to it are rounded to integers in the low bits
  const double capped = clamp(x, -746.0, 710.0);
  const double shifted = capped * 1.44269504088896340736 + kRounds, n = shifted - kRounds;
  const double r = capped - n * 6.93147180369123816490e-01 - n * 1.90821492927058770002e-10;
  double q = 1 / 6227020800.0;  // 1/13!
  q = q * r + 1 / 479001600.0;
  q = q * r + 1 / 39916800.0;
  q = q * r + 1 / 3628800.0;
  q = q * r + 1 / 362880.0;
  q = q * r + 1 / 40320.0;
  q = q * r + 1 / 5040.0;
  q = q * r + 1 / 720.0;
  q = q * r + 1 / 120.0;
  q = q * r + 1 / 24.0;
  q = q * r + 1 / 6.0;
  q = q * r + 1 / 2.0;
  const double excess = r + r * r * q;
  const int64_t bits = bit_cast<int64_t>(shifted), half = bit_cast<int64_t>(n * 0.5 + kRounds);
  const double first = power_of_two(half), rest = power_of_two(bits - half);
  return {(1 + excess) * first * rest, (first * excess + (first - power_of_two(half - bits))) * rest};
#endif
}
BFN_HD void sincospi(double v, double& sine, double& cosine) {
#if defined(__CUDA_ARCH__)
  ::sincospi(v, &sine, &cosine);
#else
  sine = ::sin(kPi * v);
  cosine = ::cos(kPi * v);
#endif
}

// 1/x for x >= 1e-30. It is faster on a GPU than a division, which also handles smaller numbers.
BFN_HD float reciprocal(float x) {
#if defined(__CUDA_ARCH__)
  const float capped = at_most(x, 1e30f);
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(capped));
  return ::fmaf(y, ::fmaf(-capped, y, 1.0f), y);
#else
  return 1.0f / x;
#endif
}
BFN_HD double reciprocal(double x) { return 1 / x; }

// A std of 0, or near 0, becomes 1e-30, so that its reciprocal is finite. NaN stays NaN.
BFN_HD float at_least_tiny(float std) { return ::fabsf(std) < 1e-30f ? 1e-30f : std; }
BFN_HD double at_least_tiny(double std) { return std; }

// x/y, where `inverse` is reciprocal(y). The product x inverse alone would be rounded twice.
BFN_HD float quotient(float x, float y, [[maybe_unused]] float inverse) {
#if defined(__CUDA_ARCH__)
  const float q = x * inverse;
  return ::fabsf(q) < 1e30f && y < 1e30f ? ::fmaf(::fmaf(-q, y, x), inverse, q) : q;
#else
  return x / y;
#endif
}
BFN_HD double quotient(double x, double y, double) { return x / y; }

// sqrt(x) for x that is 0 or above 1e-37. On a GPU its error is a unit in the last place, and it takes one instruction
// instead of seven.
BFN_HD float sqrt_normal(float x) {
#if defined(__CUDA_ARCH__)
  float y;
  asm("sqrt.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
#else
  return ::sqrtf(x);
#endif
}
BFN_HD double sqrt_normal(double x) { return ::sqrt(x); }

// 1/sqrt(x) for x above 1e-37. On a GPU its error is two units in the last place.
BFN_HD float inverse_sqrt(float x) {
#if defined(__CUDA_ARCH__)
  float y;
  asm("rsqrt.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
#else
  return 1.0f / ::sqrtf(x);
#endif
}
BFN_HD double inverse_sqrt(double x) { return 1 / ::sqrt(x); }

BFN_HD float sqrt(float x) { return ::sqrtf(x); }
BFN_HD double sqrt(double x) { return ::sqrt(x); }
BFN_HD float floor(float x) { return ::floorf(x); }
BFN_HD double floor(double x) { return ::floor(x); }
BFN_HD float abs(float x) { return ::fabsf(x); }
BFN_HD double abs(double x) { return ::fabs(x); }

// ln(1 + e^x)
template <class T>
BFN_HD T softplus(T x) {
  return (x > T(0) ? x : T(0)) + log1p(exp(-abs(x)));
}

// softplus(before) - softplus(after), where after = before + drift. If both are above 0, the result contains the drift
// itself. So the drift counts even if `before` is so large, or infinite, that before + drift rounds to `before`.
template <class T>
BFN_HD T softplus_fall(T before, T after, T drift) {
  const T fall = softplus(before) - softplus(after);
  return before > T(0) && after > T(0) ? softplus(-before) - softplus(-after) - drift : fall;
}

// a - b rounded, and what the rounding lost: the exact difference is value + lost.
template <class T>
struct Difference {
  T value, lost;
};

template <class T>
BFN_HD Difference<T> difference_of(T a, T b) {
  const T value = a - b, back = value - a;
  return {value, (a - (value - back)) - (b + back)};
}

// exp(a - b) for a <= b, as a term of a sum whose largest term is 1. A result below the normal range is 0. It corrects
// the rounding of a - b, which is most of the error if a and b are far apart.
BFN_HD float exp_difference(float a, float b) {
  const Difference<float> d = difference_of(a, b);
  const float value = exp_normal(d.value < -87.0f ? -87.0f : d.value);
  return d.value < -87.0f ? 0.0f : value + value * d.lost;
}

BFN_HD double exp_difference(double a, double b) {
  const Difference<double> d = difference_of(a, b);
  const double e = ::exp(d.value);
  return d.lost - d.lost == 0 ? e + e * d.lost : e;
}

template <class T>
BFN_HD T sigmoid(T x) {
  const T e = exp(-abs(x));
  return (x > T(0) ? T(1) : e) / (1 + e);
}

}  // namespace bfn
