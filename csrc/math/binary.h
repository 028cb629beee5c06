// Binary data: of two classes, x is 1 or 0, and s = 1 or -1. One logit z and one state d = y_1 - y_0 for each variable;
// equation numbers are those of arXiv 2308.07037, what they say of K = 2 is taken for the differences [derived].
#pragma once

#include "elementary.h"

namespace bfn {

// y_1 - y_0 ~ N(2 alpha s, 4 alpha), spread = 2 sqrt(alpha); where a distribution is sent, 2p - 1 is in the place of s
// (185).
template <class T>
BFN_HD T binary_message(T s, T alpha, T spread, T eps) {
  return 2 * alpha * s + spread * eps;
}

// p_x = sigmoid(u) and q = 1 - p_x, where u = s z; `small` is exp(-|u|).
template <class T>
struct BinaryShares {
  T u, small, p, q;

  BFN_HD explicit BinaryShares(T towards_x) : u(towards_x), small(exp(-abs(towards_x))) {
    const T larger = 1 / (1 + small), smaller = small * larger;
    p = u < T(0) ? smaller : larger;
    q = u < T(0) ? larger : smaller;
  }
};

// A loss of one variable and its derivative by u.
template <class T>
struct BinaryTerm {
  T value, slope;
};

// ||e_x - p||^2 / 2 = q^2, whose derivative is -2 q^2 p (205).
template <class T>
BFN_HD BinaryTerm<T> binary_squared_distance(BinaryShares<T> of) {
  const T squared = square(of.q);
  return {squared, -2 * squared * of.p};
}

// -ln p_x
template <class T>
BFN_HD BinaryTerm<T> binary_cross_entropy(BinaryShares<T> of) {
  return {(of.u < T(0) ? -of.u : T(0)) + log1p(of.small), -of.q};
}

// r = 2 alpha + 2 sqrt(alpha) eps, the logarithm of the ratio of the sender's densities for x and for the other class.
// eps is that of the message, times s.
template <class T>
BFN_HD T binary_log_ratio(T alpha, T spread, T eps) {
  return 2 * alpha + spread * eps;
}

constexpr double kMaxLogRatio = 80;  // exp of it is well within float

// A draw of L_n (189, 190): -ln M, M = p_x + q exp(-r), for |r| of at most kMaxLogRatio. Near M = 1 it is -ln(1 + S),
// S = q (exp(-r) - 1). Selections take the place of branches, since it runs in SIMD lanes.
template <class T>
BFN_HD BinaryTerm<T> binary_draw(BinaryShares<T> of, T r) {
  const ExpAndExpm1<T> e = exp_and_expm1(-r);
  const T sum = of.q * e.expm1;
  const bool low = sum < T(-0.5);
  const T mixture = low ? of.p + of.q * e.exp : 1 + sum, rounded = mixture - 1, value = log(mixture);
  const T corrected = rounded == T(0) ? sum : value * (sum / rounded);  // log1p(sum), by the rounding of 1 + sum
  return {low ? -value : -corrected, of.p * (sum / mixture)};
}

// The same for an r beyond that, where the two parts of -ln M do not cancel: softplus(-u) - softplus(-u - r).
template <class T>
BFN_HD BinaryTerm<T> binary_draw_beyond(BinaryShares<T> of, T r) {
  return {softplus(-of.u) - softplus(-of.u - r), sigmoid(-of.u - r) - of.q};
}

}  // namespace bfn
