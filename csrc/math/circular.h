// Circular data. An angle is counted in turns: a turn is the whole circle. The state of a variable is a von Mises
// distribution with a mean and a concentration c. Its density is proportional to exp(c cos(2 pi (angle - mean))).
// docs/mathematics/circular.md derives the formulas.
#pragma once

#include "element_loss.h"
#include "philox.h"

namespace bfn {

constexpr uint32_t kMostCalls = 16;  // of Philox after a first proposal; a draw needs more with a probability of 1e-24

// `turns` minus an integer, in [-1/2, 1/2). The result is 0 if |turns| is at least kMostTurns, where a float has few
// digits after the point. If a compiler fused the subtraction with the product that gave such `turns`, `rest` would be
// the rounding error of this product.
constexpr double kMostTurns = 4194304;
template <class T>
BFN_HD T wrapped(T turns) {
  const T rest = turns - floor(turns + T(0.5));
  return abs(turns) >= T(kMostTurns) ? 0 * turns : rest;  // NaN if `turns` is infinite
}

// The vector (x, y). `larger` is the larger of |x| and |y|, and `steep` says whether it is |y|. `ratio` is the smaller
// one divided by the larger one, and 0 if both are 0.
template <class T>
struct Vector {
  T y, x, larger, ratio;
  bool steep;

  BFN_HD Vector(T y, T x) : y(y), x(x), steep(abs(y) > abs(x)) {
    const T across = abs(x), along = abs(y), smaller = steep ? across : along;
    larger = steep ? along : across;
    ratio = smaller + larger == T(0) ? T(0) : smaller / larger;
  }
  // The square root of x^2 + y^2. The squares of x and y are not computed, since they may overflow or underflow.
  BFN_HD T length() const { return larger * sqrt(fused(ratio, ratio, T(1))); }
};

// atan2(y, x) / (2 pi). In float it is a polynomial, whose relative error is 1.6e-8.
BFN_HD float turns_of(Vector<float> v) {
  const float t = v.ratio, s = t * t;
  float p = 0.00045357359f;
  p = p * s - 0.0025573994f;
  p = p * s + 0.0067945621f;
  p = p * s - 0.011943451f;
  p = p * s + 0.016935570f;
  p = p * s - 0.022605801f;
  p = p * s + 0.031819243f;
  p = p * s - 0.053051233f;
  p = p * s + 0.15915494f;
  const float acute = v.steep ? 0.25f - t * p : t * p;
  return flip_sign(v.x < 0.0f ? 0.5f - acute : acute, bit_cast<uint32_t>(v.y));
}
BFN_HD double turns_of(Vector<double> v) { return ::atan2(v.y, v.x) / (2 * kPi); }

// A proposal for an angle, in turns. It is accepted with the probability height / (256 most).
template <class T>
struct Proposal {
  T turns, height;
};

// The uniform numbers that go on with a draw. `accepting` in (0, 256] decides whether the last proposal is accepted.
// `signed_unit` in [-1, 1] makes the next proposal. If `bound` accepts the next proposal, every number that may follow
// accepts it.
template <class T>
struct AngleUniforms {
  T accepting, signed_unit, bound;
};

// The number that makes the proposal of a word. Its sign is the sign of the angle.
BFN_HD float magnitude_of(uint32_t word) {
  return static_cast<float>(static_cast<int32_t>(word & 0x7fffffffu)) * 0x1p-31f + 0x1p-32f;
}
BFN_HD float signed_unit_of(uint32_t word) { return word >> 31 ? -magnitude_of(word) : magnitude_of(word); }
// The lowest byte of a word has the first digits of the number that decides whether its proposal is accepted.
template <class T>
BFN_HD T bound_of(uint32_t word) {
  return static_cast<T>(static_cast<int32_t>(word & 255) + 1);
}

// Makes the numbers after the first proposal of variable `index`, which was made from `word`. Each call of Philox makes
// two words: the other digits of `accepting`, and the word of the next proposal.
template <class T>
struct SeededAngle {
  uint64_t seed, index;
  uint32_t word;

  BFN_HD AngleUniforms<T> operator()(int64_t call) {
    const Words w = philox(seed, index, kAngle, static_cast<uint32_t>(call));
    const T accepting = static_cast<T>(static_cast<float>(static_cast<int32_t>(word & 255)) + unit(w.w0));
    word = w.w1;
    return {accepting, static_cast<T>(signed_unit_of(word)), bound_of<T>(word)};
  }
};

// Explicit numbers. Of the numbers of a variable, number 2 j in [-1, 1] makes proposal j, and number 2 j + 1 in (0, 1]
// decides whether it is accepted. 0 cannot make a proposal.
template <class T>
BFN_HD T given_unit(T number) {
  const T magnitude = clamp(abs(number), T(0x1p-32), T(1));
  return number < T(0) ? -magnitude : magnitude;
}
template <class T>
BFN_HD T given_bound(T number) {
  return -floor(-256 * number);
}

// Makes the numbers after the first proposal from explicit numbers. `number(n)` reads number n of the variable.
template <class T, class F>
struct GivenAngle {
  const F& number;

  BFN_HD AngleUniforms<T> operator()(int64_t call) const {
    return {256 * number(2 * call - 1), given_unit(number(2 * call)), given_bound(number(2 * call + 1))};
  }
};

// Draws angles of a von Mises distribution with mean 0 by rejection. A proposal is nearly the inverse of the
// distribution function at a uniform number, so that at least 0.97 of the proposals are accepted.
// docs/mathematics/circular.md derives the numbers.
template <class T>
struct VonMises {
  T concentration, root, floor, level, slope, bend, twist, most;

  BFN_HD explicit VonMises(T concentration) : concentration(concentration) {
    root = inverse_sqrt(fused(concentration, T(1.118568), T(1)));
    floor = exp2_fast(fused(concentration, T(-5.87465), T(0.796368)));
    const T y = root * root;
    level = fused(y, fused(y, fused(y, T(-1.252895), T(1.506369)), T(-0.04524343)), T(0.2613091));
    slope = fused(y, fused(y, fused(y, T(1.024374), T(-0.9508318)), T(0.09092092)), T(-0.04648427));
    bend = fused(y, fused(y, fused(y, T(-0.3393529), T(0.2617459)), T(-0.03776879)), T(0.002590393));
    twist = fused(y, fused(y, fused(y, T(0.05602016), T(-0.02412379)), T(0.003837047)), T(-0.0001992815));
    most = fused(y, fused(y, fused(y, T(-0.0014857), T(0.00235564)), T(0.000278721)), T(0.000849015));
  }
  BFN_HD Proposal<T> propose(T signed_unit) const { return propose(abs(signed_unit), signed_unit < T(0)); }
  BFN_HD Proposal<T> propose(T q, bool negative) const {
    const T v = 1 - q, edge = q * (1 + v), squares = fused(edge, edge, floor);
    const T inverse = inverse_sqrt(squares), w = log2_normal(fused(squares, inverse, edge));
    const T upper = fused(twist, w, bend), middle = fused(upper, w, slope), value = fused(middle, w, level);
    const T by_w = fused(fused(twist, w, upper), w, middle);
    const T turns = v * root * value, fall = T(2 / kLogOfTwo) * inverse, s = turns * turns;
    T p = T(-9.62632377);  // s p is 2 log2(e) sin^2(pi turns), with a relative error of 1.4e-8
    p = fused(p, s, T(37.6172964));
    p = fused(p, s, T(-86.8461322));
    p = fused(p, s, T(123.283863));
    p = fused(p, s, T(-93.6876424));
    p = fused(p, s, T(28.4776583));
    const T height = fused(-by_w, fused(-edge, fall, fall), value) * exp2_fast(-(concentration * s) * p);
    return {negative ? -turns : turns, abs(turns) > T(0.5) ? T(0) : height};
  }
  // NaN is accepted, so that the loop ends.
  BFN_HD bool accepts(const Proposal<T>& proposal, T uniform) const { return !(uniform * most > proposal.height); }
  // Whether bound_of(word) accepts the proposal. It takes one instruction less.
  BFN_HD bool surely_accepts(const Proposal<T>& proposal, uint32_t word) const {
    return !(fused(static_cast<T>(static_cast<int32_t>(word & 255)), most, most) > proposal.height);
  }
  // Returns the angle of a variable whose first proposal is undecided. `more(call)` makes the numbers of each further
  // call. The proposal of the last call is accepted in any case.
  template <class F>
  BFN_HD T draw(Proposal<T> proposal, int64_t calls, F&& more) const {
    for (int64_t call = 1; call <= calls; ++call) {
      const AngleUniforms<T> uniforms = more(call);
      if (accepts(proposal, uniforms.accepting)) break;
      proposal = propose(uniforms.signed_unit);
      if (accepts(proposal, uniforms.bound)) break;
    }
    return proposal.turns;
  }
};

// The concentration that a normal number draws from a row of the table, NaN if there is no such row. Number i of a row
// is the concentration that the number z = kTableEnd (2 i / (kQuantiles - 1) - 1) draws.
constexpr int kQuantiles = 256;
constexpr float kTableEnd = 6;

// A place in a row of the table as an index. NaN is 0; a GPU converts NaN to 0 without a comparison in float.
template <class T>
BFN_HD int32_t index_of(T place) {
#if defined(__CUDA_ARCH__)
  if constexpr (sizeof(T) == sizeof(float)) return static_cast<int32_t>(place);
#endif
  return static_cast<int32_t>(place > T(0) ? place : T(0));
}

template <class T>
BFN_HD T quantile_of(const float* table, int64_t rows, T row, T normal) {
  const bool inside = row >= T(0) && row < static_cast<T>(rows);
  constexpr T kMost = T(kQuantiles - 1 - 0x1p-16);  // the largest float below the last place
  const T place = clamp((normal + T(kTableEnd)) * T((kQuantiles - 1) / (2 * kTableEnd)), T(0), kMost);
  const int32_t below = index_of(place);
  const float* const at = table + (inside ? static_cast<int32_t>(row) : 0) * int64_t{kQuantiles} + below;
  const T low = static_cast<T>(at[0]), high = static_cast<T>(at[1]);
  return inside ? fused(place - static_cast<T>(below), high - low, low) : kNaN<T>;
}

// The logarithm of a concentration, scaled to [-1, 1].
template <class T>
BFN_HD T scaled_log(T concentration, double least, double factor) {
  return clamp((log(concentration) - static_cast<T>(least)) * static_cast<T>(factor) - 1, T(-1), T(1));
}

// Adds a message of accuracy alpha at the angle y to a state: c' exp(2 pi i mean') = c exp(2 pi i mean) +
// alpha exp(2 pi i y). If c is negative, both results are NaN.
template <class T>
BFN_HD void add_message(T& mean, T& concentration, T y, T alpha) {
  T sine, cosine;
  sincospi(2 * wrapped(y - mean), sine, cosine);
  const T before = concentration >= T(0) ? concentration : kNaN<T>;
  const Vector<T> sum(alpha * sine, fused(alpha, cosine, before));  // relative to the mean
  mean = wrapped(mean + turns_of(sum));
  concentration = sum.length();
}

// `scaled` is I_0(k) exp(-k), and `fall` is 1 - I_1(k) / I_0(k), for k >= 0. They are means over an angle u, computed
// by the midpoint rule in psi, where sin(u / 2) = stretch sin(psi). The stretch keeps the exponent above -kLeast. The
// relative errors of the rule are below 2e-9 and 5e-8 in float, and below 3e-14 in double.
template <class T>
struct Bessel {
  T scaled, fall;

  BFN_HD explicit Bessel(T k) {
    constexpr bool kWide = sizeof(T) == sizeof(double);
    constexpr int kNodes = kWide ? 20 : 12;
    constexpr double kLeast = kWide ? 36 : 20;
    const T power = (2 * k > T(kLeast) ? T(kLeast) : 2 * k) * T(-1 / kLogOfTwo);  // NaN stays NaN
    const T square = 2 * k > T(kLeast) ? T(kLeast) / (2 * k) : T(1);              // stretch^2
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
      const T e = exp2_fast(power * q) * (cosine * inverse_sqrt(1 - square * q));
      sum += e;
      weighted += q * e;
    }
    scaled = sqrt(square) * sum * T(1.0 / kNodes);
    fall = 2 * square * (weighted / sum);
  }
};

// The cost of d, the angle from the prediction to x. kCosine is weight (1 - cos d), and kSquare is weight d^2 for d in
// radians. kDensity is -ln of the von Mises density of x, whose concentration is the weight. A negative one costs NaN.
enum CircularCost : int { kCosine, kSquare, kDensity };

struct CircularLoss : AnyLoss {
  static constexpr Input kInputs[] = {Input{"x", kData}, Input{"prediction", kData, kSlope},
                                      Input{"weight", kData, kSlope, 0, kDensity, kRow}, Input{"cost", kInteger},
                                      Input{"period", kNumber}};
  static constexpr int kVariants = 3, kBlocksInDouble = 1;
  static constexpr auto variant = [](const auto*, const double* numbers) { return static_cast<int>(numbers[0]); };
  static Limits limits(int cost, const double*) { return cost == kDensity ? Limits{"concentration", 2, 0} : Limits{}; }
  template <class T, int kCost>
  struct Term {
    T per_unit, log_period;

    explicit Term(const double* numbers)
        : per_unit(static_cast<T>(1 / numbers[1])), log_period(static_cast<T>(std::log(numbers[1]))) {}
    BFN_HD LossTerm<T, 2> operator()(T scale, T x, T prediction, T weight) const {
      const T turns = wrapped(per_unit * (x - prediction)), by_turns = scale * per_unit;
      if constexpr (kCost == kSquare) {
        const T d = T(2 * kPi) * turns;
        return {weight * (d * d), {by_turns * (T(-4 * kPi) * weight * d), scale * (d * d)}};
      }
      T sine, cosine;
      sincospi(turns, sine, cosine);
      const T w = kCost == kCosine || weight >= T(0) ? weight : kNaN<T>, distance = 2 * sine * sine;
      const T loss = w * distance, slope = by_turns * (T(-4 * kPi) * w * sine * cosine);
      if constexpr (kCost == kCosine) return {loss, {slope, scale * distance}};
      const Bessel<T> bessel(w);
      return {loss + (log(bessel.scaled) + log_period), {slope, scale * (distance - bessel.fall)}};
    }
  };
};

#define BFN_CIRCULAR_LOSSES(X) X(circular_loss, CircularLoss)

}  // namespace bfn
