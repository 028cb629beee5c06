// Binary data: of two classes, x is 1 or 0, and s = 1 or -1. One logit z and one state d = y_1 - y_0 for each variable;
// equation numbers are those of arXiv 2308.07037, what they say of K = 2 is taken for the differences [derived].
#pragma once

#include "elementary.h"

namespace bfn {

// The sign of a class, and NaN for what is neither 1 nor 0.
template <class T, class Class>
BFN_HD T binary_sign(Class x) {
  return x == 1 ? T(1) : x == 0 ? T(-1) : kNaN<T>;
}

// y_1 - y_0 ~ N(2 alpha s, 4 alpha), spread = 2 sqrt(alpha); where a distribution is sent, 2p - 1 is in the place of s
// (185).
template <class T>
BFN_HD T binary_message(T s, T alpha, T spread, T eps) {
  return 2 * alpha * s + spread * eps;
}

// ln(1 + sum), given mixture = 1 + sum, which was rounded, and 1/mixture.
template <class T>
BFN_HD T log_mixture(T sum, T mixture, T inverse) {
  return log_normal(mixture) + (sum - (mixture - 1)) * inverse;
}

// p_x = sigmoid(u) and q = 1 - p_x, where u = s z.
template <class T>
struct BinaryShares {
  T u, p, q;
  T small, larger;  // exp(-|u|), and the larger one of p and q

  BFN_HD explicit BinaryShares(T towards_x) : u(towards_x), small(exp_term(-abs(towards_x))) {
    larger = reciprocal(1 + small);
    const T smaller = small * larger;
    p = u < T(0) ? smaller : larger;
    q = u < T(0) ? larger : smaller;
  }
};

// The sign of the class that a uniform draws: class 0 where its probability exceeds u, or where class 1 has none. The
// shares are those of class 1.
template <class T>
BFN_HD T binary_drawn(BinaryShares<T> of, T u) {
  return (of.q > u) | !(of.p > T(0)) ? T(-1) : T(1);
}

// A loss of one variable and its derivative by u.
template <class T>
struct BinaryTerm {
  T value, slope;
};

// q^2, which is half of ||e_x - p||^2 (205).
template <class T>
BFN_HD BinaryTerm<T> binary_squared_distance(BinaryShares<T> of) {
  const T squared = square(of.q);
  return {squared, -2 * squared * of.p};
}

// -ln p_x
template <class T>
BFN_HD BinaryTerm<T> binary_cross_entropy(BinaryShares<T> of) {
  return {(of.u < T(0) ? -of.u : T(0)) + log_mixture(of.small, 1 + of.small, of.larger), -of.q};
}

// The logarithm of the ratio of the sender's densities for x and for the other class; eps is the message's, times s.
template <class T>
BFN_HD T binary_log_ratio(T alpha, T spread, T eps) {
  return 2 * alpha + spread * eps;
}

constexpr double kMaxLogRatio = 60;  // next to exp of it, shares below the normal range of float do not matter

// A draw of L_n (189, 190): -ln M, M = p_x + q exp(-r), for |r| of at most kMaxLogRatio; `ratio` is of -r. Unless
// M is small it is -ln(1 + S), S = q (exp(-r) - 1). Selections take the place of branches, since it runs in SIMD lanes.
template <class T>
BFN_HD BinaryTerm<T> binary_draw(T p, T q, ExpAndExpm1<T> ratio) {
  const T sum = q * ratio.expm1;
  const bool low = sum < T(-0.5);
  const T mixture = low ? p + q * ratio.exp : 1 + sum, inverse = reciprocal(mixture);
  return {-log_mixture(low ? mixture - 1 : sum, mixture, inverse), p * sum * inverse};
}

// The same for an r beyond that, where the two parts of -ln M do not cancel: softplus(-u) - softplus(-u - r).
template <class T>
BFN_HD_APART BinaryTerm<T> binary_draw_beyond(T u, T q, T r) {
  return {softplus(-u) - softplus(-u - r), sigmoid(-u - r) - q};
}

}  // namespace bfn
