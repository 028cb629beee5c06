// K bins of width h = 2/K divide [-1, 1]. They are counted from 0. The index of a bin is a floating-point number, so
// that it can be NaN.
#pragma once

#include "elementary.h"

namespace bfn {

template <class T>
struct Bins {
  int64_t count;
  bool clip;  // the end bins get the mass beyond [-1, 1]; otherwise the distribution is renormalised

  BFN_HD T real_count() const { return static_cast<T>(count); }
  BFN_HD T width() const { return T(2) / real_count(); }
  BFN_HD T last() const { return static_cast<T>(count - 1); }
  BFN_HD T position(T x) const { return (x * T(0.5) + T(0.5)) * real_count(); }
  BFN_HD T index(T x) const { return clamp(floor(position(x)), T(0), last()); }
  BFN_HD T centre(T index) const { return (2 * index + 1) / real_count() - 1; }
  BFN_HD T quantised(T x) const { return centre(index(clamp(x, T(-1), T(1)))); }
};

template <class T>
constexpr T kTinyTotal = T(1e-5);  // if an unclipped distribution has less mass in [-1, 1], the uniform one replaces it

// The std, or NaN if the mean is infinite or NaN, since such a distribution has no probabilities.
template <class T>
BFN_HD T std_of_finite(T mean, T std) {
  return fused(T(0), mean, std);
}

BFN_HD float leading_bits(float x) { return bit_cast<float>(bit_cast<uint32_t>(x) & 0xFFFF0000u); }
BFN_HD double leading_bits(double x) { return x; }

// Computes signed distances from a point to edges and centres, in units of 1/K. In this unit the edge -1 + 2j/K is the
// integer 2j - K, which is not rounded. A division by a small std would magnify a rounding error. In float the point is
// split: `leading` is K times its eight leading bits, which is exact for K up to 65536, and `rest` is K times the other
// bits. In double `leading` is K times the whole point, rounded, and `rest` is 0.
template <class T>
struct Origin {
  T leading, rest, count;

  BFN_HD T to_edge(T j) const { return (2 * j - count - leading) - rest; }  // from the point to edge j
  BFN_HD T to_centre(T index) const { return to_edge(index + T(0.5)); }     // the index may be any real number
};

template <class T>
BFN_HD Origin<T> origin_of(T point, Bins<T> bins) {
  const T leading = leading_bits(point), count = bins.real_count();
  return {leading * count, (point - leading) * count, count};
}

}  // namespace bfn
