// ln p of a bin, its derivatives, and the likeliest bin. Numbers in parentheses are equations of Graves et al. 2023.
#pragma once

#include "bins.h"
#include "normal.h"

namespace bfn {

// Turns the derivatives of p by the edges `left` and `right`, in units of std, into derivatives by mean and std.
template <class T>
BFN_HD WithGradient<T> by_mean_and_std(LogInterval<T> p, T left, T right, T inverse_std) {
  return {p.value, -(p.by_left + p.by_right) * inverse_std, -(left * p.by_left + right * p.by_right) * inverse_std};
}

// The mass of a narrow bin: a Taylor series about the centre. z is the centre, relative to the mean, and d the width of
// the bin, both in units of std. The mass is d phi(z) total. Its derivatives by z and d are d phi(z) (tilt - z total)
// and phi(z) (total + growth).
template <class T>
struct NarrowBin {
  T series, total, tilt, growth;  // total = 1 + series

  BFN_HD NarrowBin(T z, T d) {
    const T z2 = z * z, d2 = d * d, quartic = z2 * z2 - 6 * z2 + 3;
    // These are constants, since a division would cost ten instructions of a GPU.
    const T by_12 = T(1.0 / 12), by_480 = T(1.0 / 480), fourth = d2 * quartic * by_480;
    series = d2 * (T(0.5) * by_12 * (z2 - 1) + T(0.25) * fourth);
    total = 1 + series;
    tilt = d2 * z * (by_12 + by_480 * d2 * (z2 - 3));
    growth = d2 * (by_12 * (z2 - 1) + fourth);
  }
  // Whether the series is used. It is then more accurate than scaled_interval, in which the terms of the two edges
  // cancel. The first term that the series leaves out is d^6 He_6(z)/322560, with He_6(z) = z^6 - 15 z^4 + 45 z^2 - 15.
  // The first term that `growth` leaves out is six times as large, d^6 He_6(z)/53760. In these regions, it is below
  // 4e-7 in float and below 5e-16 in double.
  BFN_HD static bool applies(T z, T d) {
    const bool is_float = sizeof(T) == sizeof(float);
    const T most = is_float ? T(0.3) : T(0.01), most_product = is_float ? T(0.5) : T(0.015);
    return (d < most) & (abs(z * d) < most_product);  // && would prevent vectorisation
  }
};

template <class T>
BFN_HD WithGradient<T> select(bool first, WithGradient<T> a, WithGradient<T> b) {
  return {first ? a.value : b.value, first ? a.by_mean : b.by_mean, first ? a.by_std : b.by_std};
}

// ln of the mass of a narrow bin. z and d are as in NarrowBin.
template <class T>
BFN_HD WithGradient<T> log_narrow_bin(T z, T d, T inverse_std) {
  const NarrowBin<T> bin(z, d);
  // ln(1 + s) and 1/(1 + s) as series in s, which lies between -0.004 and 0.011.
  const T s = bin.series, inverse = 1 - s * (1 - s * (1 - s * (1 - s)));
  const T log_total = s * (1 - s * (T(0.5) - s * (T(1.0 / 3) - s * T(0.25))));
  const T by_z = bin.tilt * inverse - z, by_d = 1 + bin.growth * inverse;  // by_d is the derivative by d, times d
  const T value = T(-0.5) * z * z - static_cast<T>(kLogTwoPi / 2) + log_normal(d) + log_total;
  return {value, -by_z * inverse_std, -(z * by_z + by_d) * inverse_std};
}

// ln of the mass of a bin that need not be narrow.
template <class T>
BFN_HD_APART WithGradient<T> log_wide_bin(T left, T right, T z, T d, T inverse_std) {
  return by_mean_and_std(log_interval(left, right, z, d), left, right, inverse_std);
}

// ln of the mass of a bin. z and d are as in NarrowBin. in_stds(distance) divides a distance by the std. It is called
// for the distances `left` and `right` from the mean to the edges, since z +- d/2 would lose digits of the nearer edge
// if the bin is wide. inverse_std is 1/std.
template <class T, class F>
BFN_HD WithGradient<T> log_inner_bin(T left, T right, T z, T d, T inverse_std, F&& in_stds) {
  const bool narrow = NarrowBin<T>::applies(z, d);
  WithGradient<T> p{};
  if (needed(!narrow)) p = log_wide_bin(in_stds(left), in_stds(right), z, d, inverse_std);
  if (needed(narrow)) p = select(narrow, log_narrow_bin(z, d, inverse_std), p);
  return p;
}

// The mass of a bin and its derivatives by mean and std, all divided by exp(-z^2/2), so that they do not underflow. z
// is the place of the bin, see BinPlace.
template <class T>
struct ScaledBin {
  T z, side;
  WithGradient<T> mass;
};

// The place z of a bin. For a narrow bin, it is the centre. For a wide bin, it is the point of the bin that is nearest
// to 0. `side` is -1 if z is the left edge, 1 if it is the right edge, and 0 otherwise.
template <class T>
struct BinPlace {
  T z, side;

  BFN_HD BinPlace(T left, T right, T middle, T width) {
    const bool above = left > T(0), below = right < T(0), narrow = NarrowBin<T>::applies(middle, width);
    z = narrow ? middle : above ? left : below ? right : T(0);
    side = narrow ? T(0) : above ? T(-1) : below ? T(1) : T(0);
  }
};

// The mass of a narrow bin, divided by exp(-z^2/2), and its derivatives, multiplied by std.
template <class T>
BFN_HD WithGradient<T> narrow_mass(T z, T d) {
  const NarrowBin<T> bin(z, d);
  const T scale = static_cast<T>(1 / kSqrtTwoPi) * d, by_z = z * bin.total - bin.tilt;
  return {scale * bin.total, scale * by_z, scale * (z * by_z - (bin.total + bin.growth))};
}

// The mass of the bin of log_inner_bin, scaled. If kNarrow is true, the bin must be narrow.
template <bool kNarrow, class T>
BFN_HD ScaledBin<T> scaled_inner_bin(T left, T right, T z, T d, T inverse_std) {
  WithGradient<T> mass = narrow_mass(z, d);
  if (kNarrow) return {z, T(0), {mass.value, mass.by_mean * inverse_std, mass.by_std * inverse_std}};
  const ScaledInterval<T> p = scaled_interval(left, right, z, d);
  const WithGradient<T> wide{p.front - p.lost, p.left - p.right, left * p.left - right * p.right};
  mass = select(NarrowBin<T>::applies(z, d), mass, wide);
  const BinPlace<T> at(left, right, z, d);
  return {at.z, at.side, {mass.value, mass.by_mean * inverse_std, mass.by_std * inverse_std}};
}

// ln of the mass in [-1, 1], computed as the mass of one wide bin.
template <class T>
BFN_HD WithGradient<T> log_total(T mean, T std) {
  std = at_least_tiny(std_of_finite(mean, std));
  const T inverse = reciprocal(std);
  const auto in_stds = [&](T distance) { return quotient(distance, std, inverse); };
  return log_inner_bin(-1 - mean, 1 - mean, in_stds(-mean), 2 * inverse, inverse, in_stds);
}

// ln of the mass of an end bin of a clipped distribution. z is the bin's inner edge, relative to the mean, in units of
// std. The last bin is computed as the mirror image of the first.
template <class T>
BFN_HD_APART WithGradient<T> log_end_bin(T z, bool first, T inverse_std) {
  const auto p = log_cdf(first ? z : -z);
  const T slope = (first ? -p.by_right : p.by_right) * inverse_std;
  return {p.value, slope, z * slope};
}

// The mass of the bin of log_end_bin, scaled. Its place is 0 if the bin contains 0, else its inner edge. `side` is 1
// for the first bin and -1 for the last, also where the place is 0.
template <class T>
BFN_HD ScaledBin<T> scaled_end_bin(T z, bool first, T inverse_std) {
  const T edge = first ? z : -z, side = first ? T(1) : T(-1);
  const T ratio = mills(abs(edge)), e = exp_term(T(-0.5) * edge * edge);
  const bool below = edge < T(0);
  const T density = -side * inverse_std * static_cast<T>(1 / kSqrtTwoPi) * (below ? T(1) : e);
  return {below ? z : T(0), side, {below ? ratio : 1 - e * ratio, density, z * density}};
}

// ln p of the bin with this index (107-109).
template <class T>
BFN_HD WithGradient<T> log_bin_prob(T index, T mean, T std, Bins<T> bins) {
  std = at_least_tiny(std);
  const Origin<T> origin = origin_of(mean, bins);
  const T scale = bins.real_count() * std, unit = reciprocal(scale), inverse_std = bins.real_count() * unit;
  const auto in_stds = [&](T distance) { return quotient(distance, scale, unit); };
  const bool first = index == T(0), at_end = bins.clip & (first | (index == bins.last()));
  WithGradient<T> p{};
  if (needed(!at_end)) {
    const T left = origin.to_edge(index), right = origin.to_edge(index + 1), z = in_stds(origin.to_centre(index));
    p = log_inner_bin(left, right, z, 2 * unit, inverse_std, in_stds);
  }
  if (needed(at_end)) {
    const T edge = in_stds(origin.to_edge(first ? T(1) : bins.last()));
    p = select(at_end, log_end_bin(edge, first, inverse_std), p);
  }
  if (bins.clip) return p;
  const auto total = log_total(mean, std);
  const WithGradient<T> share{p.value - total.value, p.by_mean - total.by_mean, p.by_std - total.by_std};
  return select(exp(total.value) < kTinyTotal<T>, {-log(bins.real_count()), T(0), T(0)}, share);
}

// The centre of the likeliest bin. The candidates are the bin of the mean, the first bin and the last bin, in this
// order. A later candidate wins only if it is strictly likelier. The paper does not define a mode.
template <class T>
BFN_HD T mode(T mean, T std, Bins<T> bins) {
  T best = bins.index(mean), best_log_p = log_bin_prob(best, mean, std, bins).value;
  const auto consider = [&](T bin) {
    const T log_p = log_bin_prob(bin, mean, std, bins).value;
    best = log_p > best_log_p ? bin : best;
    best_log_p = log_p > best_log_p ? log_p : best_log_p;
  };
  consider(T(0));
  consider(bins.last());
  return best_log_p == best_log_p ? bins.centre(best) : best_log_p;  // a probability of NaN gives NaN
}

}  // namespace bfn
