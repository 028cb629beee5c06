// The n-step loss of discretised data (113-119): -E[eps^2/2 + ln sum_k p_k exp(-(y - c_k)^2 / 2 tau^2)], where
// y = x + tau eps is the message. With q_k = (c_k - x)/tau the bracket is ln sum_k p_k exp(q_k (eps - q_k/2)), in which
// no eps^2 cancels.
//
// p_k is almost a normal of width std. Its product with the normal of the message, which has the width tau, is a bump
// of width s, 1/s^2 = 1/std^2 + 1/tau^2. If the bump covers few bins, they are added one by one. Otherwise the sum is
// computed at 28 Gauss-Legendre nodes, for any number of bins [derived]. The end bins of a clipped distribution are
// added separately.
#pragma once

#include "bin_prob.h"

namespace bfn {

constexpr int kNodes = 28;

// A point of a window: its distance from the window's base, in bins, and the number of bins that it stands for.
template <class T>
struct Point {
  T distance, weight;
};

// The range of bins in which the bumps of some draws lie. It begins at base + offset, in bins. `base` is a whole number
// and points are stored relative to it, so that they keep their digits if the index is large.
template <class T>
struct NStepWindow {
  T base, offset, length;
  bool cut_low, cut_high;  // whether the window ends where the bins end on this side
  bool every_bin;          // whether every bin is a point; if not, the points are Gauss-Legendre nodes

  BFN_HD int count() const { return every_bin ? static_cast<int>(length) + 1 : kNodes; }
  // Whether the sum needs a correction at this end (cut_weight).
  BFN_HD bool cut(bool low) const { return !every_bin && (low ? cut_low : cut_high); }
  BFN_HD T end(bool low) const { return low ? offset : offset + length; }
  // The point of the i-th bin, and the point of a Gauss-Legendre node in [0, 1].
  BFN_HD Point<T> bin(T i) const { return {i, T(1)}; }
  BFN_HD Point<T> node(T at, T weight) const { return {offset + length * at, length * weight}; }
};

constexpr int kMaxPoints = 128;    // the most bins of a window in which every bin is a point
constexpr double kReach = 5.5;     // in units of s: 4e-8 of a bump's mass lies farther from its peak
constexpr double kMaxSpan = 19.5;  // in units of s: the longest window of nodes, with an error of 9e-8 of the sum

// The bump: p_k times the normal of the message. A distribution that is not clipped and has almost no mass in [-1, 1]
// is taken to be uniform there.
template <class T>
struct Bump {
  T std, s, by_mean, by_eps;  // the peak is x + by_mean (mean - x) + by_eps eps

  BFN_HD Bump(T normal_std, T tau, bool uniform) : std(uniform ? T(1e9) : normal_std) {
    const T sum = square(std) + square(tau);
    s = std * tau / sqrt(sum);
    by_mean = square(tau) / sum;
    by_eps = square(std) / sum * tau;
  }
};

// The window for all draws whose eps lies in [least_eps, most_eps].
template <class T>
BFN_HD NStepWindow<T> nstep_window(T x, T mean, Bump<T> bump, T least_eps, T most_eps, Bins<T> bins) {
  const T first = bins.clip ? T(1) : T(0), last = bins.last() - first, half = T(0.5), reach = T(kReach) * bump.s;
  // In double every bin is added, so that finite differences meet no step between two rules.
  if (sizeof(T) == sizeof(double) || last < first) return {first, T(0), last - first, true, true, true};
  const T centre = x + bump.by_mean * (mean - x);
  const T from = clamp(centre + bump.by_eps * least_eps, T(-1), T(1)) - reach;
  const T to = clamp(centre + bump.by_eps * most_eps, T(-1), T(1)) + reach;
  // The window has one bin more on each side than the bumps need.
  const T low = bins.position(from) - 1 - half, high = bins.position(to) + half;
  const bool cut_low = low <= first - half, cut_high = high >= last + half;
  const T begin = cut_low ? first - half : low, end = cut_high ? last + half : high;
  const T base = clamp(floor(begin + half), first, last), count = clamp(floor(end + half), first, last) - base + 1;
  if (count <= T(cut_low || cut_high ? kMaxPoints : kNodes)) return {base, T(0), count - 1, cut_low, cut_high, true};
  return {base, begin - base, end - begin, cut_low, cut_high, false};
}

// The Gauss-Legendre nodes in [0, 1] and their weights. The arrays have the first half of them. The second half is the
// mirror image.
BFN_HD float legendre_node(int i) {
  static constexpr float nodes[kNodes / 2] = {
      0.00177875121f, 0.00934841731f, 0.0228703597f, 0.0421834868f, 0.0670537387f, 0.0971793145f, 0.132194561f,
      0.171674453f,   0.215139764f,   0.262062888f,  0.311874242f,  0.363969186f,  0.417715359f,  0.472460355f};
  return i < kNodes / 2 ? nodes[i] : 1.0f - nodes[kNodes - 1 - i];
}
BFN_HD float legendre_weight(int i) {
  static constexpr float weights[kNodes / 2] = {
      0.0045621413f, 0.0105660563f, 0.0164507139f, 0.0221364674f, 0.0275536728f, 0.032636462f,  0.0373231071f,
      0.0415567086f, 0.0452858722f, 0.048465329f,  0.0510564838f, 0.053027883f,  0.0543555961f, 0.0550235065f};
  return weights[i < kNodes / 2 ? i : kNodes - 1 - i];
}

template <class T>
BFN_HD Point<T> nstep_point(NStepWindow<T> window, int i) {
  return window.every_bin ? window.bin(static_cast<T>(i)) : window.node(legendre_node(i), legendre_weight(i));
}

// The correction at a cut, where a window ends at an edge of the bins. By the midpoint rule, the sum over the bins from
// the cut on is the integral plus exp(l) (l'/24 - 7/5760 (l'^3 + 3 l' l'')) [derived]. Here l = ln(p_k times the normal
// of the message), and l', l'' are its derivatives at the cut, per bin inwards. Returns the factor of exp(l), and its
// derivatives.
template <class T>
BFN_HD WithGradient<T> cut_weight(T by_mean, T q, T eps, bool low, T width, T tau, Bump<T> bump) {
  const T side = low ? width : -width, width2 = width * width, std2 = square(bump.std);
  const T first = side * ((eps - q) / tau - by_mean), second = -width2 / square(bump.s);
  const T first_by_mean = side / std2, first_by_std = 2 * side * by_mean / bump.std;
  const T second_by_std = 2 * width2 / (std2 * bump.std), third = T(7.0 / 5760);
  const T by_first = T(1.0 / 24) - third * 3 * (first * first + second), by_second = -third * 3 * first;
  return {first * (T(1.0 / 24) - third * (first * first + 3 * second)), by_first * first_by_mean,
          by_first * first_by_std + by_second * second_by_std};
}

// ln p_k + q_k (eps - q_k/2), the exponent of a term of the sum.
template <class T>
BFN_HD T nstep_exponent(T log_p, T q, T eps) {
  return log_p + q * (eps - T(0.5) * q);
}

// A point among the bins: its q, and its ln p with derivatives.
template <class T>
struct NStepPlace {
  T q;
  WithGradient<T> log_p;
};

// What all draws of a variable share: x, the normal of the output distribution, and the bins.
template <class T>
struct NStepNormal {
  T x, mean, std, tau;
  Bins<T> bins;
  bool uniform;
  Bump<T> bump;
  WithGradient<T> total;      // ln of the mass in [-1, 1], which an unclipped distribution is divided by; else 0
  T unit, q_unit, log_width;  // 1/K in units of std and of tau; ln of a bin's width in units of std

  BFN_HD NStepNormal(T data, T normal_mean, T normal_std, T message_std, Bins<T> all_bins)
      : NStepNormal(data, normal_mean, normal_std, message_std, all_bins,
                    all_bins.clip ? WithGradient<T>{T(0), T(0), T(0)} : log_total(normal_mean, normal_std)) {}

  // Whether one window can serve all draws whose eps lies in [least_eps, most_eps].
  BFN_HD bool share_window(T least_eps, T most_eps) const {
    return !((most_eps - least_eps) * bump.by_eps > T(kMaxSpan - 2 * kReach) * bump.s);
  }
  BFN_HD NStepWindow<T> window(T least_eps, T most_eps) const {
    return nstep_window(x, mean, bump, least_eps, most_eps, bins);
  }
  BFN_HD T q_at(T base, T distance) const { return (origin_of(x, bins).to_centre(base) + 2 * distance) * q_unit; }
  // ln p of every bin of a uniform distribution.
  BFN_HD WithGradient<T> uniform_log_p() const { return {-log(bins.real_count()), T(0), T(0)}; }
  // ln p of the bin at a distance from the base. The distance need not be an integer: the bin then lies between two
  // bins. Each edge is computed from a whole number of bins, since a small std magnifies the rounding of the edges.
  BFN_HD WithGradient<T> inner_bin(T base, T distance) const {
    const Origin<T> from = origin_of(mean, bins);
    const T whole = floor(distance), beyond = 2 * (distance - whole) - from.rest;
    const T edge = 2 * (base + whole) - bins.real_count();
    const T left = ((edge - from.leading) + beyond) * unit, right = ((edge + 2 - from.leading) + beyond) * unit;
    return log_inner_bin(left, right, T(0.5) * (left + right), 2 * unit, log_width, std);
  }
  BFN_HD NStepPlace<T> place(T base, T distance) const {
    return {q_at(base, distance), uniform ? uniform_log_p() : inner_bin(base, distance)};
  }
  // The first or the last bin of a clipped distribution.
  BFN_HD NStepPlace<T> end_bin(bool first) const {
    const T edge = first ? T(1) : bins.last(), bin = first ? T(0) : bins.last();
    return {origin_of(x, bins).to_centre(bin) * q_unit,
            log_end_bin(origin_of(mean, bins).to_edge(edge) * unit, first, std)};
  }
  // The correction at a cut (cut_weight) and its derivatives by mean and std, all divided by exp(top).
  BFN_HD WithGradient<T> cut_term(NStepPlace<T> cut, T eps, bool low, T top) const {
    const auto w = cut_weight(cut.log_p.by_mean, cut.q, eps, low, bins.width(), tau, bump);
    const T term = exp(nstep_exponent(cut.log_p.value, cut.q, eps) - top);
    return {term * w.value, term * (w.value * cut.log_p.by_mean + w.by_mean),
            term * (w.value * cut.log_p.by_std + w.by_std)};
  }
  // ln of a sum, and its derivatives. The terms of the sum were divided by exp(top).
  BFN_HD WithGradient<T> log_of(T top, WithGradient<T> sum) const {
    return {top + log(sum.value) - total.value, sum.by_mean / sum.value - total.by_mean,
            sum.by_std / sum.value - total.by_std};
  }

 private:
  BFN_HD NStepNormal(T data, T normal_mean, T normal_std, T message_std, Bins<T> all_bins, WithGradient<T> inside)
      : x(data),
        mean(normal_mean),
        std(normal_std),
        tau(message_std),
        bins(all_bins),
        uniform(!all_bins.clip && exp(inside.value) < kTinyTotal<T>),
        bump(normal_std, message_std, uniform),
        total(uniform ? WithGradient<T>{T(0), T(0), T(0)} : inside),
        unit(1 / (all_bins.real_count() * normal_std)),
        q_unit(1 / (all_bins.real_count() * message_std)),
        log_width(log(2 * unit)) {}
};

}  // namespace bfn
