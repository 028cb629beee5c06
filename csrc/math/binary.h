// Binary data: the class x is 1 or 0, and its sign s is 1 or -1. Discrete data with two classes has two logits of the
// network, a message (y_0, y_1) and a state (z_0, z_1). Binary data has their differences, class 1 minus class 0: the
// logit z, the message y_1 - y_0 and the state d. Numbers in parentheses are equations of Graves et al. 2023 (arXiv
// 2308.07037), written for these differences.
#pragma once

#include "element_loss.h"
#include "elementary.h"

namespace bfn {

// The sign of a class; NaN if x is neither 1 nor 0.
template <class T, class Class>
BFN_HD T binary_sign(Class x) {
  return x == 1 ? T(1) : x == 0 ? T(-1) : kNaN<T>;
}

// Returns the message y_1 - y_0. alpha is its accuracy, and eps a standard normal. An update has spread =
// 2 sqrt(alpha), so the message is N(2 alpha s, 4 alpha) (185). A step without noise has the spread 0. If a probability
// p of class 1 is sent instead of a class, s is 2p - 1.
template <class T>
BFN_HD T binary_message(T s, T alpha, T spread, T eps) {
  return 2 * alpha * s + spread * eps;
}

// Returns the probability (share) p of class 1, given s = 2p - 1.
template <class T>
BFN_HD T binary_share_of(T s) {
  return fused(T(0.5), s, T(0.5));
}

// p is p_x, the network's probability of the class x: sigmoid(u) with u = s z. q is 1 - p_x. Both are clamped to at
// least exp(-87). The clamp changes the result of binary_draw by less than 2e-12.
template <class T>
struct BinaryShares {
  T p, q;

  BFN_HD explicit BinaryShares(T u) {
    const T e = exp_normal(clamp(u, T(-87), T(87)));
    q = 1 / (1 + e);
    p = e * q;
  }
};

// The sign of the class that a uniform number draws. `shares` are made with u = z, so p is the probability of class 1,
// and q of class 0. Class 0 is drawn if q exceeds the uniform number. BinaryShares never makes a p of 0, so a p of at
// most 1e-37 counts as 0, and class 0 is drawn.
template <class T>
BFN_HD T binary_drawn(BinaryShares<T> shares, T uniform) {
  const T drawn = shares.q > uniform ? T(-1) : T(1);
  return shares.p > T(1e-37) ? drawn : T(-1);
}

// The continuous-time loss L_inf = weight q^2 or, without a weight, -ln p_x. (205) has the squared distance of the
// one-hot vector of x from both probabilities, which is 2 q^2.
struct BinaryLoss : AnyLoss {
  static constexpr Input kInputs[] = {Input{"x", kSign}, Input{"logits", kData, kSlope},
                                      Input{"weight", kRow, kOptional, 0, 1}};
  static constexpr int kVariants = 2, kBlocksOfFour = 6;
  static constexpr auto variant = [](const auto* inputs, const double*) { return inputs[2] ? 1 : 0; };
  template <class T, int kWeighted>
  struct Term {
    explicit Term(const double*) {}
    BFN_HD LossTerm<T, 1> operator()(T scale, T s, T z, T weight) const {
      const T u = s * z;
      if constexpr (kWeighted) {
        const BinaryShares<T> shares(u);
        const T loss = weight * square(shares.q);
        return {loss, {scale * s * (-2 * loss * shares.p)}};
      }
      const T small = exp_term(-abs(u)), larger = reciprocal(1 + small);
      return {(u < T(0) ? -u : T(0)) + log1p_of_unit(small), {-scale * (s * larger * (u < T(0) ? T(1) : small))}};
    }
  };
};

// The entropy of the output distribution, ln(1 + e^-|z|) + |z| sigmoid(-|z|) for the logit z.
struct BinaryEntropy : AnyLoss {
  static constexpr Input kInputs[] = {Input{"logits", kData, kSlope}};
  static constexpr int kBlocksOfFour = 6;
  template <class T, int kVariant>
  struct Term {
    explicit Term(const double*) {}
    BFN_HD LossTerm<T, 1> operator()(T scale, T logit) const {
      const T z = clamp(logit, T(-1000), T(1000));  // an infinite z would give 0 times infinity
      const T small = exp_term(-abs(z)), larger = reciprocal(1 + small), smaller = small * larger;
      return {log1p_of_unit(small) + abs(z) * smaller, {-scale * z * larger * smaller}};
    }
  };
};

#define BFN_BINARY_LOSSES(X) X(binary_loss, BinaryLoss) X(binary_entropy, BinaryEntropy)

// A draw of a loss of one variable and its derivative by u.
template <class T>
struct BinaryTerm {
  T value, slope;
};

// Returns r, the log-ratio of the sender's densities at the message: the density for class x over the other one. eps is
// s times the noise of the message. With quadrature, eps is a node instead.
template <class T>
BFN_HD T binary_log_ratio(T alpha, T spread, T eps) {
  return 2 * alpha + spread * eps;
}

// For |r| up to this limit, the clamp of BinaryShares changes a draw by at most exp(60 - 87).
constexpr double kMaxLogRatio = 60;

// Returns a draw of L_n / n (189, 190) for |r| <= kMaxLogRatio: -ln M, where M = p_x + q exp(-r). `ratio` has
// exp(-r) and exp(-r) - 1. If M is at least 1/2, the result is computed as -ln(1 + S) with S = q (exp(-r) - 1), which
// is accurate near M = 1. The function has no branches, so that loops over it are vectorised.
template <class T>
BFN_HD BinaryTerm<T> binary_draw(T p, T q, ExpAndExpm1<T> ratio) {
  const T sum = q * ratio.expm1;
  const bool low = sum < T(-0.5);
  const T mixture = low ? p + q * ratio.exp : 1 + sum, inverse = reciprocal(mixture);
  const T lost = low ? T(0) : sum - (mixture - 1);  // the rounding error of 1 + S
  return {-(log_normal(mixture) + lost * inverse), p * sum * inverse};
}

// Returns a draw of L_n / n for |r| > kMaxLogRatio: softplus(-u) - softplus(-u - r).
template <class T>
BFN_HD_APART BinaryTerm<T> binary_draw_out_of_range(T u, T q, T r) {
  return {softplus_fall(-u, -u - r, -r), sigmoid(-u - r) - q};
}

}  // namespace bfn
