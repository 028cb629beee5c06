// ln p of a bin (107-109), its derivatives, and the likeliest bin.
#pragma once

#include "bins.h"
#include "normal.h"

namespace bfn {

template <class T>
BFN_HD WithGradient<T> by_mean_and_std(LogInterval<T> p, T left, T right, T std) {
  return {p.value, -(p.by_left + p.by_right) / std, -(left * p.by_left + right * p.by_right) / std};
}

// ln of the mass of a bin with centre z and width d, both in units of std, and log_d = ln d. The edges left and right
// are passed too, since z +- d/2 would lose digits of the nearer edge if the bin is wide. If the bin is narrow, the
// difference of the terms of its edges cancels, so a Taylor series about the centre is used.
template <class T>
BFN_HD WithGradient<T> log_inner_bin(T left, T right, T z, T d, T log_d, T std) {
  const auto wide = by_mean_and_std(log_interval(left, right, z, d), left, right, std);
  if (sizeof(T) == sizeof(double)) return wide;
  const bool narrow = (d < T(0.3)) & (abs(z * d) < T(0.5));  // && would be a branch, which prevents vectorisation
  const T z2 = z * z, d2 = d * d;
  const T series = d2 * ((z2 - 1) / 24 + d2 * (z2 * z2 - 6 * z2 + 3) / 1920), total = 1 + series;
  const T by_z = -z + d2 * (z / 12 + d2 * (z2 - 3) * z / 480) / total;
  const T by_d = 1 + d2 * ((z2 - 1) / 12 + d2 * (z2 * z2 - 6 * z2 + 3) / 480) / total;  // the derivative by d, times d
  const T value = T(-0.5) * z2 - static_cast<T>(kLogTwoPi / 2) + log_d + log1p(series);
  return {narrow ? value : wide.value, narrow ? -by_z / std : wide.by_mean,
          narrow ? -(z * by_z + by_d) / std : wide.by_std};
}

// ln of the mass in [-1, 1], computed as the mass of one wide bin.
template <class T>
BFN_HD WithGradient<T> log_total(T mean, T std) {
  const T width = T(2) / std;
  return log_inner_bin((-1 - mean) / std, (1 - mean) / std, -mean / std, width, log(width), std);
}

// ln of the mass of an end bin of a clipped distribution. z is the bin's inner edge, in units of std. The last bin is
// computed as the mirror image of the first.
template <class T>
BFN_HD WithGradient<T> log_end_bin(T z, bool first, T std) {
  const auto p = log_cdf(first ? z : -z);
  return {p.value, (first ? -p.by_right : p.by_right) / std, (first ? -z : z) * p.by_right / std};
}

template <class T>
BFN_HD WithGradient<T> select(bool first, WithGradient<T> a, WithGradient<T> b) {
  return {first ? a.value : b.value, first ? a.by_mean : b.by_mean, first ? a.by_std : b.by_std};
}

// ln p of the bin with this index (107-109).
template <class T>
BFN_HD WithGradient<T> log_bin_prob(T index, T mean, T std, Bins<T> bins) {
  const Origin<T> origin = origin_of(mean, bins);
  const T unit = 1 / (bins.real_count() * std);
  const T left = origin.to_edge(index) * unit, right = origin.to_edge(index + 1) * unit;
  const auto inner = log_inner_bin(left, right, origin.to_centre(index) * unit, 2 * unit, log(2 * unit), std);
  if (bins.clip) {
    const bool first = index == T(0);
    const auto end = log_end_bin(origin.to_edge(first ? T(1) : bins.last()) * unit, first, std);
    return select(first | (index == bins.last()), end, inner);
  }
  const auto total = log_total(mean, std);
  const WithGradient<T> share{inner.value - total.value, inner.by_mean - total.by_mean, inner.by_std - total.by_std};
  return select(exp(total.value) < kTinyTotal<T>, {log(unit * std), T(0), T(0)}, share);
}

// The centre of the likeliest bin, which is the bin of the mean, the first bin or the last bin [derived]. Of equally
// likely bins the first wins.
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
  return std == std ? bins.centre(best) : std;  // a std of NaN gives NaN
}

}  // namespace bfn
