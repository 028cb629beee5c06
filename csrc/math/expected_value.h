// Numbers in parentheses are equations of Graves et al. 2023 (arXiv 2308.07037). [derived] marks formulas that are
// not in the paper.
//
// The output distribution has the expected value k = sum_i p_i c_i, where p_i is the probability of bin i, and c_i its
// centre. If the distribution is clipped, k is also a sum over the inner edges b_j. With z_j = (b_j - mean)/std and the
// width h = 2/K of a bin [derived]:
// k = (1 - 1/K) - h sum Phi(z_j), dk/dmean = (h/std) sum phi(z_j), dk/dstd = (h/std) sum z_j phi(z_j).
// The edges are a uniform grid, so that the sums can be computed at the same cost for every K.
#pragma once

#include "bins.h"
#include "normal.h"

namespace bfn {

// k = base + shift, and its derivatives by the mean and the std. Losses need x - k, which `error` computes without
// rounding k.
template <class T>
struct ExpectedValue {
  T base, shift, by_mean, by_std;

  BFN_HD T value() const { return base + shift; }
  BFN_HD T error(T x) const { return (x - base) - shift; }  // x - k
};

// L_inf = weight (x - k)^2. This is equation (101), in which k is the prediction. `slope` is the derivative by k.
template <class T>
struct SquaredError {
  T loss, slope;

  BFN_HD SquaredError(T weight, T error) : loss(weight * error * error), slope(-2 * weight * error) {}
};

// The rule by which the sums over the edges are computed in float. kFour adds the 4 edges nearest to the mean, and
// kNearEnd the 22 nearest. These include all edges within 6 std. If the first and the last edge are both farther than 6
// std from the mean, kInside computes the sums as if the edges went on forever. Otherwise kSmooth uses the
// Euler-Maclaurin formula. From wide_std on, the terms of this formula would cancel, so that kWide uses a series. In
// double, all edges are added, except for an unclipped distribution with a std of wide_std or more, which uses kWide.
enum class EdgeRule : int { kFour, kNearEnd, kInside, kSmooth, kWide };
constexpr int kEdgeRules = 5;

// How many edges one of the first two rules adds.
template <class T>
BFN_HD int64_t edges_added(EdgeRule rule, Bins<T> bins) {
  const int64_t most = rule == EdgeRule::kFour ? 4 : 22;
  return most < bins.count - 1 ? most : bins.count - 1;
}

// The least std for which kWide is used. The series is wide_sum if the distribution is clipped, and WideSeries
// otherwise.
template <class T>
BFN_HD T wide_std(Bins<T> bins) {
  return bins.clip ? T(4) : sizeof(T) == sizeof(double) ? T(2) : T(1);
}

// The limits of the rules. kInside is used where |mean| + 6 std is below `inside`. The other limits are stds: kFour is
// used below `beyond_four`, and kSmooth and kWide from `smooth` and from `wide` on.
template <class T>
struct EdgeRuleLimits {
  T inside, beyond_four, smooth, wide;

  BFN_HD explicit EdgeRuleLimits(Bins<T> bins)
      : inside(1 - bins.width()),
        beyond_four(bins.width() * T(1.0 / 3)),
        smooth(T(1.75) * bins.width()),
        wide(wide_std(bins)) {}

  // Calls f with the rule as a compile-time constant.
  template <class F>
  BFN_HD auto with_rule(T mean, T std, F&& f) const {
    if (std < beyond_four) return f(std::integral_constant<EdgeRule, EdgeRule::kFour>{});
    if (abs(mean) + 6 * std < inside) return f(std::integral_constant<EdgeRule, EdgeRule::kInside>{});
    if (std >= wide) return f(std::integral_constant<EdgeRule, EdgeRule::kWide>{});
    if (std >= smooth) return f(std::integral_constant<EdgeRule, EdgeRule::kSmooth>{});
    return f(std::integral_constant<EdgeRule, EdgeRule::kNearEnd>{});
  }

  BFN_HD EdgeRule rule(T mean, T std) const {
    return with_rule(mean, std, [](auto rule) { return decltype(rule)::value; });
  }
};

// The edges that a rule adds: those nearest to the mean. The inner edges are numbered from 1 to K - 1.
template <class T>
struct EdgeWindow {
  Origin<T> origin;
  T unit;   // 1/K in units of std
  T below;  // the number of inner edges left of the mean
  T first;  // the number of the window's first edge
};

// The number of inner edges left of the mean. bins.index rounds, so that it may give a bin next to the mean's bin. If
// the std is small, it matters on which side of an edge the mean lies. So the number is corrected by exact distances.
template <class T>
BFN_HD T edges_left_of(T mean, Bins<T> bins) {
  const Origin<T> origin = origin_of(mean, bins);
  const T bin = bins.index(mean), down = origin.to_edge(bin) > T(0) ? T(1) : T(0);
  const T up = origin.to_edge(bin + 1) < T(0) ? T(1) : T(0);
  return clamp(bin - down + up, T(0), bins.last());
}

template <class T>
BFN_HD EdgeWindow<T> edge_window(T mean, T std, int64_t count, Bins<T> bins) {
  const T reach = floor(bins.position(mean) - 3 * bins.real_count() * std) + 1;
  return {origin_of(mean, bins), 1 / (bins.real_count() * at_least_tiny(std)), edges_left_of(mean, bins),
          clamp(reach, T(1), bins.last() - static_cast<T>(count) + 1)};
}

// Adds the i-th edge of the window to three sums. `density` is the sum of phi(z), and `z_density` the sum of z phi(z).
// `shift` is minus a sum: of Phi(z) for an edge left of the mean, and of Phi(z) - 1 for an edge right of it, since
// `base` contains the 1.
template <class T>
BFN_HD void add_edge(EdgeWindow<T> window, T i, T& shift, T& density, T& z_density) {
  const T j = window.first + i, z = window.origin.to_edge(j) * window.unit;
  const Tail<T> t = tail(abs(z));
  shift += j > window.below ? t.mass : -t.mass;
  density += t.density;
  z_density += z * t.density;
}

template <class T>
BFN_HD ExpectedValue<T> window_value(EdgeWindow<T> window, T shift, T density, T z_density, Bins<T> bins) {
  return {bins.centre(window.below), bins.width() * shift, 2 * window.unit * density, 2 * window.unit * z_density};
}

template <class T>
BFN_HD ExpectedValue<T> edge_sum(T mean, T std, int64_t count, Bins<T> bins) {
  const EdgeWindow<T> window = edge_window(mean, std, count, bins);
  T shift = 0, density = 0, z_density = 0;
  for (int64_t i = 0; i < count; ++i) add_edge(window, static_cast<T>(i), shift, density, z_density);
  return window_value(window, shift, density, z_density, bins);
}

// The rule kInside, for a std of h/3 or more: the sums over a grid of edges that has no ends. They are periodic in the
// mean. In their Fourier series [derived], term n has the factor q^(n^2) with q = exp(-2 (pi std/h)^2). So from n = 3
// on the terms are below 3e-9.
template <class T>
BFN_HD ExpectedValue<T> inside_sum(T mean, T std, Bins<T> bins) {
  const T steps = std * (T(0.5) * bins.real_count()), exponent = static_cast<T>(-2 * kPi * kPi / kLogOfTwo);
  const T q = exp2_term(exponent * steps * steps), q4 = square(square(q));
  T sine, cosine;  // of pi times the distance of the mean from the centre of its bin, in units of h/2
  sincospi(-origin_of(mean, bins).to_centre(bins.index(mean)), sine, cosine);
  return {mean, bins.width() * static_cast<T>(1 / kPi) * sine * (q4 * cosine - q),
          1 + 2 * (q4 * (2 * cosine * cosine - 1) - q * cosine),
          static_cast<T>(4 * kPi) * steps * sine * (q - 4 * q4 * cosine)};
}

// The Euler-Maclaurin terms at one end of the sums of Phi, phi and z phi. Half of Phi at the end is not included.
template <class T>
struct EndTerms {
  T cdf, density, z_density;
};

// The Euler-Maclaurin corrections for the step r = h/std: the sum over m = 1..4 of B_2m/(2m)! r^(2m-1) f^(2m-1)(z). The
// derivatives of phi are Hermite polynomials times phi. So the sum is a polynomial in w = (r z)^2, whose coefficients
// are polynomials in r^2. Both ends use the same coefficients.
template <class T>
struct EulerMaclaurin {
  T r, cdf[4], density[4];

  BFN_HD explicit EulerMaclaurin(T step) : r(step) {
    const T v = r * r;
    cdf[0] = T(1.0 / 12) + v * (T(1.0 / 720) + v * (T(1.0 / 10080) + v * T(1.0 / 80640)));
    cdf[1] = T(-1.0 / 720) + v * (T(-1.0 / 5040) + v * T(-1.0 / 26880));
    cdf[2] = T(1.0 / 30240) + v * T(1.0 / 80640);
    cdf[3] = T(-1.0 / 1209600);
    density[0] = T(1.0 / 12) + v * (T(1.0 / 240) + v * (T(1.0 / 2016) + v * T(1.0 / 11520)));
    density[1] = T(-1.0 / 720) + v * (T(-1.0 / 3024) + v * T(-1.0 / 11520));
    density[2] = T(1.0 / 30240) + v * T(1.0 / 57600);
    density[3] = T(-1.0 / 1209600);
  }

  // The terms at the last edge, divided by r. The terms at the first edge follow by symmetry.
  BFN_HD EndTerms<T> at(T z, T phi) const {
    const T zr = z * r, w = zr * zr;
    T c = cdf[3], d = density[3], slope = 7 * density[3];  // `slope` is the derivative of z d by z
    for (int k = 2; k >= 0; --k) {
      c = c * w + cdf[k];
      d = d * w + density[k];
      slope = slope * w + (2 * k + 1) * density[k];
    }
    const T inner = fused(-zr, d, T(0.5));
    return {phi * c, phi * inner, phi * (z * inner + r * slope)};
  }
};

// The rule kSmooth, for a std from 1.75h to wide_std. It computes k at |mean|, and gives it the sign of the mean. At a
// negative mean, Phi at the first edge could be near 1, and would have lost its digits.
template <class T>
BFN_HD ExpectedValue<T> smooth_sum(T mean, T std, Bins<T> bins) {
  const T h = bins.width(), unit = reciprocal(std), r = h * unit, sign = mean < T(0) ? T(-1) : T(1), m = abs(mean);
  // The distances of the mean from the first edge (`left`) and of the last edge from the mean (`right`), in units of
  // std. They are clamped where the density is almost 0. Otherwise w could be infinite, or the density subnormal.
  const T left = at_most((1 - h + m) * unit, T(10)), right = clamp((1 - h - m) * unit, T(-10), T(10));
  const bool beyond = right < T(0);  // the mean lies right of every edge
  const Tail<T> a = tail(left), c = tail(abs(right));
  const EulerMaclaurin<T> ends(r);
  const EndTerms<T> first = ends.at(left, a.density), last = ends.at(right, c.density);
  // base + shift is k with an integral in the place of the sum of Phi. `mass` and `fall` are the integrals of phi and
  // z phi. `ends_mass` is the sum of Phi at the first and at the last edge, minus 1 unless the mean is beyond.
  T base = beyond ? bins.centre(bins.last()) : m, shift = std * (a.integral - c.integral), fall = a.density - c.density;
  T mass = (beyond ? c.mass : 1 - c.mass) - a.mass, ends_mass = (beyond ? c.mass : -c.mass) + a.mass;
  const bool flat = left < T(1.15);  // all edges are so near to the mean that the differences of tails would cancel
  if (needed(flat)) {
    using Near = NearZero<T>;
    const T to_left = Near::mass(left), to_right = Near::mass(right);
    const T between = 4 * (1 - h) * m * unit * Near::integral_slope(left, right);
    base = flat ? T(0) : base;
    shift = flat ? between : shift;
    fall = flat ? fused(right, to_right, fused(-left, to_left, between * unit)) : fall;
    mass = flat ? to_left + to_right : mass;
    ends_mass = flat ? to_right - to_left : ends_mass;
  }
  shift = fused(-h, T(0.5) * ends_mass + r * (last.cdf - first.cdf), shift);
  const T by_mean = mass + r * (last.density + first.density);
  const T by_std = fall + r * (last.z_density - first.z_density);
  return {sign * base, sign * shift, by_mean, sign * by_std};
}

// The rule kWide of a clipped distribution: a Taylor series about the middle of the edges. With z = -mean/std and the
// moments m_p = sum of h b_j^p of the edges, k is minus the sum over even p of Phi^(p)(z)/p! m_p/std^p. In its first
// term Phi is replaced by Phi - 1/2.
template <class T>
BFN_HD ExpectedValue<T> wide_sum(T mean, T std, Bins<T> bins) {
  const T h = bins.width(), h2 = h * h, unit = reciprocal(std), z = -mean * unit, w = unit * unit;
  // The factors are constants, since a division would cost ten instructions of a GPU.
  const T edge_moments[4] = {2 - h, T(2.0 / 3) - h + h2 * T(1.0 / 3),
                             T(2.0 / 5) - h + h2 * (T(2.0 / 3) - h2 * T(1.0 / 15)),
                             T(2.0 / 7) - h + h2 * (1 - h2 * (T(1.0 / 3) - h2 * T(1.0 / 21)))};
  const Tail<T> t = tail(abs(z));
  const T far = clamp(z, T(-14), T(14));
  T value = 0, by_mean = edge_moments[0], by_std = edge_moments[0] * far, power = 1, before = far, he = far * far - 1;
  for (int n = 1; n < 4; ++n) {
    power *= w * (T(1) / static_cast<T>((2 * n - 1) * (2 * n)));
    value += power * edge_moments[n] * before;
    by_mean += power * edge_moments[n] * he;
    before = far * he - (2 * n) * before;
    by_std += power * edge_moments[n] * before;
    he = far * before - (2 * n + 1) * he;
  }
  const T inside = within(abs(z), t.mass), half = z < T(0) ? inside : -inside;
  return {edge_moments[0] * half, t.density * value, t.density * by_mean * unit, t.density * by_std * unit};
}

// The rule kWide of an unclipped distribution. Here k is a small difference divided by a small mass, in which digits
// would cancel. With z = mean/std, the density in [-1, 1] is proportional to exp(zx/std - x^2/2std^2), which is the sum
// over n of h_n x^n/n!, where h_n = He_n(z)/std^n. So k is a quotient [derived]. Its numerator is the sum over odd n of
// h_n bins_n, where bins_n = sum c_k (integral of x^n/n! over bin k). Its denominator is the sum over even n of h_n
// mass_n, where mass_n = (integral of x^n/n! over [-1, 1]).
template <class T>
struct WideSeries {
  // With so many terms, the error of either sum at wide_std is 1e-9 in float and 1e-16 in double.
  static constexpr int kTerms = 12;
  T bins[kTerms], mass[kTerms];

  // bins_n by the Euler-Maclaurin formula, which is exact for polynomials:
  // 2(n + 1)/(n + 2)! - 2 sum B_2m/(2m)! h^2m/(n + 2 - 2m)!
  BFN_HD explicit WideSeries(Bins<T> of) {
    const T bernoulli[kTerms] = {T(1.0 / 12),
                                 T(-1.0 / 720),
                                 T(1.0 / 30240),
                                 T(-1.0 / 1209600),
                                 T(1.0 / 47900160),
                                 T(-5.2841901386874932e-10),
                                 T(1.3382536530684679e-11),
                                 T(-3.3896802963225829e-13),
                                 T(8.5860620562778446e-15),
                                 T(-2.1748686985580619e-16),
                                 T(5.5090028283602295e-18),
                                 T(-1.3954464685812523e-19)};
    const T h2 = square(of.width());
    T inverse[2 * kTerms + 2] = {T(1)};  // 1/j!
    for (int j = 1; j < 2 * kTerms + 2; ++j) inverse[j] = inverse[j - 1] / static_cast<T>(j);
    for (int i = 0; i < kTerms; ++i) {
      T corrections = 0;
      for (int m = i; m >= 0; --m) corrections = h2 * (corrections + bernoulli[m] * inverse[2 * (i - m) + 1]);
      bins[i] = 2 * (static_cast<T>(2 * i + 2) * inverse[2 * i + 3] - corrections);
      mass[i] = 2 * inverse[2 * i + 1];
    }
  }

  // k is 0 if less than kTinyTotal of the mass lies in [-1, 1]. This holds for every std above 8e4.
  BFN_HD ExpectedValue<T> at(T mean, T std) const {
    const T unit = 1 / std, w = unit * unit, z = clamp(mean * unit, T(-6), T(6)), slope = z * unit;
    T before = 0, h = 1, last = 0;  // h_(n-1), h_n and h_(n-2)
    T above = 0, above_by_slope = 0, above_by_w = 0, below = 0, below_by_slope = 0, below_by_w = 0;
#if defined(__CUDA_ARCH__)
#pragma unroll
#elif defined(__GNUC__) && !defined(__CUDACC__)
#pragma GCC unroll 12
#endif
    for (int i = 0; i < kTerms; ++i) {
      const T n = static_cast<T>(2 * i), next = slope * h - n * w * before;
      below += mass[i] * h;
      below_by_slope += mass[i] * n * before;
      below_by_w += mass[i] * n * (n - 1) * last;
      above += bins[i] * next;
      above_by_slope += bins[i] * (n + 1) * h;
      above_by_w += bins[i] * (n + 1) * n * before;
      last = h;
      before = next;
      h = slope * next - (n + 1) * w * h;
    }
    const T inverse = 1 / below, k = above * inverse;
    const T by_slope = (above_by_slope - k * below_by_slope) * inverse;
    const T by_w = T(-0.5) * (above_by_w - k * below_by_w) * inverse;
    const bool tiny = tail(abs(z)).density * unit * below < kTinyTotal<T>;
    return {T(0), tiny ? T(0) : k, tiny ? T(0) : w * by_slope, tiny ? T(0) : -2 * unit * (slope * by_slope + w * by_w)};
  }
};

// Turns k of the clipped distribution at |mean| into k of the unclipped distribution. It subtracts what the mass beyond
// [-1, 1] adds to the end bins, and divides by the mass inside. k is 0 if less than kTinyTotal lies inside. If the mean
// lies inside, the difference of the two masses beyond is subtracted, so that little cancels. If the mean lies outside,
// k is computed as the centre of the last bin plus a small excess, in which nothing cancels.
template <class T>
BFN_HD ExpectedValue<T> renormalised(ExpectedValue<T> k, T mean, T std, Bins<T> bins) {
  std = at_least_tiny(std);
  const T sign = mean < T(0) ? T(-1) : T(1), m = abs(mean), last = bins.centre(bins.last());
  const T low = (-1 - m) / std, high = (1 - m) / std;
  const Tail<T> a = tail(-low), c = tail(abs(high));
  const T total = (high < T(0) ? c.mass : 1 - c.mass) - a.mass;
  const T excess = ((k.base - last) + k.shift + 2 * last * a.mass) / total;
  const T value = high < T(0) ? last + excess : (k.base + (k.shift + last * (a.mass - c.mass))) / total;
  const T by_mean = k.by_mean * std + excess * c.density - (value + last) * a.density;
  const T by_std = k.by_std * std + excess * high * c.density - (value + last) * low * a.density;
  const T scale = 1 / (total * std);
  if (total < kTinyTotal<T>) return {T(0), T(0), T(0), T(0)};
  return {T(0), sign * value, by_mean * scale, sign * by_std * scale};
}

template <class T>
BFN_HD ExpectedValue<T> clipped_value(T mean, T std, Bins<T> bins, EdgeRuleLimits<T> limits) {
  // In double all edges are added, so that finite differences do not see a step between two rules.
  if (sizeof(T) == sizeof(double)) return edge_sum(mean, std, bins.count - 1, bins);
  return limits.with_rule(mean, std, [&](auto rule) {
    constexpr EdgeRule kRule = decltype(rule)::value;
    if constexpr (kRule == EdgeRule::kInside) return inside_sum(mean, std, bins);
    if constexpr (kRule == EdgeRule::kSmooth) return smooth_sum(mean, std, bins);
    if constexpr (kRule == EdgeRule::kWide) return wide_sum(mean, std, bins);
    return edge_sum(mean, std, edges_added(kRule, bins), bins);
  });
}

template <class T>
BFN_HD_APART ExpectedValue<T> wide_unclipped_value(T mean, T std, Bins<T> bins) {
  return WideSeries<T>(bins).at(mean, std);
}

template <class T>
BFN_HD ExpectedValue<T> expected_value(T mean, T std, Bins<T> bins, EdgeRuleLimits<T> limits) {
  std = std_of_finite(mean, std);
  if (bins.clip) return clipped_value(mean, std, bins, limits);
  if (std >= limits.wide) return wide_unclipped_value(mean, std, bins);
  return renormalised(clipped_value(abs(mean), std, bins, limits), mean, std, bins);
}

template <class T>
BFN_HD ExpectedValue<T> expected_value(T mean, T std, Bins<T> bins) {
  return expected_value(mean, std, bins, EdgeRuleLimits<T>(bins));
}

}  // namespace bfn
