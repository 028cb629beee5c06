// Discretised data: K bins of width h = 2/K in [-1, 1], each known by its zero-based index, held as a real so that NaN
// stays NaN. Equation numbers are those of arXiv 2308.07037.
#pragma once

#include "normal.h"

namespace bfn {

template <class T>
struct Bins {
  int64_t count;
  bool clip;  // the end bins hold the mass beyond [-1, 1]; otherwise the distribution is renormalised

  BFN_HD T width() const { return T(2) / static_cast<T>(count); }
  BFN_HD T last() const { return static_cast<T>(count - 1); }
  BFN_HD T index(T x) const { return clamp(floor((x * T(0.5) + T(0.5)) * static_cast<T>(count)), T(0), last()); }
  BFN_HD T centre(T index) const { return (2 * index + 1) / static_cast<T>(count) - 1; }
  BFN_HD T left_edge(T index) const { return -1 + width() * index; }
};

enum class Parametrisation : int64_t { kDirect, kData, kNoise };

// The normal that a network puts out, with the derivatives of mean and std by the two predictions (105, 106).
template <class T>
struct OutputNormal {
  T mean, std, mean_by_prediction, std_by_log_std;
};

template <class T>
BFN_HD OutputNormal<T> output_normal(Parametrisation kind, T prediction, T log_std, T mean, T a, T b) {
  if (kind == Parametrisation::kDirect) return {prediction, log_std, T(1), T(1)};
  if (kind == Parametrisation::kData) {
    a = T(0);
    b = T(-1);
  } else if (a == T(0) && b == T(0)) {
    return {T(0), T(1), T(0), T(0)};
  }
  const T std = abs(b) * exp(clamp(log_std, T(-10), T(10)));
  const bool flat = log_std < T(-10) || log_std > T(10) || std < T(1e-3) || std > T(10);
  const T mu = a == T(0) ? -b * prediction : a * mean - b * prediction;
  return {mu, clamp(std, T(1e-3), T(10)), -b, flat ? T(0) : std};
}

template <class T>
constexpr T kTinyTotal = T(1e-5);  // an unclipped distribution with less mass in [-1, 1] is uniform

// ln of the mass in [-1, 1], with its derivatives by mean and std.
template <class T>
BFN_HD WithGradient<T> log_total(T mean, T std) {
  const T left = (-1 - mean) / std, right = (1 - mean) / std;
  const auto p = log_interval(left, right, -mean / std, T(2) / std);
  return {p.value, -(p.by_left + p.by_right) / std, -(left * p.by_left + right * p.by_right) / std};
}

// ln of the mass of a bin, `z` its centre and `d` its width in units of std. A narrow bin is a Taylor series about its
// centre: the difference of its edges' terms would cancel.
template <class T>
BFN_HD WithGradient<T> log_inner_bin(T left, T right, T z, T d, T std) {
  if (sizeof(T) == sizeof(float) && d < T(0.3) && abs(z * d) < T(0.5)) {
    const T z2 = z * z, d2 = d * d;
    const T series = d2 * ((z2 - 1) / 24 + d2 * (z2 * z2 - 6 * z2 + 3) / 1920);
    const T by_z = -z + d2 * (z / 12 + d2 * (z2 - 3) * z / 480) / (1 + series);
    const T by_d = 1 + d2 * ((z2 - 1) / 12 + d2 * (z2 * z2 - 6 * z2 + 3) / 480) / (1 + series);  // times d
    const T value = T(-0.5) * z2 - static_cast<T>(kLogTwoPi / 2) + log(d) + log1p(series);
    return {value, -by_z / std, -(z * by_z + by_d) / std};
  }
  const auto p = log_interval(left, right, z, d);
  return {p.value, -(p.by_left + p.by_right) / std, -(left * p.by_left + right * p.by_right) / std};
}

// ln p of a bin (107-109).
template <class T>
BFN_HD WithGradient<T> log_bin_prob(T index, T mean, T std, Bins<T> bins) {
  const T left = (bins.left_edge(index) - mean) / std, right = (bins.left_edge(index + 1) - mean) / std;
  if (bins.clip && index == T(0)) {
    const auto p = log_cdf(right);
    return {p.value, -p.by_right / std, -right * p.by_right / std};
  }
  if (bins.clip && index == bins.last()) {
    const auto p = log_cdf(-left);
    return {p.value, p.by_right / std, left * p.by_right / std};
  }
  const auto p = log_inner_bin(left, right, (bins.centre(index) - mean) / std, bins.width() / std, std);
  if (bins.clip) return p;
  const auto total = log_total(mean, std);
  if (exp(total.value) < kTinyTotal<T>) return {-log(static_cast<T>(bins.count)), T(0), T(0)};
  return {p.value - total.value, p.by_mean - total.by_mean, p.by_std - total.by_std};
}

// Sums over the inner edges b_j of Phi, phi and z phi at z_j = (b_j - mean)/std. Beyond 6 std Phi is 0 or 1 to float32.
struct EdgeSums {
  double cdf, density, moment;
};

template <class T>
BFN_HD EdgeSums edge_sums(T mean, T std, Bins<T> bins) {
  const T h = bins.width(), reach = sizeof(T) == sizeof(float) ? T(6) * std : std::numeric_limits<T>::infinity();
  const T first = clamp(floor((mean - reach + 1) / h), T(0), bins.last());
  const T end = clamp(floor((mean + reach + 1) / h) + 1, T(0), bins.last());
  EdgeSums sums{static_cast<double>(bins.last() - end), 0, 0};
  for (T j = first + 1; j <= end; j += 1) {
    const T z = (bins.left_edge(j) - mean) / std, phi = density(z);
    sums.cdf += cdf(z);
    sums.density += phi;
    sums.moment += z * phi;
  }
  return sums;
}

// k = sum p_k c_k by its closed form over the edges [derived], in double: losses take its difference from x.
template <class T>
BFN_HD WithGradient<double> expected_value(T mean, T std, Bins<T> bins) {
  if (!(mean - mean == T(0)) || !(std > T(0))) {
    const double poison = mean + std * 0;
    return {poison, poison, poison};
  }
  const double h = 2.0 / static_cast<double>(bins.count), last = 1 - 0.5 * h;
  if (bins.clip) {
    const EdgeSums sums = edge_sums(mean, std, bins);
    return {last - h * sums.cdf, h * sums.density / std, h * sums.moment / std};
  }
  const T sign = mean < T(0) ? T(-1) : T(1), m = abs(mean);  // odd in mean; on this side no tail is 1 minus little
  const EdgeSums sums = edge_sums(m, std, bins);
  const double low = (-1 - m) / std, high = (1 - m) / std;
  const double cdf_low = cdf(low), cdf_high = cdf(high), total = cdf_high - cdf_low;
  if (total < kTinyTotal<double>) return {0, 0, 0};
  const double phi_low = density(low), phi_high = density(high);
  const double value = (last * (cdf_high + cdf_low) - h * sums.cdf) / total;
  const double by_mean = -last * (phi_high + phi_low) + h * sums.density + value * (phi_high - phi_low);
  const double by_std =
      -last * (high * phi_high + low * phi_low) + h * sums.moment + value * (high * phi_high - low * phi_low);
  return {sign * value, by_mean / (total * std), sign * by_std / (total * std)};
}

// Centre of the likeliest bin: that of the mean, the first or the last; a later one only if strictly better.
template <class T>
BFN_HD T mode(T mean, T std, Bins<T> bins) {
  T best = bins.index(mean), best_log_p = log_bin_prob(best, mean, std, bins).value;
  const T ends[2] = {T(0), bins.last()};
  for (const T end : ends) {
    const T log_p = log_bin_prob(end, mean, std, bins).value;
    if (log_p > best_log_p) {
      best = end;
      best_log_p = log_p;
    }
  }
  return bins.centre(best);
}

}  // namespace bfn
