// Discrete data. Numbers in parentheses are equations of Graves et al. 2023 (arXiv 2308.07037). [derived] marks
// formulas that are not in the paper. A row has the K logits z of one variable, whose class is x, and p = softmax(z).
// Sums over k leave out class x, so that nothing cancels as p_x goes to 1 [derived]. The paper writes e_x for the
// one-hot vector of class x. Here it is called one_hot, since e_k is an exponential (RowStats).
#pragma once

#include "element_loss.h"
#include "elementary.h"

namespace bfn {

BFN_HD bool is_class(int64_t x, int64_t num_classes) { return x >= 0 && x < num_classes; }

// The message y_k = beta (K one_hot_k - 1) + spread eps, where spread = sqrt(K beta) (185). `sent` is one_hot_k or, if
// a distribution is sent, p_k.
template <class T>
BFN_HD T message(T sent, T beta, T spread, T eps, T num_classes) {
  return beta * (num_classes * sent - 1) + spread * eps;
}

// The numbers of a row from which a loss and its gradient are computed. With e_k = exp(z_k - max):
// - `x` is e_x, and `rest` is the sum of e_k over the other classes.
// - `quadratic` is the sum of e_k^2 over the other classes. But if a wrong class has more than half of the probability,
//   it is the sum of e_k (1 - e_k).
// The reason is the gradient. It contains p_k - s, where s is the sum of p_k^2. If p_k of a wrong class goes to 1, so
// does s, and p_k - s would cancel. This class has e_k = 1, so that p_k - s is (e_x + quadratic)/total^2, in which
// nothing cancels [derived].
template <class T>
struct RowStats {
  T max, x, rest, quadratic;

  BFN_HD T total() const { return x + rest; }
  BFN_HD T q() const { return rest / total(); }  // 1 - p_x
  BFN_HD T s() const { return (wrong() ? rest - quadratic : quadratic) / square(total()); }
  // Whether a wrong class has more than half of the probability.
  BFN_HD bool wrong() const {
    return (x < T(1)) & (total() < T(2));  // && would be a branch, which prevents vectorisation
  }
};

// The score of a class, clipped to [-limit, limit]. It is NaN if the limit is NaN.
template <class T>
BFN_HD T clipped_score(T score, T limit) {
  return limit == limit ? clamp(score, -limit, limit) : limit;
}

// Makes RowStats from sums over the wrong classes: `rest`, `square` and `complement` are the sums of e_k, of e_k^2 and
// of e_k (1 - e_k). S may be a wider type than T.
template <class T, class S>
BFN_HD RowStats<T> row_stats(T max, T x, S rest, S square, S complement) {
  const RowStats<T> row{max, x, static_cast<T>(rest), static_cast<T>(square)};
  const T quadratic = static_cast<T>(complement);
  return {max, x, row.rest, row.wrong() ? quadratic : row.quadratic};
}

// q^2 + s = ||one_hot - p||^2. L_inf is a weight times this number (205).
template <class T>
BFN_HD T squared_distance(RowStats<T> row) {
  return square(row.q()) + row.s();
}

// -ln p_x. If e_x is small, z_x is used instead, since e_x may underflow.
template <class T>
BFN_HD T cross_entropy(RowStats<T> row, T z_x) {
  return row.x > T(0.5) ? log1p(row.rest / row.x) : log(row.total()) + row.max - z_x;
}

// The derivatives of a row's loss by its logits, times a factor. `grad_x` is the derivative by z_x. by_other(e_k) is
// the derivative by z_k of another class k.
template <class T>
struct RowSlopes {
  T grad_x, slope, level, origin;

  BFN_HD T by_other(T e) const { return e * (slope * (e - origin) + level); }
};

// The derivatives of q^2 + s are -2 p_x (q^2 + s) by z_x, and 2 p_k (p_k - s + p_x q) by another z_k. p_k - s is
// computed as (e_k - origin)/total + above/total^2. `origin` is 1 if a wrong class has more than half of the
// probability, and 0 otherwise. So e_k - origin is exactly 0 for such a class [derived].
template <class T>
BFN_HD RowSlopes<T> squared_distance_slopes(RowStats<T> row, T factor) {
  const T inverse = 1 / row.total(), slope = 2 * factor * square(inverse), by = slope * inverse;
  const T origin = row.wrong() ? T(1) : T(0), above = origin * (row.x + 2 * row.quadratic) - row.quadratic;
  return {-by * row.x * (square(row.rest) + (origin * row.total() - above)), slope, by * (row.x * row.rest + above),
          origin};
}

template <class T>
BFN_HD RowSlopes<T> cross_entropy_slopes(RowStats<T> row, T factor) {
  return {-factor * row.q(), T(0), factor / row.total(), T(0)};
}

// The numbers of a row of soft data x, a distribution over the classes, from which a loss and its gradient are
// computed. With e_k = exp(z_k - max), and m the class with p_m > 1/2, if there is one:
// - `rest` is the sum of e_k over the classes but m. Up to rounding errors, it is at most 1 if there is an m, since e_m
//   is 1, and at least 2 if there is none. So `rest < 1.5` says whether there is an m, even if p_m is nearly 1/2.
// - For the squared distance, with d_k = x_k - p_k: `own` is p_m d_m, and `others` the sum of p_k d_k over the other
//   classes. For the cross entropy, `others` is the sum of x_k.
// 1 - p_m is computed as rest/total, since the difference would cancel [derived].
template <class T>
struct SoftStats {
  T max, own, rest, others;

  BFN_HD bool has_likeliest() const { return rest < T(1.5); }
  BFN_HD T total() const { return has_likeliest() ? 1 + rest : rest; }
  BFN_HD T log_total() const { return has_likeliest() ? log1p(rest) : log(rest); }
  // d_m, where x is x_m. It is 0 if there is no m.
  BFN_HD T likeliest_distance(T x) const { return has_likeliest() ? (x - 1) + rest / total() : T(0); }
};

// The derivatives of a row's loss of soft data by its logits, times a factor.
template <class T>
struct SoftSlopes {
  T inverse, q, factor, own, others;
  bool squared;

  SoftSlopes() = default;
  BFN_HD SoftSlopes(SoftStats<T> row, T by, bool is_squared)
      : inverse(1 / row.total()),
        q(row.rest * inverse),
        factor(is_squared ? 2 * by : by),
        own(row.own),
        others(row.others),
        squared(is_squared) {}

  // The derivative by z_k is 2 p_k (sum of p_j d_j - d_k), or p_k (sum of x_j) - x_k. For m both are rearranged, unless
  // p_m is so near 1/2 that its rounding error could make another class seem to be m.
  BFN_HD T by(T x, T e) const {
    const T p = e * inverse;
    const bool likeliest = p > T(0.6);
    const T d = likeliest ? (x - 1) + q : x - p;
    const T of_distance = p * (likeliest ? others - q * d : (others + own) - d);
    const T of_entropy = likeliest ? (others - x) - others * q : others * p - x;
    return factor * (squared ? of_distance : of_entropy);
  }
};

// exp is computed of shifts up to this number. What exceeds it is added to the logarithm instead.
constexpr double kMaxShift = 80;

// The largest spread sqrt(K alpha) of messages for which the density ratios are stored as their differences from 1.
constexpr double kSmallSpread = 0.25;

// From this spread on, ratios may have the error of a GPU's instruction for 2^x, and the sum of all p_k counts as 1. A
// smaller spread would magnify the errors of both.
constexpr double kLargeSpread = 0.8;

// One draw of L_n with the paper's joint receiver, which mixes a density of the whole vector y for each k. The
// divergence is y_x + LSE(z) - LSE(z + y) = -ln M (189, 190). M is the mean of exp(d_k) under p, where d_k = y_k - y_x.
// It includes class x, whose d_x is 0. S is the mean of exp(d_k) - 1. There are three ways to compute -ln M:
// - If S is above -1/2, it is -ln(1 + S), which is accurate even if M is near 1.
// - If S is below -1/2, it is -ln M, since 1 + S would cancel.
// - If M is not between 1e-18 and 1e30 (`out_of_range`), the caller computes softplus_fall (elementary.h) of the
//   log-odds ln((1 - p_x)/p_x) of z and of z + y. Noise from a seed is bounded, so that exp(d_k) stays below exp(46)
//   and M is not too large.
template <class T>
struct JointDraw {
  T divergence;
  T factor, level;                 // weight / M, and S or M: `slope` needs both
  int32_t near_one, out_of_range;  // integers, since loops over bool are not vectorised

  // `sum` and `mixture` are S and M. If S is above -1/2, 1 + S may be passed for M.
  BFN_HD JointDraw(T sum, T mixture, T weight) {
    out_of_range = mixture > T(1e-18) && mixture < T(1e30) ? 0 : 1;
    near_one = sum > T(-0.5) ? 1 : out_of_range;
    const T mean = out_of_range ? T(1) : near_one ? 1 + sum : mixture, inverse = reciprocal(mean);
    const T lost = near_one ? sum - (mean - 1) : T(0);  // the rounding error of 1 + S
    divergence = -(log_normal(mean) + lost * inverse);
    level = out_of_range ? T(0) : near_one ? sum : mixture;
    factor = out_of_range ? T(0) : weight * inverse;
  }
  // A draw of which only the gradient is needed.
  BFN_HD JointDraw(T slope_factor, T slope_level, int32_t near)
      : factor(slope_factor), level(slope_level), near_one(near), out_of_range(0) {}

  // What this draw adds to the gradient by a logit: weight (softmax(z) - softmax(z + y)), or 0 if it is out of range.
  BFN_HD T slope(T p, ExpAndExpm1<T> ratio) const {
    return factor * (p * (level - (near_one ? ratio.expm1 : ratio.exp)));
  }
};

// One coordinate k of the factorised receiver, which has a separate mixture for each coordinate of y. The mixture has
// two components: the class is k, with weight p_k, or the class is not k, with weight 1 - p_k. One of them is the
// density from which the sender drew the coordinate. All densities are divided by this one. So the sender's component
// is 1. The other component is exp(shift), and w is its weight. The term is -ln(1 + w (exp(shift) - 1)) [derived].
template <class T>
struct FactorisedTerm {
  T value, derivative;  // by p in factorised_term, and by ln share in log_space_term
};

// Returns shift, the logarithm of the ratio of the other component's density to the sender's. Both densities are normal
// with the same std, and their means are r = sqrt(alpha K) stds apart. `eps` is the normal number from which the sender
// made this coordinate.
template <class T>
BFN_HD T density_shift(bool is_x, T r, T eps) {
  return (is_x ? -r : r) * eps - T(0.5) * r * r;
}

// The term of a coordinate. `p` is p_k, `rest` is 1 - p_k, and r and eps are as in density_shift. The function has no
// branches, so that loops over it are vectorised.
template <class T>
BFN_HD FactorisedTerm<T> factorised_term(bool is_x, T p, T rest, T r, T eps) {
  const T shift = density_shift(is_x, r, eps), w = is_x ? rest : p, other = is_x ? p : rest;
  const T capped = shift < T(kMaxShift) ? shift : T(kMaxShift);
  const ExpAndExpm1<T> e = exp_and_expm1(capped);
  const T sum = w * e.expm1;
  // If w is near 1 and the ratio is small, 1 + sum would cancel. `other` is 1 - w, computed without this cancellation.
  const bool small = sum < T(-0.5);
  const T mixture = small ? other + w * e.exp : 1 + sum, rounded = mixture - 1, value = log(mixture);
  const T corrected = rounded == T(0) ? sum : value * (sum / rounded);  // log1p(sum), as elementary.h computes it
  return {capped - shift - (small ? value : corrected), (is_x ? e.expm1 : -e.expm1) / mixture};
}

// The share of a coordinate is the weight of the sender's component in its mixture: p_x for class x, and 1 - p_k for
// another class k. If the share is below kTinyShare, the share and exp(shift) may both underflow. Then log_space_term
// computes the term from their logarithms. At most two classes need this: class x, if p_x is tiny, and the likeliest
// class k, if k is not x and 1 - p_k is tiny.
template <class T>
constexpr T kTinyShare = static_cast<T>(sizeof(T) == sizeof(float) ? 1e-28 : 1e-290);

// The term of a coordinate whose share is tiny, -ln(share + (1 - share) exp(shift)), and its derivative by ln share.
// Here 1 - share rounds to 1.
template <class T>
BFN_HD FactorisedTerm<T> log_space_term(T log_share, T shift) {
  const T above = log_share - shift, capped = shift < T(kMaxShift) ? shift : T(kMaxShift);
  return {-(above > T(0) ? log_share : shift) - log1p(exp(-abs(above))), expm1(capped) * sigmoid(above)};
}

// The entropy -sum of p_k ln p_k of the output distribution. With e_k = exp(-d_k) and d_k = max - z_k, it is
// ln(total) + D, where `total` is the sum of e_k, and D is the sum of p_k d_k [derived].
struct DiscreteEntropy : AnyLoss {
  static constexpr Input kInputs[] = {Input{"logits", kClasses, kSlope}};
};

// Returns ln(total). If total is below 1.5, only the likeliest class has an e_k above 1/2, which is 1. `small` is the
// sum of the e_k for which is_small. So total is 1 + small, whose logarithm would lose digits as `small` goes to 0.
template <class T>
BFN_HD T log_total(T total, T small) {
  return total < T(1.5) ? log1p(small) : log(total);
}
template <class T>
BFN_HD bool is_small(T e) {
  return e < T(0.75);
}

// The term e_k d_k of D total.
template <class T>
BFN_HD T entropy_term(T e, T d) {
  return e == T(0) ? T(0) : e * d;
}

// The derivative of the entropy by z_k [derived].
template <class T>
BFN_HD T entropy_slope(T p, T d, T mean_d) {
  return p == T(0) ? T(0) : p * (d - mean_d);
}

// The losses of rows that save their gradients (element_loss.h). Each has kernels of its own.
#define BFN_DISCRETE_LOSSES(X) X(discrete_entropy, DiscreteEntropy)

}  // namespace bfn
