// Circular data. An angle is counted in turns: 1 is the whole circle. The state of a variable is a von Mises
// distribution with a mean and a concentration c, whose density is proportional to exp(c cos(angle - mean)). Formulas
// are derived in docs/mathematics/circular.md.
#pragma once

#include "philox.h"

namespace bfn {

// The most calls of Philox for a draw, each of which makes two attempts. More are needed with a probability of 2e-15.
constexpr uint32_t kMostCalls = 16;

// The turns in [-1/2, 1/2) that differ from `turns` by an integer. Beyond kMostTurns, where float has few digits left,
// they are 0. There a compiler that fuses the subtraction with a product before it would leave the product's rounding
// error.
constexpr double kMostTurns = 4194304;

template <class T>
BFN_HD T wrapped(T turns) {
  const T rest = turns - floor(turns + T(0.5));
  return abs(turns) >= T(kMostTurns) ? 0 * turns : rest;  // NaN if `turns` is infinite
}

// atan2(y, x) / (2 pi). The polynomial's error is 1.6e-8 of the result.
BFN_HD float turns_of(float y, float x) {
  const float across = abs(x), along = abs(y);
  const bool steep = along > across;
  const float larger = steep ? along : across, smaller = steep ? across : along;
  const float t = smaller + larger == 0.0f ? 0.0f : smaller / larger, s = t * t;
  float p = 0.00045357359f;
  p = p * s - 0.0025573994f;
  p = p * s + 0.0067945621f;
  p = p * s - 0.011943451f;
  p = p * s + 0.016935570f;
  p = p * s - 0.022605801f;
  p = p * s + 0.031819243f;
  p = p * s - 0.053051233f;
  p = p * s + 0.15915494f;
  const float acute = steep ? 0.25f - t * p : t * p;
  return flip_sign(x < 0.0f ? 0.5f - acute : acute, bit_cast<uint32_t>(y));
}
BFN_HD double turns_of(double y, double x) { return ::atan2(y, x) / (2 * kPi); }

// Draws angles of a von Mises distribution with mean 0 by the rejection of Best and Fisher (1979), written for half of
// the angle, so that no digits cancel at any concentration. A proposal is the angle 2 atan(root tan(pi v)) of a wrapped
// Cauchy distribution. With s the squared sine of its half, and c = least + twice s, it is accepted with the
// probability c exp(1 - c).
template <class T>
struct VonMises {
  T root, least, twice;

  // The concentration is cut at 1e18, where an angle is too small to change another one.
  BFN_HD explicit VonMises(T concentration) {
    const T k = clamp(concentration, T(0), T(1e18)), grown = sqrt(fused(4 * k, k, T(1))) + 2 * k;
    twice = 2 * k;
    least = T(0.5) + T(0.5) / grown;
    root = sqrt(2 * least / (1 + grown));
  }
  // Makes one attempt. Returns whether it is accepted. A concentration that is NaN gives NaN.
  BFN_HD bool attempt(uint32_t angle, uint32_t height, T& turns) const {
    T sine, cosine;
    sincospi(static_cast<T>(static_cast<float>(static_cast<int32_t>(angle)) * 0x1p-32f), sine, cosine);
    const T y = root * sine, yy = y * y, c = fused(twice, yy / fused(cosine, cosine, yy), least);
    turns = 2 * turns_of(y, cosine);
    return !(static_cast<T>(unit(height)) > c * exp_normal(clamp(1 - c, T(-87), T(1))));
  }
  // Makes the attempts of Philox's counter `index` from call `call` on. Returns the first accepted angle in turns.
  BFN_HD T draw(uint64_t seed, uint64_t index, uint32_t call) const {
    T turns = 0;
    for (; call < kMostCalls; ++call) {
      const Words w = philox(seed, index, kAngle, call);
      if (attempt(w.w0, w.w1, turns) || attempt(w.w2, w.w3, turns)) break;
    }
    return turns;
  }
};

// The law of the concentration after some messages, as quantiles: number i belongs to the normal number
// z = kTableEnd (2 i / (kQuantiles - 1) - 1).
constexpr int kQuantiles = 256;
constexpr float kTableEnd = 6;

// The concentration that a normal draws of a row of the table, which has `rows` rows. It is NaN for another row.
template <class T>
BFN_HD T quantile_of(const float* table, int64_t rows, T row, T normal) {
  const bool inside = row >= T(0) && row < static_cast<T>(rows);
  const T place = clamp((normal + T(kTableEnd)) * T((kQuantiles - 1) / (2 * kTableEnd)), T(0), T(kQuantiles - 1));
  const int32_t below = place < T(kQuantiles - 2) ? static_cast<int32_t>(place) : kQuantiles - 2;
  const float* const at = table + (inside ? static_cast<int32_t>(row) : 0) * int64_t{kQuantiles} + below;
  const T low = static_cast<T>(at[0]), high = static_cast<T>(at[1]);
  const T value = fused(place - static_cast<T>(below), high - low, low);
  return inside ? value : kNaN<T>;
}

// The angle x plus some turns, with the unit of the period.
template <class T>
BFN_HD T turned(T x, T turns, double period) {
  return static_cast<T>(period) * wrapped(fused(static_cast<T>(1 / period), x, turns));
}

// The logarithm of a concentration, scaled to [-1, 1].
template <class T>
BFN_HD T scaled_log(T concentration, T least, T factor) {
  return clamp((log(concentration) - least) * factor - 1, T(-1), T(1));
}

// A mean in turns and its concentration after a message of accuracy alpha at the angle y:
// c' exp(i mean') = c exp(i mean) + alpha exp(i y).
template <class T>
struct CircularState {
  T turns, concentration;

  BFN_HD void update(T y, T alpha) {
    T sine, cosine;
    sincospi(2 * wrapped(y - turns), sine, cosine);
    const T across = fused(alpha, cosine, concentration), along = alpha * sine;
    turns = wrapped(turns + turns_of(along, across));
    concentration = sqrt(fused(across, across, along * along));
  }
};

// A loss of one variable, and its derivatives by the prediction in turns and by the weight.
template <class T>
struct CircularTerm {
  T value, by_turns, by_weight;
};

// weight (1 - cos d), where d is the angle from the prediction to x. The divergence of two von Mises distributions of
// accuracy alpha has the weight alpha I_1(alpha) / I_0(alpha).
template <class T>
BFN_HD CircularTerm<T> cosine_loss(T turns, T weight) {
  T sine, cosine;
  sincospi(wrapped(turns), sine, cosine);
  const T distance = 2 * sine * sine;
  return {weight * distance, T(-4 * kPi) * weight * sine * cosine, distance};
}

// weight d^2
template <class T>
BFN_HD CircularTerm<T> squared_angle(T turns, T weight) {
  const T d = T(2 * kPi) * wrapped(turns);
  return {weight * (d * d), T(-4 * kPi) * weight * d, d * d};
}

// I_0(k) exp(-k), and 1 - I_1(k) / I_0(k), for k >= 0. They are means of exp(-k (1 - cos u)) and of 1 - cos u over the
// circle, by the midpoint rule in the angle psi with sin(u / 2) = stretch sin(psi). The stretch keeps the exponent
// above -kLeast. The relative errors of the rule are below 2e-9 and 5e-8 in float, and below 3e-14 in double.
template <class T>
struct Bessel {
  T scaled, fall;

  BFN_HD explicit Bessel(T k) {
    constexpr bool kWide = sizeof(T) == sizeof(double);
    constexpr int kNodes = kWide ? 20 : 12;
    constexpr double kLeast = kWide ? 36 : 20;
    const T exponent = 2 * k < T(kLeast) ? 2 * k : T(kLeast);
    const T square = 2 * k > T(kLeast) ? T(kLeast) / (2 * k) : T(1);  // of the stretch
    T sum = 0, weighted = 0;
#if defined(__CUDA_ARCH__)
#pragma unroll
#elif defined(__GNUC__) && !defined(__CUDACC__)
#pragma GCC unroll 20
#endif
    for (int node = 0; node < kNodes; ++node) {
      T sine, cosine;
      sincospi(static_cast<T>(node + 0.5) * T(0.5 / kNodes), sine, cosine);
      const T q = sine * sine;
      const T e = exp_normal(-exponent * q) * (cosine / sqrt(1 - square * q));
      sum += e;
      weighted += q * e;
    }
    scaled = sqrt(square) * sum * T(1.0 / kNodes);
    fall = 2 * square * (weighted / sum);
  }
};

// -ln of the von Mises density at a distance of `turns` from its mean, per unit of the period. A concentration below 0
// gives NaN.
template <class T>
BFN_HD CircularTerm<T> negative_log_density(T turns, T concentration, T log_period) {
  const T k = concentration >= T(0) ? concentration : kNaN<T>;
  const CircularTerm<T> at = cosine_loss(turns, k);
  const Bessel<T> bessel(k);
  return {at.value + (log(bessel.scaled) + log_period), at.by_turns, at.by_weight - bessel.fall};
}

}  // namespace bfn
