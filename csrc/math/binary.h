// Binary data: the class x is 1 or 0, and its sign s is 1 or -1. A variable has one logit z and one state d = y_1 -
// y_0. Equation numbers refer to arXiv 2308.07037. The formulas are those of the paper for K = 2, written for the
// difference of the two classes [derived].
#pragma once

#include "elementary.h"

namespace bfn {

// The sign of a class; NaN if the number is neither 1 nor 0.
template <class T, class Class>
BFN_HD T binary_sign(Class x) {
  return x == 1 ? T(1) : x == 0 ? T(-1) : kNaN<T>;
}

// The message y_1 - y_0 ~ N(2 alpha s, 4 alpha), with spread = 2 sqrt(alpha) (185). If a distribution is sent, s is
// 2p - 1.
template <class T>
BFN_HD T binary_message(T s, T alpha, T spread, T eps) {
  return 2 * alpha * s + spread * eps;
}

// The probability p of class 1, given the s = 2p - 1 that is sent.
template <class T>
BFN_HD T binary_share_of(T s) {
  return fused(T(0.5), s, T(0.5));
}

// p_x = sigmoid(u) and q = 1 - p_x, where u = s z. Neither is less than exp(-87), since a smaller number changes no
// loss.
template <class T>
struct BinaryShares {
  T p, q;

  BFN_HD explicit BinaryShares(T u) {
    const T e = exp_normal(clamp(u, T(-87), T(87)));
    q = 1 / (1 + e);
    p = e * q;
  }
};

// The sign of the class that a uniform draws, given the shares for u = z, of which p belongs to class 1. It is class 0
// if the probability of class 0 exceeds the uniform, or if class 1 has probability 0.
template <class T>
BFN_HD T binary_drawn(BinaryShares<T> shares, T uniform) {
  const T drawn = shares.q > uniform ? T(-1) : T(1);
  return shares.p > T(1e-37) ? drawn : T(-1);
}

// A loss of one variable and its derivative by u.
template <class T>
struct BinaryTerm {
  T value, slope;
};

// L_inf = weight q^2, where q^2 is half of ||e_x - p||^2 (205).
template <class T>
BFN_HD BinaryTerm<T> binary_squared_distance(BinaryShares<T> shares, T weight) {
  const T loss = weight * square(shares.q);
  return {loss, -2 * loss * shares.p};
}

// -ln p_x
template <class T>
BFN_HD BinaryTerm<T> binary_cross_entropy(T u) {
  const T small = exp_term(-abs(u)), larger = reciprocal(1 + small);
  return {(u < T(0) ? -u : T(0)) + log1p_of_unit(small), u < T(0) ? -larger : -small * larger};
}

// The log-ratio of the sender's densities for x and for the other class, at the message. eps is the message's normal
// times s.
template <class T>
BFN_HD T binary_log_ratio(T alpha, T spread, T eps) {
  return 2 * alpha + spread * eps;
}

constexpr double kMaxLogRatio = 60;  // exp(60) times a share below the normal range of float changes no loss

// A draw of L_n (189, 190) for a log-ratio r with |r| <= kMaxLogRatio: -ln M with M = p_x + q exp(-r). `ratio` is
// exp(-r). Unless M is small, the result is computed as -ln(1 + S) with S = q (exp(-r) - 1). The function has no
// branches, so that loops over it are vectorised.
template <class T>
BFN_HD BinaryTerm<T> binary_draw(T p, T q, ExpAndExpm1<T> ratio) {
  const T sum = q * ratio.expm1;
  const bool low = sum < T(-0.5);
  const T mixture = low ? p + q * ratio.exp : 1 + sum, inverse = reciprocal(mixture);
  const T lost = low ? T(0) : sum - (mixture - 1);  // what the rounding of 1 + S lost
  return {-(log_normal(mixture) + lost * inverse), p * sum * inverse};
}

// A draw of L_n for |r| > kMaxLogRatio: softplus(-u) - softplus(-u - r).
template <class T>
BFN_HD_APART BinaryTerm<T> binary_draw_out_of_range(T u, T q, T r) {
  return {softplus_fall(-u, -u - r, -r), sigmoid(-u - r) - q};
}

}  // namespace bfn
