// The n-step loss of discretised data (113-119): -E[eps^2/2 + ln sum_k p_k exp(-(y - c_k)^2 / 2 tau^2)], y = x + tau
// eps. With q_k = (c_k - x)/tau the bracket is ln sum_k p_k exp(q_k (eps - q_k/2)), which has no eps^2 left to cancel.
//
// p_k times the other normal is a bump of width s, 1/s^2 = 1/std^2 + 1/tau^2: few bins are summed as they are, many by
// 28 Gauss-Legendre points, whatever their number [derived]. The end bins of a clipped distribution stand apart.
#pragma once

#include "bin_prob.h"

namespace bfn {

// Where the draws' bumps lie: from `offset` on, as a position of bins from the whole number `base`, so that far along
// the bins no position loses its digits.
template <class T>
struct NStepWindow {
  T base, offset, length;
  bool cut_low, cut_high;  // the window ends with the bins on that side
  bool every;              // bin is a point; else Gauss-Legendre points are
};

constexpr int kNodes = 28;
constexpr int kMaxPoints = 128;    // of which every bin is one
constexpr double kReach = 5.5;     // bumps hold 4e-8 beyond so many s
constexpr double kMaxSpan = 19.5;  // s that Gauss-Legendre points cover: 9e-8 of the sum

// The normal as far as windows and end corrections go by it: an unclipped distribution with next to no mass in [-1, 1]
// is uniform there.
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

// The window of all draws between two eps.
template <class T>
BFN_HD NStepWindow<T> nstep_window(T x, T mean, Bump<T> bump, T least_eps, T most_eps, Bins<T> bins) {
  const T first = bins.clip ? T(1) : T(0), last = bins.last() - first, half = T(0.5), reach = T(kReach) * bump.s;
  // in double no rule shows as a step
  if (sizeof(T) == sizeof(double) || last < first) return {first, T(0), last - first, true, true, true};
  const T centre = x + bump.by_mean * (mean - x);
  const T from = clamp(centre + bump.by_eps * least_eps, T(-1), T(1)) - reach;
  const T to = clamp(centre + bump.by_eps * most_eps, T(-1), T(1)) + reach;
  const T low = bins.position(from) - 1 - half, high = bins.position(to) + half;  // with a bin to spare on each side
  const bool cut_low = low <= first - half, cut_high = high >= last + half;
  const T begin = cut_low ? first - half : low, end = cut_high ? last + half : high;
  const T base = clamp(floor(begin + half), first, last), count = clamp(floor(end + half), first, last) - base + 1;
  if (count <= T(cut_low || cut_high ? kMaxPoints : kNodes)) return {base, T(0), count - 1, cut_low, cut_high, true};
  return {base, begin - base, end - begin, cut_low, cut_high, false};
}

// Half of the nodes in [0, 1] and their weights there; the others are their mirror images.
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

// The i-th point: its distance from the window's base in bins, and how many bins it stands for.
template <class T>
struct Point {
  T distance, weight;
};

template <class T>
BFN_HD Point<T> nstep_point(NStepWindow<T> window, int i) {
  if (window.every) return {static_cast<T>(i), T(1)};
  return {window.offset + window.length * legendre_node(i), window.length * legendre_weight(i)};
}

// Midpoint rule: a sum over bins from a cut on is the integral and, of l = ln(p_k times the other normal), with its
// derivatives l', l'' per bin inwards, exp(l) times l'/24 - 7/5760 (l'^3 + 3 l' l''). Returned with its derivatives.
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

}  // namespace bfn
