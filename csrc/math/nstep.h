// The n-step loss of discretised data (113-119): -E[eps^2/2 + ln sum_k p_k exp(-(y - c_k)^2 / 2 tau^2)], where
// y = x + tau eps is the message. With q_k = (c_k - x)/tau the bracket is ln sum_k p_k exp(q_k (eps - q_k/2)), in which
// no eps^2 cancels. [derived] marks formulas that are not in the paper.
//
// p_k is almost a normal of width std. Its product with the normal of the message, which has the width tau, is a bump
// of width s, 1/s^2 = 1/std^2 + 1/tau^2. Only the bins under the bump count: its window. A point of the window is a
// bin, or a place between bins, for which p_k is computed as for a bin. The points do not depend on the draw, so that
// p_k is computed once for all draws [derived]:
//
// - A bump far from the ends of the bins is a smooth function that vanishes at both ends of its window. Then the sum
//   over every bin equals the sum over points that are 0.95 s apart, times this distance in bins. A narrow bump has a
//   point in every bin.
// - If the bins end inside the bump, every bin is a point of a narrow bump. For a wide bump the points are
//   Gauss-Legendre nodes, and the end of the bins needs a correction (NStepCut).
//
// The end bins of a clipped distribution are added separately.
//
// If std is small beside the distance from x to the mean, the exponents are large, and so are their rounding errors. So
// they are computed as differences from the exponent of one term, the window's origin.
#pragma once

#include "bin_prob.h"

namespace bfn {

constexpr int kNodes = 20;             // the Gauss-Legendre nodes of a panel, a part of a window
constexpr double kPanel = 11;          // in units of s: the longest panel, with an error of 3e-8 of the sum
constexpr double kReach = 5.5;         // in units of s: 4e-8 of a bump's mass lies farther from its peak
constexpr double kStep = 0.95;         // in units of s: the distance of points, with an error of 1e-8 of the sum
constexpr double kLeastWidth = 3.2;    // in bins: the least s for which a cut has a correction
constexpr double kLargestSlope = 0.8;  // the largest slope at a cut, per bin, for which it has a correction

// A point of a window: its distance from the window's origin, in bins, and the number of bins that it stands for.
template <class T>
struct Point {
  T distance, weight;
};

// A distribution that is not clipped and has almost no mass in [-1, 1] is taken to be uniform there.
template <class T>
BFN_HD T bump_std(T std, bool uniform) {
  return uniform ? T(1e9) : std;
}

// The bump: p_k times the normal of the message.
template <class T>
struct Bump {
  T s, by_mean, by_eps;  // the peak is x + by_mean (mean - x) + by_eps eps

  BFN_HD Bump(T std, T tau) {
    const T sum = square(std) + square(tau);
    s = std * tau / sqrt(sum);
    by_mean = square(tau) / sum;
    by_eps = square(std) / sum * tau;
  }
  // How far from an end of [-1, 1] a window reaches if the peak lies beyond this end. The terms at its end are
  // exp(-kReach^2/2) times the largest.
  BFN_HD T reach(T beyond) const {
    const T over = beyond > T(0) ? beyond : T(0), rest = square(T(kReach) * s);
    return rest / (over + sqrt(square(over) + rest));
  }
};

// The Gauss-Legendre nodes in [0, 1] and their weights. The arrays have the first half of them. The second half is the
// mirror image.
BFN_HD float legendre_node(int i) {
  static constexpr float nodes[kNodes / 2] = {0.00343570043f, 0.0180140361f, 0.0438827872f, 0.0804415122f,
                                              0.12683405f,    0.181973159f,  0.2445665f,    0.313146949f,
                                              0.386107087f,   0.461736739f};
  return i < kNodes / 2 ? nodes[i] : 1.0f - nodes[kNodes - 1 - i];
}
BFN_HD float legendre_weight(int i) {
  static constexpr float weights[kNodes / 2] = {0.0088070035f, 0.0203007143f, 0.0313360244f, 0.0416383706f,
                                                0.0509650595f, 0.0590972677f, 0.0658443198f, 0.0710480511f,
                                                0.0745864958f, 0.0763766915f};
  return weights[i < kNodes / 2 ? i : kNodes - 1 - i];
}

// The term from whose exponent all others are computed: about the largest term. `bin` is its index, a whole number:
// distances from it keep their digits if the index is large. z and side are those of its ScaledBin. `along` is the
// derivative of z by the distance of another term, or 0 where that is not linear.
template <class T>
struct NStepOrigin {
  T bin, z, side, along, q;
};

// The range of bins in which the bumps of some draws lie. The counts and the flags are numbers of type T, so that loops
// over windows are vectorised.
template <class T>
struct NStepWindow {
  T offset;             // the distance of the first point from the origin, or of the first panel's beginning
  T step;               // the distance of two points in bins, or the length of a panel
  T count;              // how many points it has
  T panels;             // how many panels of Gauss-Legendre nodes, or 0
  T cut_low, cut_high;  // 1 if the sum needs a correction at this end, else 0

  // The i-th point. `node` and `weight` are the Gauss-Legendre node i % kNodes in [0, 1] and its weight.
  BFN_HD Point<T> point(int i, T node, T weight) const {
    const T place = panels > T(0) ? static_cast<T>(i / kNodes) + node : static_cast<T>(i);
    return {offset + step * place, panels > T(0) ? step * weight : step};
  }
  BFN_HD Point<T> point(int i) const {
    if (!(panels > T(0))) return {offset + step * static_cast<T>(i), step};
    return point(i, legendre_node(i % kNodes), legendre_weight(i % kNodes));
  }
  BFN_HD T end(bool low) const { return low ? offset : offset + step * panels; }
};

// The larger of two numbers, and the smaller; the second one if the first one is NaN.
template <class T>
BFN_HD T larger(T a, T b) {
  return a > b ? a : b;
}
template <class T>
BFN_HD T smaller(T a, T b) {
  return a < b ? a : b;
}

// The smallest whole number that is not below x.
template <class T>
BFN_HD T ceiling(T x) {
  return -floor(-x);
}

// The window for all draws whose eps lies in [least_eps, most_eps]. `bin` is its origin.
template <class T>
BFN_HD NStepWindow<T> nstep_window(T bin, T x, T mean, Bump<T> bump, T least_eps, T most_eps, Bins<T> bins) {
  const T first = bins.clip ? T(1) : T(0), last = bins.last() - first, half = T(0.5), one = T(1), none = T(0);
  const T centre = x + bump.by_mean * (mean - x), width = bump.s / bins.width();  // in bins
  const T low_peak = centre + bump.by_eps * least_eps, high_peak = centre + bump.by_eps * most_eps;
  const T from = clamp(low_peak, -one, one) - bump.reach(low_peak - 1);
  const T to = clamp(high_peak, -one, one) + bump.reach(-1 - high_peak);
  // In double every bin is added, so that finite differences meet no step between two rules.
  if (sizeof(T) == sizeof(double)) return {first - bin, one, last - first + 1, none, none, none};
  // The window has one bin more on each side than the bumps need.
  const T low = bins.position(from) - 1 - half, high = bins.position(to) + half;
  const T begin = larger(low, first - half), end = smaller(high, last + half), length = end - begin;
  const bool cut_low = low <= first - half, cut_high = high >= last + half;
  // If there is no inner bin, `last` is below `first`, and the window has no point.
  const T start = larger(smaller(floor(begin + half), last), first);
  const T whole = smaller(floor(end + half), last) - start + 1;
  const T apart = cut_low | cut_high ? one : larger(T(kStep) * width, one);
  const T lengths = length / (T(kPanel) * width);  // of panels
  // A slope at a cut is the distance of the peak beyond it, in units of s, divided by the width.
  const T beyond = larger(-1 - low_peak, high_peak - 1);
  const bool nodes = (cut_low | cut_high) & (width >= T(kLeastWidth)) & (beyond <= T(kLargestSlope) * width * bump.s) &
                     (whole > kNodes * (lengths + 1));
  const T pieces = ceiling(nodes ? lengths : (whole - 1) / apart), points = nodes ? kNodes * pieces : pieces + 1;
  return {(nodes ? begin : start) - bin, nodes ? length / pieces : apart, points >= none ? points : one,
          nodes ? pieces : none,         nodes & cut_low ? one : none,    nodes & cut_high ? one : none};
}

// A term of the sum, for all draws. A draw adds 2^(exponent + distance slope) times `mass`, and the same with the
// derivatives to the derivatives of the sum. `slope` belongs to the draw: NStepTerms::slope.
template <class T>
struct NStepTerm {
  T exponent, distance;
  WithGradient<T> mass;
};

// The correction at a cut, where a window ends at an edge of the bins. By the midpoint rule, the sum over the bins from
// the cut on is the integral plus exp(l) (l'/24 - 7/5760 (l'^3 + 3 l' l'') + 31/967680 (l'^5 + 10 l'^3 l'' +
// 15 l' l''^2)) [derived]. Here l = ln(p_k times the normal of the message), and l', l'' are its derivatives at the
// cut, per bin inwards. Only l' depends on the draw.
template <class T>
struct NStepCut {
  NStepTerm<T> bin;             // exp(l)
  T slope, slope_by_eps, bend;  // l' = slope + slope_by_eps eps, l'' = bend
  T slope_by_mean, slope_by_std, bend_by_std;

  // The term of a draw.
  BFN_HD NStepTerm<T> of(T eps) const {
    const T a = slope + slope_by_eps * eps, b = bend, a2 = a * a, third = T(7.0 / 5760), fifth = T(31.0 / 967680);
    const T weight = a * (T(1.0 / 24) - third * (a2 + 3 * b) + fifth * (a2 * (a2 + 10 * b) + 15 * b * b));
    const T by_a = T(1.0 / 24) - third * 3 * (a2 + b) + fifth * (5 * a2 * (a2 + 6 * b) + 15 * b * b);
    const T by_b = a * (fifth * (10 * a2 + 30 * b) - third * 3);
    const T by_mean = by_a * slope_by_mean, by_std = by_a * slope_by_std + by_b * bend_by_std;
    return {bin.exponent,
            bin.distance,
            {bin.mass.value * weight, bin.mass.value * by_mean + bin.mass.by_mean * weight,
             bin.mass.value * by_std + bin.mass.by_std * weight}};
  }
};

// What the terms of a variable need: x, the normal of the output distribution, the std of the message, and the bins.
template <class T>
struct NStepTerms {
  Bins<T> bins;
  T x, mean, std, tau;
  T inverse_std, unit, q_unit;  // 1/std; 1/K in units of std and of tau
  bool uniform;

  // The origin for draws about `eps`: the bin of the mean, in which z is 0, or the largest of the other bins. The edges
  // of these are half a bin nearer to the mean than their centres.
  BFN_HD NStepOrigin<T> origin(Bump<T> bump, T eps) const {
    const T half = T(0.5) * bins.width(), to_mean = mean - x;
    const T peak = x + bump.by_mean * (to_mean - clamp(to_mean, -half, half)) + bump.by_eps * eps;
    const NStepOrigin<T> own = origin_at(bins.index(mean)), other = origin_at(bins.index(peak));
    const bool is_own = log_origin(own, eps) > log_origin(other, eps);
    return {is_own ? own.bin : other.bin, is_own ? own.z : other.z, is_own ? own.side : other.side,
            is_own ? own.along : other.along, is_own ? own.q : other.q};
  }
  // ln of the origin's term without its mass, and the derivative of log2 of a term by its distance at the origin.
  BFN_HD T log_origin(NStepOrigin<T> from, T eps) const {
    return from.q * (eps - T(0.5) * from.q) - T(0.5) * square(from.z);
  }
  BFN_HD T slope(NStepOrigin<T> from, T eps) const {
    return static_cast<T>(1 / kLogOfTwo) * (2 * q_unit * (eps - from.q) - from.along * from.z);
  }

  // Whether all bins of a window are narrow (NarrowBin).
  BFN_HD bool narrow(NStepOrigin<T> from, NStepWindow<T> window) const {
    const T end = window.offset + window.step * (window.panels > T(0) ? window.panels : window.count);
    const T low = edges(from.bin, window.offset).middle(), high = edges(from.bin, end).middle();
    return NarrowBin<T>::applies(low, 2 * unit) & NarrowBin<T>::applies(high, 2 * unit);
  }
  // The term of a point of a window. If kNarrow is true, all bins of the window must be narrow.
  template <bool kNarrow = false>
  BFN_HD NStepTerm<T> point(NStepOrigin<T> from, Point<T> at) const {
    return term_of(from, inner_bin<kNarrow>(from, at.distance), at.distance, at.weight);
  }
  // The term of the first or the last bin of a clipped distribution.
  BFN_HD NStepTerm<T> end_bin(NStepOrigin<T> from, bool first) const {
    const T edge = first ? T(1) : bins.last(), bin = first ? T(0) : bins.last();
    const T z = origin_of(mean, bins).to_edge(edge) * unit;
    return term_of(from, scaled_end_bin(z, first, inverse_std), bin - from.bin, T(1));
  }
  BFN_HD NStepCut<T> cut(NStepOrigin<T> from, NStepWindow<T> window, bool low) const {
    const T distance = window.end(low), q = from.q + 2 * q_unit * distance, side = low ? bins.width() : -bins.width();
    const ScaledBin<T> bin = inner_bin<false>(from, distance);
    const T by_mean = bin.mass.by_mean / bin.mass.value, wide = bump_std(std, uniform), variance = square(wide);
    const T ratio = square(side) / variance, flatter = 1 - T(1.0 / 12) * ratio;  // a mass is wider than the density
    const T by_eps = side / tau;
    return {term_of(from, bin, distance, low ? window.cut_low : window.cut_high),
            -by_eps * q - side * by_mean,
            by_eps,
            -ratio * flatter - square(by_eps),
            flatter * side / variance,
            flatter * 2 * side * by_mean / wide,
            ratio * (2 * flatter - 1) * 2 / wide};
  }

 private:
  BFN_HD NStepOrigin<T> origin_at(T bin) const {
    const Edges at = edges(bin, T(0));
    // An end bin of a clipped distribution has one edge.
    const bool at_low = bins.clip & (bin == T(0)), at_high = bins.clip & (bin == bins.last());
    const T zero = T(0), far = T(1e30);
    const BinPlace<T> place(at_low ? -far : at.left, at_high ? far : at.right, at.middle(),
                            at_low | at_high ? far : 2 * unit);
    return {bin, uniform ? zero : place.z, place.side, uniform | (place.side != zero) ? zero : 2 * unit,
            origin_of(x, bins).to_centre(bin) * q_unit};
  }
  struct Edges {
    T left, right;

    BFN_HD T middle() const { return T(0.5) * (left + right); }
  };
  // The edges of the bin at a distance from `bin`. The distance need not be an integer: the bin then lies between two
  // bins. Each edge is computed from a whole number of bins, since a small std magnifies the rounding of the edges.
  BFN_HD Edges edges(T bin, T distance) const {
    const Origin<T> from = origin_of(mean, bins);
    const T whole = floor(distance), beyond = 2 * (distance - whole) - from.rest;
    const T edge = 2 * (bin + whole) - bins.real_count();
    return {((edge - from.leading) + beyond) * unit, ((edge + 2 - from.leading) + beyond) * unit};
  }
  template <bool kNarrow>
  BFN_HD ScaledBin<T> inner_bin(NStepOrigin<T> from, T distance) const {
    const Edges at = edges(from.bin, distance);
    const ScaledBin<T> bin = scaled_inner_bin<kNarrow>(at.left, at.right, at.middle(), 2 * unit, inverse_std);
    const T zero = T(0);
    return {uniform ? zero : bin.z,
            bin.side,
            {uniform ? 1 / bins.real_count() : bin.mass.value, uniform ? zero : bin.mass.by_mean,
             uniform ? zero : bin.mass.by_std}};
  }
  // The exponent -(z^2 + q^2)/2 + q eps less the origin's is -(dz^2 + dq^2)/2 - z dz - q dq + dq eps, with z and q of
  // the origin. What is proportional to the distance is in `slope`, where it cancels if the origin is near the peak.
  BFN_HD NStepTerm<T> term_of(NStepOrigin<T> from, ScaledBin<T> bin, T distance, T weight) const {
    // If neither place is 0, their distance is known without the rounding of z.
    const bool at_zero = (bin.z == T(0)) | (from.z == T(0));
    const T dz = at_zero ? bin.z - from.z : unit * (2 * distance + (bin.side - from.side)), dq = 2 * q_unit * distance;
    return {static_cast<T>(-1 / kLogOfTwo) * (T(0.5) * (dz * dz + dq * dq) + from.z * (dz - from.along * distance)),
            distance,
            {weight * bin.mass.value, weight * bin.mass.by_mean, weight * bin.mass.by_std}};
  }
};

// What all draws of a variable share.
template <class T>
struct NStepNormal {
  NStepTerms<T> terms;
  WithGradient<T> total;  // ln of the mass in [-1, 1], which an unclipped distribution is divided by; else 0

  BFN_HD NStepNormal(T x, T mean, T std, T tau, Bins<T> bins)
      : NStepNormal(x, mean, std, tau, bins, bins.clip ? WithGradient<T>{T(0), T(0), T(0)} : log_total(mean, std)) {}

  // The origin and the window for all draws whose eps lies in [least_eps, most_eps].
  BFN_HD NStepOrigin<T> origin(T least_eps, T most_eps) const {
    return terms.origin(bump(), T(0.5) * (least_eps + most_eps));
  }
  BFN_HD NStepWindow<T> window(NStepOrigin<T> from, T least_eps, T most_eps) const {
    return nstep_window(from.bin, terms.x, terms.mean, bump(), least_eps, most_eps, terms.bins);
  }

 private:
  BFN_HD Bump<T> bump() const { return {bump_std(terms.std, terms.uniform), terms.tau}; }
  BFN_HD NStepNormal(T x, T mean, T std, T tau, Bins<T> bins, WithGradient<T> inside)
      : terms{bins,
              x,
              mean,
              std,
              tau,
              1 / std,
              1 / (bins.real_count() * std),
              1 / (bins.real_count() * tau),
              !bins.clip && exp(inside.value) < kTinyTotal<T>},
        total{terms.uniform ? T(0) : inside.value, terms.uniform ? T(0) : inside.by_mean,
              terms.uniform ? T(0) : inside.by_std} {}
};

// ln of a sum, less `total`, and its derivatives. The terms of the sum were divided by 2^top and by exp(log_origin).
template <class T>
BFN_HD WithGradient<T> nstep_log(T top, T log_origin, WithGradient<T> sum, WithGradient<T> total) {
  const T inverse = 1 / sum.value;
  return {((top * T(kLogOfTwo) + log(sum.value)) + log_origin) - total.value, sum.by_mean * inverse - total.by_mean,
          sum.by_std * inverse - total.by_std};
}

}  // namespace bfn
